/**
 * Registering and removing while dispatchers dispatch without a pause: how many a second, how long a removal waits, and
 * what the dispatchers notice of it. Every removal here is the table's own part of one: begin, wait, release.
 */
import { once } from "node:events";
import os from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { monotonicClock } from "../src/daemon/clock.js";
import { mapAnonymous, unmap, viewMemory } from "../src/pmu/ffi.js";
import { tableLayout } from "../src/registry/layout.js";
import { formatTable, HandlerTable, REMOVAL_LOOKS, type SlotHandle } from "../src/registry/table.js";
import { AtomicDoorbell, AtomicWords } from "../src/registry/words.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { onlineCpus } from "./lib/machine.js";
import { renderTable } from "./lib/table.js";
import { DurationHistogram, type Durations } from "./removal-histogram.js";
import { CONTROL, PHASE, type RemovalWorkerSetup } from "./removal-worker.js";

/** What a dispatcher finds in a ring that it drains some thousand times a second under load. */
const BATCH_SAMPLES = 256;
const HANDLERS = 64;
const WAKE_UPS = 300;
const WARM_UP_MS = 300;

/**
 * What the main thread does meanwhile. The second shows what a busy neighbour costs that never touches the table. The
 * third removes one handler after the other and registers another in its place; the fourth does, too, but begins each
 * removal when a dispatcher has just entered the handler.
 */
const ACTIVITIES = ["idle", "busy elsewhere", "removing at any time", "removing while inside"] as const;
type Activity = (typeof ACTIVITIES)[number];

interface ScenarioResult {
  readonly dispatchers: number;
  readonly removalsPerSecond: number;
  readonly dispatch: Readonly<Record<Activity, Durations>>;
  /** From before DRAINING until the remover knew that no dispatcher was inside. */
  readonly wait: Durations;
  /** The same where a dispatcher was inside. */
  readonly waitInside: Durations;
  /** The same with the remover looking all the time: without what it takes to wake it. */
  readonly waitLooking: Durations;
  /** From a ring of the doorbell to the thread that waits for it, where nothing else is going on there. */
  readonly wakeAsync: Durations;
  readonly wakeBlocked: Durations;
}

const now = monotonicClock();

class Waits {
  readonly anyTime = new DurationHistogram();
  readonly inside = new DurationHistogram();
  readonly looking = new DurationHistogram();
}

class Bench {
  readonly dispatchers: number;
  readonly dispatchTimes = ACTIVITIES.map(() => new DurationHistogram());
  readonly waits = new Waits();
  removals = 0;
  churnMs = 0;
  readonly #bell = new SharedArrayBuffer(4);
  readonly #control: Int32Array<SharedArrayBuffer>;
  readonly #rungAt = new BigInt64Array(new SharedArrayBuffer(8));
  readonly #workers: readonly Worker[];
  readonly #address: bigint;
  readonly #bytes: number;
  readonly #table: HandlerTable;
  readonly #handles: SlotHandle[];
  #registered = 0;

