/**
 * The fuzzers with a fixed seed and a fixed number of inputs, behind all of the corpus; what they must find; and that
 * sound inputs are read as they were made. Another seed: NMID_TEST_SEED=n. Longer: `npm run fuzz`.
 */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { RECORD, SAMPLE } from "../../src/pmu/abi.js";
import { encodeAnySample } from "../../src/pmu/sample-layout.test-support.js";
import { corpusOf, describeFailure } from "./corpus.js";
import { build, MUTANTS } from "./mutants.test-support.js";
import { made } from "./perf-data-grammar.js";
import { read } from "./perf-data-target.js";
import { format, sampleOf } from "./record-grammar.js";
import { readInput, writeInput } from "./record-input.js";
import { recordTarget, scanAll } from "./record-target.js";
import { supervise } from "./supervisor.js";
import { TARGETS, type TargetName } from "./target.js";

const SEED = Number(process.env.NMID_TEST_SEED ?? 20_261);
/** Together some ten seconds of one CPU. */
const RUNS: Record<TargetName, number> = { record: 1500, "perf-data": 1000, events: 1500 };
/** A mutant is found long before. */
const MUTANT_RUNS = 5000;

for (const target of TARGETS) {
  it(`${target}: the corpus and ${RUNS[target]} inputs do no harm`, async () => {
    const corpus = corpusOf(target).map(({ bytes }) => bytes);
    const { failure } = await supervise({ target, seed: SEED, runs: RUNS[target], corpus, guided: false });
    assert.ok(failure === null, failure === null ? "" : describeFailure(target, SEED, failure.input, failure.message));
  });
}

describe("sound inputs", () => {
  it("of the scan: every sample is indexed, and its fields are where they were written", () => {
    const samples = format.chain((of) =>
      fc.tuple(fc.constant(of), fc.array(sampleOf(of), { minLength: 1, maxLength: 6 })),
    );
    const property = fc.property(samples, fc.constantFrom(0, 1, 505, 511), ([of, list], start) => {
      const sampleType = (of.sampleType & SAMPLE.WEIGHT_STRUCT) !== 0 ? of.sampleType | SAMPLE.WEIGHT : of.sampleType;
      const encoded = list.map((sample) => encodeAnySample({ ...of, sampleType }, sample));
      const records = encoded.map(({ record }) => new Uint8Array(record.buffer));
      const bytes = writeInput([of], { isAnonymous: true, wantsTasks: true, start }, records);
      const { samples: found } = scanAll(readInput(bytes), () => 0);
      assert.equal(found.length, list.length);
      for (const [i, { at }] of encoded.entries()) assert.deepEqual(new Map(found[i].places), at);
      recordTarget.run(bytes);
    });
    fc.assert(property, { seed: SEED, numRuns: 300 });
  });

  it("of the reader: every sample is counted, and a file that is cut gives the records before the cut", () => {
    const property = fc.property(
      made,
      fc.double({ min: 0, max: 1, noNaN: true }),
      ({ bytes, samples, dataAt }, share) => {
        const whole = read(bytes, 0);
        assert.equal(whole.recording?.counts[RECORD.SAMPLE], samples);
        const cut = dataAt + Math.floor((bytes.length - dataAt) * share);
        const { records } = read(bytes.subarray(0, cut), 0);
        assert.deepEqual(records, whole.records.slice(0, records.length));
      },
    );
    fc.assert(property, { seed: SEED, numRuns: 200 });
  });
});

describe("a planted mistake is found", () => {
  for (const mutant of MUTANTS) {
    it(`${mutant.target}: ${mutant.name}`, async () => {
      using mutated = build(mutant);
      const job = { target: mutant.target, seed: SEED, runs: MUTANT_RUNS, corpus: [], guided: false };
      const { failure } = await supervise(job, { workerUrl: mutated.workerUrl, hangMs: 2000 });
      assert.ok(failure !== null && failure.input.length > 0, failure?.message ?? `not within ${MUTANT_RUNS} inputs`);
    });
  }
});
