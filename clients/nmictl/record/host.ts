/** What this machine says of itself, for a recording's head. */
import { readFileSync } from "node:fs";
import os from "node:os";
import type { HostFacts } from "./features.js";
import { TRACE_HEADS_DEFAULT, type TraceHeads } from "./tracing-data.js";

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** CPUs in the kernel's list format, "0-3,8". */
function countCpus(list: string): number {
  let count = 0;
  for (const range of list.trim().split(",")) {
    const [first, last = first] = range.split("-").map(Number);
    count += last - first + 1;
  }
  return Number.isNaN(count) ? 0 : count;
}

export function hostFacts(): HostFacts {
  const cpuinfo = read("/proc/cpuinfo");
  const of = (name: string) => new RegExp(`^${name}\\s*:\\s*(.*)$`, "m").exec(cpuinfo)?.[1]?.trim() ?? "";
  const id = [of("vendor_id"), of("cpu family"), of("model"), of("stepping")];
  return {
    hostname: os.hostname(),
    osRelease: os.release(),
    arch: os.machine(),
    cpusPresent: countCpus(read("/sys/devices/system/cpu/present")) || os.cpus().length,
    cpusOnline: countCpus(read("/sys/devices/system/cpu/online")) || os.cpus().length,
    cpuDescription: of("model name"),
    cpuId: id.includes("") ? "" : id.join(","),
    memoryKib: Number(/^MemTotal:\s*(\d+) kB/m.exec(read("/proc/meminfo"))?.[1] ?? os.totalmem() / 1024),
  };
}

export function traceHeads(): TraceHeads {
  for (const root of ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"]) {
    const page = read(`${root}/events/header_page`);
    const event = read(`${root}/events/header_event`);
    if (page !== "" && event !== "") return { page, event };
  }
  return TRACE_HEADS_DEFAULT;
}

/** The kernel's bound of sampling frequencies in Hz; undefined where it cannot be read. */
export function maxSampleRate(): number | undefined {
  const rate = Number.parseInt(read("/proc/sys/kernel/perf_event_max_sample_rate"), 10);
  return rate > 0 ? rate : undefined;
}

/** Of a process of this machine; undefined when it has gone. */
export function parentOf(pid: number): number | undefined {
  // The name in parentheses may hold anything.
  const stat = read(`/proc/${pid}/stat`);
  const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
  return stat === "" || Number.isNaN(parent) ? undefined : parent;
}

/** Whether it is there and has not ended. */
export function isRunning(pid: number): boolean {
  const stat = read(`/proc/${pid}/stat`);
  const state = stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3);
  return stat !== "" && state !== "Z" && state !== "X";
}
