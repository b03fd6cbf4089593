/** Segments and outboxes between real threads, and with faults planted, which must be found. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { torture } from "./segments.torture.test-support.js";

const SEED = Number(process.env.NMID_TEST_SEED ?? 1);
const TEST_MAX_MS = 120_000;
const SEGMENTS = 12_000;
const DEATHS = 12;

it("threads lose nothing, and find what they wrote, whenever one dies", { timeout: TEST_MAX_MS }, async (t) => {
  const report = await torture({ seed: SEED, segments: SEGMENTS, deaths: DEATHS }).catch((error: Error) => {
    throw new Error(`NMID_TEST_SEED=${SEED}: ${error.message}`, { cause: error });
  });
  t.diagnostic(JSON.stringify(report));
  assert.ok(report.taken > 0 && report.dropped > 0 && report.lostSamples > 0);
});

/** A piece of the compiled segments.js, and what somebody could have written: slowly, where threads must meet in it. */
const FAULTS = [
  {
    name: "a reference taken off without an atomic operation",
    find: "Atomics.sub(this.#arena.words, at, BIAS - outboxes)",
    replace:
      "((words, less) => { const was = words[at]; for (let i = 0; i < 10_000; i++) Atomics.load(words, at); words[at] = was - less; return was; })(this.#arena.words, BIAS - outboxes)",
    deaths: 0,
  },
  {
    name: "a segment that is handed out without references of the dispatcher's own",
    find: "words[at + HEADER.REFERENCES] = BIAS;",
    replace: "words[at + HEADER.REFERENCES] = BIAS - 1;",
    deaths: 0,
  },
  {
    name: "a returned segment that is put before a list as it was",
    find: "Atomics.compareExchange(words, RETURNED_WORD, head, unit + 1) === head",
    replace:
      "(() => { for (let i = 0; i < 10_000; i++) Atomics.load(words, at); return Atomics.store(words, RETURNED_WORD, unit + 1) > 0; })()",
    deaths: 0,
  },
  {
    name: "a segment that outlives its dispatcher and is not kept for that",
    find: "words[SURVIVORS_WORD] = unit + 1;",
    replace: "words[SURVIVORS_WORD] = words[at + HEADER.NEXT_SURVIVOR] === 0 ? unit + 1 : words[SURVIVORS_WORD];",
    deaths: 4 * DEATHS,
  },
  {
    name: "returned segments that are returned once more after a death",
    find: "Atomics.store(words, RETURNED_WORD, 0);",
    replace: "",
    deaths: 4 * DEATHS,
  },
] as const;

/** The torture with a copy of segments.js in which `find` is replaced. */
async function tortureWith(find: string, replace: string, deaths: number): Promise<void> {
  const source = readFileSync(new URL("./segments.js", import.meta.url), "utf8");
  assert.equal(source.split(find).length, 2, `${find}: the fault no longer fits the code`);
  const dir = mkdtempSync(path.join(tmpdir(), "nmid-planted-"));
  try {
    const copy = path.join(dir, "segments.mjs");
    const planted = source
      .replace(find, () => replace)
      .replace(/^\/\/# sourceMappingURL.*$/m, "")
      .replace(/from "(\.[^"]+)"/g, (_, module: string) => `from "${new URL(module, import.meta.url).href}"`);
    writeFileSync(copy, planted);
    await torture({ seed: SEED, deaths, segments: SEGMENTS, segmentsModule: pathToFileURL(copy).href });
  } finally {
    rmSync(dir, { recursive: true });
  }
}

describe("a planted fault is found", { timeout: TEST_MAX_MS }, () => {
  for (const { name, find, replace, deaths } of FAULTS) {
    it(name, async () => {
      await assert.rejects(tortureWith(find, replace, deaths));
    });
  }

  it("and none where none is planted", async () => {
    await tortureWith("const BIAS = 2 ** 30;", "const BIAS = 2 ** 29;", 1);
  });
});
