/** Processes that load one CPU each, since an idle CPU yields no samples. */
import fs from "node:fs";
import type { TestContext } from "node:test";
import { type RunningProcess, startProcess } from "./process.js";

/** The kernel ends a loop after this much CPU time, should the test that started it be killed before it could. */
const CPU_SECONDS_MAX = 300;

const LOOPS = {
  /** In user space, but for interrupts. */
  user: ["sh", "-c", "while :; do :; done"],
  /** In system calls, most of the time. */
  kernel: ["dd", "if=/dev/zero", "of=/dev/null", "bs=64k"],
} as const;

export interface BusyOptions {
  readonly cpu: number;
  /** Default: user. */
  readonly in?: keyof typeof LOOPS;
  /** Owner of the process; the test must be root to give it away. */
  readonly uid?: number;
}

/** Starts a loop on `cpu`; it is stopped after the test. Needs util-linux, which every distribution has. */
export function startBusy(t: TestContext, options: BusyOptions): RunningProcess {
  const { cpu, uid } = options;
  // Each of them becomes the next: the pid stays.
  const owner = uid === undefined ? [] : ["setpriv", `--reuid=${uid}`, "--clear-groups"];
  const [command, ...args] = [
    ...["prlimit", `--cpu=${CPU_SECONDS_MAX}`, "taskset", "-c", String(cpu)],
    ...owner,
    ...LOOPS[options.in ?? "user"],
  ];
  return startProcess(t, command, args);
}

/** The CPUs that are online and that this process may use, in order. */
export function usableCpus(): number[] {
  const list = /^Cpus_allowed_list:\s*(\S+)/m.exec(fs.readFileSync("/proc/self/status", "utf8"))?.[1] ?? "0";
  return list.split(",").flatMap((range) => {
    const [first, last = first] = range.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i);
  });
}
