/**
 * How fast a large recording is read: by the project's perf.data reader as a replay at speed=max does it, by `perf script
 * -F time`, and by a bare sequential read. The recordings are made here. Rounds are interleaved; files are in the page
 * cache.
 */
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { readRecording } from "../src/pmu/perf-data/recording.js";
import { atLeast, formatAims } from "./lib/aim.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { liveRefusal } from "./lib/daemon.js";
import { onlineCpus, samplingLimits } from "./lib/machine.js";
import { readPerfStats } from "./lib/perf-stats.js";
import { runToEnd, startProcess, withScratch } from "./lib/processes.js";
import { repeatRecording } from "./lib/repeat-recording.js";
import { type Spread, spread } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";
import { compileVictim, LEAST_URGENT, startVictims } from "./lib/victim.js";
import type { ReaderReport } from "./perfdata-reader.js";

const READER = fileURLToPath(new URL("./perfdata-reader.js", import.meta.url));
const FREQUENCY_HZ = 20_000;
const BYTES_MIN = 128 * 2 ** 20;
const READ_BYTES = 2 ** 20;
const MB = 1e6;
/** Of perf script's rate, for all that a replay does. */
const PERF_AIM = 1;

interface RecordingFile {
  readonly name: string;
  readonly file: string;
  readonly fileBytes: number;
  /** What the compressed records hold included. */
  readonly imageBytes: number;
  readonly samples: number;
}

const WAYS = ["bare read", "perf script -F time", "nmid: open", "nmid: open and play"] as const;
type Way = (typeof WAYS)[number];

interface WayResult {
  readonly way: Way;
  readonly seconds: Spread;
  /** Of the file, and of what is in it. */
  readonly fileMBs: number;
  readonly imageMBs: number;
  readonly samplesPerSecond: number;
  /** The rate, of perf script's and of the bare read's. */
  readonly ofPerf: Spread;
  readonly ofBare: Spread;
}

function perfRecord(file: string, seconds: number, ...args: string[]): void {
  const rate = Math.min(FREQUENCY_HZ, samplingLimits().maxSampleRate);
  const common = ["record", "-e", "cpu-clock", "-F", String(rate), "-a", "-o", file];
  runToEnd("perf", [...common, ...args, "--", "sleep", String(seconds)]);
}

/** All CPUs loaded, recorded by perf itself; the one that is not compressed is repeated until it is large. */
async function makeRecordings(directory: string, seconds: number): Promise<RecordingFile[]> {
  const [short, plain, compressed] = ["short", "plain", "compressed"].map((name) => path.join(directory, name));
  const victims = await startVictims(compileVictim(directory), onlineCpus(), LEAST_URGENT);
  try {
    perfRecord(short as string, seconds);
    perfRecord(compressed as string, seconds, "-z");
  } finally {
    await victims.stop();
  }
  const samples = repeatRecording(short as string, plain as string, BYTES_MIN);
  return [
    describe("plain", plain as string, samples),
    describe("perf record -z", compressed as string, readPerfStats(compressed as string).samples),
  ];
}

function describe(name: string, file: string, samples: number): RecordingFile {
  const { image } = readRecording(file);
  return { name, file, samples, fileBytes: image.fileBytes, imageBytes: image.length };
}

function readBare(file: string): number {
  const buffer = new Uint8Array(READ_BYTES);
  const start = process.hrtime.bigint();
  const fd = fs.openSync(file, "r");
  try {
    while (fs.readSync(fd, buffer) > 0);
  } finally {
    fs.closeSync(fd);
  }
  return Number(process.hrtime.bigint() - start) / 1e9;
}

function perfScript(file: string): number {
  const start = process.hrtime.bigint();
  const { error, status } = spawnSync("perf", ["script", "-F", "time", "-i", file], { stdio: "ignore" });
  if (error !== undefined || status !== 0) throw new Error(`perf script failed: ${error?.message ?? status}`);
  return Number(process.hrtime.bigint() - start) / 1e9;
}

