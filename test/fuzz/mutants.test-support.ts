/** For tests: mistakes that somebody could make in what reads bytes and text, as edits of the compiled code. */
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { TargetName } from "./target.js";

export interface Mutant {
  readonly name: string;
  readonly target: TargetName;
  /** Below dist/src/pmu. */
  readonly file: string;
  /** Must match exactly once, or the mutant would silently be none. */
  readonly find: RegExp;
  readonly replace: string;
}

export const MUTANTS: readonly Mutant[] = [
  {
    ...{ name: "a record may end behind the head", target: "record", file: "record.js" },
    find: / \|\| this\.#taken \+ size > available\) \{/,
    replace: ") {",
  },
  {
    ...{ name: "a record may have no length", target: "record", file: "record.js" },
    find: /size < 8 \|\| \(size & 7\)/,
    replace: "(size & 7)",
  },
  {
    ...{ name: "a callchain may be a word too long", target: "record", file: "record.js" },
    find: /\(chainAt \+ 2\) \* 4 <= size/,
    replace: "chainAt * 4 <= size",
  },
  {
    ...{ name: "a sample may be too short for its id", target: "record", file: "record.js" },
    find: /size < \(formats\.idOffset \+ 2\) \* 4/,
    replace: "false",
  },
  {
    ...{ name: "values are read beyond their section", target: "perf-data", file: "perf-data/image.js" },
    find: /bytes <= this\.left\)\)/,
    replace: "bytes <= this.left + 8))",
  },
  {
    ...{ name: "a count is believed", target: "perf-data", file: "perf-data/image.js" },
    find: /if \(count \* bytesEach > this\.left\)/,
    replace: "if (false)",
  },
  {
    ...{ name: "a record in a file may have no length", target: "perf-data", file: "perf-data/scan.js" },
    find: /if \(size < RECORD_HEADER_BYTES\)/,
    replace: "if (false)",
  },
  {
    ...{ name: "numbers may be longer than 64 bits", target: "events", file: "events/piece.js" },
    find: /value < 1n << 64n \? value : null/,
    replace: "value",
  },
  {
    ...{ name: "a rate may be any number", target: "events", file: "events/terms.js" },
    find: / \|\| number > BigInt\(Number\.MAX_SAFE_INTEGER\)/,
    replace: "",
  },
];

const dist = fileURLToPath(new URL("../../", import.meta.url));

export interface Build extends Disposable {
  readonly workerUrl: URL;
}

/** The compiled code under test and the fuzzers, in a folder of their own, with the edit made. */
export function build({ file, find, replace }: Mutant): Build {
  const folder = mkdtempSync(path.join(tmpdir(), "nmid-fuzz-"));
  const to = (...names: string[]): string => path.join(folder, "dist", ...names);
  cpSync(path.join(dist, "src", "pmu"), to("src", "pmu"), { recursive: true });
  cpSync(path.join(dist, "test", "fuzz"), to("test", "fuzz"), { recursive: true });
  for (const name of ["node_modules", "test", "package.json"]) {
    symlinkSync(path.join(dist, "..", name), path.join(folder, name));
  }
  const edited = to("src", "pmu", file);
  const source = readFileSync(edited, "utf8");
  const matches = source.match(new RegExp(find.source, "g"))?.length ?? 0;
  assert.equal(matches, 1, `${file}: ${find} matches ${matches} times: the mutant no longer fits the code`);
  writeFileSync(
    edited,
    source.replace(find, () => replace),
  );
  return {
    workerUrl: pathToFileURL(to("test", "fuzz", "worker.js")),
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  };
}
