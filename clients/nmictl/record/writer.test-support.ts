/** For tests: a recording of two events with a sample that has every field, in both formats. */
import type { Field, TaskRecord } from "../../typescript/index.js";
import { lossMessage, resolvedEvent, sampleBatch } from "../../typescript/messages.test-support.js";
import { FIELD_BITS } from "./abi.js";
import { versionFeature } from "./features.js";
import { PerfDataWriter } from "./writer.js";

export const EVENTS = [
  resolvedEvent({
    ...{ name: "cpu-clock:u", type: 1, config: 0n, frequencyHz: 99, excludeKernel: true, preciseIp: 2 },
    ...{ sampleRegsUser: 0b101n, sampleRegsIntr: 0b1n, readFormat: 7n, branchSampleType: 1n << 17n },
    ...{ sampleStackUser: 64, sampleType: (1n << 24n) | (1n << 2n) },
  }),
  resolvedEvent({
    ...{ name: "mem:0x1000/4:w", type: 5, config1: 0x1000n, config2: 4n, bpType: 2, period: 3 },
    ...{ sampleRegsUser: 0b101n, sampleRegsIntr: 0b1n, readFormat: 7n, branchSampleType: 1n << 17n },
    ...{ sampleStackUser: 64, sampleType: (1n << 14n) | (1n << 2n), leaderIndex: 1 },
  }),
];

/** All that change a sample's layout, but for branch counters. */
export const FIELDS = Object.keys(FIELD_BITS).filter((field) => field !== "BRANCH_COUNTERS") as Field[];

export const SAMPLE = {
  ...{ time: 0x1_0000_0001n, ip: 0x4000_0000_0000n, pid: 10, tid: 11, cpu: 1, period: 5n },
  ...{ addr: 0xaan, weight: 0x0003_0002_0000_0001n, dataSrc: 0xbbn, cgroup: 0xccn, transaction: 0xddn },
  ...{ physAddr: 0xeen, dataPageSize: 4096n, codePageSize: 8192n },
  ...{ callchain: [0xffff_ffff_ffff_fe00n, 0x4000_0000_0000n], raw: [1, 2], branch: [0x11n, 0x22n, 1n], hwIndex: 6n },
  ...{ regsUser: [7n, 8n], regsIntr: [9n], stack: [0x1234n, 0x56n], stackBytes: 12, aux: [0x77n], auxBytes: 3 },
  // Of the daemon's counter; the recording has ids of its own.
  read: [100n, 200n, 300n, 0xdead_beefn],
} as const;

const words = (...values: readonly bigint[]) => BigUint64Array.from(values);
const halves = (...values: readonly number[]) => Uint32Array.from(values);

export function fullBatch(eventIndex: number) {
  return sampleBatch({
    ...{ eventIndex, time: words(SAMPLE.time), ip: words(SAMPLE.ip), pid: halves(SAMPLE.pid), tid: halves(SAMPLE.tid) },
    ...{
      cpu: halves(SAMPLE.cpu),
      period: words(SAMPLE.period),
      addr: words(SAMPLE.addr),
      weight: words(SAMPLE.weight),
    },
    ...{ dataSrc: words(SAMPLE.dataSrc), cgroup: words(SAMPLE.cgroup), transaction: words(SAMPLE.transaction) },
    ...{ physAddr: words(SAMPLE.physAddr), dataPageSize: words(SAMPLE.dataPageSize) },
    ...{ codePageSize: words(SAMPLE.codePageSize), callchain: words(...SAMPLE.callchain), callchainLength: halves(2) },
    ...{ raw: halves(...SAMPLE.raw), rawLength: halves(2), branchStack: words(...SAMPLE.branch) },
    ...{ branchStackLength: halves(1), branchHwIndex: words(SAMPLE.hwIndex), regsUser: words(...SAMPLE.regsUser) },
    ...{ regsUserAbi: halves(2), regsIntr: words(...SAMPLE.regsIntr), regsIntrAbi: halves(2) },
    ...{ stackUser: words(...SAMPLE.stack), stackUserLength: halves(SAMPLE.stackBytes), aux: words(...SAMPLE.aux) },
    ...{ auxLength: halves(SAMPLE.auxBytes), read: words(...SAMPLE.read), readLength: halves(4), cpumode: halves(2) },
  });
}

