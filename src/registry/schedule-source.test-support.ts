/**
 * For tests: the compiled walk.js and table.js, loaded so that they stop at every access to shared memory.
 *
 * The code is synchronous, so nothing in its own thread can hold it up between two accesses. Threads of their own would
 * (Atomics.wait before each access), at two context switches a step: some hundred schedules a second. Instead each
 * access is turned into a `yield` when the module is loaded, and each method that leads to one into a generator: the
 * same statements in the same order, a million steps a second, and all state in one thread, where it can be compared.
 * What the transformation could get wrong shows: an access that it misses finds no SharedWords but a description of an
 * access, and schedule.test.ts runs both versions side by side and compares all accesses.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { TableLayout } from "./layout.js";
import type { RemovalStart, SlotHandle } from "./table.js";

/** An access that waits for its turn. `step` is its name in the source and in the model. */
export type Access =
  | { readonly kind: "load"; readonly step: string; readonly index: number }
  /** `plain` is what mutations write: a store that may stay in the store buffer. */
  | {
      readonly kind: "store";
      readonly step: string;
      readonly index: number;
      readonly value: number;
      readonly plain: boolean;
    }
  | {
      readonly kind: "compareExchange";
      readonly step: string;
      readonly index: number;
      readonly expected: number;
      readonly replacement: number;
    }
  | { readonly kind: "ring" | "value"; readonly step: string }
  | { readonly kind: "waitPast"; readonly step: string; readonly value: number }
  /** Something else that takes time: plain memory, a dispatch. */
  | { readonly kind: "local"; readonly step: string }
  /** For drivers of the code: goes on when a dispatcher has died, with its index. */
  | { readonly kind: "death"; readonly step: string }
  /** For drivers: takes no time. All that the driver still knows of the past is `step`. */
  | { readonly kind: "checkpoint"; readonly step: string };

/** Code that stops before every access; it is resumed with the access' result. */
export type Steps<T> = Generator<Access, T, number>;

/** What the transformed code calls in place of SharedWords and Doorbell: it only says what is to be done. */
export const accesses = {
  load: (index: number, step: string): Access => ({ kind: "load", step, index }),
  peek: (index: number, step: string): Access => ({ kind: "load", step, index }),
  store: (index: number, value: number, step: string): Access => ({ kind: "store", step, index, value, plain: false }),
  storePlain: (index: number, value: number, step: string): Access => ({
    kind: "store",
    step,
    index,
    value,
    plain: true,
  }),
  compareExchange: (index: number, expected: number, replacement: number, step: string): Access => ({
    kind: "compareExchange",
    step,
    index,
    expected,
    replacement,
  }),
  ring: (step: string): Access => ({ kind: "ring", step }),
  value: (step: string): Access => ({ kind: "value", step }),
  waitPast: (value: number, _timeoutMs: number, step: string): Access => ({ kind: "waitPast", step, value }),
} as const;

type Accesses = typeof accesses;

export interface SteppedTable {
  claim(): Steps<SlotHandle | null>;
  setEventMask(handle: SlotHandle, low: number, high: number): Steps<void>;
  activate(handle: SlotHandle): Steps<void>;
  abandon(handle: SlotHandle): Steps<void>;
  beginRemoval(handle: SlotHandle): Steps<RemovalStart>;
  awaitDrained(handle: SlotHandle, deadlineMs: number, now: () => number): Steps<boolean>;
  release(handle: SlotHandle): Steps<void>;
  bury(dispatcher: number): Steps<number[]>;
}

export interface SteppedTarget {
  dispatch(slot: number, generation: number): Steps<void>;
}

export interface SteppedWalker {
  walk(eventMaskLow: number, eventMaskHigh: number, target: SteppedTarget): Steps<void>;
}

/** The protocol's code, each class with its methods as generators. */
export interface SteppedCode {
  readonly HandlerTable: new (
    memory: ArrayBuffer,
    layout: TableLayout,
    doorbell: Accesses,
    words: Accesses,
  ) => SteppedTable;
  readonly TableWalker: new (
    words: Accesses,
    layout: TableLayout,
    dispatcher: number,
    doorbell: Accesses,
  ) => SteppedWalker;
}

export const FILES = ["walk.js", "table.js"] as const;
export type FileName = (typeof FILES)[number];

/** One replacement in a compiled file; it must match exactly once, or the mutation would silently change nothing. */
export interface Edit {
  readonly file: FileName;
  readonly find: RegExp;
  readonly replace: string;
}

export function readCompiled(file: FileName): string {
  return readFileSync(fileURLToPath(new URL(`./${file}`, import.meta.url)), "utf8");
}

/** The compiled source with the edits made that are for this file. */
export function edited(file: FileName, edits: readonly Edit[]): string {
  let source = readCompiled(file);
  for (const { find, replace } of edits.filter((edit) => edit.file === file)) {
    const matches = source.match(new RegExp(find.source, "g"))?.length ?? 0;
    assert.equal(matches, 1, `${file}: ${find} matches ${matches} times: the mutation no longer fits the code`);
    source = source.replace(find, () => replace);
  }
  return source;
}

