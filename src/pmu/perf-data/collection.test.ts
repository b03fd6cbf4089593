import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, it } from "node:test";
import { auxData } from "./aux-trace.js";
import {
  COLLECTION,
  type CollectedRecording,
  countsByName,
  FIXTURES,
  knownFeatures,
  recordingsIn,
  skipCollection,
} from "./collection.test-support.js";
import { USER_RECORD } from "./format.js";
import { fieldsOf, parseScript, type ScriptSample, scriptOf } from "./perf-script.test-support.js";
import { type Recording, readRecording } from "./recording.js";

/** Above all: as many records, and each sample field by field as perf prints it. */
function compare({ name, file, expected, script }: CollectedRecording): void {
  it(`${name} holds what perf finds in it`, () => {
    const recording = readRecording(file);
    assert.deepEqual(recording.damage, []);
    assert.equal(recording.mode, expected.mode);
    assert.deepEqual(countsByName(recording.counts), expected.walker_counts);
    assert.deepEqual(knownFeatures([...recording.featureBytes.keys()]), knownFeatures(expected.features));
    for (const feature of knownFeatures(expected.features)) {
      assert.ok(Object.hasOwn(recording.features, feature), `${feature} is not decoded`);
    }
    compareAttrs(recording, expected);
    compareAux(recording, expected);
  });

  it(`${name} has the samples that perf script prints`, () => {
    const recording = readRecording(file);
    const fields = fieldsOf(expected.golden_cmd);
    const told = scriptOf(recording, fields, !/ -G /.test(expected.golden_cmd));
    const golden = parseScript(script, fields);
    assert.equal(told.length, golden.length);
    for (const [i, sample] of golden.entries()) {
      const own = told[i] as ScriptSample;
      // What a thread is called after its end, or before anybody said, depends on perf's version.
      if (sample.comm === null || own.comm === null) own.comm = sample.comm;
      assert.deepEqual(own, sample, `sample ${i}`);
    }
  });
}

function compareAttrs({ attrs }: Recording, expected: CollectedRecording["expected"]): void {
  assert.deepEqual(
    attrs.map((attr) => ({
      type: attr.type,
      size: attr.bytes,
      config: attr.config,
      period: attr.samplePeriod,
      sampleType: attr.sampleType,
      readFormat: attr.readFormat,
      flags: attr.flags,
      branches: attr.branchSampleType,
    })),
    expected.attrs.map((attr) => ({
      type: attr.type,
      size: attr.size,
      config: BigInt(attr.config),
      period: attr.period,
      sampleType: Number(attr.sample_type_raw),
      readFormat: Number(attr.read_format),
      flags: BigInt(attr.flags),
      branches: BigInt(attr.branch_sample_type ?? 0),
    })),
  );
}

function compareAux({ image, auxTraces, counts }: Recording, { aux = [] }: CollectedRecording["expected"]): void {
  assert.equal(auxTraces.length, counts[USER_RECORD.AUXTRACE]);
  const found = auxTraces.map(({ idx, tid, cpu, offset, data }) => {
    const bytes = auxData(image, auxTraces, { cpu }, offset, data.end - data.start);
    assert.ok(bytes !== null);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    return { size: bytes.length, aux_offset: offset, idx, tid, cpu, sha256 };
  });
  assert.deepEqual(
    found,
    aux.map(({ size, aux_offset, idx, tid, cpu, sha256 }) => ({ size, aux_offset, idx, tid, cpu, sha256 })),
  );
}

describe("shipped recordings", () => {
  const recordings = recordingsIn(FIXTURES);
  it("are there", () => assert.ok(recordings.length > 5));
  for (const recording of recordings) compare(recording);
});

describe("public recordings", { skip: skipCollection }, () => {
  if (skipCollection === false) for (const recording of recordingsIn(COLLECTION)) compare(recording);
});
