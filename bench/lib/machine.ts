/** What a figure depends on besides the code. */
import fs from "node:fs";
import os from "node:os";

export interface Machine {
  readonly cpuModel: string;
  readonly cpus: readonly number[];
  readonly kernel: string;
  readonly node: string;
  readonly memoryBytes: number;
}

/** The kernel's own limits on sampling; it may lower the first under load. */
export interface SamplingLimits {
  readonly maxSampleRate: number;
  readonly cpuTimeMaxPercent: number;
}

export function describeMachine(): Machine {
  return {
    cpuModel: os.cpus()[0]?.model ?? "unknown",
    cpus: onlineCpus(),
    kernel: `${os.type()} ${os.release()}`,
    node: process.version,
    memoryBytes: os.totalmem(),
  };
}

/** CPU ids are sparse: the kernel's list, not a count. */
export function onlineCpus(): number[] {
  const list = fs.readFileSync("/sys/devices/system/cpu/online", "utf8").trim();
  return list.split(",").flatMap((range) => {
    const [first = 0, last = first] = range.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}

export function samplingLimits(): SamplingLimits {
  const read = (name: string) => Number(fs.readFileSync(`/proc/sys/kernel/${name}`, "utf8"));
  return { maxSampleRate: read("perf_event_max_sample_rate"), cpuTimeMaxPercent: read("perf_cpu_time_max_percent") };
}

export function formatMachine(machine: Machine): string {
  const gib = (machine.memoryBytes / 2 ** 30).toFixed(1);
  return `${machine.cpuModel}, ${machine.cpus.length} CPUs, ${gib} GiB; ${machine.kernel}; Node ${machine.node}`;
}

export function formatLimits(when: string, limits: SamplingLimits): string {
  return (
    `${when}: kernel.perf_event_max_sample_rate = ${limits.maxSampleRate}, ` +
    `kernel.perf_cpu_time_max_percent = ${limits.cpuTimeMaxPercent}`
  );
}
