/**
 * A daemon under load for as long as one likes, while things go wrong around it at random from a seed. In chapters: each
 * loads the daemon by `verify`, does faults meanwhile, reconciles all books, and looks at what the daemon holds when
 * everybody has gone.
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { Random } from "../../clients/nmictl/verify/random.js";
import { type Report, reconcile } from "../../clients/nmictl/verify/reconcile.js";
import { run } from "../../clients/nmictl/verify/run.js";
import { connect } from "../../clients/typescript/index.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, spawnDaemon } from "../support/daemon.js";
import { whyRefused } from "../support/live.js";
import { FAULTS, type Fault, openFiles, residentBytes } from "./faults.js";

export interface SoakOptions {
  readonly minutes: number;
  readonly seed: number;
  readonly chapterSeconds: number;
  /** Handlers at a time. */
  readonly handlers: number;
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
}

export interface Chapter {
  readonly samples: number;
  readonly handlers: number;
  readonly faults: ReadonlyMap<string, number>;
  /** Once everybody has gone. */
  readonly residentBytes: number;
  readonly openFiles: number;
}

export interface SoakReport {
  readonly source: string;
  readonly chapters: readonly Chapter[];
  /** Empty when all is well. */
  readonly problems: readonly string[];
}

/** Small, so that every bound is reached, and that memory once touched is all touched soon. */
const ARGS = ["--dispatchers", "2", "--capacity", "128"];
const ENV = { NMID_RING_KIB: "64" };
const CONFIG = `limits:\n  memory_max_bytes: ${64 * 2 ** 20}\n`;
const LIVE_HZ = 4000;
/** Once warm, the second half of a run may hold more than the first by no more than this. */
const GROWTH_MAX = 0.05;
const GROWTH_BYTES_MAX = 6 * 2 ** 20;
const FILES_SETTLED_CHAPTERS = 2;
const MEMORY_SETTLED_CHAPTERS = 8;
const MEMORY_CHAPTERS_MIN = 8;
/** For runs that end before that, too: the ceiling above, Node's own 120 MiB, and a heap that has not been collected. */
const RESIDENT_BYTES_MAX = 320 * 2 ** 20;
/** Longer than the daemon takes to notice who has hung up. */
const SETTLED_MS = 11_000;
const SETTLED_LOOKS = 11;

/** Live samples where the kernel grants them. */
async function startDaemon(config: string, say: SoakOptions["say"]): Promise<RunningDaemon> {
  const withSource = (source: string) => ({ args: ["--config", config, "--source", source, ...ARGS], env: ENV });
  try {
    return await spawnDaemon(withSource("perf"));
  } catch (error) {
    say(`no live samples: ${whyRefused(error)}`);
    return await spawnDaemon(withSource("synthetic:50000,cpus=4"));
  }
}

