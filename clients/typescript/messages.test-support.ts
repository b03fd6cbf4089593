/** Messages for tests, of which a test names only what it is about. */
import type { Loss, ResolvedEvent, SampleBatch, Started } from "./messages.js";

const NONE_64 = new BigUint64Array(0);
const NONE_32 = new Uint32Array(0);

const NO_COLUMNS = {
  ...{ time: NONE_64, ip: NONE_64, pid: NONE_32, tid: NONE_32, cpu: NONE_32, period: NONE_64 },
  ...{ callchain: NONE_64, callchainLength: NONE_32, addr: NONE_64, weight: NONE_64, dataSrc: NONE_64 },
  ...{ cgroup: NONE_64, raw: NONE_32, rawLength: NONE_32, branchStack: NONE_64, branchStackLength: NONE_32 },
  ...{ branchHwIndex: NONE_64, branchCounters: NONE_64, regsUser: NONE_64, regsUserAbi: NONE_32 },
  ...{ stackUser: NONE_64, stackUserLength: NONE_32, transaction: NONE_64, physAddr: NONE_64 },
  ...{ dataPageSize: NONE_64, codePageSize: NONE_64, regsIntr: NONE_64, regsIntrAbi: NONE_32 },
  ...{ read: NONE_64, readLength: NONE_32, aux: NONE_64, auxLength: NONE_32, cpumode: NONE_32 },
};

export function resolvedEvent(change: Partial<ResolvedEvent> = {}): ResolvedEvent {
  return {
    ...{ name: "cpu-clock", type: 1, config: 0n, frequencyHz: 0, period: 0, periodUnit: "ns" },
    ...{ sampleRegsUser: 0n, sampleRegsIntr: 0n, readFormat: 0n, branchSampleType: 0n, leaderIndex: 0 },
    ...{ excludeUser: false, excludeKernel: false, excludeHv: false, preciseIp: 0 },
    ...{ config1: 0n, config2: 0n, config3: 0n, sampleStackUser: 0, format: new Uint8Array(0) },
    ...{ bpType: 0, sampleType: 0n },
    ...change,
  };
}

/** As long as the longest of the columns that hold something for each sample: `time` must be given. */
export function sampleBatch(change: Partial<SampleBatch> & Pick<SampleBatch, "time">): SampleBatch {
  return { kind: "samples", eventIndex: 0, sequence: 0, length: change.time.length, ...NO_COLUMNS, ...change };
}

export function startedMessage(change: Partial<Started> = {}): Started {
  return {
    ...{ kind: "started", handlerId: 1, events: [resolvedEvent()], nextSequence: 0, resumed: false },
    ...{ clock: "CLOCK_MONOTONIC", source: "perf", fallback: false, leaseMs: 10_000 },
    ...change,
  };
}

export function lossMessage(change: Partial<Loss> = {}): Loss {
  return {
    ...{ kind: "loss", count: 1, reason: "QUEUE_FULL", eventWide: false, firstTime: 0n, lastTime: 0n },
    ...{ eventIndex: 0, period: 0, tasks: 0, auxBytes: 0 },
    ...change,
  };
}
