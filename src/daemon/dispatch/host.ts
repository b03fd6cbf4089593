/**
 * The main thread's end of the dispatcher threads: starts them, tells them, waits for their answers, stops them, and
 * when one dies puts another in its place, on the same rings and with everything its predecessor had been told.
 */
import { Worker } from "node:worker_threads";
import { closeFd, eventfd, mapAnonymous, signalEventfd, unmap, viewMemory } from "../../pmu/ffi.js";
import type { RecordFormat, RingDescriptor } from "../../pmu/source.js";
import { arenaBytes } from "../delivery/segment-layout.js";
import { SegmentReader } from "../delivery/segments.js";
import type { DeliveryBell } from "./delivery-bell.js";
import type { Answer, Control, DispatcherSetup, Request } from "./messages.js";
import { NOT_PINNED, type Pinned, PinningError, pinningProblem } from "./pinning.js";
import type { SharedMemory } from "./shared-memory.js";
import type { DispatcherStats } from "./stats.js";

export interface HostOptions {
  readonly tableAddress: bigint;
  readonly tableBytes: number;
  readonly capacity: number;
  /** Those that each dispatcher starts with; it may have none. */
  readonly rings: readonly (readonly RingDescriptor[])[];
  /** The CPUs that each dispatcher's thread is pinned to; null: none is pinned. */
  readonly pinning: readonly (readonly number[])[] | null;
  /** Bytes of segments, all dispatchers together. */
  readonly segmentBytes: number;
  readonly clockIsMonotonic: boolean;
  /** For as many handlers and dispatchers. */
  readonly shared: SharedMemory;
  /**
   * A dispatcher has died and its thread is gone. Settles what it owed, retracts its announcements, and returns the
   * slots it was inside; then another takes its place.
   */
  readonly onDeath: (index: number, error: Error) => number[];
  /** A dispatcher runs that took another's place, for the `restarts`th time. */
  readonly onReplaced: (index: number, restarts: number) => void;
  /** A dispatcher that took another's place could not be pinned as that one had been; it runs all the same. */
  readonly onPinningProblem: (index: number, problem: string) => void;
  /** A dispatcher dies again and again: there is no point in another. */
  readonly onFatal: (error: Error) => void;
}

/** More deaths of one dispatcher than this within the window are no accident. */
const DEATHS_MAX = 5;
const DEATHS_WINDOW_MS = 10_000;
const NS_PER_MS = 1e6;

/** What a dispatcher has been told and has answered, as far as it still matters: the state its successor starts from. */
class Ledger {
  readonly #paces = new Map<number, Control>();
  readonly #attached = new Map<number, Control>();
  #flushInterval: Control | null = null;
  readonly #aux = new Map<bigint, Control>();
  /** Of task records. */
  readonly #tasks: RecordFormat[] = [];
  readonly #rings = new Map<number, Control>();
  readonly #watched = new Map<bigint, Control>();
  #formats: { readonly event: number; readonly format: RecordFormat }[] = [];

