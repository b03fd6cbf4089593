/** The committed inputs: test/fuzz/corpus/TARGET, and recordings that are in the repository anyway. */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import type { TargetName } from "./target.js";

const root = fileURLToPath(new URL("../../../", import.meta.url));
export const CORPUS = path.join(root, "test", "fuzz", "corpus");
const FIXTURES = path.join(root, "test", "fixtures", "perf-data");
/** Mutating long recordings takes long and finds little. */
const FIXTURE_BYTES_MAX = 20_000;

export interface CorpusInput {
  /** Relative to the repository. */
  readonly file: string;
  readonly bytes: Uint8Array;
}

export function corpusOf(target: TargetName): readonly CorpusInput[] {
  const inputs = readFolder(path.join(CORPUS, target), /./);
  return target === "perf-data" ? [...inputs, ...readFolder(FIXTURES, /\.perf\.data$/)] : inputs;
}

function readFolder(folder: string, names: RegExp): CorpusInput[] {
  return readdirSync(folder)
    .filter((name) => names.test(name))
    .sort()
    .map((name) => ({
      file: path.relative(root, path.join(folder, name)),
      bytes: new Uint8Array(readFileSync(path.join(folder, name))),
    }))
    .filter(({ bytes }) => bytes.length <= FIXTURE_BYTES_MAX || names.source === ".");
}

/** Returns the file's name, relative to the repository. */
export function save(target: TargetName, prefix: string, input: Uint8Array): string {
  const hash = createHash("sha1").update(input).digest("hex").slice(0, 10);
  const file = path.join(CORPUS, target, `${prefix}-${hash}`);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, input);
  return path.relative(root, file);
}

/** What to print of an input that failed, and how to run it again. */
export function describeFailure(target: TargetName, seed: number, input: Uint8Array, message: string): string {
  const shown = Buffer.from(input.subarray(0, 3000)).toString("base64");
  const file = save(target, "failed", input);
  return [
    `fuzz: ${target}, seed ${seed}: ${message}`,
    `input of ${input.length} bytes, base64${input.length > 3000 ? " of the first 3000" : ""}: ${shown}`,
    `saved as ${file}; again: npm run fuzz -- --target ${target} --input ${file}`,
  ].join("\n");
}
