/**
 * The columns beside the six that every batch has: which a handler wants, what they take, and how a sample's fields become
 * their elements. As with the six, a column is a header and the ring's own words.
 */
import { MISC, MISC_CPUMODE_MASK, SAMPLE } from "../../pmu/abi.js";
import type { BatchIndex } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import { ANCHOR, type FieldPlace } from "../../pmu/sample-layout.js";
import {
  columnHeader,
  SAMPLE_BATCH_FIELD as FIELD,
  LONG_FIELD,
  longColumnLength,
  longColumnTag,
} from "./column-header.js";
import type { Selection } from "./encode.js";
import { redactAddresses, userFrames } from "./redact.js";

/**
 * Bits of a set of columns: those of SAMPLE for fields that are a column, or some that belong together, and these. A
 * handler wants BRANCH_COUNTERS; a chunk has them, and BRANCH_INDEX, where its samples do. REDACTED is no column but what
 * columns hold: no kernel addresses (redact.ts). It is a bit among these because they are part of what makes a lane, so
 * that those who may see and those who may not are never given the same bytes.
 */
export const COLUMN = {
  BRANCH_INDEX: 1 << 27,
  BRANCH_COUNTERS: 1 << 28,
  CPUMODE: 1 << 29,
  REDACTED: 1 << 30,
} as const;

/** Fields that may hold kernel addresses, or physical ones, in places that nobody can tell. */
export const NOT_REDACTABLE = SAMPLE.RAW | SAMPLE.REGS_INTR | SAMPLE.PHYS_ADDR;

const PLAIN: readonly (readonly [bit: number, field: number])[] = [
  [SAMPLE.ADDR, FIELD.ADDR],
  [SAMPLE.WEIGHT, FIELD.WEIGHT],
  [SAMPLE.DATA_SRC, FIELD.DATA_SRC],
  [SAMPLE.CGROUP, FIELD.CGROUP],
  [SAMPLE.TRANSACTION, FIELD.TRANSACTION],
  [SAMPLE.PHYS_ADDR, FIELD.PHYS_ADDR],
  [SAMPLE.DATA_PAGE_SIZE, FIELD.DATA_PAGE_SIZE],
  [SAMPLE.CODE_PAGE_SIZE, FIELD.CODE_PAGE_SIZE],
];

/** Of each bit: its columns, and the words (4 bytes) a sample takes in them, ragged ones left out. */
const COLUMNS: readonly (readonly [bit: number, fields: readonly number[], words: number])[] = [
  ...PLAIN.map(([bit, field]) => [bit, [field], 2] as const),
  [SAMPLE.CALLCHAIN, [FIELD.CALLCHAIN_LENGTH, FIELD.CALLCHAIN], 1],
  [SAMPLE.RAW, [FIELD.RAW_LENGTH, FIELD.RAW], 1],
  [SAMPLE.BRANCH_STACK, [FIELD.BRANCH_STACK_LENGTH, FIELD.BRANCH_STACK], 1],
  [COLUMN.BRANCH_INDEX, [FIELD.BRANCH_HW_INDEX], 2],
  [COLUMN.BRANCH_COUNTERS, [FIELD.BRANCH_COUNTERS], 0],
  [SAMPLE.REGS_USER, [FIELD.REGS_USER_ABI, FIELD.REGS_USER], 1],
  [SAMPLE.STACK_USER, [FIELD.STACK_USER_LENGTH, FIELD.STACK_USER], 1],
  [SAMPLE.REGS_INTR, [FIELD.REGS_INTR_ABI, FIELD.REGS_INTR], 1],
  [SAMPLE.READ, [FIELD.READ_LENGTH, FIELD.READ], 1],
  [COLUMN.CPUMODE, [FIELD.CPUMODE], 1],
];

const RAGGED = SAMPLE.CALLCHAIN | SAMPLE.RAW | SAMPLE.BRANCH_STACK | SAMPLE.REGS_USER | SAMPLE.STACK_USER;
const RAGGED_MORE = SAMPLE.REGS_INTR | SAMPLE.READ;

interface ColumnWords {
  readonly headers: number;
  readonly perSample: number;
}

