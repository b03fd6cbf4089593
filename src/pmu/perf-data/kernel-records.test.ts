import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FORMAT, MISC, RECORD, SAMPLE } from "../abi.js";
import { RecordingError } from "./image.js";
import { decodeKernelRecord, type KernelRecordBody } from "./kernel-records.js";
import { Bytes, imageOf, layout, record } from "./record-bytes.test-support.js";

const OF_EVENT = layout({
  sampleType: SAMPLE.TID | SAMPLE.TIME | SAMPLE.ID | SAMPLE.STREAM_ID | SAMPLE.CPU | SAMPLE.IDENTIFIER,
  readFormat: FORMAT.ID,
  sampleIdAll: true,
});

const TRAILER = new Bytes().u32(51, 52).u64(53, 54, 55).u32(56, 0).u64(57).toArray();
const SAMPLE_ID = { pid: 51, tid: 52, time: 53n, id: 54n, streamId: 55n, cpu: 56, identifier: 57n };

const MAPPING = { pid: 1, tid: 2, addr: 0x1000n, length: 0x2000n, pageOffset: 0x3000n, isData: false, file: "/bin/a" };
const mapping = (): Bytes => new Bytes().u32(1, 2).u64(0x1000, 0x2000, 0x3000);
const PARENTAGE = { pid: 1, ppid: 2, tid: 3, ptid: 4, time: 5n };
const parentage = (): Bytes => new Bytes().u32(1, 2, 3, 4).u64(5);
const THROTTLING = { time: 1n, id: 2n, streamId: 3n };
const BUILD_ID = Array.from({ length: 20 }, (_, i) => i + 1);

type Case = [type: keyof typeof RECORD, misc: number, body: Bytes, expected: Record<string, unknown>];

const cases: Case[] = [
  ["MMAP", 2, mapping().text("/bin/a"), MAPPING],
  ["MMAP", MISC.MMAP_DATA, mapping().text("//anon"), { ...MAPPING, isData: true, file: "//anon" }],
  ["LOST", 0, new Bytes().u64(7, 42), { id: 7n, lost: 42n }],
  ["COMM", MISC.COMM_EXEC, new Bytes().u32(1, 2).text("a b"), { pid: 1, tid: 2, comm: "a b", byExec: true }],
  ["EXIT", 0, parentage(), PARENTAGE],
  ["THROTTLE", 0, new Bytes().u64(1, 2, 3), THROTTLING],
  ["UNTHROTTLE", 0, new Bytes().u64(1, 2, 3), THROTTLING],
  ["FORK", 0, parentage(), PARENTAGE],
  [
    "READ",
    0,
    new Bytes().u32(1, 2).u64(3, 4),
    { pid: 1, tid: 2, read: { timeEnabled: null, timeRunning: null, values: [{ value: 3n, id: 4n, lost: null }] } },
  ],
  [
    "MMAP2",
    0,
    mapping().u32(8, 1).u64(99, 100).u32(5, 2).text("/bin/a"),
    {
      ...MAPPING,
      where: { kind: "inode", major: 8, minor: 1, inode: 99n, generation: 100n },
      ...{ protection: 5, flags: 2 },
    },
  ],
  [
    "MMAP2",
    MISC.MMAP_BUILD_ID,
    mapping().u8(16, 0, 0, 0).raw(BUILD_ID).u32(5, 2).text("/bin/a"),
    {
      ...MAPPING,
      where: { kind: "build-id", buildId: "0102030405060708090a0b0c0d0e0f10" },
      ...{ protection: 5, flags: 2 },
    },
  ],
  ["AUX", 0, new Bytes().u64(1, 2, 3), { offset: 1n, size: 2n, flags: 3n }],
  ["ITRACE_START", 0, new Bytes().u32(1, 2), { pid: 1, tid: 2 }],
  ["LOST_SAMPLES", 0, new Bytes().u64(4), { lost: 4n }],
  ["SWITCH", MISC.SWITCH_OUT, new Bytes(), { out: true, preempted: false }],
  [
    "SWITCH_CPU_WIDE",
    MISC.SWITCH_OUT | MISC.SWITCH_OUT_PREEMPT,
    new Bytes().u32(1, 2),
    { out: true, preempted: true, otherPid: 1, otherTid: 2 },
  ],
  [
    "NAMESPACES",
    0,
    new Bytes().u32(1, 2).u64(2, 3, 4, 5, 6),
    {
      pid: 1,
      tid: 2,
      links: [
        { device: 3n, inode: 4n },
        { device: 5n, inode: 6n },
      ],
    },
  ],
  [
    "KSYMBOL",
    0,
    new Bytes().u64(0x1000).u32(64).u16(1, 1).text("bpf_prog_1"),
    { addr: 0x1000n, length: 64, kind: 1, unregistered: true, name: "bpf_prog_1" },
  ],
  [
    "BPF_EVENT",
    0,
    new Bytes().u16(1, 2).u32(3).raw([0, 1, 2, 3, 4, 5, 6, 255]),
    { kind: 1, flags: 2, id: 3, tag: "00010203040506ff" },
  ],
  ["CGROUP", 0, new Bytes().u64(9).text("/a/b"), { id: 9n, path: "/a/b" }],
  [
    "TEXT_POKE",
    0,
    new Bytes().u64(0x1000).u16(2, 3).raw([1, 2, 3, 4, 5]).pad(),
    { addr: 0x1000n, before: Uint8Array.of(1, 2), after: Uint8Array.of(3, 4, 5) },
  ],
  ["AUX_OUTPUT_HW_ID", 0, new Bytes().u64(3), { hwId: 3n }],
  ["CALLCHAIN_DEFERRED", 0, new Bytes().u64(5, 2, 6, 7), { cookie: 5n, callchain: BigUint64Array.of(6n, 7n) }],
];

