import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { BRANCH_SAMPLE, FORMAT, RECORD, SAMPLE } from "../abi.js";
import { CALLCHAIN_CONTEXT } from "./format.js";
import { RecordingError } from "./image.js";
import { decodeKernelRecord } from "./kernel-records.js";
import { Bytes, imageOf, layout, record } from "./record-bytes.test-support.js";
import { callchainFrames, type Sample, type SampleLayout } from "./sample.js";

const ALL_BITS = Object.values(SAMPLE).reduce((all, bit) => all | bit, 0) & ~SAMPLE.WEIGHT;
const ALL = layout({
  sampleType: ALL_BITS,
  readFormat: FORMAT.GROUP | FORMAT.ID | FORMAT.LOST | FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING,
  branchSampleType: BigInt(BRANCH_SAMPLE.HW_INDEX | BRANCH_SAMPLE.COUNTERS),
  sampleRegsUser: 0b101n,
  sampleRegsIntr: 1n << 40n,
});

/** Every field there is; each value is another. */
function everything(): Bytes {
  return (
    new Bytes()
      .u64(0x1d, 0x401000)
      .u32(11, 12)
      .u64(13, 14, 15, 16)
      .u32(3, 0)
      .u64(17)
      // READ: two members
      .u64(2, 100, 90, 1, 21, 0, 2, 22, 5)
      .u64(3, CALLCHAIN_CONTEXT.USER, 0x401000, 0x402000)
      .u32(4)
      .raw([1, 2, 3, 4])
      // BRANCH_STACK: count, index, one entry, its counters
      .u64(1, 7, 0x500, 0x600, (1n << 31n) | (9n << 26n) | (2n << 24n) | (4n << 20n) | (1234n << 4n) | 0b1001n, 77)
      .u64(2, 0xa, 0xc)
      .u64(8)
      .raw([8, 7, 6, 5, 4, 3, 2, 1])
      .u64(6)
      .u64((3n << 48n) | (2n << 32n) | 1n)
      .u64(0xda7a, 0x7a)
      .u64(1, 0x40)
      .u64(0x4000, 88, 4096, 2 << 20)
      .u64(3)
      .raw([9, 8, 7])
      .pad()
  );
}

const decode = (body: Bytes, of: SampleLayout): Sample => {
  const { image, at } = imageOf(record(RECORD.SAMPLE, 2, body));
  const decoded = decodeKernelRecord(image, at, of);
  assert.ok(decoded.type === "SAMPLE" && decoded.cpumode === 2 && decoded.sampleId === null);
  return decoded.sample;
};

