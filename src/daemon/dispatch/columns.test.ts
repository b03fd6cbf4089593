import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { BRANCH_SAMPLE, FORMAT, MISC, SAMPLE } from "../../pmu/abi.js";
import { FormatTable } from "../../pmu/format-table.js";
import { BatchIndex } from "../../pmu/record.js";
import type { LayoutFormat } from "../../pmu/sample-layout.js";
import { type AnySample, encodeAnySample } from "../../pmu/sample-layout.test-support.js";
import { seededRandom } from "../../pmu/software/random.js";
import { bytesOf, decodeDelivery, TestArena } from "../delivery/delivery.test-support.js";
import { SampleMessage } from "../delivery/message.js";
import { longColumnLength, longColumnTag } from "./column-header.js";
import { COLUMN, chunkColumns, raggedWords } from "./columns.js";
import { TestRing } from "./dispatcher.test-support.js";
import { chunkBytes, encodeChunk } from "./encode.js";

const QUIET = {
  throttle: () => {},
  corrupt: () => assert.fail("corrupt"),
  stray: () => assert.fail("stray"),
  lost: () => {},
};

const PLAIN = [
  "ADDR",
  "WEIGHT",
  "DATA_SRC",
  "CGROUP",
  "TRANSACTION",
  "PHYS_ADDR",
  "DATA_PAGE_SIZE",
  "CODE_PAGE_SIZE",
] as const;
const EVERYTHING =
  Object.values(COLUMN).reduce(
    (bits, bit) => bits | bit,
    PLAIN.reduce((bits, name) => bits | SAMPLE[name], 0) |
      (SAMPLE.CALLCHAIN | SAMPLE.RAW | SAMPLE.BRANCH_STACK | SAMPLE.REGS_USER | SAMPLE.STACK_USER) |
      (SAMPLE.REGS_INTR | SAMPLE.READ),
  ) & ~(COLUMN.BRANCH_INDEX | COLUMN.REDACTED);

const FULL: LayoutFormat = {
  sampleType: (EVERYTHING & (2 ** 25 - 1)) | SAMPLE.IDENTIFIER | SAMPLE.TIME,
  readFormat: FORMAT.GROUP | FORMAT.ID,
  branchSampleType: BRANCH_SAMPLE.HW_INDEX | BRANCH_SAMPLE.COUNTERS,
  sampleRegsUser: 0b111n,
  sampleRegsIntr: 1n << 40n,
};

const RICH: AnySample = {
  read: [2n, 10n, 1n, 20n, 2n],
  callchain: [1n, 2n ** 47n, 3n],
  raw: Uint32Array.of(7, 8, 9),
  branchIndex: 5n,
  branches: [1n, 2n, 3n, 4n, 5n, 2n ** 40n],
  branchCounters: [11n, 12n],
  regsUser: [100n, 101n, 2n ** 46n],
  stack: [0xaabbn, 0xccddn, 0xeeffn],
  stackDynBytes: 12,
  regsIntr: [77n],
  aux: [1n, 2n],
};
const POOR: AnySample = {
  ...RICH,
  read: [0n],
  callchain: [],
  raw: Uint32Array.of(0),
  branchIndex: null,
  branches: [],
  branchCounters: [],
  regsUser: null,
  stack: [],
  stackDynBytes: 0,
  regsIntr: null,
  aux: [],
};

type Columns = Readonly<Record<string, readonly number[]>>;