  note(control: Control): void {
    switch (control.kind) {
      case "attach":
        this.#attached.set(control.spec.slot, control);
        break;
      case "detach":
        this.#attached.delete(control.slot);
        break;
      case "pace":
        this.#paces.set(control.event, control);
        break;
      case "flush interval":
        this.#flushInterval = control;
        break;
      case "add formats":
        for (const format of control.formats.flatMap(byId)) this.#formats.push({ event: control.event, format });
        break;
      case "remove formats":
        for (const format of control.formats.flatMap(byId)) this.#removeFormat(format);
        break;
      case "add ring":
        this.#rings.set(control.index, control);
        break;
      case "remove ring":
        this.#rings.delete(control.index);
        break;
      case "watch ring":
        this.#watched.set(control.ring.address, control);
        break;
      case "unwatch ring":
        this.#watched.delete(control.address);
        break;
      case "add tasks":
        this.#tasks.push(...control.formats.flatMap(byId));
        break;
      case "remove tasks":
        for (const { ids } of control.formats.flatMap(byId))
          removeFirst(this.#tasks, (format) => sameIds(format.ids, ids));
        break;
      case "add aux":
        for (const ring of control.rings) this.#aux.set(ring.address, { ...control, rings: [ring] });
        break;
      case "remove aux":
        for (const { address } of control.rings) this.#aux.delete(address);
        break;
      case "forget identities":
      case "drain":
      case "fail":
      case "hang":
      case "ask":
      case "stop":
        break;
    }
  }

  /**
   * Rings by the same indexes, which tell a successor whose batch it goes on with. Paces before handlers, whose own follow
   * from them; then the interval that is in force for these.
   */
  controls(): Control[] {
    const formats = this.#formats.map(
      ({ event, format }): Control => ({ kind: "add formats", event, formats: [format] }),
    );
    const rings = this.#rings.values();
    const flushInterval = this.#flushInterval === null ? [] : [this.#flushInterval];
    const tasks = this.#tasks.map((format): Control => ({ kind: "add tasks", formats: [format] }));
    return [
      ...rings,
      ...this.#watched.values(),
      ...this.#paces.values(),
      ...formats,
      ...tasks,
      ...this.#aux.values(),
      ...this.#attached.values(),
      ...flushInterval,
    ];
  }

  /** Of one opening of the event: a recording hands out the same ids for each. */
  #removeFormat({ ids }: RecordFormat): void {
    removeFirst(this.#formats, ({ format }) => sameIds(format.ids, ids));
  }
}

function sameIds(one: readonly bigint[], other: readonly bigint[]): boolean {
  return one.length === other.length && one[0] === other[0];
}

function removeFirst<T>(list: T[], is: (item: T) => boolean): void {
  const at = list.findIndex(is);
  if (at >= 0) list.splice(at, 1);
}

/** Each id apart: a CPU that goes takes its own ids along, not its event's others. */
function byId(format: RecordFormat): RecordFormat[] {
  return format.ids.length < 2 ? [format] : format.ids.map((id) => ({ ...format, ids: [id] }));
}

interface Waiting {
  readonly control: Control;
  readonly resolve: () => void;
  readonly sinceMs: number;
}

class DispatcherThread {
  /** By their index; null where one has been removed. */
  readonly #rings: (RingDescriptor | null)[] = [];
  /** The index that a CPU's ring had last: it gets it back, and with it what is carried of it. */
  readonly #indexOf = new Map<number, number>();
  readonly segments: SegmentReader;
  readonly stats: DispatcherStats;
  readonly dirty: Int32Array;
  /** Rejects with PinningError when its thread may not run where it should. */
  readonly started: Promise<void>;
  /** Times it died and was replaced. */
  restarts = 0;
  readonly #setup: Omit<DispatcherSetup, "initial" | "abandoned">;
  readonly #options: HostOptions;
  readonly #ledger = new Ledger();
  /** What has not been answered, in order. */
  readonly #waiting = new Map<number, Waiting>();
  /** The question that waits for its answer. */
  #asked: Promise<void> | null = null;
  readonly #deathsMs: number[] = [];
  #settleStart: ((problem: Error | null) => void) | null = null;
  #pinned: Pinned = NOT_PINNED;
  #worker: Worker;
  #exited: Promise<void> = Promise.resolve();
  #sequence = 0;
  #stopping = false;