describe("a sample", () => {
  it("with every field there is has them all", () => {
    assert.deepEqual(decode(everything(), ALL), {
      identifier: 0x1dn,
      ip: 0x401000n,
      pid: 11,
      tid: 12,
      time: 13n,
      addr: 14n,
      id: 15n,
      streamId: 16n,
      cpu: 3,
      period: 17n,
      read: {
        timeEnabled: 100n,
        timeRunning: 90n,
        values: [
          { value: 1n, id: 21n, lost: 0n },
          { value: 2n, id: 22n, lost: 5n },
        ],
      },
      callchain: BigUint64Array.of(BigInt.asUintN(64, CALLCHAIN_CONTEXT.USER), 0x401000n, 0x402000n),
      raw: Uint8Array.of(1, 2, 3, 4),
      branchStack: {
        hwIndex: 7n,
        entries: [
          {
            from: 0x500n,
            to: 0x600n,
            mispredicted: true,
            predicted: false,
            inTransaction: false,
            abort: true,
            cycles: 1234,
            type: 4,
            speculation: 2,
            newType: 9,
            privilege: 2,
            flags: (1n << 31n) | (9n << 26n) | (2n << 24n) | (4n << 20n) | (1234n << 4n) | 0b1001n,
          },
        ],
        counters: BigUint64Array.of(77n),
      },
      regsUser: { abi: 2n, mask: 0b101n, values: BigUint64Array.of(0xan, 0xcn) },
      stackUser: { data: Uint8Array.of(8, 7, 6, 5, 4, 3, 2, 1), used: 6n },
      weight: { full: (3n << 48n) | (2n << 32n) | 1n, var1: 1, var2: 2, var3: 3 },
      dataSrc: 0xda7an,
      transaction: 0x7an,
      regsIntr: { abi: 1n, mask: 1n << 40n, values: BigUint64Array.of(0x40n) },
      physAddr: 0x4000n,
      cgroup: 88n,
      dataPageSize: 4096n,
      codePageSize: 2n << 20n,
      aux: Uint8Array.of(9, 8, 7),
    });
  });

  it("with one field alone has that, and null for all others", () => {
    const alone: [bit: number, body: Bytes, field: keyof Sample, value: unknown][] = [
      [SAMPLE.IP, new Bytes().u64(1n << 63n), "ip", 1n << 63n],
      [SAMPLE.CPU, new Bytes().u32(5, 0), "cpu", 5],
      [SAMPLE.WEIGHT, new Bytes().u64(9), "weight", { full: 9n, var1: 9, var2: 0, var3: 0 }],
      [SAMPLE.CALLCHAIN, new Bytes().u64(0), "callchain", new BigUint64Array()],
      [SAMPLE.BRANCH_STACK, new Bytes().u64(0), "branchStack", { hwIndex: null, entries: [], counters: null }],
      [SAMPLE.REGS_USER, new Bytes().u64(0), "regsUser", { abi: 0n, mask: 0n, values: new BigUint64Array() }],
      [SAMPLE.STACK_USER, new Bytes().u64(0), "stackUser", { data: new Uint8Array(), used: 0n }],
      [SAMPLE.AUX, new Bytes().u64(0), "aux", new Uint8Array()],
      [SAMPLE.CODE_PAGE_SIZE, new Bytes().u64(4096), "codePageSize", 4096n],
    ];
    for (const [bit, body, field, value] of alone) {
      const sample = decode(body, layout({ sampleType: bit }));
      assert.deepEqual(sample[field], value, field);
      for (const [other, found] of Object.entries(sample)) if (other !== field) assert.equal(found, null, other);
    }
  });

  it("reads every kind of READ", () => {
    const { TOTAL_TIME_ENABLED, TOTAL_TIME_RUNNING, ID, GROUP, LOST } = FORMAT;
    for (let readFormat = 0; readFormat < 32; readFormat++) {
      const has = (bit: number): boolean => (readFormat & bit) !== 0;
      const times = (body: Bytes): void => {
        if (has(TOTAL_TIME_ENABLED)) body.u64(100);
        if (has(TOTAL_TIME_RUNNING)) body.u64(90);
      };
      const extras = (body: Bytes, i: number): void => {
        if (has(ID)) body.u64(20 + i);
        if (has(LOST)) body.u64(30 + i);
      };
      const body = new Bytes();
      const count = has(GROUP) ? 3 : 1;
      if (has(GROUP)) times(body.u64(count));
      for (let i = 0; i < count; i++) {
        body.u64(10 + i);
        if (!has(GROUP)) times(body);
        extras(body, i);
      }
      const { read } = decode(body, layout({ sampleType: SAMPLE.READ, readFormat }));
      assert.deepEqual(read, {
        timeEnabled: has(TOTAL_TIME_ENABLED) ? 100n : null,
        timeRunning: has(TOTAL_TIME_RUNNING) ? 90n : null,
        values: Array.from({ length: count }, (_, i) => ({
          value: BigInt(10 + i),
          id: has(ID) ? BigInt(20 + i) : null,
          lost: has(LOST) ? BigInt(30 + i) : null,
        })),
      });
    }
  });

  it("that is cut anywhere is refused with the place", () => {
    const whole = everything().toArray();
    // AUX's last bytes are padding.
    for (let length = 0; length < whole.length - 5; length++) {
      const { image, at } = imageOf(record(RECORD.SAMPLE, 0, new Bytes().raw(whole.subarray(0, length))));
      assert.throws(
        () => decodeKernelRecord(image, at, ALL),
        (error) => {
          assert.ok(error instanceof RecordingError);
          assert.match(error.message, /recording F, byte \d+: PERF_RECORD_SAMPLE: .* are left; /);
          assert.ok(error.offset >= at + 8 && error.offset <= at + 8 + length);
          return true;
        },
        `cut to ${length}`,
      );
    }
  });

  it("whose counts run past its end is refused, whatever follows in the file", () => {
    const counted = [SAMPLE.CALLCHAIN, SAMPLE.BRANCH_STACK, SAMPLE.STACK_USER, SAMPLE.AUX];
    const following = record(RECORD.SAMPLE, 0, new Bytes().u64(...Array.from({ length: 40 }, () => 1)));
    for (const bit of counted) {
      for (const count of [3n, 1n << 32n, 1n << 53n, 1n << 60n, (1n << 64n) - 1n]) {
        const sample = record(RECORD.SAMPLE, 0, new Bytes().u64(count, 0));
        const { image, at } = imageOf(sample, following);
        const decoding = () => decodeKernelRecord(image, at, layout({ sampleType: bit }));
        if (bit !== SAMPLE.STACK_USER && bit !== SAMPLE.AUX) assert.throws(decoding, RecordingError);
        else if (count > 8n) assert.throws(decoding, RecordingError);
      }
    }
    for (const size of [5, 0xffff_fffc]) {
      const sample = record(RECORD.SAMPLE, 0, new Bytes().u32(size, 0));
      const { image, at } = imageOf(sample, following);
      assert.throws(() => decodeKernelRecord(image, at, layout({ sampleType: SAMPLE.RAW })), RecordingError);
    }
    const group = layout({ sampleType: SAMPLE.READ, readFormat: FORMAT.GROUP });
    const { image, at } = imageOf(record(RECORD.SAMPLE, 0, new Bytes().u64(1n << 61n, 0)), following);
    assert.throws(() => decodeKernelRecord(image, at, group), /byte 120: .*2305843009213694000 values of a group/);
  });
});

describe("a callchain", () => {
  it("gives each address its context", () => {
    const { KERNEL, USER, USER_DEFERRED } = CALLCHAIN_CONTEXT;
    const entries = [KERNEL, -1n, 0xffff_ffff_8100_0000n, USER, 0x40_1000n, USER_DEFERRED, 5n, -4096n];
    const chain = BigUint64Array.from(entries, (entry) => BigInt.asUintN(64, entry));
    assert.deepEqual(callchainFrames(chain), [
      { context: -1n, ip: 0xffff_ffff_8100_0000n },
      { context: USER, ip: 0x40_1000n },
      { context: USER_DEFERRED, ip: 5n },
      { context: USER_DEFERRED, ip: BigInt.asUintN(64, -4096n) },
    ]);
    assert.deepEqual(callchainFrames(BigUint64Array.of(1n)), [{ context: null, ip: 1n }]);
  });
});