const WHERE = { time: 50n, pid: 10, tid: 11, cpu: 0, misc: 0 };

/** One of each kind. */
export const TASKS: readonly TaskRecord[] = [
  { ...WHERE, record: "comm", comm: { comm: "four", exec: true, pid: 10, tid: 11 } },
  { ...WHERE, record: "mmap", mmap: mmap({ buildId: Uint8Array.of(1, 2, 3) }) },
  { ...WHERE, record: "mmap", mmap: mmap({ prot: 5, ino: 7n, maj: 8, min: 9 }) },
  { ...WHERE, record: "mmap", mmap: mmap({}) },
  { ...WHERE, record: "fork", fork: { pid: 12, ppid: 10, tid: 12, ptid: 11, time: 51n } },
  { ...WHERE, record: "exit", exit: { pid: 12, ppid: 10, tid: 12, ptid: 11, time: 52n } },
  { ...WHERE, record: "ksymbol", ksymbol: { addr: 0x10n, len: 4, ksymType: 1, flags: 0, name: "bpf_prog" } },
  { ...WHERE, record: "bpfEvent", bpfEvent: { type: 1, flags: 0, id: 3, tag: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) } },
  { ...WHERE, record: "cgroup", cgroup: { id: 0xccn, path: "/system.slice" } },
  { ...WHERE, record: "namespaces", namespaces: { pid: 10, tid: 11, links: [{ dev: 4n, inode: 5n }] } },
  { ...WHERE, record: "switch", switch: switched({ out: true, preempt: true }) },
  { ...WHERE, record: "switch", switch: switched({ cpuWide: true, nextPrevPid: 20, nextPrevTid: 21 }) },
  { ...WHERE, record: "textPoke", textPoke: { addr: 0x20n, old: Uint8Array.of(1), new: Uint8Array.of(2, 3) } },
  { ...WHERE, record: "itraceStart", itraceStart: { pid: 10, tid: 11 } },
  { ...WHERE, record: "auxOutputHwId", auxOutputHwId: { hwId: 6n } },
];

function mmap(change: Partial<Extract<TaskRecord, { record: "mmap" }>["mmap"]>) {
  return {
    ...{ pid: 10, tid: 11, addr: 0x1000n, len: 0x2000n, pgoff: 0n, maj: 0, min: 0, ino: 0n, inoGeneration: 0n },
    ...{ prot: 0, flags: 0, filename: "/bin/x", buildId: new Uint8Array(0) },
    ...change,
  };
}

function switched(change: Partial<Extract<TaskRecord, { record: "switch" }>["switch"]>) {
  return { out: false, preempt: false, nextPrevPid: 0, nextPrevTid: 0, cpuWide: false, ...change };
}

export interface Written {
  readonly pipe: Uint8Array;
  readonly file: Uint8Array;
  /** Of each record behind the head: where it begins in both. */
  readonly at: readonly number[];
}

/** The tasks, the sample of each event, a loss, the end of a round. */
export function writeAll(): Written {
  const features = [versionFeature("test")];
  const writer = new PerfDataWriter({
    ...{ events: EVENTS, cpus: [0, 1], fields: FIELDS, clock: "CLOCK_MONOTONIC", contextSwitches: true },
    ...{ mmapData: false, kernelCallchainsOnly: false },
  });
  const at: number[] = [];
  const mark = (write: () => void) => {
    at.push(writer.out.length);
    write();
  };
  writer.begin(features);
  for (const task of TASKS) mark(() => writer.task(task));
  mark(() => writer.samples(fullBatch(0)));
  mark(() => writer.samples(fullBatch(1)));
  mark(() => writer.loss(lossMessage({ eventIndex: 1, count: 9, firstTime: 60n, lastTime: 70n })));
  mark(() => writer.finishedRound());
  const pipe = writer.take().slice();
  const buildId = { filename: "/bin/x", buildId: Uint8Array.of(1, 2, 3, 4), kernel: false };
  const { head, tail } = writer.finish(pipe.length, features, [buildId]);
  // In shared memory, as the project's reader of recordings takes it.
  const file = new Uint8Array(new SharedArrayBuffer(pipe.length + tail.length));
  file.set(pipe);
  file.set(tail, pipe.length);
  file.set(head);
  return { pipe, file, at };
}