  constructor(index: number, options: HostOptions) {
    for (const ring of options.rings[index]) this.#ledger.note(this.#place(ring));
    for (const ring of options.rings.flat()) this.#ledger.note({ kind: "watch ring", ring });
    const bytes = arenaBytes(options.segmentBytes / options.rings.length);
    const arena = { address: mapAnonymous(bytes), bytes };
    this.segments = new SegmentReader(viewMemory(arena.address, bytes));
    this.stats = options.shared.stats(index);
    this.dirty = options.shared.dirty(index);
    this.#options = options;
    this.#setup = {
      index,
      tableAddress: options.tableAddress,
      tableBytes: options.tableBytes,
      capacity: options.capacity,
      dispatchers: options.rings.length,
      pinTo: options.pinning?.[index] ?? null,
      clockIsMonotonic: options.clockIsMonotonic,
      arena,
      shared: options.shared.buffer,
      controlFd: eventfd(),
    };
    this.started = new Promise((resolve, reject) => {
      this.#settleStart = (problem) => (problem === null ? resolve() : reject(problem));
    });
    // Whoever starts the daemon sees it; a stop before that is no reason to end the process.
    this.started.catch(() => {});
    this.#worker = this.#start(null);
  }

  /** Whose rings it drains. */
  get cpus(): readonly number[] {
    return this.#rings.flatMap((ring) => (ring === null ? [] : [ring.cpu]));
  }

  /** The CPUs its thread was pinned to when it started; empty when it is not pinned. */
  get pinnedCpus(): readonly number[] {
    return this.#pinned.cpus;
  }

  #start(abandoned: readonly number[] | null): Worker {
    const { index } = this.#setup;
    const workerData: DispatcherSetup = { ...this.#setup, initial: this.#ledger.controls(), abandoned };
    const worker = new Worker(new URL("./worker.js", import.meta.url), { workerData, name: `dispatcher ${index}` });
    worker.on("message", (answer: Answer) => {
      if (answer.kind === "started") this.#begun(answer.pinned);
      else this.#answered(answer.sequence);
    });
    let failure: Error | null = null;
    worker.on("error", (error: Error) => {
      failure = error;
    });
    this.#exited = new Promise((resolve) => {
      // The thread has ended when this is emitted: it will not write anything any more.
      worker.on("exit", (code) => {
        resolve();
        if (!this.#stopping) this.#replace(failure ?? new Error(`exited with ${code}`));
      });
    });
    return worker;
  }

  #replace(error: Error): void {
    const { index } = this.#setup;
    const nowMs = performance.now();
    this.#deathsMs.push(nowMs);
    while (nowMs - this.#deathsMs[0] > DEATHS_WINDOW_MS) this.#deathsMs.shift();
    if (this.#deathsMs.length > DEATHS_MAX) {
      const fatal = new Error(`dispatcher ${index} died ${DEATHS_MAX + 1} times in a row: ${error.message}`, {
        cause: error,
      });
      this.#settleStart?.(fatal);
      this.#options.onFatal(fatal);
      return;
    }
    const abandoned = this.#options.onDeath(index, error);
    this.restarts++;
    this.#worker = this.#start(abandoned);
    // It starts from what the dead one had answered, finishes its batch in those terms, and is told the rest again.
    for (const [sequence, { control }] of this.#waiting) {
      if (control.kind === "fail") this.#answered(sequence);
      else this.#post(sequence, control);
    }
  }

  #begun(pinned: Pinned): void {
    const { index, pinTo } = this.#setup;
    this.#pinned = pinned;
    if (this.restarts > 0) this.#options.onReplaced(index, this.restarts);
    const problem = pinningProblem(index, pinTo, pinned);
    if (this.#settleStart !== null) this.#settleStart(problem === null ? null : new PinningError(problem));
    else if (problem !== null) this.#options.onPinningProblem(index, problem);
    this.#settleStart = null;
  }

  #answered(sequence: number): void {
    const waiting = this.#waiting.get(sequence);
    if (waiting === undefined) return;
    this.#waiting.delete(sequence);
    this.#ledger.note(waiting.control);
    waiting.resolve();
  }

  #post(sequence: number, control: Control): void {
    this.#worker.postMessage({ sequence, control } satisfies Request);
    signalEventfd(this.#setup.controlFd);
  }

  /** Resolves when the dispatcher, or the one that took its place, has done it. */
  tell(control: Control): Promise<void> {
    const sequence = this.#sequence++;
    return new Promise((resolve) => {
      this.#waiting.set(sequence, { control, resolve, sinceMs: performance.now() });
      this.#post(sequence, control);
    });
  }

  #place(ring: RingDescriptor): Control {
    const isFree = (index: number): boolean => (this.#rings[index] ?? null) === null;
    let index = this.#indexOf.get(ring.cpu) ?? -1;
    if (index < 0 || !isFree(index)) {
      // An index that nobody had leaves what another CPU carries where it is, for when that one comes back.
      const free = this.#rings.findIndex((_, i) => isFree(i) && ![...this.#indexOf.values()].includes(i));
      index = free < 0 ? this.#rings.length : free;
    }
    this.#rings[index] = ring;
    this.#indexOf.set(ring.cpu, index);
    return { kind: "add ring", index, ring };
  }

  /** Resolves when the dispatcher drains it with its others. */
  addRing(ring: RingDescriptor): Promise<void> {
    return this.tell(this.#place(ring));
  }

  /** Of the CPU's ring; null where it is not this one's. */
  addressOf(cpu: number): bigint | null {
    return this.#rings.find((ring) => ring?.cpu === cpu)?.address ?? null;
  }

  /** Resolves when what the CPU's ring held is dispatched and nobody looks at its memory any more. */
  async removeRing(cpu: number): Promise<void> {
    const index = this.#rings.findIndex((ring) => ring?.cpu === cpu);
    if (index < 0) return;
    await this.tell({ kind: "remove ring", index });
    this.#rings[index] = null;
  }

  /** Resolves when the dispatcher, or the one that took its place, has come round to answer: see liveness.ts. */
  ask(): Promise<void> {
    // Its control fd may be closed, and be another file's by now.
    if (this.#stopping) return this.#exited;
    this.#asked ??= this.tell({ kind: "ask" }).then(() => {
      this.#asked = null;
    });
    return this.#asked;
  }

  /** How long the oldest of what it was told has waited for its answer, in ns; 0 when nothing waits. */
  get unansweredNs(): number {
    const [oldest] = this.#waiting.values();
    return oldest === undefined ? 0 : (performance.now() - oldest.sinceMs) * NS_PER_MS;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.race([this.tell({ kind: "stop" }), this.#exited]);
    await this.#exited;
    closeFd(this.#setup.controlFd);
    unmap(this.#setup.arena.address, this.#setup.arena.bytes);
  }
}

export class DispatcherHost {
  readonly threads: readonly DispatcherThread[];
  readonly #bell: DeliveryBell;

  constructor(options: HostOptions) {
    this.#bell = options.shared.deliveryBell();
    this.threads = options.rings.map((_, index) => new DispatcherThread(index, options));
  }

  /** Resolves when every dispatcher runs, where it should. Rejects with PinningError, or when one dies again and again. */
  async started(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.started));
  }

  /** Gives the ring of a CPU that has come to a dispatcher. */
  async addRing(dispatcher: number, ring: RingDescriptor): Promise<void> {
    await this.tellAll({ kind: "watch ring", ring });
    await this.threads[dispatcher].addRing(ring);
  }

  /** Takes the ring of a CPU that has gone from the dispatcher that has it. */
  async removeRing(cpu: number): Promise<void> {
    const address = this.threads.map((thread) => thread.addressOf(cpu)).find((found) => found !== null) ?? null;
    await Promise.all(this.threads.map((thread) => thread.removeRing(cpu)));
    if (address !== null) await this.tellAll({ kind: "unwatch ring", address });
  }

  /** Tells every dispatcher; resolves when all have done it. */
  async tellAll(control: Control): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.tell(control)));
  }

  /** Calls `visit` once for each slot that has something to deliver, and forgets it. */
  takeDirty(visit: (slot: number) => void): void {
    for (const [index, { dirty }] of this.threads.entries()) {
      if (!this.#bell.take(index)) continue;
      for (let word = 0; word < dirty.length; word++) {
        // Written by the dispatcher (or) and here (exchange): a bit set after the exchange is seen next time.
        let bits = dirty[word] === 0 ? 0 : Atomics.exchange(dirty, word, 0);
        while (bits !== 0) {
          const bit = 31 - Math.clz32(bits & -bits);
          bits &= bits - 1;
          visit(word * 32 + bit);
        }
      }
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.threads.map((thread) => thread.stop()));
  }
}
