/**
 * What many handlers cost the daemon: a thousand subscribers at 99 Hz, beside a bare grpc-js server that writes as many
 * messages of the same size to as many of the same readers; and handlers that get nothing, from 10 to 4,000.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Aim, atMost, below, formatAims } from "./lib/aim.js";
import { withBareServer } from "./lib/bare-server.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { liveRefusal, lossesOf, withDaemon } from "./lib/daemon.js";
import { onlineCpus } from "./lib/machine.js";
import { withScratch } from "./lib/processes.js";
import { checkOpenFiles, Subscribers } from "./lib/subscribers.js";
import { renderTable } from "./lib/table.js";
import { type Memory, memoryOf } from "./lib/usage.js";
import { compileVictim, LEAST_URGENT, startVictims } from "./lib/victim.js";
import { type Costs, costsOf, measureWindow, type Window } from "./lib/window.js";

const EVENT = "cpu-clock";
const FREQUENCY_HZ = 99;
const SUBSCRIBERS = 1000;
const IDLE_HANDLERS = [10, 100, 1000, 4000];
const WARM_UP_MS = 2000;
/** Idle handlers need less time: nothing happens. */
const IDLE_SHARE = 1 / 6;
/** Handlers without a stream outlive their measurement. */
const REGISTER = { events: [{ event: EVENT, frequencyHz: FREQUENCY_HZ }], leaseMs: 3_600_000 };
const CPUS_AIM = 0.5;
const RSS_MB_AIM = 300;

interface Busy extends Window, Memory {
  readonly lost: number;
  readonly kernelLost: number;
}

interface Idle extends Costs, Memory {
  readonly handlers: number;
  readonly subscribed: boolean;
}

interface RoundResult {
  readonly subscribers: number;
  readonly daemon: Busy;
  readonly bare: Window & Memory;
  /** The daemon with no handler, and with each number of them. */
  readonly idle: readonly Idle[];
}

/** The daemon's own arguments: room for the handlers, and live samples. */
function daemonArgs(handlers: number): string[] {
  return ["--source", "perf", "--capacity", String(Math.max(256, handlers))];
}

async function measureBusy(count: number, victims: readonly number[], seconds: number): Promise<Busy> {
  return withDaemon(daemonArgs(count), async (daemon) => {
    const subscribers = await Subscribers.start({ address: daemon.address, count, register: REGISTER });
    try {
      await delay(WARM_UP_MS);
      const window = await measureWindow(daemon.pid, subscribers, victims, seconds);
      const memory = memoryOf(daemon.pid);
      const { kernelLost } = await lossesOf(daemon);
      const { lost, exact } = await subscribers.finish();
      if (!exact) throw new Error(`the books of ${count} subscribers are not what they received`);
      return { ...window, ...memory, lost, kernelLost };
    } finally {
      await subscribers.kill();
    }
  });
}

/** As many messages a second as the daemon wrote, as large as those on average. */
async function measureBare(count: number, victims: readonly number[], seconds: number, daemon: Busy) {
  const intervalMs = Math.max(1, Math.round((count / daemon.messages) * 1000));
  return withBareServer(daemon.bytes / daemon.messages, intervalMs, async ({ pid, address, begin }) => {
    const subscribers = await Subscribers.start({ address, count, register: null });
    try {
      begin();
      await delay(WARM_UP_MS);
      const window = await measureWindow(pid, subscribers, victims, seconds);
      const memory = memoryOf(pid);
      await subscribers.finish();
      return { ...window, ...memory };
    } finally {
      await subscribers.kill();
    }
  });
}

/** Handlers whose filter nothing passes, each with a filter of its own. */
async function measureIdle(count: number, subscribe: boolean, victims: readonly number[], seconds: number) {
  return withDaemon(daemonArgs(count), async (daemon) => {
    const start = () =>
      Subscribers.start({
        address: daemon.address,
        count,
        register: REGISTER,
        nothingMatches: true,
        subscribe,
      });
    const subscribers = count === 0 ? null : await start();
    try {
      await delay(WARM_UP_MS);
      const costs = await costsOf(daemon.pid, subscribers?.pids ?? [], victims, seconds);
      const memory = memoryOf(daemon.pid);
      const books = await subscribers?.finish();
      if (books !== undefined && (!books.exact || books.matched > 0)) throw new Error("an idle handler was not idle");
      return { handlers: count, subscribed: subscribe, ...costs, ...memory };
    } finally {
      await subscribers?.kill();
    }
  });
}

const mb = (bytes: number) => (bytes / 1e6).toFixed(0);

