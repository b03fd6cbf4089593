import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MISC, RECORD, SAMPLE } from "../../pmu/abi.js";
import { seededRandom } from "../../pmu/software/random.js";
import { isTaskRecord, TrailerTable } from "../../pmu/task-record.js";
import { encodeTaskRecord } from "./encode-record.js";
import { ProtoWriter } from "./proto-writer.js";
import { decodeTasks, type TaskRecordMessage, taskRecord } from "./tasks.test-support.js";

const LIVE = SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU;
/** A sample_id of LIVE, of event 9: pid 5, tid 6, time 2^40 + 7, CPU 3. */
const TRAILER = [5 + 6 * 2 ** 32, 2 ** 40 + 7, 3, 9];
const SAMPLE_ID = { time: 2 ** 40 + 7, pid: 5, tid: 6, cpu: 3 };

function trailers(): TrailerTable {
  const table = new TrailerTable();
  table.add({ ids: [9n], sampleType: LIVE, sampleIdAll: true, fixedPeriod: 0 });
  return table;
}

function encode(record: Uint32Array, table = trailers()): TaskRecordMessage {
  // In a ring, across its end.
  const ring = new Uint32Array(2 ** Math.ceil(Math.log2(record.length + 8)));
  const start = ring.length - 5;
  record.forEach((word, i) => {
    ring[(start + i) & (ring.length - 1)] = word;
  });
  const writer = new ProtoWriter();
  encodeTaskRecord(writer, ring, ring.length - 1, start, table);
  const { records } = decodeTasks(writer.bytes.subarray(0, writer.length));
  assert.equal(records.length, 1);
  return records[0];
}

const u64 = (value: number): number[] => [value >>> 0, Math.floor(value / 2 ** 32)];

