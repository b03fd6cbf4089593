/** Child processes of a benchmark: lines in, lines out, and none left behind. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { within } from "../../test/support/within.js";

const LINE_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 60_000;

export interface BenchProcess {
  readonly name: string;
  readonly pid: number;
  /** The first line of stdout, past or future, that matches. Rejects when the process ends before it, or takes long. */
  line(pattern: RegExp, timeoutMs?: number): Promise<string>;
  write(text: string): void;
  /** Sends the signal, if any, and ends the input; resolves to stderr when the process has ended. Idempotent. */
  stop(signal?: NodeJS.Signals): Promise<string>;
}

const live = new Set<number>();
const directories = new Set<string>();

/** Has a process that was started elsewhere killed, too, should the benchmark end early. */
export function killOnExit(pid: number, ended: Promise<unknown>): void {
  live.add(pid);
  const forget = () => live.delete(pid);
  ended.then(forget, forget);
}

/** Has a directory of one of those processes removed behind it. */
export function removeOnExit(directory: string): void {
  directories.add(directory);
}

process.on("exit", () => {
  for (const pid of live) killIfThere(pid);
  for (const directory of directories) fs.rmSync(directory, { recursive: true, force: true });
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(130));

/** Ctrl-C reaches a terminal's whole group: it may have gone without its end having been seen here. */
function killIfThere(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** A directory for one benchmark's files, removed when `use` is done with it, and when the benchmark ends early. */
export async function withScratch<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-bench-"));
  removeOnExit(directory);
  try {
    return await use(directory);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

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

  const line = async (pattern: RegExp, timeoutMs = LINE_TIMEOUT_MS) => {
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
      const match = await within(timeoutMs, found);
      if (match === undefined) throw new Error(`${name} did not print ${pattern} in ${timeoutMs} ms: ${stderr}`);
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