const METHOD = /^ {4}(async )?(#?\w+)\(.*\) \{$/;
const MARKER = /^\s*\/\/ ([a-z_]+(?:(?:, | \| )[a-z_]+)*): /;
const ACCESS =
  /\b(?:this\.#words|words|this\.#doorbell)\.(?:load|peek|store|storePlain|compareExchange|ring|value|waitPast)\(/g;
const PLAIN = /\bthis\.#bytes\.fill\(/g;

interface Method {
  readonly name: string;
  readonly lines: string[];
}

/** The source in pieces: what is no method, and methods. Relies on tsc's indentation; `steppedSource` checks. */
function split(source: string): (string | Method)[] {
  const pieces: (string | Method)[] = [];
  let method: Method | null = null;
  for (const line of source.split("\n")) {
    if (method !== null) {
      method.lines.push(line);
      if (line === "    }") method = null;
      continue;
    }
    const name = line.match(METHOD)?.[2];
    if (name === undefined || name === "constructor") {
      pieces.push(line);
      continue;
    }
    method = { name, lines: [line] };
    pieces.push(method);
  }
  return pieces;
}

/** Where the parenthesis that opens before `from` is closed. */
function closing(text: string, from: number): number {
  let depth = 1;
  for (let at = from; at < text.length; at++) {
    if (text[at] === "(") depth++;
    if (text[at] === ")" && --depth === 0) return at;
  }
  throw new Error(`a call goes beyond its line: ${text}`);
}

/** `find(...)` in a line of code becomes what `wrap` makes of it; calls within calls, too. */
function wrapCalls(line: string, find: RegExp, wrap: (call: string) => string): string {
  let done = "";
  let rest = line;
  for (;;) {
    find.lastIndex = 0;
    const match = find.exec(rest);
    if (match === null) return done + rest;
    const open = match.index + match[0].length;
    const end = closing(rest, open);
    const inner = wrapCalls(rest.slice(open, end), find, wrap);
    done += rest.slice(0, match.index) + wrap(`${match[0]}${inner})`);
    rest = rest.slice(end + 1);
  }
}

/** Accesses become yields that know their step: the last marker above them in the method. */
function yieldAccesses({ name, lines }: Method): void {
  let names: string[] = [];
  for (const [i, line] of lines.entries()) {
    const marker = line.match(MARKER)?.[1];
    if (marker !== undefined) names = marker.split(", ");
    if (/^\s*\/\//.test(line)) continue;
    const step = (): string => {
      const next = names.length > 1 ? names.shift() : names[0];
      assert.ok(next !== undefined, `${name}: no \`// step:\` above an access: ${line.trim()}`);
      return JSON.stringify(next);
    };
    const yielded = wrapCalls(line, ACCESS, (call) => {
      const open = call.slice(0, -1);
      return `(yield ${open}${open.endsWith("(") ? "" : ", "}${step()}))`;
    });
    lines[i] = wrapCalls(yielded, PLAIN, (call) => `((yield { kind: "local", step: ${step()} }), ${call})`);
  }
}

/** The source with a stop before every access. */
export function steppedSource(source: string): string {
  const pieces = split(source);
  const methods = pieces.filter((piece) => typeof piece !== "string");
  for (const method of methods) yieldAccesses(method);
  const stepped = new Set(methods.filter(({ lines }) => lines.some((line) => line.includes("(yield "))));
  const calls = (): RegExp =>
    new RegExp(`\\b(?:target\\.dispatch|this\\.(?:${[...stepped].map(({ name }) => name).join("|")}))\\(`, "g");
  // Whoever calls a method that stops can stop itself.
  for (let before = -1; before !== stepped.size; ) {
    before = stepped.size;
    for (const method of methods) if (method.lines.slice(1).some((line) => calls().test(line))) stepped.add(method);
  }
  for (const { lines } of stepped) {
    lines[0] = lines[0].replace(METHOD, (header) => header.replace(/^ {4}(async )?/, "    *"));
    for (let i = 1; i < lines.length; i++) {
      lines[i] = wrapCalls(lines[i].replace(/\bawait /g, ""), calls(), (call) => `(yield* ${call})`);
    }
  }
  const found = source.split("\n").filter((line) => !/^\s*\/\//.test(line) && line.match(ACCESS) !== null);
  const text = pieces.map((piece) => (typeof piece === "string" ? piece : piece.lines.join("\n"))).join("\n");
  const yields = text.split("\n").filter((line) => line.match(ACCESS) !== null && line.includes("(yield "));
  assert.equal(yields.length, found.length, "an access is outside of all methods");
  return text;
}

/** Writes a module that imports its neighbours from where the original has them; answers its URL. */
function writeModule(dir: string, file: FileName, source: string): string {
  const copy = path.join(dir, file.replace(/\.js$/, ".mjs"));
  const text = source
    .replace(/ from "\.\/(\w+\.js)"/g, (_, name) => ` from "${new URL(`./${name}`, import.meta.url).href}"`)
    .replace(/^\/\/# sourceMappingURL.*$/m, "");
  writeFileSync(copy, text);
  return pathToFileURL(copy).href;
}

/** The compiled code with these edits and nothing else, in a directory of the caller's: the URLs of its modules. */
export function writeEdited(dir: string, edits: readonly Edit[]): Record<FileName, string> {
  return {
    "walk.js": writeModule(dir, "walk.js", edited("walk.js", edits)),
    "table.js": writeModule(dir, "table.js", edited("table.js", edits)),
  };
}

/** Loads the compiled code, with these edits, so that it stops before every access. */
export async function loadStepped(edits: readonly Edit[] = []): Promise<SteppedCode> {
  const dir = mkdtempSync(path.join(tmpdir(), "nmid-schedule-"));
  try {
    const modules = FILES.map((file) => import(writeModule(dir, file, steppedSource(edited(file, edits)))));
    const [walk, table] = await Promise.all(modules);
    return { TableWalker: walk.TableWalker, HandlerTable: table.HandlerTable };
  } finally {
    rmSync(dir, { recursive: true });
  }
}

/** All step names of the sources, as written above the accesses. */
export function stepNames(): Set<string> {
  return new Set(
    FILES.flatMap((file) => readCompiled(file).split("\n")).flatMap(
      (line) => line.match(MARKER)?.[1].split(/, | \| /) ?? [],
    ),
  );
}
