/**
 * The producer's side of a perf ring, as kernel/events/ring_buffer.c plays it: look whether there is space against
 * data_tail, write records that may wrap, publish data_head last, count what did not fit and tell it in a
 * PERF_RECORD_LOST before the next record that does.
 *
 * One writer a ring. It appends any number of records before it publishes them all at once.
 */
import { CPUMODE, MMAP_PAGE, PAGE_BYTES, RECORD } from "../abi.js";

/** A sample_id trailer of TID, TIME, CPU and IDENTIFIER behind { header, id, lost }. */
const LOST_BYTES = 8 + 16 + 32;

/** The reader is woken when this share of the ring is unread: it then has three quarters of the ring's time to come. */
const WATERMARK_SHARE = 1 / 4;

export class RingWriter {
  /** The data area as 32-bit words, for patching records that are appended but not yet published. */
  readonly words: Uint32Array;
  readonly wordMask: number;
  readonly dataBytes: number;
  readonly #cpu: number;
  readonly #control: BigUint64Array;
  readonly #data: Uint8Array;
  readonly #wake: () => void;
  readonly #lostRecord = new DataView(new ArrayBuffer(LOST_BYTES));
  readonly #lostBytes = new Uint8Array(this.#lostRecord.buffer);
  /** Positions count bytes and never wrap: doubles, exact to 2^53. */
  #head: number;
  #published: number;
  #wokenAt: number;
  #pendingLost = 0;
  /** As it was when last looked at: the reader may have gone on since, and never goes back. */
  #seenTail: number;

  /** `memory` is the whole mapping: control page, then data. `wake` makes the ring's fd readable. */
  constructor(memory: ArrayBuffer, dataBytes: number, cpu: number, wake: () => void) {
    this.#control = new BigUint64Array(memory, 0, PAGE_BYTES / 8);
    this.#data = new Uint8Array(memory, PAGE_BYTES, dataBytes);
    this.words = new Uint32Array(memory, PAGE_BYTES, dataBytes / 4);
    this.wordMask = dataBytes / 4 - 1;
    this.dataBytes = dataBytes;
    this.#cpu = cpu;
    this.#wake = wake;
    this.#head = Number(Atomics.load(this.#control, MMAP_PAGE.DATA_HEAD / 8));
    this.#published = this.#head;
    this.#wokenAt = this.#head;
    this.#seenTail = this.#loadTail();
  }

  /** Position behind the last appended record. */
  get head(): number {
    return this.#head;
  }

  /** The longest record that an empty ring takes: the kernel never fills a ring to the last byte (CIRC_SPACE). */
  get recordBytesMax(): number {
    return this.dataBytes - 8;
  }

  /** Bytes that can be appended now. */
  room(): number {
    return this.recordBytesMax - (this.#head - this.#loadTail());
  }

  /** Whether `bytes` can be appended now. The tail is only looked at when what was free before is used up. */
  hasRoom(bytes: number): boolean {
    const limit = this.#head + bytes - this.recordBytesMax;
    if (this.#seenTail >= limit) return true;
    this.#seenTail = this.#loadTail();
    return this.#seenTail >= limit;
  }

  /** Whether the reader has taken everything that was published. */
  isDrained(): boolean {
    return this.#loadTail() >= this.#published;
  }

  /** Written by the reader, behind its last read of what it gives back; pairs with its store: that space may be reused. */
  #loadTail(): number {
    return Number(Atomics.load(this.#control, MMAP_PAGE.DATA_TAIL / 8));
  }

  /** Appends whole records, `source[start, end)`. The caller has looked at `room`. */
  append(source: Uint8Array, start: number, end: number): void {
    const at = this.#head & (this.dataBytes - 1);
    const untilWrap = Math.min(end - start, this.dataBytes - at);
    this.#data.set(source.subarray(start, start + untilWrap), at);
    if (start + untilWrap < end) this.#data.set(source.subarray(start + untilWrap, end), 0);
    this.#head += end - start;
  }

  /** As `append`, of words: a call into the engine for each record would take longer than most records do. */
  appendWords(source: Uint32Array, start: number, end: number): void {
    const { words, wordMask } = this;
    let to = (this.#head / 4) & wordMask;
    for (let from = start; from < end; from++) {
      words[to] = source[from] as number;
      to = (to + 1) & wordMask;
    }
    this.#head += (end - start) * 4;
  }

  /** Samples that did not fit. */
  countLost(count: number): void {
    this.#pendingLost += count;
  }

  /**
   * Tells pending losses if there is room for that and for `recordBytes` more; false when there is not. As in the
   * kernel, the id is that of the event that writes next, whoever lost the samples.
   */
  settleLost(id: bigint, timeNs: number, recordBytes: number): boolean {
    const lostBytes = this.#pendingLost > 0 ? LOST_BYTES : 0;
    if (this.room() < lostBytes + recordBytes) return false;
    if (lostBytes > 0) {
      this.#encodeLost(id, timeNs);
      this.append(this.#lostBytes, 0, LOST_BYTES);
      this.#pendingLost = 0;
    }
    return true;
  }

  #encodeLost(id: bigint, timeNs: number): void {
    const record = this.#lostRecord;
    record.setUint32(0, RECORD.LOST, true);
    record.setUint16(4, CPUMODE.UNKNOWN, true);
    record.setUint16(6, LOST_BYTES, true);
    record.setBigUint64(8, id, true);
    record.setBigUint64(16, BigInt(this.#pendingLost), true);
    record.setBigUint64(24, 0n, true); // pid, tid: no task
    record.setBigUint64(32, BigInt(Math.floor(timeNs)), true);
    record.setBigUint64(40, BigInt(this.#cpu), true);
    record.setBigUint64(48, id, true);
  }

  /**
   * Shows the reader everything appended. Wakes it when a watermark's worth is unread, or at once with `wakeNow`; a
   * reader that was woken and has not come is not woken again until as much more has gathered.
   */
  publish(wakeNow: boolean): void {
    if (this.#head === this.#published) return;
    this.#published = this.#head;
    // Read by the reader; pairs with its load of data_head: it sees every record below the head.
    Atomics.store(this.#control, MMAP_PAGE.DATA_HEAD / 8, BigInt(this.#head));
    const seen = Math.max(this.#loadTail(), this.#wokenAt);
    if (wakeNow || this.#head - seen >= this.dataBytes * WATERMARK_SHARE) this.wakeReader();
  }

  wakeReader(): void {
    this.#wokenAt = this.#head;
    this.#wake();
  }
}
