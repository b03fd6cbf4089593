/** `nmictl record` and `perf record` of one process, side by side, and what perf finds in their files. */
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { REPOSITORY } from "../../test/support/daemon.js";
import { type BenchProcess, startProcess } from "./processes.js";

const NMICTL = path.join(REPOSITORY, "dist", "clients", "nmictl", "main.js");
const POLL_MS = 50;
const SAMPLING_TIMEOUT_MS = 60_000;
const SCRIPT_TIMEOUT_MS = 120_000;
const SCRIPT_BYTES_MAX = 2 ** 30;

/** `nmictl record -e EVENT -F HZ -p PID`, through the daemon at `address`. */
export function nmictlRecord(
  address: string,
  event: string,
  frequencyHz: number,
  pid: number,
  file: string,
): BenchProcess {
  const args = ["--address", address, "record", "-e", event, "-F", String(frequencyHz), "-p", String(pid), "-o", file];
  return startProcess("nmictl record", process.execPath, [NMICTL, ...args]);
}

export function perfRecordPid(event: string, frequencyHz: number, pid: number, file: string): BenchProcess {
  const args = ["record", "-e", event, "-F", String(frequencyHz), "-p", String(pid), "-o", file];
  return startProcess("perf record", "perf", args);
}

/** Resolves when the recorder has written `bytes` more than when its file first held anything: then it holds samples. */
export async function untilGrown({ name, pid }: BenchProcess, file: string, bytes: number): Promise<void> {
  const size = () => fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  const deadline = performance.now() + SAMPLING_TIMEOUT_MS;
  let first = 0;
  while (first === 0 || size() < first + bytes) {
    if (performance.now() > deadline) throw new Error(`${name} (pid ${pid}) recorded nothing`);
    await delay(POLL_MS);
    first ||= size();
  }
}

/** The symbol of each sample, in the order of time, as perf makes it out; "" where it does not know. */
export function symbolsOf(file: string): string[] {
  const { error, status, stdout, stderr } = spawnSync("perf", ["script", "-F", "ip,sym", "-i", file], {
    encoding: "utf8",
    timeout: SCRIPT_TIMEOUT_MS,
    maxBuffer: SCRIPT_BYTES_MAX,
  });
  if (error !== undefined) throw new Error(`cannot run perf script: ${error.message}`);
  if (status !== 0) throw new Error(`perf script failed: ${stderr}`);
  return stdout
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => /^\s*[0-9a-f]+\s+(\S+)/.exec(line)?.[1] ?? "");
}
