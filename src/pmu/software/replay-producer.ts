/** Entry of the worker thread that writes a recording's records into rings, at the pace of their times. */
import { parentPort } from "node:worker_threads";
import { PAGE_BYTES, RECORD } from "../abi.js";
import { signalEventfd, viewMemory } from "../ffi.js";
import type { RingDescriptor } from "../source.js";
import { AuxPlayer, type RecordedAux } from "./aux-player.js";
import { addLost, addProduced, type CountsBuffer } from "./producer-counts.js";
import { producerSetup, runProducer } from "./producer-loop.js";
import { bodyTimeAt, type RecordIndex } from "./record-index.js";
import { RingWriter } from "./ring-writer.js";

export interface ReplayProducerData {
  readonly rings: readonly RingDescriptor[];
  /** The recording's image. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly index: RecordIndex;
  /** How many events the recording holds. */
  readonly attrs: number;
  /** 1 is the recorded pace, infinity as fast as the readers drain. */
  readonly speed: number;
  readonly loop: boolean;
  /** By attr, over all runs. What the recording's LOST records tell of counts as made and lost. */
  readonly counts: CountsBuffer;
  /** One word, the producer's: how many records of the run, of `index`, are behind it. */
  readonly position: Int32Array<SharedArrayBuffer>;
  readonly aux: RecordedAux;
}

export type ReplayCommand =
  | { readonly kind: "begin"; readonly run: number }
  | { readonly kind: "abandon" }
  | { readonly kind: "enable" | "disable"; readonly attr: number; readonly wakeEach: boolean };

/** All records of the run are written, and the readers have taken them. */
export interface ReplayEnded {
  readonly run: number;
}

/** How often to look whether a reader has made room, or has drained the end. */
const READER_POLL_MS = 1;
/** Bounds how long a command waits. */
const STEP_RECORDS_MAX = 10_000;
/** Longer records are copied faster by the engine than by a loop. */
const WORD_LOOP_BYTES_MAX = 128;

/** They tell of one event, and nobody wants them who has not enabled it; all others tell of the machine. */
const OF_THEIR_EVENT: ReadonlySet<number> = new Set([
  RECORD.SAMPLE,
  RECORD.LOST,
  RECORD.LOST_SAMPLES,
  RECORD.THROTTLE,
  RECORD.UNTHROTTLE,
  RECORD.READ,
  RECORD.CALLCHAIN_DEFERRED,
]);

class Replay {
  readonly #data: ReplayProducerData;
  readonly #view: DataView;
  /** The image's whole words. */
  readonly #words: Uint32Array;
  readonly #writers: readonly RingWriter[];
  readonly #aux: AuxPlayer;
  /** By attr: how often it is enabled. */
  readonly #enabled: Uint32Array;
  #enabledCount = 0;
  /** How many of them want a wake-up for each sample. */
  #wakeEachCount = 0;
  #run: number | null = null;
  /** Next record of the run. */
  #next = 0;
  /** When the run's first time was due; null until it has an event to write. */
  #startMs: number | null = null;
  /** How often the run has started over, and what that adds to each time. */
  #passes = 0;
  #shiftNs = 0;
  /** Whether this pass has written anything into a CPU's ring. */
  #wrote = false;
  /** From the first time to the one that a pass more begins with. */
  readonly #passNs: number;

  constructor(data: ReplayProducerData, writers: readonly RingWriter[], aux: AuxPlayer) {
    this.#aux = aux;
    this.#data = data;
    this.#view = new DataView(data.bytes.buffer, data.bytes.byteOffset, data.bytes.byteLength);
    this.#words = new Uint32Array(data.bytes.buffer, data.bytes.byteOffset, data.bytes.byteLength >>> 2);
    this.#writers = writers;
    this.#enabled = new Uint32Array(data.attrs);
    this.#passNs = passNs(data.index);
  }

