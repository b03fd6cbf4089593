/** Entry of the worker thread that writes a recording's records into rings, at the pace of their times. */
import { parentPort } from "node:worker_threads";
import { PAGE_BYTES, RECORD } from "../abi.js";
import { signalEventfd, viewMemory } from "../ffi.js";
import type { RingDescriptor } from "../source.js";
import { addLost, addProduced, type CountsBuffer } from "./producer-counts.js";
import { producerSetup, runProducer } from "./producer-loop.js";
import type { RecordIndex } from "./record-index.js";
import { RingWriter } from "./ring-writer.js";

export interface ReplayProducerData {
  readonly rings: readonly RingDescriptor[];
  /** The recording. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly index: RecordIndex;
  /** How many events the recording holds. */
  readonly attrs: number;
  /** 1 is the recorded pace, infinity as fast as the readers drain. */
  readonly speed: number;
  /** By attr, over all runs. What the recording's LOST records tell of counts as made and lost. */
  readonly counts: CountsBuffer;
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

class Replay {
  readonly #data: ReplayProducerData;
  readonly #view: DataView;
  readonly #writers: readonly RingWriter[];
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
  #firstTimeNs = 0;

  constructor(data: ReplayProducerData, writers: readonly RingWriter[]) {
    this.#data = data;
    this.#view = new DataView(data.bytes.buffer, data.bytes.byteOffset, data.bytes.byteLength);
    this.#writers = writers;
    this.#enabled = new Uint32Array(data.attrs);
  }

  obey(command: ReplayCommand): void {
    switch (command.kind) {
      case "begin":
        this.#run = command.run;
        this.#next = 0;
        this.#startMs = null;
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
    this.#startMs ??= this.#start(nowMs);
    if (this.#next < this.#data.index.count) return this.#writeDue(nowMs - this.#startMs);
    if (!this.#writers.every((writer) => writer.isDrained())) return READER_POLL_MS;
    const run = this.#run;
    this.#run = null;
    ended(run);
    return Number.POSITIVE_INFINITY;
  }

  #start(nowMs: number): number {
    const { time } = this.#data.index;
    // Records that perf made up before the first timed one have time 0.
    this.#firstTimeNs = time.find((timeNs) => timeNs > 0) ?? 0;
    return nowMs;
  }

  #writeDue(elapsedMs: number): number {
    const { index, speed } = this.#data;
    const limitNs = this.#firstTimeNs + elapsedMs * 1e6 * speed;
    const end = Math.min(index.count, this.#next + STEP_RECORDS_MAX);
    while (this.#next < end && (index.time[this.#next] as number) <= limitNs) {
      if (!this.#write(this.#next)) {
        this.#publish(true);
        return READER_POLL_MS;
      }
      this.#next++;
    }
    const isLast = this.#next === index.count;
    this.#publish(isLast || this.#wakeEachCount > 0);
    if (isLast || this.#next === end) return 0;
    return ((index.time[this.#next] as number) - limitNs) / (1e6 * speed);
  }

  /** False when its ring has no room yet. */
  #write(record: number): boolean {
    const { index, bytes, counts } = this.#data;
    const attr = index.attr[record] as number;
    if (this.#enabled[attr] === 0) return true;
    const at = index.offset[record] as number;
    const size = this.#view.getUint16(at + 6, true);
    const writer = this.#writers[index.ring[record] as number] as RingWriter;
    if (writer.room() < size) return false;
    writer.append(bytes, at, at + size);
    const type = this.#view.getUint32(at, true);
    if (type === RECORD.SAMPLE) addProduced(counts, attr, 1);
    // { header, id, lost }
    if (type === RECORD.LOST && size >= 24) addLost(counts, attr, Number(this.#view.getBigUint64(at + 16, true)));
    return true;
  }

  #publish(wakeNow: boolean): void {
    for (const writer of this.#writers) writer.publish(wakeNow);
  }
}

function main(): void {
  const setup = producerSetup();
  const data = setup.data as ReplayProducerData;
  const writers = data.rings.map(
    ({ address, dataBytes, cpu, pollFd }) =>
      new RingWriter(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes, cpu, () => signalEventfd(pollFd)),
  );
  const replay = new Replay(data, writers);
  const ended = (run: number): void => parentPort?.postMessage({ run } satisfies ReplayEnded);
  runProducer<ReplayCommand>(
    setup,
    (command) => replay.obey(command),
    () => replay.step(performance.now(), ended),
  );
}

main();
