/**
 * How many samples a second reach 1, 8, 64 and 1,000 subscribers, beside a bare grpc-js server that sends the same bytes
 * to as many of the same readers. The daemon's maximum is searched: it is offered more and more until it loses some.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Aim, atLeast, atMost, formatAims } from "./lib/aim.js";
import { withBareServer } from "./lib/bare-server.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { lossesOf, withDaemon } from "./lib/daemon.js";
import { bestTrial, searchMaximum, type Trial } from "./lib/maximum.js";
import { type Spread, spread } from "./lib/stats.js";
import { Subscribers, TooBusyError } from "./lib/subscribers.js";
import { renderTable } from "./lib/table.js";
import { measureWindow, type Window } from "./lib/window.js";

const COUNTS = [1, 8, 64, 1000];
/** The aim is for these. */
const COUNTS_WITH_AIM = [8, 64];
const RATIO_AIM = 0.9;
const LOSSLESS_SHARE = 0.8;
/** What the daemon gathers before it writes a message, when there is enough. */
const MESSAGE_BYTES = 512 * 1024;
const WARM_UP_MS = 1000;
/** From registering to subscribing, with a daemon that is busy with hundreds of others. */
const LEASE_MS = 120_000;
const TRIALS = 5;
/** What takes a second with few takes ten with a thousand. */
const TRIALS_OF_MANY = 3;
const MANY = 500;

interface DaemonWindow extends Window {
  /** Samples a second that the source offers to each subscriber. */
  readonly rate: number;
  /** While it was measured: all handlers' samples, and those of the source that its rings had no room for. */
  readonly lost: number;
  readonly kernelLost: number;
  /** Over its whole life, all handlers together; books and received samples agree for every one. */
  readonly books: { readonly matched: number; readonly delivered: number; readonly lost: number };
}

interface CountResult {
  readonly subscribers: number;
  readonly trials: readonly (Trial & { readonly window: DaemonWindow | null })[];
  readonly bare: readonly Window[];
  readonly daemon: readonly DaemonWindow[];
  /** Bytes a second, daemon by bare server, of each round. */
  readonly ratio: Spread;
  readonly lossless: DaemonWindow;
}

async function measureBare(count: number, seconds: number): Promise<Window> {
  return withBareServer(MESSAGE_BYTES, null, async ({ pid, address, begin }) => {
    const subscribers = await Subscribers.start({ address, count, register: null });
    try {
      begin();
      await delay(WARM_UP_MS);
      const window = await measureWindow(pid, subscribers, [], seconds);
      await subscribers.finish();
      return window;
    } finally {
      await subscribers.kill();
    }
  });
}

async function measureDaemon(count: number, rate: number, seconds: number): Promise<DaemonWindow> {
  const args = ["--source", `synthetic:${rate}`, "--capacity", String(Math.max(256, count))];
  return withDaemon(args, async (daemon) => {
    // No rate: every sample as it comes. No filter: all of them want the same.
    const register = { events: [{ event: "cpu-clock" }], leaseMs: LEASE_MS };
    const subscribers = await Subscribers.start({ address: daemon.address, count, register });
    try {
      await delay(WARM_UP_MS);
      // Until here a queue may have overflowed before its stream was there, and code ran that was not compiled yet.
      const before = await lossesOf(daemon);
      const window = await measureWindow(daemon.pid, subscribers, [], seconds);
      const after = await lossesOf(daemon);
      const { matched, delivered, lost, exact } = await subscribers.finish();
      if (!exact) throw new Error(`the books of ${count} subscribers are not what they received`);
      return {
        ...window,
        rate,
        lost: after.lost - before.lost,
        kernelLost: after.kernelLost - before.kernelLost,
        books: { matched, delivered, lost },
      };
    } finally {
      await subscribers.kill();
    }
  });
}

function say(what: string, { samples, bytes, messages, serverCpus, serverMainCpus, readerCpus, otherCpus }: Window) {
  const kib = bytes / messages / 1024;
  console.log(
    `  ${what.padEnd(34)} ${(samples / 1e6).toFixed(2).padStart(7)} M samples/s ${(bytes / 1e6).toFixed(0).padStart(5)} MB/s  ` +
      `messages of ${kib.toFixed(0)} KiB; CPUs: server ${serverCpus.toFixed(2)} (gRPC's thread ${serverMainCpus.toFixed(2)}), ` +
      `readers ${readerCpus.toFixed(2)}, others ${otherCpus.toFixed(2)}`,
  );
}

function sayDaemon(what: string, window: DaemonWindow): void {
  const { lost, kernelLost, rate, books } = window;
  say(`${what} at ${(rate / 1e6).toFixed(3)} M/s`, window);
  console.log(
    `    meanwhile lost ${lost}, by the kernel ${kernelLost}; in all matched ${books.matched} = delivered ` +
      `${books.delivered} + lost ${books.lost}, books exact`,
  );
}

