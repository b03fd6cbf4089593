/**
 * For tests: one thread fills segments as a dispatcher does and dies now and then, this one takes, holds and drops them as
 * delivery does, at random. Every word is checked when a segment is taken and again before it is let go.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { setImmediate as turn } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { seededRandom } from "../../pmu/software/random.js";
import { allocateOutbox, ENTRY, type OutboxShape, outboxShape, REGION_BYTES_MIN } from "./outbox.js";
import { OutboxReader } from "./outbox-reader.js";
import { arenaBytes, SLAB_BYTES } from "./segment-layout.js";
import type { SegmentReader } from "./segments.js";

/** Indexes of words with a line each. */
export const CONTROL = { PROGRESS: 16, DRAINED: 32 } as const;
const CONTROL_BYTES = 256;

export interface TortureWorkerSetup {
  readonly arena: SharedArrayBuffer;
  readonly outboxes: readonly SharedArrayBuffer[];
  readonly shape: OutboxShape;
  readonly control: SharedArrayBuffer;
  readonly seed: number;
  /** To fill in all, predecessors' included. */
  readonly segments: number;
  readonly segmentsModule: string;
}

export type TortureAnswer =
  | { readonly kind: "started"; readonly usedBytes: number }
  | { readonly kind: "done" }
  /** `slabs`: the largest segments that there was room for. */
  | { readonly kind: "drained"; readonly usedBytes: number; readonly slabs: number };

export interface TortureOptions {
  /** Decides every random choice; when the threads meet, it does not. */
  readonly seed: number;
  readonly segments: number;
  readonly deaths: number;
  /** To plant faults: a module in place of segments.js. */
  readonly segmentsModule?: string;
}

export interface TortureReport {
  readonly taken: number;
  readonly dropped: number;
  readonly lostSamples: number;
  readonly diedSamples: number;
  readonly exhausted: number;
}

const SLABS = 8;
/** Without the reserves. */
const SHARED_SLABS = SLABS / 2;
const OUTBOXES = 5;
/** References that this thread keeps for a while. */
const HELD_MAX = 40;
const STEPS_A_TURN = 100;
/** Steps that one reader stays stuck. */
const STUCK_STEPS = 700;
const STEPS_BEFORE_THE_END = 200;
/** No segment filled and none taken for so many turns: something is in the way. */
const IDLE_TURNS_MAX = 200_000;

/** What is in a segment follows from its number. */
export function wordsOf(serial: number): number {
  const hash = Math.imul(serial + 1, 0x9e3779b1) >>> 0;
  const most = 2 ** (1 + ((hash >>> 8) % 14));
  return 1 + ((hash >>> 16) % most);
}

export function samplesOf(serial: number): number {
  return 1 + (serial % 97);
}

export function periodOf(serial: number): number {
  return 1 + (serial % 1009);
}

interface Held {
  readonly segment: number;
  readonly serial: number;
}

class Side {
  readonly reader: OutboxReader;
  readonly sums = { samples: 0, period: 0 };
  lastSerial = -1;

  constructor(reader: OutboxReader) {
    this.reader = reader;
  }

  count(samples: number, period: number): void {
    this.sums.samples += samples;
    this.sums.period += period;
  }
}

class Torture {
  readonly #options: TortureOptions;
  readonly #random: () => number;
  readonly #setup: Omit<TortureWorkerSetup, "seed">;
  readonly #control: Int32Array<SharedArrayBuffer>;
  readonly #segments: SegmentReader;
  readonly #sides: readonly Side[];
  readonly #held: Held[] = [];
  readonly #report = { taken: 0, dropped: 0, lostSamples: 0, diedSamples: 0 };
  #answers: TortureAnswer[] = [];
  #isStarting = false;
  #failure: Error | null = null;
  #worker: Worker;
  #stuck = 0;
  #steps = 0;

  constructor(options: TortureOptions, module: typeof import("./segments.js"), segmentsModule: string) {
    this.#options = options;
    this.#random = seededRandom(options.seed);
    const shape = outboxShape(2 * REGION_BYTES_MIN, 1, 1);
    const arena = new SharedArrayBuffer(arenaBytes(SLABS * SLAB_BYTES));
    const outboxes = Array.from({ length: OUTBOXES }, () => allocateOutbox(1, shape));
    const control = new SharedArrayBuffer(CONTROL_BYTES);
    this.#control = new Int32Array(control);
    const segments = new module.SegmentReader(arena);
    this.#segments = segments;
    this.#sides = outboxes.map((outbox) => new Side(new OutboxReader(outbox, 0, shape, segments)));
    this.#setup = { arena, outboxes, shape, control, segments: options.segments, segmentsModule };
    this.#worker = this.#start();
  }

  #start(): Worker {
    const workerData: TortureWorkerSetup = { ...this.#setup, seed: this.#below(2 ** 31) };
    const entry = new URL("./segments.torture-worker.test-support.js", import.meta.url);
    const worker = new Worker(entry, { workerData });
    this.#isStarting = true;
    worker.on("message", (answer: TortureAnswer) => {
      this.#isStarting = false;
      this.#answers.push(answer);
    });
    worker.on("error", (error) => {
      this.#failure = error;
    });
    return worker;
  }

  #below(n: number): number {
    return Math.floor(this.#random() * n);
  }

  #check(segment: number, serial: number): void {
    const { bytes } = this.#segments;
    const words = wordsOf(serial);
    assert.equal(this.#segments.payloadBytes(segment), words * 4, `bytes of segment number ${serial}`);
    const content = new Uint32Array(bytes.buffer, bytes.byteOffset + this.#segments.payloadAt(segment), words);
    for (let i = 0; i < words; i++) {
      if (content[i] !== serial + i) assert.fail(`segment number ${serial}: word ${i} is ${content[i]}`);
    }
  }

  #letGo(index: number): void {
    const { segment, serial } = this.#held[index];
    this.#check(segment, serial);
    this.#held[index] = this.#held.at(-1) as Held;
    this.#held.pop();
    this.#segments.release(segment);
  }