async function replay({ file, samples }: RecordingFile): Promise<{ open: number; play: number }> {
  const reader = startProcess("the reader", process.execPath, [READER, file]);
  const report = JSON.parse(await reader.line(/"type":"read"/)) as ReaderReport;
  await reader.stop();
  if (report.samples !== samples || report.problems > 0)
    throw new Error(`${report.samples} of ${samples} samples read, ${report.problems} problems`);
  return { open: report.openNs / 1e9, play: (report.openNs + report.playNs) / 1e9 };
}

async function measure(recording: RecordingFile, rounds: number): Promise<WayResult[]> {
  const seconds = new Map<Way, number[]>(WAYS.map((way) => [way, []]));
  const add = (way: Way, value: number) => seconds.get(way)?.push(value);
  for (let round = 0; round < rounds; round++) {
    add("bare read", readBare(recording.file));
    add("perf script -F time", perfScript(recording.file));
    const { open, play } = await replay(recording);
    add("nmid: open", open);
    add("nmid: open and play", play);
  }
  const of = (way: Way) => seconds.get(way) as number[];
  const ratio = (way: Way, other: Way) => spread(of(way).map((own, i) => (of(other)[i] as number) / own));
  return WAYS.map((way) => {
    const taken = spread(of(way));
    return {
      way,
      seconds: taken,
      fileMBs: recording.fileBytes / MB / taken.median,
      imageMBs: recording.imageBytes / MB / taken.median,
      samplesPerSecond: recording.samples / taken.median,
      ofPerf: ratio(way, "perf script -F time"),
      ofBare: ratio(way, "bare read"),
    };
  });
}

function format({ name, fileBytes, imageBytes, samples }: RecordingFile, results: readonly WayResult[]): string {
  const show = ({ median, min, max }: Spread, digits: number) =>
    `${median.toFixed(digits)} (${min.toFixed(digits)}-${max.toFixed(digits)})`;
  const inflated = imageBytes > fileBytes ? ` that hold ${((imageBytes - fileBytes) / MB).toFixed(1)} MB` : "";
  const heading = `${name}: ${(fileBytes / MB).toFixed(1)} MB${inflated}, ${samples} samples`;
  const rows = results.map(({ way, fileMBs, samplesPerSecond, ofPerf, ofBare }) => [
    way,
    fileMBs.toFixed(0),
    way === "bare read" ? "" : (samplesPerSecond / 1e6).toFixed(2),
    show(ofPerf, 2),
    show(ofBare, 4),
  ]);
  const columns = ["read by", "MB/s of the file", "M samples/s", "of perf script", "of the bare read"];
  return `\n${heading}\n${renderTable([columns, ...rows])}`;
}

async function run({ seconds, rounds }: BenchmarkOptions): Promise<object> {
  const refusal = await liveRefusal();
  if (refusal !== null) {
    console.log(`skipped, the kernel refuses to record: ${refusal}`);
    return { skipped: refusal };
  }
  return withScratch(async (directory) => {
    const recordings = await makeRecordings(directory, seconds);
    const results: { recording: Omit<RecordingFile, "file">; ways: readonly WayResult[] }[] = [];
    for (const { file, ...recording } of recordings) {
      const ways = await measure({ ...recording, file }, rounds);
      console.log(format({ ...recording, file }, ways));
      results.push({ recording, ways });
    }
    const aims = results.map(({ recording, ways }) => {
      const [, , , play] = ways as [WayResult, WayResult, WayResult, WayResult];
      return atLeast(`${recording.name}, opened and played, of perf script's rate`, play.ofPerf.median, PERF_AIM);
    });
    console.log(`\n${formatAims(aims)}`);
    return { results, aims };
  });
}

export const perfdata: Benchmark = {
  description: "reading a large recording as a replay does, beside perf script and a bare read",
  seconds: 4,
  rounds: 5,
  run,
};