  obey(command: ReplayCommand): void {
    switch (command.kind) {
      case "begin":
        this.#run = command.run;
        this.#next = 0;
        this.#startMs = null;
        this.#passes = 0;
        this.#shiftNs = 0;
        this.#wrote = false;
        this.#aux.begin(0);
        Atomics.store(this.#data.position, 0, 0);
        return;
      case "abandon":
        this.#run = null;
        return;
      default: {
        const change = command.kind === "enable" ? 1 : -1;
        this.#enabled[command.attr] = (this.#enabled[command.attr] as number) + change;
        this.#enabledCount += change;
        if (command.wakeEach) this.#wakeEachCount += change;
      }
    }
  }

  /** Writes what is due; returns how long to sleep, in ms. */
  step(nowMs: number, ended: (run: number) => void): number {
    if (this.#run === null || this.#enabledCount === 0) return Number.POSITIVE_INFINITY;
    this.#startMs ??= nowMs;
    if (this.#next < this.#data.index.count) return this.#writeDue(nowMs - this.#startMs);
    if (this.#data.loop && this.#data.index.count > 0) return this.#startOver();
    if (!this.#writers.every((writer) => writer.isDrained()) || !this.#aux.isDrained()) return READER_POLL_MS;
    const run = this.#run;
    this.#run = null;
    ended(run);
    return Number.POSITIVE_INFINITY;
  }

  /** A pass that wrote nothing must not be followed by the next without a pause. */
  #startOver(): number {
    const sleepMs = this.#wrote ? 0 : READER_POLL_MS;
    this.#next = 0;
    this.#passes++;
    this.#shiftNs = this.#passes * this.#passNs;
    this.#wrote = false;
    this.#aux.begin(this.#passes);
    return sleepMs;
  }

  #writeDue(elapsedMs: number): number {
    const { index, speed, loop } = this.#data;
    const isPaced = Number.isFinite(speed);
    const firstTimeNs = index.time[0] as number;
    const limitNs = isPaced ? firstTimeNs + elapsedMs * 1e6 * speed - this.#shiftNs : Number.POSITIVE_INFINITY;
    const end = Math.min(index.count, this.#next + STEP_RECORDS_MAX);
    while (this.#next < end && (index.time[this.#next] as number) <= limitNs) {
      if (!this.#write(this.#next)) {
        this.#publish(true);
        return READER_POLL_MS;
      }
      this.#next++;
    }
    const isLast = this.#next === index.count;
    this.#publish((isLast && !loop) || this.#wakeEachCount > 0);
    if (isLast || this.#next === end) return 0;
    return ((index.time[this.#next] as number) - limitNs) / (1e6 * speed);
  }

  /** False when its ring has no room yet. */
  #write(record: number): boolean {
    const { index, bytes, counts } = this.#data;
    const attr = index.attr[record] as number;
    const at = index.offset[record] as number;
    const type = this.#view.getUint32(at, true);
    if (this.#enabled[attr] === 0 && OF_THEIR_EVENT.has(type)) return true;
    const size = this.#view.getUint16(at + 6, true);
    // It is of no use in a ring without the area: the player's has it.
    if (type === RECORD.AUX && this.#aux.hasAreas) return this.#enabled[attr] === 0 || this.#playAux(record, at, size);
    const writer = this.#writers[index.ring[record] as number] as RingWriter;
    if (!writer.hasRoom(size)) return false;
    const position = writer.head;
    // What compressed records hold need not lie at a multiple of four bytes.
    if (size <= WORD_LOOP_BYTES_MAX && at % 4 === 0) writer.appendWords(this.#words, at / 4, (at + size) / 4);
    else writer.append(bytes, at, at + size);
    this.#wrote = true;
    if (this.#shiftNs > 0) this.#shiftTimes(writer, position, type, index.timeAt[record] as number, size);
    if (type === RECORD.SAMPLE) addProduced(counts, attr, 1);
    // { header, id, lost }
    if (type === RECORD.LOST && size >= 24) addLost(counts, attr, Number(this.#view.getBigUint64(at + 16, true)));
    return true;
  }

  #shiftTimes(writer: RingWriter, position: number, type: number, timeAt: number, size: number): void {
    if (timeAt > 0) addToTime(writer, position + timeAt, this.#shiftNs);
    const inBody = bodyTimeAt(type);
    if (inBody > 0 && inBody + 8 <= size) addToTime(writer, position + inBody, this.#shiftNs);
  }

  #playAux(record: number, at: number, size: number): boolean {
    const { index } = this.#data;
    const timeNs = index.timeBaseNs + BigInt((index.time[record] as number) + this.#shiftNs);
    const cpu = index.cpus[index.ring[record] as number] as number;
    return this.#aux.play({ record, at, size, timeNs, cpu });
  }

  #publish(wakeNow: boolean): void {
    // Read by whoever makes a snapshot: what is below has been written to the rings, or never will be.
    Atomics.store(this.#data.position, 0, this.#next);
    for (const writer of this.#writers) writer.publish(wakeNow);
    this.#aux.publish();
  }
}

const TWO_32 = 2 ** 32;

/** Adds to a u64 in the ring that is not published yet. A time that is 0 is none, and stays so. */
function addToTime({ words, wordMask }: RingWriter, position: number, ns: number): void {
  const lowAt = (position / 4) & wordMask;
  const highAt = (lowAt + 1) & wordMask;
  if (words[lowAt] === 0 && words[highAt] === 0) return;
  const low = (words[lowAt] as number) + (ns % TWO_32);
  words[lowAt] = low;
  words[highAt] = (words[highAt] as number) + Math.floor(ns / TWO_32) + (low >= TWO_32 ? 1 : 0);
}

/** The recording's span, and as much more as lies between two of its records on average: at least 1 ns. */
function passNs({ count, time }: RecordIndex): number {
  if (count === 0) return 0;
  const first = time[0] as number;
  const last = time.reduce((latest, own) => Math.max(latest, own), first);
  return last - first + Math.max(1, Math.round((last - first) / count));
}

function main(): void {
  const setup = producerSetup();
  const data = setup.data as ReplayProducerData;
  const writers = data.rings.map(
    ({ address, dataBytes, cpu, pollFd }) =>
      new RingWriter(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes, cpu, () => signalEventfd(pollFd)),
  );
  const aux = new AuxPlayer(data.bytes, data.aux, viewMemory, signalEventfd);
  const replay = new Replay(data, writers, aux);
  const ended = (run: number): void => parentPort?.postMessage({ run } satisfies ReplayEnded);
  runProducer<ReplayCommand>(
    setup,
    (command) => replay.obey(command),
    () => replay.step(performance.now(), ended),
  );
}

main();
