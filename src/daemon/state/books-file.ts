/** The file of settled books (delivery/settled-books.ts): a header, and a row for each slot of the handler table. */
import { SETTLED_ROW_DOUBLES, SettledBooks } from "../delivery/settled-books.js";

/** "NMID" */
const MAGIC = 0x4e4d4944;
const VERSION = 1;
/** Doubles, on a cache line of their own. */
const HEADER = { MAGIC: 0, VERSION: 1, CAPACITY: 2, ROW_DOUBLES: 3, ALIVE_NS: 4, END: 8 } as const;

export function booksFileBytes(capacity: number): number {
  return (HEADER.END + capacity * SETTLED_ROW_DOUBLES) * 8;
}

export class BooksFile {
  readonly #doubles: Float64Array;
  readonly capacity: number;

  private constructor(doubles: Float64Array, capacity: number) {
    this.#doubles = doubles;
    this.capacity = capacity;
  }

  /** In zeroed memory of booksFileBytes. */
  static format(memory: ArrayBuffer, capacity: number): BooksFile {
    const doubles = new Float64Array(memory, 0, booksFileBytes(capacity) / 8);
    doubles[HEADER.VERSION] = VERSION;
    doubles[HEADER.CAPACITY] = capacity;
    doubles[HEADER.ROW_DOUBLES] = SETTLED_ROW_DOUBLES;
    doubles[HEADER.MAGIC] = MAGIC;
    return new BooksFile(doubles, capacity);
  }

  /** What a daemon has left; null where that cannot be read by this code. */
  static open(memory: ArrayBuffer): BooksFile | null {
    const doubles = new Float64Array(memory, 0, Math.floor(memory.byteLength / 8));
    const capacity = doubles[HEADER.CAPACITY];
    const known =
      doubles.length >= HEADER.END &&
      doubles[HEADER.MAGIC] === MAGIC &&
      doubles[HEADER.VERSION] === VERSION &&
      doubles[HEADER.ROW_DOUBLES] === SETTLED_ROW_DOUBLES &&
      Number.isInteger(capacity) &&
      capacity >= 0 &&
      booksFileBytes(capacity) <= memory.byteLength;
    return known ? new BooksFile(doubles, capacity) : null;
  }

  /** When the daemon was last known to be at work, CLOCK_MONOTONIC. */
  get aliveNs(): number {
    return this.#doubles[HEADER.ALIVE_NS];
  }

  set aliveNs(ns: number) {
    this.#doubles[HEADER.ALIVE_NS] = ns;
  }

  row(slot: number): SettledBooks {
    const from = HEADER.END + slot * SETTLED_ROW_DOUBLES;
    return new SettledBooks(this.#doubles.subarray(from, from + SETTLED_ROW_DOUBLES));
  }
}