/** Scans samples of one event in these formats, encodes all of them with `columns`, and decodes that. */
function encode(samples: readonly (readonly [LayoutFormat, AnySample])[], columns: number, misc = 0): Columns {
  const ring = new TestRing(0, 65_536);
  const formats = new FormatTable();
  samples.forEach(([format, sample], i) => {
    formats.add(0, { ids: [BigInt(i + 1)], sampleIdAll: true, fixedPeriod: 1, ...format });
    const { record } = encodeAnySample(format, sample, {}, new Map([[SAMPLE.IDENTIFIER, BigInt(i + 1)]]), misc);
    ring.write(new Uint8Array(record.buffer));
  });
  const batch = new BatchIndex();
  batch.scan(ring.reader, ring.reader.loadHead(), formats, QUIET);
  assert.equal(batch.count, samples.length);
  const selection = { sample: Uint32Array.from(samples, (_, i) => i), period: new Float64Array(samples.length) };
  const effective = chunkColumns(columns, batch, 0);
  const ragged = samples.reduce((sum, _, i) => sum + raggedWords(effective, batch, ring.reader, i), 0);
  const bytes = chunkBytes(samples.length, effective, ragged);
  const out = new Uint32Array(16_384).fill(0xdeadbeef);
  encodeChunk(out, 10, batch, ring.reader, selection, 0, samples.length, effective, 0);
  assert.deepEqual([out[9], out[10 + bytes / 4]], [0xdeadbeef, 0xdeadbeef], "exactly chunkBytes");
  const arena = new TestArena();
  const message = new SampleMessage();
  message.begin();
  message.add(arena.reader, arena.put(new Uint8Array(out.buffer, 40, bytes)));
  message.finish(0, 0);
  return decodeDelivery(bytesOf(message)).samples as unknown as Columns;
}

