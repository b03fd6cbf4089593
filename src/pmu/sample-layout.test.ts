import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { BRANCH_SAMPLE, FORMAT, RECORD, SAMPLE } from "./abi.js";
import { PmuError } from "./errors.js";
import { type Recording, readRecording } from "./perf-data/recording.js";
import { ANCHOR, ANCHORS, type LayoutFormat, type SampleOffsets, sampleOffsets, walkSample } from "./sample-layout.js";
import { type AnySample, encodeAnySample } from "./sample-layout.test-support.js";
import { seededRandom } from "./software/random.js";
import { indexRecords, type RecordIndex } from "./software/record-index.js";

const LIVE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

/** Walks the record at word 3 of a ring in which it wraps; null when it does not fit. */
function walk(offsets: SampleOffsets, record: Uint32Array, size = record.length): Map<number, number> | null {
  const ring = new Uint32Array(2 ** Math.ceil(Math.log2(record.length + 1)));
  const start = ring.length - 3;
  record.forEach((word, i) => {
    ring[(start + i) & (ring.length - 1)] = word;
  });
  const anchors = Array.from({ length: ANCHORS }, () => new Uint16Array(2));
  if (offsets.walk !== null && !walkSample(offsets.walk, ring, ring.length - 1, start, size, anchors, 1)) return null;
  return new Map([...offsets.places].map(([bit, { anchor, offset }]) => [bit, anchors[anchor][1] + offset]));
}

describe("sampleOffsets", () => {
  it("follows the order of perf_event_open(2)", () => {
    const order = [
      ["id", SAMPLE.IDENTIFIER],
      ["ip", SAMPLE.IP],
      ["pid", SAMPLE.TID],
      ["time", SAMPLE.TIME],
      [null, SAMPLE.ADDR],
      [null, SAMPLE.ID],
      [null, SAMPLE.STREAM_ID],
      ["cpu", SAMPLE.CPU],
      ["period", SAMPLE.PERIOD],
      [null, SAMPLE.READ],
      [null, SAMPLE.WEIGHT],
      [null, SAMPLE.CGROUP],
    ] as const;
    // Every subset of the fields: a field's place is the number of fields before it.
    for (let subset = 0; subset < 2 ** order.length; subset++) {
      let sampleType = 0;
      const expected = { ip: -1, pid: -1, time: -1, id: -1, cpu: -1, period: -1 };
      const places = new Map<number, unknown>();
      let next = 2;
      for (const [i, [name, bit]] of order.entries()) {
        if ((subset & (1 << i)) === 0) continue;
        sampleType |= bit;
        if (name !== null) expected[name] = next;
        else if (bit === SAMPLE.ID && expected.id < 0) expected.id = next;
        places.set(bit, { anchor: ANCHOR.RECORD, offset: next });
        next += 2;
      }
      const offsets = sampleOffsets({ sampleType });
      const { ip, pid, time, id, cpu, period } = offsets;
      assert.deepEqual({ ip, pid, time, id, cpu, period }, expected, `sample_type ${sampleType}`);
      assert.deepEqual(offsets.places, places);
      assert.deepEqual([offsets.minWords, offsets.walk, offsets.lastCallchain], [next, null, -1]);
    }
  });

  it("spares the walk where all that varies is a callchain at the end", () => {
    const offsets = sampleOffsets({ sampleType: LIVE | SAMPLE.CALLCHAIN });
    assert.deepEqual([offsets.lastCallchain, offsets.minWords, offsets.walk], [14, 16, null]);
    assert.deepEqual(offsets.places.get(SAMPLE.CALLCHAIN), { anchor: ANCHOR.RECORD, offset: 14 });
    assert.notEqual(sampleOffsets({ sampleType: LIVE | SAMPLE.CALLCHAIN | SAMPLE.CGROUP }).walk, null);
    assert.notEqual(sampleOffsets({ sampleType: LIVE | SAMPLE.RAW }).walk, null);
  });

  it("takes either kind of weight for the weight", () => {
    const struct = sampleOffsets({ sampleType: LIVE | SAMPLE.WEIGHT_STRUCT });
    assert.deepEqual(struct.places, sampleOffsets({ sampleType: LIVE | SAMPLE.WEIGHT }).places);
  });
});

/** A format and a sample of it, both made up. */
function randomSample(random: () => number): { format: LayoutFormat; sample: AnySample } {
  const below = (n: number): number => Math.floor(random() * n);
  const words = (n: number): bigint[] => Array.from({ length: n }, () => BigInt(below(2 ** 32)));
  const bits = Object.values(SAMPLE).filter((bit) => bit !== SAMPLE.WEIGHT_STRUCT);
  const sampleType = bits.reduce((type, bit) => (random() < 0.5 ? type | bit : type), 0);
  const readFormat = below(32);
  const perValue = 1 + ((readFormat & FORMAT.ID) !== 0 ? 1 : 0) + ((readFormat & FORMAT.LOST) !== 0 ? 1 : 0);
  const times = ((readFormat & 1) !== 0 ? 1 : 0) + ((readFormat & 2) !== 0 ? 1 : 0);
  const members = below(4);
  const branchSampleType =
    (random() < 0.5 ? BRANCH_SAMPLE.HW_INDEX : 0) | (random() < 0.5 ? BRANCH_SAMPLE.COUNTERS : 0);
  const entries = below(3);
  const stack = below(4);
  return {
    format: { sampleType, readFormat, branchSampleType, sampleRegsUser: 0b1011n, sampleRegsIntr: 1n << 63n },
    sample: {
      read:
        (readFormat & FORMAT.GROUP) !== 0
          ? [BigInt(members), ...words(times + members * perValue)]
          : words(perValue + times),
      callchain: words(below(5)),
      raw: new Uint32Array(1 + 2 * below(4)).map(() => below(2 ** 32)),
      branchIndex: (branchSampleType & BRANCH_SAMPLE.HW_INDEX) !== 0 && (entries > 0 || random() < 0.5) ? 7n : null,
      branches: words(entries * 3),
      branchCounters: (branchSampleType & BRANCH_SAMPLE.COUNTERS) !== 0 ? words(entries) : [],
      regsUser: random() < 0.5 ? words(3) : null,
      stack: words(stack),
      stackDynBytes: stack * 8,
      regsIntr: random() < 0.5 ? words(1) : null,
      aux: words(below(3)),
    },
  };
}