  /** False when the outbox is empty. */
  #take(side: Side): boolean {
    const { reader } = side;
    if (!reader.peek()) return false;
    const { kind, segment, samples, period, firstNs, lastNs } = reader.entry;
    assert.ok(firstNs > side.lastSerial && lastNs >= firstNs, `number ${firstNs} after ${side.lastSerial}`);
    side.lastSerial = lastNs;
    side.count(samples, period);
    if (kind === ENTRY.LOSS) {
      this.#report.lostSamples += samples;
      reader.take();
      return true;
    }
    assert.equal(kind, ENTRY.CHUNK);
    assert.deepEqual([samples, period], [samplesOf(firstNs), periodOf(firstNs)]);
    this.#check(segment, firstNs);
    if (this.#below(4) === 0) {
      reader.drop();
      this.#report.dropped++;
      return true;
    }
    reader.take();
    this.#report.taken++;
    this.#held.push({ segment, serial: firstNs });
    if (this.#held.length > HELD_MAX) this.#letGo(this.#below(this.#held.length));
    return true;
  }

  /** Another reader reads a little, another is stuck now and then. */
  #step(): boolean {
    if (this.#steps++ % STUCK_STEPS === 0) this.#stuck = this.#below(OUTBOXES + 1);
    const chosen = this.#below(OUTBOXES);
    if (this.#held.length > 0 && this.#below(8) === 0) this.#letGo(this.#below(this.#held.length));
    if (chosen === this.#stuck) return false;
    let took = false;
    for (let left = 1 + this.#below(6); left > 0 && this.#take(this.#sides[chosen]); left--) took = true;
    return took;
  }

  get #progress(): number {
    return Atomics.load(this.#control, CONTROL.PROGRESS);
  }

  async #consumeUntil(over: () => boolean): Promise<void> {
    let progress = -1;
    for (let idle = 0; !over(); idle++) {
      let took = false;
      for (let i = 0; i < STEPS_A_TURN; i++) took = this.#step() || took;
      // A thread takes as long to start as the machine lets it.
      if (took || this.#progress !== progress || this.#isStarting) idle = 0;
      progress = this.#progress;
      assert.ok(idle < IDLE_TURNS_MAX, `nothing moves after ${progress} segments`);
      // Messages, and the end of a thread.
      await turn();
      if (this.#failure !== null) throw this.#failure;
    }
  }

  /** Ends the dispatcher's thread wherever it is, settles what it leaves, and starts another. */
  async #replace(): Promise<void> {
    const ended = this.#worker.terminate();
    for (let i = this.#below(STEPS_BEFORE_THE_END); i > 0; i--) this.#step();
    await ended;
    for (const side of this.#sides) {
      const [{ samples, period }] = side.reader.abandon().unaccounted;
      assert.ok(samples >= 0 && period >= 0, `${samples} samples of ${period} are unaccounted for`);
      side.count(samples, period);
      this.#report.diedSamples += samples;
    }
    const referred = new Map<number, number>();
    this.#segments.recount((count) => {
      const refer = (segment: number): void => {
        referred.set(segment, this.#segments.segmentBytes(segment));
        count(segment);
      };
      for (const { reader } of this.#sides) reader.countSegments(refer);
      for (const { segment } of this.#held) refer(segment);
    });
    this.#answers = [];
    this.#worker = this.#start();
    // Its successor counts as used what was referred to, however much of it is let go meanwhile.
    await this.#consumeUntil(() => this.#answers.length > 0);
    const usedBytes = [...referred.values()].reduce((sum, bytes) => sum + bytes, 0);
    assert.deepEqual(this.#answers[0], { kind: "started", usedBytes });
  }

  async run(): Promise<TortureReport> {
    const { segments, deaths } = this.#options;
    const deathsAt = Array.from({ length: deaths }, () => this.#below(segments)).sort((a, b) => a - b);
    try {
      for (const at of deathsAt) {
        await this.#consumeUntil(() => this.#progress >= at);
        await this.#replace();
      }
      await this.#consumeUntil(() => this.#answers.some(({ kind }) => kind === "done"));
      await this.#drain();
    } finally {
      await this.#worker.terminate();
    }
    return { ...this.#report, exhausted: this.#segments.use().exhausted };
  }

  async #drain(): Promise<void> {
    for (const side of this.#sides) {
      while (this.#take(side));
      for (const { samples, period } of side.reader.pendingLosses(0)) side.count(samples, period);
      const { reader } = side;
      assert.deepEqual(side.sums, { samples: reader.matched(0), period: reader.periodMatched(0) });
      assert.equal(reader.usedBytes, 0);
    }
    while (this.#held.length > 0) this.#letGo(0);
    this.#answers = [];
    Atomics.store(this.#control, CONTROL.DRAINED, 1);
    Atomics.notify(this.#control, CONTROL.DRAINED);
    await once(this.#worker, "exit");
    assert.deepEqual(this.#answers, [{ kind: "drained", usedBytes: 0, slabs: SHARED_SLABS }]);
  }
}

/** Rejects with what was wrong. */
export async function torture(options: TortureOptions): Promise<TortureReport> {
  const url = options.segmentsModule ?? new URL("./segments.js", import.meta.url).href;
  return new Torture(options, (await import(url)) as typeof import("./segments.js"), url).run();
}