describe("columns", () => {
  it("hold every field of a sample", () => {
    const found = encode([[FULL, RICH]], EVERYTHING, 2 | MISC.EXACT_IP | (1 << 13));
    for (const name of PLAIN) assert.deepEqual(found[name.toLowerCase()], [SAMPLE[name]], name);
    assert.deepEqual([found.callchain, found.callchain_length], [[1, 2 ** 47, 3], [3]]);
    assert.deepEqual([found.raw, found.raw_length], [[7, 8, 9], [3]]);
    assert.deepEqual([found.branch_stack, found.branch_stack_length], [[1, 2, 3, 4, 5, 2 ** 40], [2]]);
    assert.deepEqual([found.branch_hw_index, found.branch_counters], [[5], [11, 12]]);
    assert.deepEqual([found.regs_user, found.regs_user_abi], [[100, 101, 2 ** 46], [2]]);
    assert.deepEqual([found.stack_user, found.stack_user_length], [[0xaabb, 0xccdd], [12]]);
    assert.deepEqual([found.regs_intr, found.regs_intr_abi], [[77], [2]]);
    assert.deepEqual([found.read, found.read_length], [[2, 10, 1, 20, 2], [5]]);
    assert.deepEqual(found.cpumode, [2 | MISC.EXACT_IP]);
  });

  it("keep the samples apart, those with nothing in a field included", () => {
    const found = encode(
      [
        [FULL, POOR],
        [FULL, RICH],
        [FULL, POOR],
      ],
      EVERYTHING,
    );
    assert.deepEqual(found.callchain_length, [0, 3, 0]);
    assert.deepEqual(found.raw_length, [1, 3, 1]);
    assert.deepEqual(
      [found.branch_stack_length, found.branch_counters],
      [
        [0, 2, 0],
        [11, 12],
      ],
    );
    // 2^64 - 1, as near as a number is.
    assert.deepEqual(found.branch_hw_index, [2 ** 64, 5, 2 ** 64]);
    assert.deepEqual([found.regs_user_abi, found.regs_user.length], [[0, 2, 0], 3]);
    assert.deepEqual([found.stack_user_length, found.stack_user.length], [[0, 12, 0], 2]);
    assert.deepEqual(found.regs_intr_abi, [0, 2, 0]);
    assert.deepEqual(
      [found.read_length, found.read],
      [
        [1, 5, 1],
        [0, 2, 10, 1, 20, 2, 0],
      ],
    );
    assert.deepEqual(found.weight, [SAMPLE.WEIGHT, SAMPLE.WEIGHT, SAMPLE.WEIGHT]);
  });

  it("have canonical tags, which some decoders look fields up by", () => {
    for (const field of [16, 35]) {
      const bytes = new Uint8Array(Uint32Array.of(longColumnTag(field), longColumnLength(300)).buffer);
      assert.deepEqual(
        [...bytes],
        [0x7a, 0, (((field << 3) | 2) & 0x7f) | 0x80, (field << 3) >> 7, 0xac, 0x82, 0x80, 0],
      );
    }
  });

  it("are those that were asked for, whatever the samples carry", () => {
    const found = encode([[FULL, RICH]], SAMPLE.ADDR | SAMPLE.BRANCH_STACK);
    const given = Object.entries(found).flatMap(([name, column]) =>
      Array.isArray(column) && column.length > 0 ? [name] : [],
    );
    assert.deepEqual(given.sort(), [
      "addr",
      "branch_hw_index",
      "branch_stack",
      "branch_stack_length",
      ...["cpu", "ip", "period", "pid", "tid", "time"],
    ]);
  });

  it("are 0 or empty for samples that carry less, as a recording's or an earlier opening's may", () => {
    const bare: LayoutFormat = { sampleType: SAMPLE.IDENTIFIER | SAMPLE.ADDR };
    const branches: LayoutFormat = { ...FULL, branchSampleType: 0 };
    const without = { ...RICH, branchIndex: null, branchCounters: [] };
    const first = encode(
      [
        [FULL, RICH],
        [bare, RICH],
        [branches, without],
      ],
      EVERYTHING,
    );
    assert.deepEqual(first.addr, [SAMPLE.ADDR, SAMPLE.ADDR, SAMPLE.ADDR]);
    assert.deepEqual(first.phys_addr, [SAMPLE.PHYS_ADDR, 0, SAMPLE.PHYS_ADDR]);
    assert.deepEqual(first.branch_stack_length, [2, 0, 2]);
    assert.deepEqual(first.branch_hw_index, [5, 2 ** 64, 2 ** 64]);
    assert.deepEqual(first.branch_counters, [11, 12, 0, 0]);
    assert.deepEqual(
      [first.regs_user_abi, first.read_length, first.raw_length],
      [
        [2, 0, 2],
        [5, 0, 5],
        [3, 0, 3],
      ],
    );
    const second = encode(
      [
        [branches, without],
        [FULL, RICH],
      ],
      EVERYTHING,
    );
    assert.deepEqual([second.branch_hw_index, second.branch_counters], [[], []]);
    assert.deepEqual(second.branch_stack, [...RICH.branches, ...RICH.branches].map(Number));
  });

  it("hold no kernel address for those who may not see them", () => {
    const kernel = 2n ** 64n - 2n ** 31n + 7n;
    const [context, user] = [2n ** 64n - 128n, 2n ** 64n - 512n];
    const sample: AnySample = {
      ...RICH,
      callchain: [context, kernel, kernel + 1n, 5n, user, 3n, kernel, 4n],
      branches: [1n, kernel, 3n, kernel, 5n, 6n],
    };
    const found = encode([[FULL, sample]], SAMPLE.CALLCHAIN | SAMPLE.BRANCH_STACK | SAMPLE.ADDR | COLUMN.REDACTED, 1);
    assert.deepEqual([found.callchain, found.callchain_length], [[Number(user), 3, 4], [3]]);
    assert.deepEqual([found.branch_stack, found.branch_stack_length], [[1, 0, 3, 0, 5, 6], [2]]);
    assert.deepEqual(found.addr, [SAMPLE.ADDR], "user space's, which is none of the kernel's secrets");
    const seen = encode([[FULL, sample]], SAMPLE.CALLCHAIN | SAMPLE.BRANCH_STACK, 1);
    assert.deepEqual(seen.callchain, sample.callchain.map(Number), "for those who may");
    assert.deepEqual(seen.branch_stack, sample.branches.map(Number));
  });

  it("take exactly the bytes that are planned, in every combination", () => {
    const random = seededRandom(5);
    const wanted = EVERYTHING | COLUMN.REDACTED;
    const bits = Array.from({ length: 31 }, (_, i) => 1 << i).filter((bit) => (wanted & bit) !== 0);
    for (let i = 0; i < 400; i++) {
      const pick = (): number => bits.reduce((sum, bit) => (random() < 0.5 ? sum | bit : sum), 0);
      const format = { ...FULL, sampleType: (pick() & (2 ** 25 - 1)) | SAMPLE.IDENTIFIER };
      encode(
        Array.from({ length: 1 + Math.floor(random() * 4) }, () => [format, random() < 0.7 ? RICH : POOR] as const),
        pick(),
      );
    }
  });
});