const known = new Map<number, ColumnWords>();

function wordsOf(columns: number): ColumnWords {
  const words = known.get(columns);
  if (words !== undefined) return words;
  let headers = 0;
  let perSample = 0;
  for (const [bit, fields, each] of COLUMNS) {
    if ((columns & bit) === 0) continue;
    for (const field of fields) headers += field < LONG_FIELD ? 1 : 2;
    perSample += each;
  }
  const found = { headers, perSample };
  known.set(columns, found);
  return found;
}

/** Bytes of the columns of `samples` samples that have `ragged` words in ragged columns. */
export function columnsBytes(columns: number, samples: number, ragged: number): number {
  if (columns === 0) return 0;
  const { headers, perSample } = wordsOf(columns);
  return (headers + samples * perSample + ragged) * 4;
}

export function hasRagged(columns: number): boolean {
  return (columns & (RAGGED | RAGGED_MORE)) !== 0;
}

/** The columns of a chunk that begins with `sample`, for a lane that wants `columns`. */
export function chunkColumns(columns: number, batch: BatchIndex, sample: number): number {
  if ((columns & SAMPLE.BRANCH_STACK) === 0) return columns & ~COLUMN.BRANCH_COUNTERS;
  const { branchHasIndex, branchHasCounters } = batch.offsetsOf(sample);
  const counted = branchHasCounters ? columns : columns & ~COLUMN.BRANCH_COUNTERS;
  return branchHasIndex ? counted | COLUMN.BRANCH_INDEX : counted;
}

/** Words that one sample takes in the ragged ones of the columns. */
export function raggedWords(columns: number, batch: BatchIndex, ring: RingReader, sample: number): number {
  const { words, wordMask: mask } = ring;
  // The common case, which need not ask for the others.
  if ((columns & (RAGGED | RAGGED_MORE)) === SAMPLE.CALLCHAIN) return callchainDepth(columns, batch, ring, sample) * 2;
  let ragged = 0;
  if ((columns & SAMPLE.CALLCHAIN) !== 0) ragged += callchainDepth(columns, batch, ring, sample) * 2;
  if ((columns & SAMPLE.RAW) !== 0) ragged += countAt(words, mask, batch.wordOf(sample, SAMPLE.RAW)) / 4;
  if ((columns & SAMPLE.BRANCH_STACK) !== 0) {
    const entries = countAt(words, mask, batch.wordOf(sample, SAMPLE.BRANCH_STACK));
    ragged += entries * ((columns & COLUMN.BRANCH_COUNTERS) !== 0 ? 8 : 6);
  }
  if ((columns & SAMPLE.REGS_USER) !== 0) ragged += registerWords(batch, words, mask, sample, SAMPLE.REGS_USER);
  if ((columns & SAMPLE.STACK_USER) !== 0) {
    ragged += Math.ceil(stackBytes(words, mask, batch.wordOf(sample, SAMPLE.STACK_USER)) / 8) * 2;
  }
  if ((columns & SAMPLE.REGS_INTR) !== 0) ragged += registerWords(batch, words, mask, sample, SAMPLE.REGS_INTR);
  if ((columns & SAMPLE.READ) !== 0) ragged += readWords(batch, words, mask, sample);
  return ragged;
}

function callchainDepth(columns: number, batch: BatchIndex, ring: RingReader, sample: number): number {
  const { words, wordMask: mask } = ring;
  const at = batch.wordOf(sample, SAMPLE.CALLCHAIN);
  const depth = countAt(words, mask, at);
  return (columns & COLUMN.REDACTED) === 0 ? depth : userFrames(words, mask, at + 2, depth, null, 0);
}

/** The count or size at a field's word, which the scan has found to fit; 0 without the field. */
function countAt(words: Uint32Array, mask: number, at: number): number {
  return at < 0 ? 0 : words[at & mask];
}

function registerWords(batch: BatchIndex, words: Uint32Array, mask: number, sample: number, bit: number): number {
  if (countAt(words, mask, batch.wordOf(sample, bit)) === 0) return 0;
  const { regsUserWords, regsIntrWords } = batch.offsetsOf(sample);
  return bit === SAMPLE.REGS_USER ? regsUserWords : regsIntrWords;
}

