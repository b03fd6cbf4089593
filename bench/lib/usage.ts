/** What processes have used, from /proc. */
import fs from "node:fs";

/** USER_HZ, the unit of /proc/stat and /proc/PID/stat: 100 on x86. */
const TICKS_PER_SECOND = 100;

/** CPU time that the whole machine has used so far, in seconds. */
export function machineCpuSeconds(): number {
  const [, user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = fs
    .readFileSync("/proc/stat", "utf8")
    .split("\n", 1)
    .join()
    .split(/ +/)
    .map(Number);
  return (user + nice + system + irq + softirq) / TICKS_PER_SECOND;
}

/** CPU time that the processes have used so far, all their threads, in seconds. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((seconds, pid) => seconds + readTicks(`/proc/${pid}/stat`) / TICKS_PER_SECOND, 0);
}

/** The same of a process's main thread alone: of what runs a daemon's or a server's gRPC. */
export function mainThreadCpuSeconds(pid: number): number {
  return readTicks(`/proc/${pid}/task/${pid}/stat`) / TICKS_PER_SECOND;
}

/** That of this process's children that have ended and were waited for, in seconds. */
export function endedChildrenCpuSeconds(): number {
  return readTicks("/proc/self/stat", 16) / TICKS_PER_SECOND;
}

/** Fields 14 and 15, utime and stime; or 16 and 17, the same of children. */
function readTicks(file: string, first: 14 | 16 = 14): number {
  const stat = fs.readFileSync(file, "utf8");
  // Field 2, the name, may hold blanks and ends with the last parenthesis.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return Number(fields[first - 3]) + Number(fields[first - 2]);
}

export interface Memory {
  readonly rssBytes: number;
  /** The most it ever had. */
  readonly peakRssBytes: number;
}

export function memoryOf(pid: number): Memory {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  const bytes = (key: string) => Number(new RegExp(`^${key}:\\s*(\\d+) kB$`, "m").exec(status)?.[1]) * 1024;
  return { rssBytes: bytes("VmRSS"), peakRssBytes: bytes("VmHWM") };
}

/** How many files a process that is started here may have open: Node raises its soft limit to the hard one. */
export function openFilesMax(): number {
  const limit = /^Max open files\s+\S+\s+(\S+)/m.exec(fs.readFileSync("/proc/self/limits", "utf8"))?.[1];
  return limit === "unlimited" ? Number.POSITIVE_INFINITY : Number(limit);
}
