/**
 * When processes become others: by exec, by being forked under a pid that was another's before, by exiting. Read from the
 * task records of all CPUs' rings, where they lie: those that another dispatcher drains, too, for what a sample's process
 * did on another CPU is told there. Only this says whether what /proc shows now was so when a sample was taken.
 *
 * Nothing here writes to a ring. What has been overwritten before it could be read, and what the kernel may have had no
 * room for, makes everything before that moment unknown.
 */
import { MISC, RECORD } from "../../pmu/abi.js";
import type { RingReader } from "../../pmu/ring.js";
import type { TrailerTable } from "../../pmu/task-record.js";

/** More than any of the records that are looked for: where a ring had this room they have not been lost. */
const ROOM_BYTES = 4096;
const CHANGES_MAX = 65_536;
const TWO_32 = 2 ** 32;

interface Watched {
  readonly reader: RingReader;
  /** Up to where it has been read, and where its tail was before that. */
  cursor: number;
  tail: number;
}

export class IdentityWatch {
  /** By address. */
  readonly #rings = new Map<bigint, Watched>();
  readonly #trailers: TrailerTable;
  readonly #now: () => number;
  /** By pid: when it last became another, by the records' clock. */
  readonly #changedNs = new Map<number, number>();
  /** Every change since then is known. */
  #completeSinceNs = Number.POSITIVE_INFINITY;

  /** `now` is the records' clock. */
  constructor(trailers: TrailerTable, now: () => number) {
    this.#trailers = trailers;
    this.#now = now;
  }

  /** A CPU has come, and its ring: what was done there before is not known. */
  add(address: bigint, reader: RingReader): void {
    this.#rings.set(address, { reader, cursor: reader.loadHead(), tail: reader.loadTail() });
    this.forget();
  }

  /** A CPU has gone. What it told to the end still counts. */
  remove(address: bigint): void {
    this.scan();
    this.#rings.delete(address);
  }

  /** What was done before is not known any more. */
  forget(): void {
    if (this.#completeSinceNs !== Number.POSITIVE_INFINITY) this.#loseTrack();
  }

  /** Task records flow: what changes from now on is known. */
  start(): void {
    this.#changedNs.clear();
    for (const ring of this.#rings.values()) {
      ring.tail = ring.reader.loadTail();
      ring.cursor = ring.reader.loadHead();
    }
    // After the heads: nothing that happened before is claimed to be known.
    this.#completeSinceNs = this.#now();
  }

  stop(): void {
    this.#completeSinceNs = Number.POSITIVE_INFINITY;
  }

  /** Since when every change is known; infinite: never. */
  get completeSinceNs(): number {
    return this.#completeSinceNs;
  }

  /** When the process last became another, or since when no change is unknown, whichever is later. */
  sameSinceNs(pid: number): number {
    return Math.max(this.#completeSinceNs, this.#changedNs.get(pid) ?? 0);
  }

  /** Reads what all rings hold by now. What a process had done before it was sampled was published before the sample. */
  scan(): void {
    if (this.#completeSinceNs === Number.POSITIVE_INFINITY) return;
    for (const ring of this.#rings.values()) if (!this.#scanRing(ring)) this.#loseTrack();
    if (this.#changedNs.size > CHANGES_MAX) this.#loseTrack();
  }

  #loseTrack(): void {
    this.#changedNs.clear();
    this.#completeSinceNs = this.#now();
  }

  /** False when something may have been missed. */
  #scanRing(ring: Watched): boolean {
    const { reader, cursor } = ring;
    const { dataBytes } = reader;
    const tail = reader.loadTail();
    const head = reader.loadHead();
    if (head === cursor) {
      ring.tail = tail;
      return true;
    }
    // Since the last look the ring may have been so full that the kernel dropped what we wait for; and of what it holds now
    // the tail may have been passed, and written over.
    const isSound = head - ring.tail <= dataBytes - ROOM_BYTES && head >= cursor && this.#read(reader, cursor, head);
    ring.cursor = head;
    ring.tail = tail;
    // The writer's position after all was read: what it has reached by then may not be what was written first.
    return isSound && reader.loadHead() - cursor <= dataBytes;
  }

  #read({ words, wordMask: mask }: RingReader, from: number, to: number): boolean {
    let word = (from / 4) & mask;
    for (let left = to - from; left > 0; ) {
      const miscAndSize = words[(word + 1) & mask];
      const size = miscAndSize >>> 16;
      if (size < 8 || (size & 7) !== 0 || size > left) return false;
      const type = words[word];
      if (type === RECORD.LOST) return false;
      if (type === RECORD.COMM) {
        if ((miscAndSize & MISC.COMM_EXEC) !== 0 && !this.#noteExec(words, mask, word, size >>> 2)) return false;
      } else if (type === RECORD.FORK || type === RECORD.EXIT) this.#noteTask(words, mask, word, type);
      left -= size;
      word = (word + (size >>> 2)) & mask;
    }
    return true;
  }

  #noteExec(words: Uint32Array, mask: number, at: number, size: number): boolean {
    const { time } = this.#trailers.of(words, mask, at, size);
    if (time === 0) return false;
    const timeAt = at + size - time;
    this.#note(words[(at + 2) & mask], words[timeAt & mask] + words[(timeAt + 1) & mask] * TWO_32);
    return true;
  }

  /** { header, pid, ppid, tid, ptid, time }: a process forked, not a thread; its first thread gone. */
  #noteTask(words: Uint32Array, mask: number, at: number, type: number): void {
    const pid = words[(at + 2) & mask];
    const isProcess = type === RECORD.FORK ? pid !== words[(at + 3) & mask] : pid === words[(at + 4) & mask];
    if (isProcess) this.#note(pid, words[(at + 6) & mask] + words[(at + 7) & mask] * TWO_32);
  }

  #note(pid: number, timeNs: number): void {
    if (timeNs > (this.#changedNs.get(pid) ?? 0)) this.#changedNs.set(pid, timeNs);
  }
}
