/**
 * Which parts of some slabs are free: a binary buddy allocator, known to the allocating thread alone. What is free side by
 * side is one block again when it is needed, whatever sizes it was taken in, so that what stays long keeps from the others no more
 * than the block it lies in, and not its slab.
 *
 * Each slab is a tree of blocks, the slab its root, SEGMENT_BYTES_MIN its leaves; a node says how large the largest free
 * block in it is. To take a block or to give it back is a walk between root and node, CLASSES steps at most.
 */
import { CLASSES, UNITS_PER_SLAB } from "./segment-layout.js";

const NODES = 2 * UNITS_PER_SLAB;
const ROOT = 1;
const NONE = -1;

function lowestBit(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}

/** Slabs by number, each at most once, lowest first: what is taken again and again stays low, and the rest stays untouched or whole. */
class SlabSet {
  readonly #words: Int32Array;
  size = 0;
  /** No word below holds a bit. */
  #lowest = 0;

  constructor(slabs: number) {
    this.#words = new Int32Array(Math.ceil(slabs / 32));
  }

  add(slab: number): void {
    const word = slab >>> 5;
    this.size++;
    this.#words[word] |= 1 << (slab & 31);
    if (word < this.#lowest) this.#lowest = word;
  }

  delete(slab: number): void {
    this.size--;
    this.#words[slab >>> 5] &= ~(1 << (slab & 31));
  }

  /** Of a set that is not empty. */
  lowest(): number {
    while (this.#words[this.#lowest] === 0) this.#lowest++;
    return this.#lowest * 32 + lowestBit(this.#words[this.#lowest]);
  }
}

export class SlabPool {
  readonly #firstUnit: number;
  /** By slab and node, children of n at 2n and 2n + 1: class of the largest free block in there plus 1; 0 when there is none. */
  readonly #free: Uint8Array;
  /** Slabs by their largest free block's class. */
  readonly #byLargest: readonly SlabSet[];
  /** The classes with any slabs there, a bit each. */
  #sizes = 0;
  /** By class, a block that was given back and is not joined to its neighbours yet: most likely the next that is taken. */
  readonly #spares = new Int32Array(CLASSES).fill(NONE);

  /** Of `slabs` slabs from slab `first` on, all free. */
  constructor(first: number, slabs: number) {
    this.#firstUnit = first * UNITS_PER_SLAB;
    this.#free = new Uint8Array(slabs * NODES);
    this.#byLargest = Array.from({ length: CLASSES }, () => new SlabSet(slabs));
    const whole = Uint8Array.from({ length: NODES }, (_, node) => CLASSES - (31 - Math.clz32(node)));
    for (let slab = 0; slab < slabs; slab++) {
      this.#free.set(whole, slab * NODES);
      this.#note(slab, 0, CLASSES);
    }
  }

  /** The class of the largest block that is free, or -1. */
  get largest(): number {
    this.#giveSpares();
    return 31 - Math.clz32(this.#sizes);
  }

  /** First unit of a block of 1 << size units, or -1. */
  take(size: number): number {
    const spare = this.#spares[size];
    if (spare !== NONE) {
      this.#spares[size] = NONE;
      return spare;
    }
    const enough = this.#sizes >>> size;
    if (enough === 0) return this.#giveSpares() ? this.take(size) : NONE;
    const slab = this.#byLargest[size + lowestBit(enough)].lowest();
    const free = this.#free;
    const at = slab * NODES;
    let node = ROOT;
    for (let height = CLASSES - 1; height > size; height--) {
      node *= 2;
      const left = free[at + node];
      const right = free[at + node + 1];
      // The tighter fit, so that what is whole stays whole; the left one of two alike.
      if (left <= size || (right > size && right < left)) node++;
    }
    this.#set(slab, node, size, 0);
    return this.#firstUnit + slab * UNITS_PER_SLAB + (node << size) - UNITS_PER_SLAB;
  }

  /** Takes this block, which must be free. */
  takeAt(unit: number, size: number): void {
    this.#setAt(unit, size, 0);
  }

  give(unit: number, size: number): void {
    if (this.#spares[size] === NONE) this.#spares[size] = unit;
    else this.#setAt(unit, size, size + 1);
  }

  /** False when there were none. */
  #giveSpares(): boolean {
    let any = false;
    for (let size = 0; size < CLASSES; size++) {
      const unit = this.#spares[size];
      if (unit === NONE) continue;
      this.#spares[size] = NONE;
      this.#setAt(unit, size, size + 1);
      any = true;
    }
    return any;
  }

  #setAt(unit: number, size: number, value: number): void {
    const slab = Math.floor((unit - this.#firstUnit) / UNITS_PER_SLAB);
    this.#set(slab, (UNITS_PER_SLAB + (unit & (UNITS_PER_SLAB - 1))) >>> size, size, value);
  }

  #set(slab: number, at: number, size: number, value: number): void {
    const free = this.#free;
    const root = slab * NODES;
    const before = free[root + ROOT];
    let node = at;
    free[root + node] = value;
    for (let height = size + 1; node > ROOT; height++) {
      const left = free[root + (node & ~1)];
      const right = free[root + (node | 1)];
      node >>>= 1;
      // Two halves that are free are the whole.
      const largest = left === height && right === height ? height + 1 : Math.max(left, right);
      if (free[root + node] === largest) return;
      free[root + node] = largest;
    }
    this.#note(slab, before, free[root + ROOT]);
  }

  /** The slab's largest free block has become another: classes plus 1, 0 for none. */
  #note(slab: number, before: number, after: number): void {
    if (before > 0) {
      const slabs = this.#byLargest[before - 1];
      slabs.delete(slab);
      if (slabs.size === 0) this.#sizes &= ~(1 << (before - 1));
    }
    if (after > 0) {
      this.#byLargest[after - 1].add(slab);
      this.#sizes |= 1 << (after - 1);
    }
  }
}
