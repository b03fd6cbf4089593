import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { FIXTURES } from "./collection.test-support.js";
import { USER_RECORD, USER_RECORD_START } from "./format.js";
import { RecordingError } from "./image.js";
import { Bytes, imageOf, record } from "./record-bytes.test-support.js";
import { readRecording } from "./recording.js";
import { decodeUserRecord, type UserRecord } from "./user-records.js";

const decode = (type: number, body: Bytes, misc = 0): UserRecord => {
  const { image, at } = imageOf(record(type, misc, body));
  return decodeUserRecord(image, at);
};

const text = (value: string, bytes: number): number[] => [...Buffer.from(value.padEnd(bytes, "\0"))];
const entry = { machinePid: null, vcpu: null };

const cases: [name: string, type: number, body: Bytes, expected: Record<string, unknown>][] = [
  ["EVENT_TYPE", USER_RECORD.EVENT_TYPE, new Bytes().u64(3).raw(text("cycles", 64)), { config: 3n, name: "cycles" }],
  ["TRACING_DATA", USER_RECORD.TRACING_DATA, new Bytes().u32(4096, 0), { size: 4096 }],
  ["FINISHED_ROUND", USER_RECORD.FINISHED_ROUND, new Bytes(), {}],
  ["FINISHED_INIT", USER_RECORD.FINISHED_INIT, new Bytes(), {}],
  [
    "ID_INDEX",
    USER_RECORD.ID_INDEX,
    new Bytes().u64(1, 7, 0, -1, 12),
    { entries: [{ id: 7n, idx: 0n, cpu: -1n, tid: 12n, ...entry }] },
  ],
  [
    "ID_INDEX",
    USER_RECORD.ID_INDEX,
    new Bytes().u64(1, 7, 0, -1, 12, 99, 3),
    { entries: [{ id: 7n, idx: 0n, cpu: -1n, tid: 12n, machinePid: 99n, vcpu: 3n }] },
  ],
  [
    "AUXTRACE_INFO",
    USER_RECORD.AUXTRACE_INFO,
    new Bytes().u32(1, 0).u64(6, 7),
    { kind: 1, parameters: BigUint64Array.of(6n, 7n) },
  ],
  [
    "AUXTRACE",
    USER_RECORD.AUXTRACE,
    new Bytes().u64(0, 4096, 5).u32(1, -1, 3, 0),
    { idx: 1, tid: -1, cpu: 3, offset: 4096, reference: 5n, data: { start: 152, end: 152 } },
  ],
  [
    "AUXTRACE_ERROR",
    USER_RECORD.AUXTRACE_ERROR,
    new Bytes().u32(1, 2, 3, 4, 5, 1).u64(6, 7).raw(text("overflow", 64)),
    { kind: 1, code: 2, cpu: 3, pid: 4, tid: 5, ip: 6n, time: 7n, message: "overflow" },
  ],
  [
    "AUXTRACE_ERROR",
    USER_RECORD.AUXTRACE_ERROR,
    new Bytes().u32(1, 2, 3, 4, 5, 0).u64(6).raw(text("old", 64)),
    { kind: 1, code: 2, cpu: 3, pid: 4, tid: 5, ip: 6n, time: 0n, message: "old" },
  ],
  [
    "THREAD_MAP",
    USER_RECORD.THREAD_MAP,
    new Bytes().u64(1, -1).raw(text("sh", 16)),
    { threads: [{ tid: -1n, comm: "sh" }] },
  ],
  ["CPU_MAP", USER_RECORD.CPU_MAP, new Bytes().u16(0, 2, 5, 0xffff).pad(), { cpus: { kind: "list", cpus: [5, -1] } }],
  [
    "CPU_MAP",
    USER_RECORD.CPU_MAP,
    new Bytes().u16(1, 2, 8).u32(0).u64(0b101, 1),
    { cpus: { kind: "mask", cpus: [0, 2, 64] } },
  ],
  ["CPU_MAP", USER_RECORD.CPU_MAP, new Bytes().u16(1, 1, 4).u32(2), { cpus: { kind: "mask", cpus: [1] } }],
  [
    "CPU_MAP",
    USER_RECORD.CPU_MAP,
    new Bytes().u16(2).u8(1, 0).u16(2, 4).pad(),
    { cpus: { kind: "range", cpus: [-1, 2, 3, 4] } },
  ],
  [
    "STAT_CONFIG",
    USER_RECORD.STAT_CONFIG,
    new Bytes().u64(2, 0, 1, 1, 1000),
    {
      entries: [
        { tag: 0n, value: 1n },
        { tag: 1n, value: 1000n },
      ],
    },
  ],
  [
    "STAT",
    USER_RECORD.STAT,
    new Bytes().u64(1).u32(2, -1).u64(3, 4, 5),
    { id: 1n, cpu: 2, thread: -1, value: 3n, timeEnabled: 4n, timeRunning: 5n },
  ],
  ["STAT_ROUND", USER_RECORD.STAT_ROUND, new Bytes().u64(1, 2), { kind: 1n, time: 2n }],
  [
    "EVENT_UPDATE",
    USER_RECORD.EVENT_UPDATE,
    new Bytes().u64(2, 7).text("cycles:P"),
    { id: 7n, update: { kind: "name", text: "cycles:P" } },
  ],
  [
    "EVENT_UPDATE",
    USER_RECORD.EVENT_UPDATE,
    new Bytes().u64(1, 7).raw(new Uint8Array(Float64Array.of(0.5).buffer)),
    { id: 7n, update: { kind: "scale", factor: 0.5 } },
  ],
  [
    "EVENT_UPDATE",
    USER_RECORD.EVENT_UPDATE,
    new Bytes().u64(3, 7).u16(0, 1, 4).pad(),
    { id: 7n, update: { kind: "cpus", cpus: { kind: "list", cpus: [4] } } },
  ],
  [
    "TIME_CONV",
    USER_RECORD.TIME_CONV,
    new Bytes().u64(1, 2, 3, 4, 5).u8(1, 1).pad(),
    { shift: 1n, multiplier: 2n, zero: 3n, cycles: 4n, mask: 5n, hasZero: true, hasShort: true },
  ],
  [
    "TIME_CONV",
    USER_RECORD.TIME_CONV,
    new Bytes().u64(1, 2, 3),
    { shift: 1n, multiplier: 2n, zero: 3n, cycles: 0n, mask: 0n, hasZero: true, hasShort: false },
  ],
  ["HEADER_FEATURE", USER_RECORD.HEADER_FEATURE, new Bytes().u64(3).u32(0), { feature: "HOSTNAME", size: 4 }],
  ["COMPRESSED", USER_RECORD.COMPRESSED, new Bytes().u64(3), { size: 8 }],
  ["COMPRESSED2", USER_RECORD.COMPRESSED2, new Bytes().u64(3, 0), { size: 3 }],
];

