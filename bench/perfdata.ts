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
import { endedChildrenCpuSeconds } from "./lib/usage.js";
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
  /** Of CPU time, all threads. */
  readonly cpuSeconds: Spread;
  /** Of records, decompressed where they are not. */
  readonly megabytesPerSecond: number;
  readonly samplesPerSecond: number;
  /** The rate, of perf script's and of the bare read's. */
  readonly ofPerf: Spread;
  readonly ofBare: Spread;
  /** The same, by CPU time. */
  readonly cpuOfPerf: Spread;
}

/** What one reading takes. */
interface Taken {
  readonly seconds: number;
  readonly cpuSeconds: number;
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

function readBare(file: string): Taken {
  const buffer = new Uint8Array(READ_BYTES);
  const cpu = process.cpuUsage();
  const start = performance.now();
  const fd = fs.openSync(file, "r");
  try {
    while (fs.readSync(fd, buffer) > 0);
  } finally {
    fs.closeSync(fd);
  }
  const seconds = (performance.now() - start) / 1e3;
  const { user, system } = process.cpuUsage(cpu);
  return { seconds, cpuSeconds: (user + system) / 1e6 };
}

function perfScript(file: string): Taken {
  const cpu = endedChildrenCpuSeconds();
  const start = performance.now();
  const { error, status } = spawnSync("perf", ["script", "-F", "time", "-i", file], { stdio: "ignore" });
  const seconds = (performance.now() - start) / 1e3;
  if (error !== undefined || status !== 0) throw new Error(`perf script failed: ${error?.message ?? status}`);
  return { seconds, cpuSeconds: endedChildrenCpuSeconds() - cpu };
}

async function replay({ file, samples }: RecordingFile): Promise<{ open: Taken; play: Taken }> {
  const reader = startProcess("the reader", process.execPath, [READER, file]);
  const report = JSON.parse(await reader.line(/"type":"read"/)) as ReaderReport;
  await reader.stop();
  if (report.samples !== samples || report.problems > 0)
    throw new Error(`${report.samples} of ${samples} samples read, ${report.problems} problems`);
  const { openNs, openCpuNs, playNs, playCpuNs } = report;
  return {
    open: { seconds: openNs / 1e9, cpuSeconds: openCpuNs / 1e9 },
    play: { seconds: (openNs + playNs) / 1e9, cpuSeconds: (openCpuNs + playCpuNs) / 1e9 },
  };
}

async function measure(recording: RecordingFile, rounds: number): Promise<WayResult[]> {
  const taken = new Map<Way, Taken[]>(WAYS.map((way) => [way, []]));
  const add = (way: Way, each: Taken) => taken.get(way)?.push(each);
  for (let round = 0; round < rounds; round++) {
    add("bare read", readBare(recording.file));
    add("perf script -F time", perfScript(recording.file));
    const { open, play } = await replay(recording);
    add("nmid: open", open);
    add("nmid: open and play", play);
  }
  const of = (way: Way) => taken.get(way) as Taken[];
  const ratio = (way: Way, other: Way, key: keyof Taken = "seconds") =>
    spread(of(way).map((own, i) => (of(other)[i] as Taken)[key] / own[key]));
  const { fileBytes, imageBytes, samples } = recording;
  const bytes = imageBytes > fileBytes ? imageBytes - fileBytes : fileBytes;
  return WAYS.map((way) => {
    const seconds = spread(of(way).map((each) => each.seconds));
    return {
      way,
      seconds,
      cpuSeconds: spread(of(way).map((each) => each.cpuSeconds)),
      megabytesPerSecond: (way === "bare read" ? fileBytes : bytes) / MB / seconds.median,
      samplesPerSecond: samples / seconds.median,
      ofPerf: ratio(way, "perf script -F time"),
      ofBare: ratio(way, "bare read"),
      cpuOfPerf: ratio(way, "perf script -F time", "cpuSeconds"),
    };
  });
}

function format({ name, fileBytes, imageBytes, samples }: RecordingFile, results: readonly WayResult[]): string {
  const show = ({ median, min, max }: Spread, digits: number) =>
    `${median.toFixed(digits)} (${min.toFixed(digits)}-${max.toFixed(digits)})`;
  const inflated = imageBytes > fileBytes ? ` that hold ${((imageBytes - fileBytes) / MB).toFixed(1)} MB` : "";
  const heading = `${name}: ${(fileBytes / MB).toFixed(1)} MB${inflated}, ${samples} samples`;
  const rows = results.map(({ way, megabytesPerSecond, samplesPerSecond, cpuSeconds, ...ratios }) => [
    way,
    megabytesPerSecond.toFixed(0),
    ...(way === "bare read"
      ? ["", cpuSeconds.median.toFixed(2), "", "", ""]
      : [
          (samplesPerSecond / 1e6).toFixed(2),
          cpuSeconds.median.toFixed(2),
          show(ratios.ofPerf, 2),
          show(ratios.cpuOfPerf, 2),
          ratios.ofBare.median.toPrecision(2),
        ]),
  ]);
  const columns = ["read by", "MB/s", "M samples/s", "CPU s", "of perf script", "by CPU time", "of the bare read"];
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