export async function soak(options: SoakOptions): Promise<SoakReport> {
  const { minutes, seed, say, signal } = options;
  const random = new Random(seed);
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-soak-"));
  const config = path.join(directory, "nmid.yaml");
  fs.writeFileSync(config, CONFIG);
  const daemon = await startDaemon(config, say);
  const chapters: Chapter[] = [];
  const problems: string[] = [];
  try {
    const endAt = performance.now() + minutes * 60_000;
    while (performance.now() < endAt && !signal.aborted) {
      const chapter = await runChapter(daemon, random, options, problems);
      chapters.push(chapter);
      sayChapter(chapters.length, chapter, say);
    }
    problems.push(...notFlat(chapters));
    problems.push(...daemon.logs.filter((line) => /do not balance|"level":"?(error|fatal|50|60)/.test(line)));
  } finally {
    const code = await daemon.stop();
    fs.rmSync(directory, { recursive: true });
    if (code !== 0) problems.push(`the daemon's exit code is ${code}`);
  }
  return { source: daemon.source, chapters, problems };
}

function sayChapter(number: number, chapter: Chapter, say: SoakOptions["say"]): void {
  const faults = [...chapter.faults].map(([name, times]) => `${times} ${name}`).join(", ");
  const mib = (chapter.residentBytes / 2 ** 20).toFixed(1);
  say(
    `${number}: ${chapter.handlers} handlers, ${chapter.samples} samples, RSS ${mib} MiB, ${chapter.openFiles} fds; ${faults}`,
  );
}

async function runChapter(
  daemon: RunningDaemon,
  random: Random,
  { chapterSeconds, handlers, signal }: SoakOptions,
  problems: string[],
): Promise<Chapter> {
  // Totals are those of the books where nobody else registers: every other chapter.
  const registers = random.chance(0.5);
  const faults = FAULTS.filter((fault) => registers || !fault.registers);
  const seed = Math.floor(random.between(0, 2 ** 31));
  const options = { address: daemon.address, seconds: chapterSeconds, handlers, seed, events: ["cpu-clock"] };
  const over = new AbortController();
  const running = run({ ...options, frequencyHz: LIVE_HZ, signal }).finally(() => over.abort());
  const done = inflict(faults, daemon, new Random(seed), over.signal, problems);
  const [result, times] = await Promise.all([running, done]);
  const report = reconcile(result);
  if (!report.balanced) problems.push(`books of --seed ${seed}: ${report.imbalances.join("; ")}`);
  if (!registers && report.unchecked.some((text) => !/does not count/.test(text))) {
    problems.push(`not checked: ${report.unchecked.join("; ")}`);
  }
  const { openFiles: files, resident } = await settle(daemon);
  return {
    samples: samplesOf(report),
    handlers: report.handlers,
    faults: times,
    openFiles: files,
    residentBytes: resident,
  };
}

function samplesOf(report: Report): number {
  return report.roles.reduce((sum, { received }) => sum + received, 0);
}

/** One fault after the other until it is over; each name's times. */
async function inflict(
  faults: readonly Fault[],
  daemon: RunningDaemon,
  random: Random,
  over: AbortSignal,
  problems: string[],
): Promise<Map<string, number>> {
  const times = new Map<string, number>();
  while (!over.aborted) {
    const fault = random.pick(faults);
    try {
      await fault.inflict({ daemon, random });
    } catch (error) {
      problems.push(`${fault.name}: ${(error as Error).message}`);
      return times;
    }
    times.set(fault.name, (times.get(fault.name) ?? 0) + 1);
  }
  return times;
}

/** What the daemon holds when nobody is there: no handler, no event, no connection but the one that asks. */
async function settle(daemon: RunningDaemon): Promise<{ openFiles: number; resident: number }> {
  const client = connect(daemon.address, { channelOptions: { "grpc.use_local_subchannel_pool": 1 } });
  try {
    await poll("nobody to be left", async () => {
      const { handlers, events } = await client.getStatus();
      return handlers === 0 && events.length === 0 ? true : undefined;
    });
  } finally {
    client.close();
  }
  // Connections that were broken off are closed soon, at the latest when the daemon has looked at them twice.
  let before = openFiles(daemon.pid);
  for (let same = 0; same < SETTLED_LOOKS; same++) {
    await delay(SETTLED_MS / SETTLED_LOOKS);
    const now = openFiles(daemon.pid);
    if (now !== before) same = 0;
    before = now;
  }
  return { openFiles: before, resident: residentBytes(daemon.pid) };
}

/** What has grown from chapter to chapter. Memory grows while the engine warms up: only then it must be flat. */
function notFlat(chapters: readonly Chapter[]): string[] {
  if (chapters.length < 2 * FILES_SETTLED_CHAPTERS) return [`too few chapters to say what grows: ${chapters.length}`];
  const problems: string[] = [];
  const files = growth(chapters.slice(FILES_SETTLED_CHAPTERS), ({ openFiles }) => openFiles);
  if (files.late > files.early) problems.push(`open files grew from ${files.early} to ${files.late}`);
  const settled = chapters.slice(MEMORY_SETTLED_CHAPTERS);
  const most = Math.max(...chapters.map(({ residentBytes }) => residentBytes));
  if (most > RESIDENT_BYTES_MAX) problems.push(`resident memory reached ${most} bytes`);
  if (settled.length < MEMORY_CHAPTERS_MIN) return problems;
  const { early, late } = growth(settled, ({ residentBytes }) => residentBytes);
  if (late > early * (1 + GROWTH_MAX) + GROWTH_BYTES_MAX)
    problems.push(`resident memory grew from ${early} to ${late}`);
  return problems;
}

/** Medians of the first half and of the second. */
function growth(chapters: readonly Chapter[], of: (chapter: Chapter) => number): { early: number; late: number } {
  const half = Math.floor(chapters.length / 2);
  const [early, late] = [chapters.slice(0, half), chapters.slice(half)].map(
    (part) => part.map(of).sort((a, b) => a - b)[Math.floor(part.length / 2)],
  );
  return { early, late };
}
