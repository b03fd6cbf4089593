/**
 * The kernel as the perf source sees it: system calls and the files that govern them. One interface, so that faults
 * that this machine cannot produce can be produced by a fake.
 */
import { readFileSync } from "node:fs";
import { FLAG_FD_CLOEXEC } from "../abi.js";
import { parseCpuList } from "../cpu-list.js";
import { type FileTree, liveFileTree } from "../events/file-tree.js";
import type { PfmEncoder } from "../events/resolve.js";
import * as ffi from "../ffi.js";

export interface Kernel {
  /** Opens a per-CPU event for all processes, in the group of another where its fd is given. Throws ffi.Errno. */
  openEvent(attr: Uint8Array, cpu: number, groupFd?: number): number;
  ioctl(fd: number, request: number, value: number): void;
  ioctlPointer(fd: number, request: number, data: BigUint64Array): void;
  /** `offset` 0 is the ring, another its AUX area. */
  mapShared(fd: number, length: number, offset?: number): bigint;
  unmap(address: bigint, length: number): void;
  read(fd: number, buffer: BigUint64Array): number;
  close(fd: number): void;
  /** Ids of the CPUs that are online now; they are sparse. */
  onlineCpus(): number[];
  /** kernel.perf_event_paranoid, or null where the file is hidden. */
  paranoid(): number | null;
  /** kernel.perf_event_max_sample_rate in Hz; the kernel lowers it by itself under load. */
  maxSampleRate(): number;
  /** CLOCK_MONOTONIC, in nanoseconds. */
  nowNs(): number;
  /** Whether this process holds CAP_PERFMON or CAP_SYS_ADMIN. */
  hasPerfmon(): boolean;
  /** sysfs and tracefs. */
  readonly files: FileTree;
  /** libpfm4's names, where it is installed. */
  readonly pfm: PfmEncoder;
}

const CAP_SYS_ADMIN = 21n;
const CAP_PERFMON = 38n;

function readText(path: string): string | null {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return null;
  }
}

export const liveKernel: Kernel = {
  openEvent: (attr, cpu, groupFd = -1) => ffi.perfEventOpen(attr, -1, cpu, groupFd, FLAG_FD_CLOEXEC),
  ioctl: ffi.ioctl,
  ioctlPointer: ffi.ioctlPointer,
  mapShared: ffi.mapShared,
  unmap: ffi.unmap,
  read: ffi.readInto,
  close: ffi.closeFd,
  onlineCpus: () => parseCpuList(readText("/sys/devices/system/cpu/online") ?? "0"),
  paranoid: () => {
    const text = readText("/proc/sys/kernel/perf_event_paranoid");
    return text === null ? null : Number(text);
  },
  maxSampleRate: () => Number(readText("/proc/sys/kernel/perf_event_max_sample_rate") ?? 100_000),
  nowNs: () => Number(process.hrtime.bigint()),
  hasPerfmon: () => {
    const line = readText("/proc/self/status")?.match(/^CapEff:\s*([0-9a-f]+)$/m);
    const effective = BigInt(`0x${line?.[1] ?? "0"}`);
    return ((effective >> CAP_PERFMON) & 1n) === 1n || ((effective >> CAP_SYS_ADMIN) & 1n) === 1n;
  },
  files: liveFileTree,
  pfm: ffi.pfmEncode,
};
