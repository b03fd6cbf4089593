/** Child processes of a benchmark: lines in, lines out, and none left behind. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { createInterface } from "node:readline";
import { within } from "../../test/support/within.js";

const LINE_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 60_000;
/** USER_HZ, the unit of /proc/stat and /proc/PID/stat: 100 on x86. */
const TICKS_PER_SECOND = 100;

export interface BenchProcess {
  readonly name: string;
  readonly pid: number;
  /** The first line of stdout, past or future, that matches. Rejects when the process ends before it, or takes long. */
  line(pattern: RegExp): Promise<string>;
  write(text: string): void;
  /** Sends the signal, if any, and ends the input; resolves to stderr when the process has ended. Idempotent. */
  stop(signal?: NodeJS.Signals): Promise<string>;
}

const live = new Set<number>();

/** Has a process that was started elsewhere killed, too, should the benchmark end early. */
export function killOnExit(pid: number, ended: Promise<unknown>): void {
  live.add(pid);
  const forget = () => live.delete(pid);
  ended.then(forget, forget);
}

process.on("exit", () => {
  for (const pid of live) process.kill(pid, "SIGKILL");
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));

export function startProcess(name: string, command: string, args: readonly string[]): BenchProcess {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
  const lines: string[] = [];
  let stderr = "";
  let closed = false;
  const waiting = new Set<() => void>();
  const wake = () => {
    for (const look of waiting) look();
  };
  createInterface({ input: child.stdout }).on("line", (line) => {
    lines.push(line);
    wake();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  // A process that ends by itself closes its input; whoever writes then learns it from line().
  child.stdin.on("error", () => {});
  const ended = end(child).finally(() => {
    closed = true;
    wake();
  });
  if (child.pid !== undefined) killOnExit(child.pid, ended);

  const line = async (pattern: RegExp) => {
    let look = () => {};
    const found = new Promise<string>((resolve, reject) => {
      look = () => {
        const match = lines.find((candidate) => pattern.test(candidate));
        if (match !== undefined) resolve(match);
        else if (closed) reject(new Error(`${name} ended: ${stderr}`));
      };
      waiting.add(look);
      look();
    });
    try {
      const match = await within(LINE_TIMEOUT_MS, found);
      if (match === undefined) throw new Error(`${name} did not print ${pattern} in ${LINE_TIMEOUT_MS} ms: ${stderr}`);
      return match;
    } finally {
      waiting.delete(look);
    }
  };
  const stop = async (signal?: NodeJS.Signals) => {
    if (!closed) {
      child.stdin.end();
      if (signal !== undefined) child.kill(signal);
    }
    const inTime = await within(
      STOP_TIMEOUT_MS,
      ended.then(() => true),
    );
    if (inTime === undefined) {
      child.kill("SIGKILL");
      await ended;
      throw new Error(`${name} did not end within ${STOP_TIMEOUT_MS} ms: ${stderr}`);
    }
    return stderr;
  };
  return { name, pid: child.pid ?? 0, line, write: (text) => child.stdin.write(text), stop };
}

async function end(child: ChildProcess): Promise<void> {
  const failed = once(child, "error").then(([error]) => Promise.reject(error));
  await Promise.race([once(child, "close"), failed]);
}

/** Runs to the end; throws with stderr in the message when it fails. */
export function runToEnd(command: string, args: readonly string[]): void {
  const { error, status, stderr } = spawnSync(command, args, { encoding: "utf8" });
  if (error !== undefined) throw new Error(`cannot run ${command}: ${error.message}`);
  if (status !== 0) throw new Error(`${command} failed: ${stderr}`);
}

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
  let ticks = 0;
  for (const pid of pids) {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    // Fields 14 and 15, utime and stime; field 2, the name, may hold blanks and ends with the last parenthesis.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    ticks += Number(fields[11]) + Number(fields[12]);
  }
  return ticks / TICKS_PER_SECOND;
}