describe("perf's own records", () => {
  for (const [type, number, body, expected] of cases) {
    it(`${type} of ${body.length} bytes is decoded`, () => {
      assert.deepEqual(decode(number, body), { type, ...expected });
    });
  }

  it("BUILD_ID is as long as it says, where it says so", () => {
    const id = Array.from({ length: 20 }, (_, i) => i + 1);
    const body = new Bytes().u32(-1).raw(id).u8(8, 0, 0, 0).text("[vdso]");
    const common = { type: "BUILD_ID", pid: -1, file: "[vdso]" };
    assert.deepEqual(decode(USER_RECORD.BUILD_ID, body, 1 << 15), {
      ...{ ...common, misc: 1 << 15, buildId: "0102030405060708" },
    });
    const whole = "0102030405060708090a0b0c0d0e0f1011121314";
    assert.deepEqual(decode(USER_RECORD.BUILD_ID, body, 2), { ...common, misc: 2, buildId: whole });
  });

  it("are refused where their counts run past their end", () => {
    const counted: [type: number, body: Bytes][] = [
      [USER_RECORD.ID_INDEX, new Bytes().u64(1n << 60n, 1)],
      [USER_RECORD.THREAD_MAP, new Bytes().u64(2, 1).raw(text("sh", 16))],
      [USER_RECORD.STAT_CONFIG, new Bytes().u64(9, 1, 1)],
      [USER_RECORD.CPU_MAP, new Bytes().u16(0, 9, 1, 1)],
      [USER_RECORD.CPU_MAP, new Bytes().u16(1, 9, 4, 1)],
      [USER_RECORD.CPU_MAP, new Bytes().u16(1, 1, 5, 1)],
      [USER_RECORD.CPU_MAP, new Bytes().u16(9, 1, 5, 1)],
      [USER_RECORD.HEADER_ATTR, new Bytes().u32(0, 2048)],
      [USER_RECORD.BUILD_ID, new Bytes().u64(1, 2)],
    ];
    for (const [type, body] of counted) assert.throws(() => decode(type, body), RecordingError, String(type));
  });

  it("of a real recording are what perf wrote", () => {
    const { image, runs, counts } = readRecording(join(FIXTURES, "zstd2-pipe.perf.data"));
    const found: UserRecord[] = [];
    for (const { start, end } of runs) {
      for (let at = start; at < end; at += image.view.getUint16(at + 6, true)) {
        if (image.view.getUint32(at, true) >= USER_RECORD_START) found.push(decodeUserRecord(image, at));
      }
    }
    const [attr] = found.filter((each) => each.type === "HEADER_ATTR");
    assert.ok(attr !== undefined && attr.attr.bytes === 144 && attr.attr.type === 1 && attr.ids.length > 0);
    const features = found.filter(({ type }) => type === "HEADER_FEATURE");
    assert.equal(features.length, counts[USER_RECORD.HEADER_FEATURE]);
    assert.ok(found.every(({ type }) => type !== "UNKNOWN"));
    const names = found.flatMap((each) =>
      each.type === "EVENT_UPDATE" && each.update.kind === "name" ? [each.update.text] : [],
    );
    assert.deepEqual(names, ["cpu-clock"]);
  });
});