/** How much of the stack the kernel could copy. */
function stackBytes(words: Uint32Array, mask: number, at: number): number {
  const room = countAt(words, mask, at);
  return room === 0 ? 0 : words[(at + 2 + room / 4) & mask];
}

function readWords(batch: BatchIndex, words: Uint32Array, mask: number, sample: number): number {
  const at = batch.wordOf(sample, SAMPLE.READ);
  if (at < 0) return 0;
  const { isGroup, fixed, each } = batch.offsetsOf(sample).readWords;
  return isGroup ? fixed + words[at & mask] * each : fixed;
}

/** Writes the columns of selection[from, to) at word `at` of `out`: exactly columnsBytes. */
export function encodeColumns(
  out: Uint32Array,
  at: number,
  columns: number,
  batch: BatchIndex,
  ring: RingReader,
  selection: Selection,
  from: number,
  to: number,
): void {
  const isRedacted = (columns & COLUMN.REDACTED) !== 0;
  const writer = new ColumnWriter(out, at, batch, ring, selection.sample, from, to, isRedacted);
  for (const [bit, field] of PLAIN) if ((columns & bit) !== 0) writer.plain(bit, field);
  if ((columns & SAMPLE.CALLCHAIN) !== 0) writer.callchains();
  if ((columns & SAMPLE.RAW) !== 0) writer.raw();
  if ((columns & SAMPLE.BRANCH_STACK) !== 0) writer.branches(columns);
  if ((columns & SAMPLE.REGS_USER) !== 0) writer.registers(SAMPLE.REGS_USER, FIELD.REGS_USER_ABI, FIELD.REGS_USER);
  if ((columns & SAMPLE.STACK_USER) !== 0) writer.stacks();
  if ((columns & SAMPLE.REGS_INTR) !== 0) writer.registers(SAMPLE.REGS_INTR, FIELD.REGS_INTR_ABI, FIELD.REGS_INTR);
  if ((columns & SAMPLE.READ) !== 0) writer.reads();
  if ((columns & COLUMN.CPUMODE) !== 0) writer.cpumodes();
}

/** One chunk's; made once a chunk. */
class ColumnWriter {
  readonly #out: Uint32Array;
  readonly #batch: BatchIndex;
  readonly #words: Uint32Array;
  readonly #mask: number;
  readonly #sample: Uint32Array;
  readonly #from: number;
  readonly #to: number;
  readonly #isRedacted: boolean;
  /** Next word of `out`. */
  #w: number;

  constructor(
    out: Uint32Array,
    at: number,
    batch: BatchIndex,
    ring: RingReader,
    sample: Uint32Array,
    from: number,
    to: number,
    isRedacted: boolean,
  ) {
    this.#out = out;
    this.#isRedacted = isRedacted;
    this.#w = at;
    this.#batch = batch;
    this.#words = ring.words;
    this.#mask = ring.wordMask;
    this.#sample = sample;
    this.#from = from;
    this.#to = to;
  }