  constructor(dispatchers: number) {
    this.dispatchers = dispatchers;
    const capacity = HANDLERS;
    this.#bytes = tableLayout(capacity, dispatchers).bytes;
    this.#address = mapAnonymous(this.#bytes);
    const memory = viewMemory(this.#address, this.#bytes);
    const layout = formatTable(memory, { capacity, dispatchers, daemonPid: process.pid, startedAt: 0 });
    this.#table = new HandlerTable(
      memory,
      layout,
      new AtomicDoorbell(this.#bell),
      new AtomicWords(memory),
      REMOVAL_LOOKS,
    );
    this.#handles = Array.from({ length: capacity }, () => this.#register());
    this.#control = new Int32Array(new SharedArrayBuffer((CONTROL.REACHED + dispatchers) * 4));
    this.#workers = Array.from({ length: dispatchers }, (_, index) => {
      // A histogram has one writer. The first dispatcher stands for all of them: they do the same.
      const setup: RemovalWorkerSetup = {
        tableAddress: this.#address,
        capacity,
        dispatchers,
        index,
        samples: BATCH_SAMPLES,
        bell: this.#bell,
        control: this.#control.buffer,
        rungAt: this.#rungAt.buffer,
        histograms: this.dispatchTimes.map(({ buffer }) => (index === 0 ? buffer : new DurationHistogram().buffer)),
      };
      return new Worker(fileURLToPath(new URL("./removal-worker.js", import.meta.url)), { workerData: setup });
    });
  }

  #register(): SlotHandle {
    const handle = this.#table.claim();
    if (handle === null) throw new Error("the table is full");
    this.#table.describe(handle, {
      name: `bench-${this.#registered++}`,
      events: "cpu-clock",
      filterFlags: 0,
      queueMaxBytes: 1 << 20,
      registeredAt: 0,
    });
    this.#table.setEventMask(handle, 1, 0);
    this.#table.activate(handle);
    return handle;
  }

  /** Returns the order's serial number. */
  #tell(phase: number): number {
    Atomics.store(this.#control, CONTROL.PHASE, phase);
    const serial = Atomics.add(this.#control, CONTROL.SERIAL, 1) + 1;
    Atomics.notify(this.#control, CONTROL.SERIAL);
    return serial;
  }

  /** Resolves when every dispatcher has come to the phase. */
  async #enter(phase: number): Promise<void> {
    const serial = this.#tell(phase);
    for (let d = 0; d < this.dispatchers; d++) {
      while (Atomics.load(this.#control, CONTROL.REACHED + d) !== serial) await delay(1);
    }
  }

  /** The dispatchers' code and this thread's are compiled in here; nothing of it is kept. */
  async warmUp(): Promise<void> {
    const scratch = new Waits();
    await this.#enter(0);
    await this.#churn(WARM_UP_MS, scratch);
    await this.#churnInside(WARM_UP_MS, scratch);
    await this.#enter(PHASE.IDLE);
    for (const { buffer } of this.dispatchTimes) new Float64Array(buffer).fill(0);
  }

  async measure(activity: Activity, seconds: number): Promise<void> {
    await this.#enter(ACTIVITIES.indexOf(activity));
    const ms = seconds * 1000;
    switch (activity) {
      case "idle":
        await delay(ms);
        break;
      case "busy elsewhere":
        spin(ms);
        break;
      case "removing at any time": {
        const startMs = performance.now();
        this.removals += await this.#churn(ms, this.waits);
        this.churnMs += performance.now() - startMs;
        break;
      }
      case "removing while inside":
        await this.#churnInside(ms, this.waits);
        break;
    }
    await this.#enter(PHASE.IDLE);
  }

  /** Returns how many it removed; it registered as many. */
  async #churn(ms: number, { anyTime }: Waits): Promise<number> {
    const untilMs = performance.now() + ms;
    let removals = 0;
    for (; performance.now() < untilMs; removals++) {
      const victim = Math.floor(Math.random() * HANDLERS);
      const startNs = now();
      this.#table.beginRemoval(this.#handles[victim]);
      await this.#table.awaitDrained(this.#handles[victim], Number.POSITIVE_INFINITY, () => 0);
      anyTime.record(now() - startNs);
      this.#replace(victim);
    }
    return removals;
  }

  async #churnInside(ms: number, { inside, looking }: Waits): Promise<void> {
    const table = this.#table;
    const untilMs = performance.now() + ms;
    for (let removals = 0; performance.now() < untilMs; removals++) {
      const victim = Math.floor(Math.random() * HANDLERS);
      const handle = this.#handles[victim];
      // First out, then in: it has only just entered.
      while (table.inFlight(handle));
      while (!table.inFlight(handle));
      const startNs = now();
      table.beginRemoval(handle);
      if (removals % 2 === 1) {
        while (table.inFlight(handle));
        looking.record(now() - startNs);
      } else {
        await table.awaitDrained(handle, Number.POSITIVE_INFINITY, () => 0);
        inside.record(now() - startNs);
      }
      this.#replace(victim);
    }
  }

  #replace(victim: number): void {
    this.#table.release(this.#handles[victim]);
    this.#handles[victim] = this.#register();
  }

  /** Wake-ups alone: what one takes on this machine, whatever the table does. */
  async measureWakeUps(): Promise<{ wakeAsync: Durations; wakeBlocked: Durations }> {
    const word = new Int32Array(this.#bell);
    const bell = new AtomicDoorbell(this.#bell);
    const awaken = async (wait: (value: number) => Promise<void> | void): Promise<Durations> => {
      const times = new DurationHistogram();
      for (let i = 0; i < WAKE_UPS; i++) {
        const value = bell.value();
        this.#tell(PHASE.RING);
        await wait(value);
        times.record(Number(process.hrtime.bigint() - Atomics.load(this.#rungAt, 0)));
      }
      return times.summary();
    };
    return {
      wakeAsync: await awaken((value) => bell.waitPast(value, Number.POSITIVE_INFINITY)),
      wakeBlocked: await awaken((value) => void Atomics.wait(word, 0, value)),
    };
  }

  async close(): Promise<void> {
    const exits = this.#workers.map((worker) => once(worker, "exit"));
    this.#tell(PHASE.STOP);
    await Promise.all(exits);
    unmap(this.#address, this.#bytes);
  }
}

function spin(ms: number): void {
  const untilMs = performance.now() + ms;
  while (performance.now() < untilMs);
}

async function measure(dispatchers: number, { seconds, rounds }: BenchmarkOptions): Promise<ScenarioResult> {
  const bench = new Bench(dispatchers);
  try {
    await bench.warmUp();
    for (let round = 0; round < rounds; round++) {
      for (const activity of ACTIVITIES) await bench.measure(activity, seconds);
    }
    const wakeUps = await bench.measureWakeUps();
    const times = ACTIVITIES.map((activity, i) => [activity, bench.dispatchTimes[i].summary()] as const);
    return {
      dispatchers,
      removalsPerSecond: (bench.removals / bench.churnMs) * 1000,
      dispatch: Object.fromEntries(times) as Record<Activity, Durations>,
      wait: bench.waits.anyTime.summary(),
      waitInside: bench.waits.inside.summary(),
      waitLooking: bench.waits.looking.summary(),
      ...wakeUps,
    };
  } finally {
    await bench.close();
  }
}

function us(ns: number): string {
  return (ns / 1000).toFixed(1);
}

function durationCells({ count, p50Ns, p99Ns, p999Ns, maxNs }: Durations): string[] {
  return [String(count), us(p50Ns), us(p99Ns), us(p999Ns), us(maxNs)];
}

function format(result: ScenarioResult): string {
  const { dispatch, wait, waitInside, waitLooking, wakeAsync, wakeBlocked, removalsPerSecond } = result;
  const columns = ["count", "p50 us", "p99 us", "p99.9 us", "max us"];
  const { p50Ns, p99Ns } = dispatch["removing at any time"];
  const rate = Math.round(removalsPerSecond);
  return [
    renderTable([
      ["one dispatch, the main thread", ...columns],
      ...ACTIVITIES.map((activity) => [activity, ...durationCells(dispatch[activity])]),
    ]),
    `\n${rate} removals and as many registrations a second; two dispatches take ${us(2 * p50Ns)} us (p50), ${us(2 * p99Ns)} us (p99)\n`,
    renderTable([
      ["wait of a removal", ...columns],
      ["begun at any time", ...durationCells(wait)],
      ["begun while inside", ...durationCells(waitInside)],
      ["the same, looking instead of sleeping", ...durationCells(waitLooking)],
      ["a wake-up alone, of an event loop (Atomics.waitAsync)", ...durationCells(wakeAsync)],
      ["a wake-up alone, of a thread (Atomics.wait)", ...durationCells(wakeBlocked)],
    ]),
  ].join("\n");
}

async function run(options: BenchmarkOptions): Promise<object> {
  const cpus = onlineCpus().length;
  const loadAverage = { before: os.loadavg(), after: [] as number[] };
  const results: ScenarioResult[] = [];
  // With a CPU left for the main thread, and with none.
  for (const dispatchers of new Set([Math.max(1, cpus - 1), cpus])) {
    console.log(
      `\n${dispatchers} of ${cpus} CPUs for dispatchers; ${HANDLERS} handlers, batches of ${BATCH_SAMPLES} samples`,
    );
    const result = await measure(dispatchers, options);
    results.push(result);
    console.log(`\n${format(result)}`);
  }
  loadAverage.after = os.loadavg();
  console.log(`\nload average ${loadAverage.before[0].toFixed(2)} before, ${loadAverage.after[0].toFixed(2)} after`);
  return { loadAverage, handlers: HANDLERS, batchSamples: BATCH_SAMPLES, results };
}

export const removal: Benchmark = {
  description: "registrations and removals under full dispatch load, and what dispatches notice of them",
  seconds: 0.8,
  rounds: 5,
  run,
};
