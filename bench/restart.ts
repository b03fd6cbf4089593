/**
 * A restart of the daemon under a client that streams: how long nobody counts, and how long until the next daemon's first
 * sample is there. Beside it the least that there is: a bare grpc-js server that is restarted, and its first message.
 */
import { setMaxListeners } from "node:events";
import fs from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type BrokerClient, connect } from "../clients/typescript/index.js";
import type { RunningDaemon } from "../test/support/daemon.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { liveRefusal, startDaemon } from "./lib/daemon.js";
import { startProcess, withScratch } from "./lib/processes.js";
import { RawStream, subscribeMethod } from "./lib/raw-stream.js";
import { type Spread, spread } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";

const BARE_SERVER = fileURLToPath(new URL("./bare-server.js", import.meta.url));
const HANDLERS = [1, 32];
const LEASE_MS = 60_000;
const RATE_HZ = 1000;
const RETRY_MS = 20;
const BARE_MESSAGE_BYTES = 1024;

/** Milliseconds. What is not of the daemon alone is told apart for the bare server, too. */
interface Restart {
  /** From SIGTERM to the end of the process. */
  readonly stop: number;
  /** From there until the handler's events counted again: Node, modules, the daemon's start, and the handlers before it. */
  readonly start: number;
  /** From there until the daemon listened. */
  readonly listen: number;
  /** From there until the client's stream had begun again. */
  readonly resubscribe: number;
  /** From there to the first sample. */
  readonly sample: number;
  readonly total: number;
  /** As the daemon told its client: from the last moment that was counted to the next. */
  readonly gap: number;
}

const PARTS = ["stop", "start", "listen", "resubscribe", "sample", "total", "gap"] as const;

const nowMs = (): number => Number(process.hrtime.bigint()) / 1e6;

/** What one handler's stream brings, as it comes. */
class Watch {
  startedMs = 0;
  gapFromMs = 0;
  gapToMs = 0;
  sampleMs = 0;
  #streams = 0;
  #wake: () => void = () => {};

  async read(client: BrokerClient, handlerId: number, signal: AbortSignal): Promise<void> {
    const deliveries = client.subscribe(handlerId, { signal });
    for await (const delivery of deliveries) {
      if (delivery.kind === "started") {
        this.#streams++;
        this.startedMs = nowMs();
        this.sampleMs = 0;
      } else if (delivery.kind === "loss" && delivery.eventWide && delivery.reason === "RESTART") {
        this.gapFromMs = Number(delivery.firstTime) / 1e6;
        this.gapToMs = Number(delivery.lastTime) / 1e6;
      } else if (delivery.kind === "samples" && this.sampleMs === 0) this.sampleMs = nowMs();
      this.#wake();
    }
  }