  #header(field: number, bytes: number): void {
    if (field >= LONG_FIELD) this.#out[this.#w++] = longColumnTag(field);
    this.#out[this.#w++] = field < LONG_FIELD ? columnHeader(field, bytes) : longColumnLength(bytes);
  }

  /** Where the field is that all samples have in the same place, looked up once; null where formats differ. */
  #place(bit: number): FieldPlace | undefined | null {
    const { uniform } = this.#batch;
    return uniform === null ? null : uniform.places.get(bit);
  }

  #wordOf(place: FieldPlace | undefined | null, bit: number, i: number): number {
    if (place === undefined) return -1;
    return place === null ? this.#batch.wordOf(i, bit) : this.#batch.wordAt(i, place);
  }

  plain(bit: number, field: number): void {
    const place = this.#place(bit);
    const words = this.#words;
    const mask = this.#mask;
    const out = this.#out;
    this.#header(field, (this.#to - this.#from) * 8);
    let w = this.#w;
    for (let k = this.#from; k < this.#to; k++) {
      const at = this.#wordOf(place, bit, this.#sample[k]);
      out[w++] = at < 0 ? 0 : words[at & mask];
      out[w++] = at < 0 ? 0 : words[(at + 1) & mask];
    }
    if (this.#isRedacted && bit === SAMPLE.ADDR) redactAddresses(out, this.#w, this.#to - this.#from, 2);
    this.#w = w;
  }

  /** A column of what `length` says of each sample's field, at `at`; returns the sum. */
  #lengths(field: number, bit: number, length: (at: number, sample: number) => number): number {
    const place = this.#place(bit);
    let total = 0;
    this.#header(field, (this.#to - this.#from) * 4);
    for (let k = this.#from; k < this.#to; k++) {
      const i = this.#sample[k];
      const value = length(this.#wordOf(place, bit, i), i);
      this.#out[this.#w++] = value;
      total += value;
    }
    return total;
  }

  #copy(at: number, count: number): void {
    const words = this.#words;
    const mask = this.#mask;
    const out = this.#out;
    let w = this.#w;
    for (let j = 0; j < count; j++) out[w++] = words[(at + j) & mask];
    this.#w = w;
  }

  callchains(): void {
    const words = this.#words;
    const mask = this.#mask;
    const place = this.#place(SAMPLE.CALLCHAIN);
    if (this.#isRedacted) {
      this.#userCallchains(place);
      return;
    }
    const addresses = this.#lengths(FIELD.CALLCHAIN_LENGTH, SAMPLE.CALLCHAIN, (at) => countAt(words, mask, at));
    this.#header(FIELD.CALLCHAIN, addresses * 8);
    for (let k = this.#from; k < this.#to; k++) {
      const at = this.#wordOf(place, SAMPLE.CALLCHAIN, this.#sample[k]);
      this.#copy(at + 2, countAt(words, mask, at) * 2);
    }
  }

  #userCallchains(place: FieldPlace | undefined | null): void {
    const words = this.#words;
    const mask = this.#mask;
    const frames = (at: number, out: Uint32Array | null): number =>
      userFrames(words, mask, at + 2, countAt(words, mask, at), out, this.#w);
    const addresses = this.#lengths(FIELD.CALLCHAIN_LENGTH, SAMPLE.CALLCHAIN, (at) => frames(at, null));
    this.#header(FIELD.CALLCHAIN, addresses * 8);
    for (let k = this.#from; k < this.#to; k++) {
      this.#w += 2 * frames(this.#wordOf(place, SAMPLE.CALLCHAIN, this.#sample[k]), this.#out);
    }
  }

  raw(): void {
    const words = this.#words;
    const mask = this.#mask;
    const place = this.#place(SAMPLE.RAW);
    const total = this.#lengths(FIELD.RAW_LENGTH, SAMPLE.RAW, (at) => countAt(words, mask, at) / 4);
    this.#header(FIELD.RAW, total * 4);
    for (let k = this.#from; k < this.#to; k++) {
      const at = this.#wordOf(place, SAMPLE.RAW, this.#sample[k]);
      this.#copy(at + 1, countAt(words, mask, at) / 4);
    }
  }

  branches(columns: number): void {
    const words = this.#words;
    const mask = this.#mask;
    const batch = this.#batch;
    const bit = SAMPLE.BRANCH_STACK;
    const place = this.#place(bit);
    const entries = this.#lengths(FIELD.BRANCH_STACK_LENGTH, bit, (at) => countAt(words, mask, at));
    this.#header(FIELD.BRANCH_STACK, entries * 24);
    const stack = this.#w;
    for (let k = this.#from; k < this.#to; k++) {
      const i = this.#sample[k];
      const at = this.#wordOf(place, bit, i);
      this.#copy(at + (batch.offsetsOf(i).branchHasIndex ? 4 : 2), countAt(words, mask, at) * 6);
    }
    if (this.#isRedacted) {
      // { from, to, flags }
      redactAddresses(this.#out, stack, entries, 6);
      redactAddresses(this.#out, stack + 2, entries, 6);
    }
    if ((columns & COLUMN.BRANCH_INDEX) !== 0) this.#branchIndexes();
    if ((columns & COLUMN.BRANCH_COUNTERS) === 0) return;
    this.#header(FIELD.BRANCH_COUNTERS, entries * 8);
    for (let k = this.#from; k < this.#to; k++) {
      const i = this.#sample[k];
      const at = this.#wordOf(place, bit, i);
      const count = countAt(words, mask, at);
      const { branchHasIndex, branchHasCounters } = batch.offsetsOf(i);
      if (branchHasCounters) this.#copy(at + (branchHasIndex ? 4 : 2) + count * 6, count * 2);
      else for (let j = 0; j < count * 2; j++) this.#out[this.#w++] = 0;
    }
  }

  #branchIndexes(): void {
    const batch = this.#batch;
    const branchAnchor = batch.anchors[ANCHOR.BRANCH_STACK];
    const nextAnchor = batch.anchors[ANCHOR.REGS_USER];
    const place = this.#place(SAMPLE.BRANCH_STACK);
    this.#header(FIELD.BRANCH_HW_INDEX, (this.#to - this.#from) * 8);
    for (let k = this.#from; k < this.#to; k++) {
      const i = this.#sample[k];
      const at = this.#wordOf(place, SAMPLE.BRANCH_STACK, i);
      // A sample without any branch stack is nothing but its count, of 0.
      const isThere = at >= 0 && batch.offsetsOf(i).branchHasIndex && nextAnchor[i] - branchAnchor[i] > 2;
      this.#out[this.#w++] = isThere ? this.#words[(at + 2) & this.#mask] : 0xffff_ffff;
      this.#out[this.#w++] = isThere ? this.#words[(at + 3) & this.#mask] : 0xffff_ffff;
    }
  }

  registers(bit: number, abiField: number, field: number): void {
    const words = this.#words;
    const mask = this.#mask;
    const batch = this.#batch;
    const place = this.#place(bit);
    let total = 0;
    this.#lengths(abiField, bit, (at, i) => {
      total += registerWords(batch, words, mask, i, bit);
      return countAt(words, mask, at);
    });
    this.#header(field, total * 4);
    for (let k = this.#from; k < this.#to; k++) {
      const i = this.#sample[k];
      this.#copy(this.#wordOf(place, bit, i) + 2, registerWords(batch, words, mask, i, bit));
    }
  }

  stacks(): void {
    const words = this.#words;
    const mask = this.#mask;
    const place = this.#place(SAMPLE.STACK_USER);
    let total = 0;
    this.#lengths(FIELD.STACK_USER_LENGTH, SAMPLE.STACK_USER, (at) => {
      const bytes = stackBytes(words, mask, at);
      total += Math.ceil(bytes / 8) * 8;
      return bytes;
    });
    this.#header(FIELD.STACK_USER, total);
    for (let k = this.#from; k < this.#to; k++) {
      const at = this.#wordOf(place, SAMPLE.STACK_USER, this.#sample[k]);
      this.#copy(at + 2, Math.ceil(stackBytes(words, mask, at) / 8) * 2);
    }
  }

  reads(): void {
    const words = this.#words;
    const mask = this.#mask;
    const batch = this.#batch;
    const place = this.#place(SAMPLE.READ);
    const total = this.#lengths(FIELD.READ_LENGTH, SAMPLE.READ, (_, i) => readWords(batch, words, mask, i) / 2);
    this.#header(FIELD.READ, total * 8);
    for (let k = this.#from; k < this.#to; k++) {
      const i = this.#sample[k];
      this.#copy(this.#wordOf(place, SAMPLE.READ, i), readWords(batch, words, mask, i));
    }
  }

  cpumodes(): void {
    const { at } = this.#batch;
    this.#header(FIELD.CPUMODE, (this.#to - this.#from) * 4);
    for (let k = this.#from; k < this.#to; k++) {
      // { u32 type, u16 misc, u16 size }
      const misc = this.#words[(at[this.#sample[k]] + 1) & this.#mask];
      this.#out[this.#w++] = misc & (MISC_CPUMODE_MASK | MISC.EXACT_IP);
    }
  }
}