function formatBusy({ subscribers, daemon, bare }: RoundResult): string {
  const row = (what: string, side: Window & Memory, lost: string) => [
    what,
    Math.round(side.messages).toString(),
    (side.bytes / side.messages).toFixed(0),
    side.serverCpus.toFixed(3),
    mb(side.rssBytes),
    mb(side.peakRssBytes),
    lost,
    side.readerCpus.toFixed(2),
    side.otherCpus.toFixed(2),
  ];
  const ratio = (key: "messages" | "serverCpus" | "rssBytes" | "peakRssBytes") => (daemon[key] / bare[key]).toFixed(2);
  return renderTable([
    ["", "messages/s", "bytes each", "CPUs", "RSS MB", "peak MB", "lost", "readers' CPUs", "others'"],
    row(`nmid, ${subscribers} subscribers`, daemon, String(daemon.lost + daemon.kernelLost)),
    row(`bare server, ${subscribers} streams`, bare, ""),
    ["ratio", ratio("messages"), "", ratio("serverCpus"), ratio("rssBytes"), ratio("peakRssBytes"), "", "", ""],
  ]);
}

function formatIdle([none, ...idle]: readonly Idle[]): string {
  const rows = idle.map((measured) => {
    const { handlers, subscribed, serverCpus, rssBytes, otherCpus } = measured;
    // With the fewest of its kind the event ticks already: what comes on top is the handlers'.
    const fewest = idle.find((other) => other.subscribed === subscribed) as Idle;
    const more = handlers - fewest.handlers;
    return [
      `${handlers} ${subscribed ? "subscribed, nothing matches" : "registered, nothing matches"}`,
      serverCpus.toFixed(3),
      more === 0 ? "" : (((serverCpus - fewest.serverCpus) / more) * 1e6).toFixed(1),
      mb(rssBytes),
      ((rssBytes - none.rssBytes) / handlers / 1024).toFixed(1),
      otherCpus.toFixed(2),
    ];
  });
  return renderTable([
    ["idle handlers", "CPUs", "us/s more each", "RSS MB", "KiB each", "others' CPUs"],
    ["none", none.serverCpus.toFixed(3), "", mb(none.rssBytes), "", none.otherCpus.toFixed(2)],
    ...rows,
  ]);
}

async function runRound(options: BenchmarkOptions, victims: readonly number[]): Promise<RoundResult> {
  const { seconds, subscribersMax } = options;
  const subscribers = Math.min(SUBSCRIBERS, subscribersMax);
  const daemon = await measureBusy(subscribers, victims, seconds);
  const bare = await measureBare(subscribers, victims, seconds, daemon);
  const busy = { subscribers, daemon, bare };
  console.log(`\n${formatBusy({ ...busy, idle: [] })}`);
  const counts = IDLE_HANDLERS.filter((handlers) => handlers <= subscribersMax);
  const idleSeconds = seconds * IDLE_SHARE;
  const idle: Idle[] = [await measureIdle(0, false, victims, idleSeconds)];
  for (const subscribe of [false, true]) {
    for (const count of counts) idle.push(await measureIdle(count, subscribe, victims, idleSeconds));
  }
  console.log(`\n${formatIdle(idle)}`);
  return { ...busy, idle };
}

function aimsOf({ subscribers, daemon }: RoundResult): Aim[] {
  const of = `${subscribers} subscribers at ${FREQUENCY_HZ} Hz`;
  return [
    below(`${of}, CPUs used by the daemon`, daemon.serverCpus, CPUS_AIM),
    below(`${of}, its peak RSS in MB`, daemon.peakRssBytes / 1e6, RSS_MB_AIM),
    atMost(`${of}, samples lost`, daemon.lost + daemon.kernelLost, 0),
  ];
}

async function run(options: BenchmarkOptions): Promise<object> {
  const { seconds, rounds, subscribersMax } = options;
  const refusal = await liveRefusal();
  if (refusal !== null) {
    console.log(`skipped, the kernel refuses live samples: ${refusal}`);
    return { skipped: refusal };
  }
  checkOpenFiles(Math.min(Math.max(...IDLE_HANDLERS), subscribersMax));
  console.log(
    `${EVENT} at ${FREQUENCY_HZ} Hz, every CPU loaded at the lowest priority; ${rounds} rounds of ${seconds} s`,
  );
  return withScratch(async (directory) => {
    const victims = await startVictims(compileVictim(directory), onlineCpus(), LEAST_URGENT);
    try {
      const results: RoundResult[] = [];
      for (let round = 1; round <= rounds; round++) results.push(await runRound(options, victims.pids));
      const aims = results.flatMap(aimsOf);
      console.log(`\n${formatAims(aims)}`);
      return { event: EVENT, frequencyHz: FREQUENCY_HZ, rounds: results, aims };
    } finally {
      await victims.stop();
    }
  });
}

export const scale: Benchmark = {
  description: "what a thousand subscribers at 99 Hz cost, beside a bare grpc-js server, and up to 4,000 idle handlers",
  seconds: 30,
  rounds: 1,
  run,
};