/** null where the daemon was too busy with the first subscribers to register the last. */
async function attempt(count: number, rate: number, seconds: number): Promise<DaemonWindow | null> {
  try {
    const window = await measureDaemon(count, rate, seconds);
    sayDaemon("trial", window);
    return window;
  } catch (error) {
    if (!(error instanceof TooBusyError)) throw error;
    console.log(`  trial at ${(rate / 1e6).toFixed(3)} M/s: too busy to register them all`);
    return null;
  }
}

async function runCount(count: number, { seconds, rounds }: BenchmarkOptions): Promise<CountResult> {
  console.log(`\n${named(count)}`);
  const bare: Window[] = [await measureBare(count, seconds)];
  say("bare server", bare[0]);
  const trials = await searchMaximum(bare[0].samples / count, count > MANY ? TRIALS_OF_MANY : TRIALS, async (rate) => {
    const window = await attempt(count, rate, seconds);
    return { offered: rate, achieved: (window?.samples ?? 0) / count, window };
  });
  const best = bestTrial(trials);
  // The search's own figure is the best of several; what counts is measured again, round by round beside the bare server.
  const daemon: DaemonWindow[] = [];
  for (let round = 1; round <= rounds; round++) {
    if (round > 1) bare.push(await measureBare(count, seconds));
    daemon.push(await measureDaemon(count, best.offered, seconds));
    if (round > 1) say(`round ${round} bare server`, bare[round - 1]);
    sayDaemon(`round ${round} nmid`, daemon[round - 1]);
  }
  const ratio = spread(daemon.map(({ bytes }, round) => bytes / bare[round].bytes));
  const maximum = spread(daemon.map(({ samples }) => samples / count)).median;
  const lossless = await measureDaemon(count, Math.max(1, Math.round(maximum * LOSSLESS_SHARE)), seconds);
  sayDaemon(`${LOSSLESS_SHARE} of the maximum:`, lossless);
  return { subscribers: count, trials, bare, daemon, ratio, lossless };
}

function named(subscribers: number): string {
  return subscribers === 1 ? "1 subscriber" : `${subscribers} subscribers`;
}

/** Where others use the machine, too, throughput says little, and this says more. */
function cpuPerGigabyte(windows: readonly Window[]): number {
  return spread(windows.map(({ serverCpus, bytes }) => (serverCpus / bytes) * 1e9)).median;
}

function format(results: readonly CountResult[]): string {
  const median = (windows: readonly Window[], key: keyof Window) => spread(windows.map((window) => window[key])).median;
  return renderTable([
    [
      "subscribers",
      "M samples/s",
      "MB/s",
      "bare MB/s",
      "of the bare server",
      "lost at 0.8 of it",
      "by the kernel",
      "server CPU s/GB",
      "bare",
      "others' CPUs",
    ],
    ...results.map(({ subscribers, bare, daemon, ratio, lossless }) => [
      String(subscribers),
      (median(daemon, "samples") / 1e6).toFixed(2),
      (median(daemon, "bytes") / 1e6).toFixed(0),
      (median(bare, "bytes") / 1e6).toFixed(0),
      `${ratio.median.toFixed(3)} (${ratio.min.toFixed(3)}-${ratio.max.toFixed(3)})`,
      String(lossless.lost),
      String(lossless.kernelLost),
      cpuPerGigabyte(daemon).toFixed(2),
      cpuPerGigabyte(bare).toFixed(2),
      median([...daemon, ...bare], "otherCpus").toFixed(2),
    ]),
  ]);
}

function aimsOf({ subscribers, ratio, lossless }: CountResult): Aim[] {
  const who = named(subscribers);
  const lost = atMost(`${who}, samples lost at 0.8 of the maximum`, lossless.lost + lossless.kernelLost, 0);
  if (!COUNTS_WITH_AIM.includes(subscribers)) return [lost];
  return [atLeast(`${who}, of the bare server's bytes a second`, ratio.median, RATIO_AIM), lost];
}

async function run(options: BenchmarkOptions): Promise<object> {
  const { seconds, rounds, subscribersMax } = options;
  console.log(`rounds: ${rounds} of ${seconds} s; the bare server's messages hold ${MESSAGE_BYTES / 1024} KiB`);
  const results: CountResult[] = [];
  for (const count of COUNTS.filter((subscribers) => subscribers <= subscribersMax)) {
    results.push(await runCount(count, options));
  }
  const aims = results.flatMap(aimsOf);
  console.log(`\n${format(results)}\n\n${formatAims(aims)}`);
  return { messageBytes: MESSAGE_BYTES, results, aims };
}

export const fanout: Benchmark = {
  description: "samples to 1, 8, 64 and 1,000 subscribers, beside a bare grpc-js server",
  seconds: 3,
  rounds: 3,
  run,
};
