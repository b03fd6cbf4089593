/**
 * The consumer's side of a perf ring: mechanism only. Policy (how much to drain, what to do with it) is the dispatcher's.
 *
 * Protocol (tools/include/linux/ring_buffer.h): load data_head with acquire, read records, finish every read, then store
 * data_tail with release. Both count bytes and never wrap; the offset into the data area does.
 */
import { MMAP_PAGE, PAGE_BYTES } from "./abi.js";

export class RingReader {
  /** The data area as 32-bit words; index with `& wordMask`. Records are 8-byte aligned, a payload may wrap. */
  readonly words: Uint32Array;
  readonly wordMask: number;
  readonly dataBytes: number;
  readonly #control: BigUint64Array;
  /** Position of the next unread byte. A double: exact below 2^53 bytes, 104 days at 1 GB/s. */
  #tail: number;

  /** `memory` is the whole mapping: control page, then data. */
  constructor(memory: ArrayBuffer, dataBytes: number) {
    if (dataBytes <= 0 || (dataBytes & (dataBytes - 1)) !== 0) {
      throw new RangeError(`ring of ${dataBytes} bytes: not a power of two`);
    }
    this.#control = new BigUint64Array(memory, 0, PAGE_BYTES / 8);
    this.words = new Uint32Array(memory, PAGE_BYTES, dataBytes / 4);
    this.wordMask = dataBytes / 4 - 1;
    this.dataBytes = dataBytes;
    this.#tail = this.loadTail();
  }

  get tail(): number {
    return this.#tail;
  }

  /** Bytes written so far. Pairs with the writer's release: records below the head may be read after this load. */
  loadHead(): number {
    return Number(Atomics.load(this.#control, MMAP_PAGE.DATA_HEAD / 8));
  }

  /** The tail as whoever drains the ring has stored it: for who looks on from elsewhere. */
  loadTail(): number {
    return Number(Atomics.load(this.#control, MMAP_PAGE.DATA_TAIL / 8));
  }

  /** Gives everything below `position` back to the writer. Every read of it must be done. */
  storeTail(position: number): void {
    this.#tail = position;
    Atomics.store(this.#control, MMAP_PAGE.DATA_TAIL / 8, BigInt(position));
  }
}
