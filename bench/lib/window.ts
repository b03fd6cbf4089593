/** One period of time: what subscribers received in it, and what it cost whom. */
import { setTimeout as delay } from "node:timers/promises";
import { type Subscribers, type Throughput, throughput } from "./subscribers.js";
import { cpuSeconds, machineCpuSeconds, mainThreadCpuSeconds } from "./usage.js";

/** CPU seconds a second. */
export interface Costs {
  readonly serverCpus: number;
  /** Of these, the thread that runs gRPC. */
  readonly serverMainCpus: number;
  readonly readerCpus: number;
  /** What neither used: a figure taken beside a busy neighbour says little. */
  readonly otherCpus: number;
}

export interface Window extends Costs, Throughput {}

interface Reading {
  readonly atNs: number;
  readonly server: number;
  readonly main: number;
  readonly readers: number;
  readonly machine: number;
}

function read(serverPid: number, readerPids: readonly number[]): Reading {
  return {
    atNs: Number(process.hrtime.bigint()),
    server: cpuSeconds([serverPid]),
    main: mainThreadCpuSeconds(serverPid),
    readers: cpuSeconds(readerPids),
    machine: machineCpuSeconds(),
  };
}

/** What others use is what is left of the machine: `ownPids` are further processes of the benchmark, as its load. */
export async function costsOf(
  serverPid: number,
  readerPids: readonly number[],
  ownPids: readonly number[],
  seconds: number,
): Promise<Costs> {
  const ownBefore = cpuSeconds(ownPids);
  const before = read(serverPid, readerPids);
  await delay(seconds * 1000);
  const after = read(serverPid, readerPids);
  const own = cpuSeconds(ownPids) - ownBefore;
  const elapsed = (after.atNs - before.atNs) / 1e9;
  const server = after.server - before.server;
  const readers = after.readers - before.readers;
  return {
    serverCpus: server / elapsed,
    serverMainCpus: (after.main - before.main) / elapsed,
    readerCpus: readers / elapsed,
    otherCpus: Math.max(0, after.machine - before.machine - server - readers - own) / elapsed,
  };
}

export async function measureWindow(
  serverPid: number,
  subscribers: Subscribers,
  ownPids: readonly number[],
  seconds: number,
): Promise<Window> {
  const before = await subscribers.snapshot();
  const costs = await costsOf(serverPid, subscribers.pids, ownPids, seconds);
  const after = await subscribers.snapshot();
  return { ...costs, ...throughput(before, after) };
}