describe("encodeTaskRecord", () => {
  for (const [name, type, misc, words, text, expected] of [
    ["COMM", RECORD.COMM, MISC.COMM_EXEC | 2, [1, 2], "a.out", { comm: { comm: "a.out", exec: true, pid: 1, tid: 2 } }],
    [
      "MMAP2",
      RECORD.MMAP2,
      2,
      [1, 2, ...u64(2 ** 46), ...u64(4096), ...u64(8192), 8, 2, ...u64(2 ** 33 + 1), ...u64(5), 5, 2],
      "/usr/lib/libö.so",
      {
        mmap: {
          ...{ pid: 1, tid: 2, addr: 2 ** 46, len: 4096, pgoff: 8192, maj: 8, min: 2, ino: 2 ** 33 + 1 },
          ...{ ino_generation: 5, prot: 5, flags: 2, filename: "/usr/lib/libö.so", build_id: "" },
        },
      },
    ],
    [
      "MMAP2 with a build id",
      RECORD.MMAP2,
      2 | MISC.MMAP_BUILD_ID,
      [1, 2, ...u64(4096), ...u64(4096), ...u64(0), 3, 0x04030201, 0, 0, 0, 0, 5, 2],
      "/bin/sh",
      {
        mmap: {
          ...{ pid: 1, tid: 2, addr: 4096, len: 4096, pgoff: 0, maj: 0, min: 0, ino: 0 },
          ...{ ino_generation: 0, prot: 5, flags: 2, filename: "/bin/sh", build_id: "010203" },
        },
      },
    ],
    [
      "MMAP",
      RECORD.MMAP,
      1,
      [0xffff_ffff, 0, ...u64(4096), ...u64(8192), ...u64(4096)],
      "[kernel.kallsyms]_text",
      {
        mmap: {
          ...{ pid: 0xffff_ffff, tid: 0, addr: 4096, len: 8192, pgoff: 4096, maj: 0, min: 0, ino: 0 },
          ...{ ino_generation: 0, prot: 0, flags: 0, filename: "[kernel.kallsyms]_text", build_id: "" },
        },
      },
    ],
    ["FORK", RECORD.FORK, 0, [1, 2, 3, 4, ...u64(99)], null, { fork: { pid: 1, ppid: 2, tid: 3, ptid: 4, time: 99 } }],
    ["EXIT", RECORD.EXIT, 0, [1, 2, 3, 4, ...u64(99)], null, { exit: { pid: 1, ppid: 2, tid: 3, ptid: 4, time: 99 } }],
    [
      "KSYMBOL",
      RECORD.KSYMBOL,
      0,
      [...u64(2 ** 45), 77, 1 | (2 << 16)],
      "bpf_prog",
      { ksymbol: { addr: 2 ** 45, len: 77, ksym_type: 1, flags: 2, name: "bpf_prog" } },
    ],
    [
      "BPF_EVENT",
      RECORD.BPF_EVENT,
      0,
      [1 | (2 << 16), 3, 0x04030201, 0x08070605],
      null,
      { bpf_event: { type: 1, flags: 2, id: 3, tag: "0102030405060708" } },
    ],
    ["CGROUP", RECORD.CGROUP, 0, u64(2 ** 40 + 1), "/a/b", { cgroup: { id: 2 ** 40 + 1, path: "/a/b" } }],
    [
      "NAMESPACES",
      RECORD.NAMESPACES,
      0,
      [1, 2, ...u64(2), ...u64(3), ...u64(4), ...u64(5), ...u64(6)],
      null,
      {
        namespaces: {
          pid: 1,
          tid: 2,
          links: [
            { dev: 3, inode: 4 },
            { dev: 5, inode: 6 },
          ],
        },
      },
    ],
    [
      "SWITCH out, preempted",
      RECORD.SWITCH,
      MISC.SWITCH_OUT | MISC.SWITCH_OUT_PREEMPT,
      [],
      null,
      { switch: { out: true, preempt: true, next_prev_pid: 0, next_prev_tid: 0, cpu_wide: false } },
    ],
    [
      "SWITCH_CPU_WIDE in",
      RECORD.SWITCH_CPU_WIDE,
      0,
      [7, 8],
      null,
      { switch: { out: false, preempt: false, next_prev_pid: 7, next_prev_tid: 8, cpu_wide: true } },
    ],
    [
      "TEXT_POKE",
      RECORD.TEXT_POKE,
      0,
      [...u64(4096), 2 | (3 << 16), 0x04030201, 0x05],
      null,
      { text_poke: { addr: 4096, old: "0102", new: "030405" } },
    ],
    ["ITRACE_START", RECORD.ITRACE_START, 0, [1, 2], null, { itrace_start: { pid: 1, tid: 2 } }],
    ["AUX_OUTPUT_HW_ID", RECORD.AUX_OUTPUT_HW_ID, 0, u64(2 ** 50), null, { aux_output_hw_id: { hw_id: 2 ** 50 } }],
  ] as const) {
    it(`takes every field of ${name}`, () => {
      const { record, ...row } = encode(taskRecord(type, misc, words, text, TRAILER));
      assert.ok(isTaskRecord(type));
      assert.deepEqual(row, { ...SAMPLE_ID, misc, ...expected });
      assert.equal(record, Object.keys(expected)[0]);
    });
  }

  it("replaces bytes that are no UTF-8, which a decoder would refuse", () => {
    const record = taskRecord(RECORD.COMM, 0, [1, 2, 0x00ff_4241, 0], null, TRAILER);
    assert.equal(encode(record).comm?.comm, "AB\ufffd");
  });

  it("takes a text that fills the record, and reads nothing behind its end", () => {
    const full = taskRecord(RECORD.COMM, 0, [1, 2, 0x64636261, 0x68676665], null, TRAILER);
    assert.equal(encode(full).comm?.comm, "abcdefgh");
    const cut = taskRecord(RECORD.MMAP2, 0, [1, 2], null, TRAILER);
    const { mmap } = encode(cut);
    assert.deepEqual([mmap?.pid, mmap?.len, mmap?.filename], [1, 0, ""]);
    const poke = taskRecord(RECORD.TEXT_POKE, 0, [0, 0, 0xffff_ffff, 1], null, TRAILER);
    assert.equal(encode(poke).text_poke?.old, "01000000");
  });

  it("does without a sample_id that nobody knows, and takes the first event's for what perf made up", () => {
    const words = [1, 2, 3, 4, ...u64(99)];
    const stray = encode(taskRecord(RECORD.FORK, 0, words, null, [5, 6, 7, 8]));
    assert.deepEqual([stray.time, stray.pid, stray.fork?.pid], [0, 0, 1]);
    const made = encode(taskRecord(RECORD.FORK, 0, words, null, [5, 6, 7, 0]));
    assert.deepEqual([made.time, made.pid, made.cpu], [6, 5, 7]);
    const anonymous = new TrailerTable();
    anonymous.add({ ids: [], sampleType: SAMPLE.TID | SAMPLE.IP, sampleIdAll: true, fixedPeriod: 0 });
    assert.equal(encode(taskRecord(RECORD.FORK, 0, words, null, [5 + 6 * 2 ** 32]), anonymous).tid, 6);
    const bare = new TrailerTable();
    bare.add({ ids: [], sampleType: SAMPLE.TID, sampleIdAll: false, fixedPeriod: 0 });
    assert.equal(encode(taskRecord(RECORD.FORK, 0, words, null, []), bare).pid, 0);
  });

  it("makes sound messages of any bytes whatever", () => {
    const random = seededRandom(3);
    const types = Object.values(RECORD).filter(isTaskRecord);
    for (let i = 0; i < 2000; i++) {
      const record = new Uint32Array(2 + 2 * Math.floor(random() * 20)).map(() => random() * 2 ** 32);
      record[0] = types[Math.floor(random() * types.length)];
      record[1] = (record[1] & 0xffff) | ((record.length * 4) << 16);
      encode(record);
    }
  });
});

describe("TrailerTable", () => {
  it("keeps an id that two openings share until both are gone", () => {
    const table = trailers();
    const format = { ids: [9n], sampleType: LIVE, sampleIdAll: true, fixedPeriod: 0 };
    table.add(format);
    const pid = (): number => encode(taskRecord(RECORD.EXIT, 0, [], null, TRAILER), table).pid;
    table.remove(format);
    assert.equal(pid(), 5);
    table.remove(format);
    assert.equal(pid(), 0);
  });
});