describe("records of the kernel", () => {
  for (const [type, misc, body, expected] of cases) {
    it(`${type} (misc ${misc}) is decoded, with the sample's id behind it and without`, () => {
      const trailed = record(RECORD[type], misc, new Bytes().raw(body.toArray()).raw(TRAILER));
      const head = { type, misc, cpumode: misc & 7 };
      const { image, at } = imageOf(trailed);
      assert.deepEqual(decodeKernelRecord(image, at, OF_EVENT), { ...head, ...expected, sampleId: SAMPLE_ID });
      const bare = imageOf(record(RECORD[type], misc, body));
      const old = { ...OF_EVENT, sampleIdAll: false };
      assert.deepEqual(decodeKernelRecord(bare.image, bare.at, old), { ...head, ...expected, sampleId: null });
    });

    it(`${type} (misc ${misc}) is refused where it is cut, and never read beyond its end`, () => {
      const whole = body.toArray();
      const after = record(RECORD.LOST, 0, new Bytes().u64(1, 2, 3, 4, 5, 6, 7, 8));
      let refused = 0;
      for (let length = 0; length < whole.length; length++) {
        const { image, at } = imageOf(record(RECORD[type], misc, new Bytes().raw(whole.subarray(0, length))), after);
        try {
          decodeKernelRecord(image, at, { ...OF_EVENT, sampleIdAll: false });
        } catch (error) {
          assert.ok(error instanceof RecordingError, `${error} at ${length}`);
          assert.ok(error.offset <= at + 8 + length);
          refused++;
        }
      }
      assert.ok(refused > 0 || whole.length === 0);
      const { image, at } = imageOf(record(RECORD[type], misc, new Bytes().u64(1)), after);
      assert.throws(() => decodeKernelRecord(image, at, OF_EVENT), RecordingError, "too short for its sample_id");
    });
  }

  it("covers every type that the ABI names", () => {
    const covered = new Set<string>(cases.map(([type]) => type));
    assert.deepEqual(
      Object.keys(RECORD).filter((type) => !covered.has(type)),
      ["SAMPLE"],
    );
  });

  it("of an unknown type keep their bytes", () => {
    const { image, at } = imageOf(record(60, 1, new Bytes().u64(5)));
    const expected: KernelRecordBody = {
      type: "UNKNOWN",
      typeNumber: 60,
      payload: Uint8Array.of(5, 0, 0, 0, 0, 0, 0, 0),
    };
    assert.deepEqual(decodeKernelRecord(image, at, layout({})), { ...expected, misc: 1, cpumode: 1, sampleId: null });
  });

  it("are refused where their header lies beyond the file", () => {
    const { image, at } = imageOf(record(RECORD.LOST, 0, new Bytes().u64(1, 2)));
    for (const where of [at + 24, at + 20, image.length + 8, -8]) {
      assert.throws(() => decodeKernelRecord(image, where, layout({})), RecordingError);
    }
  });
});