  /** The first sample of stream number `streams`. */
  async sampleOf(streams: number): Promise<void> {
    while (this.#streams < streams || this.sampleMs === 0) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

async function restarts(handlers: number, source: string, rounds: number): Promise<Restart[]> {
  return withScratch(async (directory) => {
    const args = [
      "--source",
      source,
      "--runtime-dir",
      directory,
      "--listen",
      `unix:${path.join(directory, "nmid.sock")}`,
    ];
    let daemon: RunningDaemon = await startDaemon(args);
    const client = connect(daemon.address);
    const aborting = new AbortController();
    setMaxListeners(0, aborting.signal);
    try {
      const watch = new Watch();
      const events = [{ event: "cpu-clock", frequencyHz: RATE_HZ }];
      for (let i = 0; i < handlers; i++) {
        const request = { name: `handler ${i}`, events, leaseMs: LEASE_MS, queue: { flushIntervalMs: 0 } };
        const { handlerId } = await client.register(request);
        const reader = i === 0 ? watch : new Watch();
        reader.read(client, handlerId, aborting.signal).catch(() => {});
      }
      await watch.sampleOf(1);
      const results: Restart[] = [];
      for (let round = 0; round < rounds; round++) {
        const signalledMs = nowMs();
        await daemon.stop();
        const stoppedMs = nowMs();
        daemon = await startDaemon(args);
        const listeningMs = nowMs();
        await watch.sampleOf(round + 2);
        const { startedMs, sampleMs, gapFromMs, gapToMs } = watch;
        results.push({
          stop: stoppedMs - signalledMs,
          start: gapToMs - stoppedMs,
          listen: listeningMs - gapToMs,
          resubscribe: startedMs - listeningMs,
          sample: sampleMs - startedMs,
          total: sampleMs - signalledMs,
          gap: gapToMs - gapFromMs,
        });
      }
      return results;
    } finally {
      aborting.abort();
      client.close();
      await daemon.stop("SIGINT");
    }
  });
}

interface BareRestart {
  readonly stop: number;
  readonly start: number;
  readonly resubscribe: number;
  readonly total: number;
}

/** Stream, SIGTERM, the next server, and a client that asks for its stream every RETRY_MS. */
async function bareRestarts(rounds: number): Promise<BareRestart[]> {
  const method = subscribeMethod();
  return withScratch(async (directory) => {
    const socket = path.join(directory, "bare.sock");
    const start = async () => {
      // What one that was killed has left.
      fs.rmSync(socket, { force: true });
      const server = startProcess("bare server", process.execPath, [BARE_SERVER, socket, String(BARE_MESSAGE_BYTES)]);
      await server.line(/^ready$/);
      return server;
    };
    const subscribed = async (): Promise<RawStream> => {
      for (;;) {
        const stream = new RawStream(`unix:${socket}`, method, 1);
        try {
          await stream.begun;
          return stream;
        } catch {
          stream.close();
          await delay(RETRY_MS);
        }
      }
    };
    let server = await start();
    let stream = await subscribed();
    const results: BareRestart[] = [];
    for (let round = 0; round < rounds; round++) {
      const signalledMs = nowMs();
      await server.stop("SIGTERM");
      const stoppedMs = nowMs();
      stream.close();
      const again = subscribed();
      server = await start();
      const listeningMs = nowMs();
      stream = await again;
      const begunMs = nowMs();
      results.push({
        stop: stoppedMs - signalledMs,
        start: listeningMs - stoppedMs,
        resubscribe: begunMs - listeningMs,
        total: begunMs - signalledMs,
      });
    }
    stream.close();
    await server.stop("SIGTERM");
    return results;
  });
}

function spreadOf<Part extends string>(results: readonly Readonly<Record<Part, number>>[], part: Part): Spread {
  return spread(results.map((result) => result[part]));
}

function show({ median, min, max }: Spread): string {
  return `${median.toFixed(0)} (${min.toFixed(0)}-${max.toFixed(0)})`;
}

function bareRow(bare: readonly BareRestart[]): string[] {
  const cell = (part: keyof BareRestart): string => show(spreadOf(bare, part));
  return ["bare grpc-js server", cell("stop"), cell("start"), "", cell("resubscribe"), "", cell("total"), ""];
}

async function run({ rounds }: BenchmarkOptions): Promise<object> {
  const refused = await liveRefusal();
  const source = refused === null ? "perf" : `synthetic:${RATE_HZ}`;
  if (refused !== null) console.log(`no live samples: ${refused}`);
  // Before and after, so that a machine that is busy for a while is so for both.
  const bare = await bareRestarts(Math.ceil(rounds / 2));
  const rows: string[][] = [["ms: median (min-max)", ...PARTS]];
  const measured: Record<number, Restart[]> = {};
  for (const handlers of HANDLERS) {
    measured[handlers] = await restarts(handlers, source, rounds);
  }
  bare.push(...(await bareRestarts(Math.floor(rounds / 2))));
  rows.push(bareRow(bare));
  for (const handlers of HANDLERS) {
    rows.push([
      `nmid, ${handlers} handlers, ${source}`,
      ...PARTS.map((part) => show(spreadOf(measured[handlers], part))),
    ]);
  }
  console.log(renderTable(rows));
  return { source, bare, measured };
}

export const restart: Benchmark = {
  description: "a restart under a streaming client: the gap and its parts, beside a bare grpc-js server's",
  seconds: 1,
  rounds: 10,
  run,
};
