/** `perf report --stats`: what a recording holds, counted by perf. */
import { spawnSync } from "node:child_process";

/** perf reads some hundred megabytes a second. */
const TIMEOUT_MS = 120_000;

export interface PerfStats {
  readonly samples: number;
  /** That the kernel had no room for; undefined where this perf does not say. */
  readonly lost: number | undefined;
}

/** Throws when perf cannot read the file, or says nothing of samples. */
export function readPerfStats(file: string): PerfStats {
  const { error, status, stdout, stderr } = spawnSync("perf", ["report", "--stats", "-i", file], {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
  });
  if (error !== undefined) throw new Error(`cannot run perf report: ${error.message}`);
  if (status !== 0) throw new Error(`perf report failed: ${stderr}`);
  const stats = parsePerfStats(stdout);
  if (stats === undefined) throw new Error(`perf report said nothing of samples: ${stdout}`);
  return stats;
}

/**
 * perf counts records in a section for all events, and below that in one for each, where LOST_SAMPLES is the number of
 * samples lost: what the kernel counted for the event (PERF_FORMAT_LOST, Linux 6.0 and perf 6.1). A recording without a
 * LOST record, either, has lost nothing.
 */
export function parsePerfStats(text: string): PerfStats | undefined {
  const [aggregated = "", ...events] = text
    .split(/^(?=\S.* stats:$)/m)
    .filter((section) => section.includes("events:"));
  const count = (section: string, kind: string) => new RegExp(`^ +${kind} events: +(\\d+)`, "m").exec(section)?.[1];
  const samples = count(aggregated, "SAMPLE");
  if (samples === undefined) return undefined;
  const told = events.flatMap((section) => count(section, "LOST_SAMPLES") ?? []);
  const lost = told.reduce((sum, each) => sum + Number(each), 0);
  const unknown = told.length === 0 && count(aggregated, "LOST") !== undefined;
  return { samples: Number(samples), lost: unknown ? undefined : lost };
}