describe("walkSample", () => {
  it("finds every field of samples of all formats, wherever the ring wraps", () => {
    const random = seededRandom(7);
    for (let i = 0; i < 3000; i++) {
      const { format, sample } = randomSample(random);
      const { record, at } = encodeAnySample(format, sample);
      const found = walk(sampleOffsets(format), record);
      assert.ok(found !== null, `sample ${i}, sample_type ${format.sampleType}`);
      for (const [bit, word] of at) assert.equal(found.get(bit), word, `sample ${i}, bit ${bit}`);
      assert.equal(found.size, at.size);
    }
  });

  it("refuses every sample that is cut short", () => {
    const random = seededRandom(8);
    for (let i = 0; i < 300; i++) {
      const { format, sample } = randomSample(random);
      const { record } = encodeAnySample(format, sample);
      const offsets = sampleOffsets(format);
      if (offsets.walk === null) continue;
      // An empty branch stack may have an index or not: with one less word pair it is a sound sample of the other kind.
      if (sample.branches.length === 0 && sample.branchIndex !== null) continue;
      for (let size = offsets.minWords; size < record.length; size++) assert.equal(walk(offsets, record, size), null);
    }
  });

  it("refuses counts and sizes that run past the record", () => {
    for (const [sampleType, field] of [
      [SAMPLE.CALLCHAIN | SAMPLE.CGROUP, SAMPLE.CALLCHAIN],
      [SAMPLE.READ, SAMPLE.READ],
      [SAMPLE.RAW, SAMPLE.RAW],
      [SAMPLE.BRANCH_STACK, SAMPLE.BRANCH_STACK],
      [SAMPLE.STACK_USER, SAMPLE.STACK_USER],
      [SAMPLE.AUX, SAMPLE.AUX],
    ] as const) {
      const format: LayoutFormat = { sampleType: SAMPLE.IP | sampleType, readFormat: FORMAT.GROUP };
      const { record, at } = encodeAnySample(format, randomSample(seededRandom(1)).sample, { read: [0n] });
      const offsets = sampleOffsets(format);
      assert.notEqual(walk(offsets, record), null);
      const word = at.get(field) as number;
      for (const huge of [2 ** 31, 2 ** 32 - 4, record.length * 8]) {
        const broken = record.slice();
        broken[word] = huge;
        assert.equal(walk(offsets, broken), null, `bit ${field}, ${huge}`);
      }
      if (field === SAMPLE.RAW) continue;
      const high = record.slice();
      high[word + 1] = 1;
      assert.equal(walk(offsets, high), null, `bit ${field}, high word`);
    }
  });

  it("refuses a stack that says it holds more than it does", () => {
    const format: LayoutFormat = { sampleType: SAMPLE.STACK_USER };
    const sample = { ...randomSample(seededRandom(1)).sample, stack: [1n, 2n] };
    assert.notEqual(
      walk(sampleOffsets(format), encodeAnySample(format, { ...sample, stackDynBytes: 16 }).record),
      null,
    );
    assert.equal(walk(sampleOffsets(format), encodeAnySample(format, { ...sample, stackDynBytes: 24 }).record), null);
  });
});

/** Recordings of many machines and perf versions, where there are any. */
const PERF_DATA = process.env.NMID_PERF_DATA ?? fileURLToPath(new URL("../../../../shared/perf-data", import.meta.url));

describe("walkSample, of recordings", () => {
  it("fits every sample", { skip: !existsSync(PERF_DATA) && `no recordings in ${PERF_DATA}` }, () => {
    let walked = 0;
    for (const name of readdirSync(PERF_DATA)) {
      if (!name.endsWith(".perf.data")) continue;
      let recording: Recording;
      let index: RecordIndex;
      try {
        recording = readRecording(join(PERF_DATA, name));
        index = indexRecords(recording);
      } catch (error) {
        // Pipe mode and compression are none of this test's business.
        if (error instanceof PmuError) continue;
        throw error;
      }
      const layouts = recording.attrs.map((attr) =>
        sampleOffsets({ ...attr, branchSampleType: Number(attr.branchSampleType) }),
      );
      const view = new DataView(
        recording.image.bytes.buffer,
        recording.image.bytes.byteOffset,
        recording.image.bytes.byteLength,
      );
      for (let i = 0; i < index.count; i++) {
        const at = index.offset[i];
        const { walk: fields, minWords } = layouts[index.attr[i]];
        if (view.getUint32(at, true) !== RECORD.SAMPLE || fields === null) continue;
        const bytes = recording.image.bytes.slice(at, at + view.getUint16(at + 6, true));
        assert.ok(bytes.length >= minWords * 4, `${name}, byte ${at}`);
        assert.notEqual(walk(layouts[index.attr[i]], new Uint32Array(bytes.buffer)), null, `${name}, byte ${at}`);
        walked++;
      }
    }
    assert.ok(walked > 1000, `${walked} samples`);
  });
});
