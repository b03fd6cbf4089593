/** `perf record`: what every profiler does today, its own events and its own interrupts. */
import fs from "node:fs";
import path from "node:path";
import type { Consumption, Load } from "./load.js";
import { readPerfStats } from "./perf-stats.js";
import { type BenchProcess, startProcess } from "./processes.js";
import { untilGrown } from "./recorders.js";

/**
 * perf writes when a ring is half full, and 128 KiB is below half of its default ring's 512 KiB: a file that grew by
 * this much holds samples.
 */
export const GROWTH_BYTES = 128 * 1024;

/** `count` times `perf record -a` on `event`, writing below `directory`. */
export function perfRecord(count: number, event: string, frequencyHz: number, directory: string): Load {
  return {
    name: count === 1 ? "one perf record" : `${count} perf record`,
    start: async () => {
      const runs = Array.from({ length: count }, (_, i) =>
        startRun(event, frequencyHz, path.join(directory, `${i}.data`)),
      );
      return {
        consumerPids: runs.map((run) => run.process.pid),
        sampling: async () => {
          // What it writes first describes the processes that run already.
          await Promise.all(runs.map(({ process, file }) => untilGrown(process, file, GROWTH_BYTES)));
        },
        stop: () => Promise.all(runs.map(stopRun)),
      };
    },
  };
}

interface Run {
  readonly process: BenchProcess;
  readonly file: string;
  readonly startedMs: number;
}

function startRun(event: string, frequencyHz: number, file: string): Run {
  const args = ["record", "-e", event, "-F", String(frequencyHz), "-a", "-o", file];
  return { process: startProcess("perf record", "perf", args), file, startedMs: performance.now() };
}

async function stopRun({ process, file, startedMs }: Run): Promise<Consumption> {
  const seconds = (performance.now() - startedMs) / 1000;
  await process.stop("SIGINT");
  const { samples, lost } = readPerfStats(file);
  fs.rmSync(file, { force: true });
  return { consumer: process.name, received: samples, seconds, perCpu: {}, kernelLost: lost };
}
