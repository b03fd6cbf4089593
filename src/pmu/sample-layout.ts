/**
 * What is where in a PERF_RECORD_SAMPLE: from perf_event_attr to word offsets, and a walk over the fields of a sample
 * whose length the sample itself says.
 */
import { BRANCH_SAMPLE, FORMAT, SAMPLE } from "./abi.js";
import type { RecordFormat } from "./source.js";

const ABSENT = -1;

/**
 * Where places are counted from. RECORD is the sample's header; the others are noted for each sample by `walkSample`,
 * since fields of variable length lie before them.
 */
export const ANCHOR = {
  RECORD: 0,
  CALLCHAIN: 1,
  RAW: 2,
  BRANCH_STACK: 3,
  REGS_USER: 4,
  STACK_USER: 5,
  BEHIND_STACK: 6,
  BEHIND_REGS_INTR: 7,
} as const;
export const ANCHORS = 8;

export interface FieldPlace {
  /** One of ANCHOR. */
  readonly anchor: number;
  /** In words (4 bytes) from there. */
  readonly offset: number;
}

/** Word offsets (4 bytes) from a sample's header; -1 where the sample does not carry the field. */
export interface SampleOffsets {
  readonly ip: number;
  /** pid; tid is the next word. */
  readonly pid: number;
  readonly time: number;
  readonly id: number;
  readonly cpu: number;
  readonly period: number;
  /** The rest, by SAMPLE bit; WEIGHT_STRUCT as WEIGHT. Of a field of variable length, where its count or size is. */
  readonly places: ReadonlyMap<number, FieldPlace>;
  /** What a record must hold before anything of variable length is looked at. */
  readonly minWords: number;
  /** The only field of variable length, and the last: its place is fixed, and nothing needs to be walked over. -1: it is not. */
  readonly lastCallchain: number;
  /** Null where all places are fixed. */
  readonly walk: SampleWalk | null;
  /** What `read`, `branch_stack` and registers look like. */
  readonly readWords: ReadWords;
  readonly branchHasIndex: boolean;
  readonly branchHasCounters: boolean;
  readonly regsUserWords: number;
  readonly regsIntrWords: number;
}

/** What of a format makes a difference to where things are. */
export type LayoutFormat = Pick<
  RecordFormat,
  "sampleType" | "readFormat" | "branchSampleType" | "sampleRegsUser" | "sampleRegsIntr"
>;

/** `fixed` words, and with PERF_FORMAT_GROUP `each` for every member of the group. */
interface ReadWords {
  readonly isGroup: boolean;
  readonly fixed: number;
  readonly each: number;
}

/** The part of a sample that has to be walked over. */
export interface SampleWalk {
  /** Where the first field of variable length is. */
  readonly from: number;
  readonly sampleType: number;
  readonly readWords: ReadWords;
  readonly branchHasIndex: boolean;
  /** Of an entry. */
  readonly branchWords: number;
  readonly regsUserWords: number;
  /** WEIGHT, DATA_SRC and TRANSACTION. */
  readonly behindStackWords: number;
  readonly regsIntrWords: number;
  /** PHYS_ADDR, CGROUP and the page sizes. */
  readonly behindRegsIntrWords: number;
}

/** Before READ, all of two words. */
const FIXED = [
  SAMPLE.IDENTIFIER,
  SAMPLE.IP,
  SAMPLE.TID,
  SAMPLE.TIME,
  SAMPLE.ADDR,
  SAMPLE.ID,
  SAMPLE.STREAM_ID,
  SAMPLE.CPU,
  SAMPLE.PERIOD,
] as const;
const BEHIND_STACK = [SAMPLE.WEIGHT, SAMPLE.DATA_SRC, SAMPLE.TRANSACTION] as const;
const BEHIND_REGS_INTR = [SAMPLE.PHYS_ADDR, SAMPLE.CGROUP, SAMPLE.DATA_PAGE_SIZE, SAMPLE.CODE_PAGE_SIZE] as const;
const VARIABLE =
  SAMPLE.CALLCHAIN |
  SAMPLE.RAW |
  SAMPLE.BRANCH_STACK |
  SAMPLE.REGS_USER |
  SAMPLE.STACK_USER |
  SAMPLE.REGS_INTR |
  SAMPLE.AUX;
const NO_FIELDS = { sampleType: 0 };

const interned = new Map<string, SampleOffsets>();

/** One object for each format, so that events of the same format are seen to have the same format. */
export function internedOffsets(format: LayoutFormat = NO_FIELDS): SampleOffsets {
  const { sampleType, readFormat, branchSampleType, sampleRegsUser, sampleRegsIntr } = format;
  const key = `${sampleType} ${readFormat} ${branchSampleType} ${sampleRegsUser} ${sampleRegsIntr}`;
  const known = interned.get(key) ?? sampleOffsets(format);
  interned.set(key, known);
  return known;
}

/** Order of the fields: perf_event_open(2), "PERF_RECORD_SAMPLE". */
export function sampleOffsets(format: LayoutFormat): SampleOffsets {
  // The two share a place: no sample has both.
  const { sampleType: given } = format;
  const sampleType = (given & SAMPLE.WEIGHT_STRUCT) !== 0 ? given | SAMPLE.WEIGHT : given;
  const has = (bit: number): boolean => (sampleType & bit) !== 0;
  const places = new Map<number, FieldPlace>();
  let next = 2; // behind the header
  for (const bit of FIXED) {
    if (!has(bit)) continue;
    places.set(bit, { anchor: ANCHOR.RECORD, offset: next });
    next += 2;
  }
  const at = (bit: number): number => places.get(bit)?.offset ?? ABSENT;
  const identifier = at(SAMPLE.IDENTIFIER);
  const fixed = { ip: at(SAMPLE.IP), pid: at(SAMPLE.TID), time: at(SAMPLE.TIME), cpu: at(SAMPLE.CPU) };
  const readWords = readWordsOf(format.readFormat ?? 0);
  const branchSampleType = format.branchSampleType ?? 0;
  const common = {
    ...fixed,
    id: identifier !== ABSENT ? identifier : at(SAMPLE.ID),
    period: at(SAMPLE.PERIOD),
    places,
    readWords,
    branchHasIndex: (branchSampleType & BRANCH_SAMPLE.HW_INDEX) !== 0,
    branchHasCounters: (branchSampleType & BRANCH_SAMPLE.COUNTERS) !== 0,
    regsUserWords: registerWords(format.sampleRegsUser),
    regsIntrWords: registerWords(format.sampleRegsIntr),
  };
  const isReadVariable = has(SAMPLE.READ) && readWords.isGroup;
  if (has(SAMPLE.READ)) {
    places.set(SAMPLE.READ, { anchor: ANCHOR.RECORD, offset: next });
    if (!isReadVariable) next += readWords.fixed;
  }
  const behind = [...BEHIND_STACK, ...BEHIND_REGS_INTR].filter(has);
  if (!isReadVariable && (sampleType & VARIABLE) === 0) {
    for (const bit of behind) {
      places.set(bit, { anchor: ANCHOR.RECORD, offset: next });
      next += 2;
    }
    return { ...common, minWords: next, lastCallchain: ABSENT, walk: null };
  }
  if (!isReadVariable && (sampleType & VARIABLE) === SAMPLE.CALLCHAIN && behind.length === 0) {
    places.set(SAMPLE.CALLCHAIN, { anchor: ANCHOR.RECORD, offset: next });
    return { ...common, minWords: next + 2, lastCallchain: next, walk: null };
  }
  const behindStackWords = placeBehind(places, BEHIND_STACK.filter(has), ANCHOR.BEHIND_STACK);
  const behindRegsIntrWords = placeBehind(places, BEHIND_REGS_INTR.filter(has), ANCHOR.BEHIND_REGS_INTR);
  const place = (bit: number, anchor: number, offset = 0): void => {
    if (has(bit)) places.set(bit, { anchor, offset });
  };
  place(SAMPLE.CALLCHAIN, ANCHOR.CALLCHAIN);
  place(SAMPLE.RAW, ANCHOR.RAW);
  place(SAMPLE.BRANCH_STACK, ANCHOR.BRANCH_STACK);
  place(SAMPLE.REGS_USER, ANCHOR.REGS_USER);
  place(SAMPLE.STACK_USER, ANCHOR.STACK_USER);
  place(SAMPLE.REGS_INTR, ANCHOR.BEHIND_STACK, behindStackWords);
  place(SAMPLE.AUX, ANCHOR.BEHIND_REGS_INTR, behindRegsIntrWords);
  const { branchHasIndex, regsUserWords, regsIntrWords } = common;
  const walk = {
    ...{ from: next, sampleType, readWords, branchHasIndex, branchWords: common.branchHasCounters ? 8 : 6 },
    ...{ regsUserWords, behindStackWords, regsIntrWords, behindRegsIntrWords },
  };
  return { ...common, minWords: next, lastCallchain: ABSENT, walk };
}

function placeBehind(places: Map<number, FieldPlace>, bits: readonly number[], anchor: number): number {
  bits.forEach((bit, i) => {
    places.set(bit, { anchor, offset: i * 2 });
  });
  return bits.length * 2;
}

/** struct read_format */
function readWordsOf(readFormat: number): ReadWords {
  const words = (...bits: number[]): number => bits.filter((bit) => (readFormat & bit) !== 0).length * 2;
  const times = words(FORMAT.TOTAL_TIME_ENABLED, FORMAT.TOTAL_TIME_RUNNING);
  const value = 2 + words(FORMAT.ID, FORMAT.LOST);
  const isGroup = (readFormat & FORMAT.GROUP) !== 0;
  return isGroup ? { isGroup, fixed: 2 + times, each: value } : { isGroup, fixed: value + times, each: 0 };
}

function registerWords(mask: bigint | undefined): number {
  let words = 0;
  for (let rest = mask ?? 0n; rest !== 0n; rest &= rest - 1n) words += 2;
  return words;
}

/** For counts and sizes of 64 bits: one that does not fit 32 runs past any record. */
function count(words: Uint32Array, mask: number, at: number): number {
  return words[(at + 1) & mask] === 0 ? words[at & mask] : Number.POSITIVE_INFINITY;
}

/**
 * Notes where the fields behind those of variable length lie: element `sample` of each of `anchors`, in words from the
 * header at word `at`. False when a count or size runs past the record of `size` words, which is corruption; looked for
 * here, so that whoever reads the fields need not look again.
 */
export function walkSample(
  walk: SampleWalk,
  words: Uint32Array,
  mask: number,
  at: number,
  size: number,
  anchors: readonly Uint16Array[],
  sample: number,
): boolean {
  const end = walkFields(walk, words, mask, at, size, anchors, sample, walk.branchHasIndex);
  if (end === size || !walk.branchHasIndex) return end <= size;
  // A sample without any branch stack has no index either, and nothing in it says so but its size.
  if (walkFields(walk, words, mask, at, size, anchors, sample, false) === size) return true;
  return end <= size && walkFields(walk, words, mask, at, size, anchors, sample, true) === end;
}

/** Returns where the fields end; beyond `size` when they do not fit. */
function walkFields(
  walk: SampleWalk,
  words: Uint32Array,
  mask: number,
  at: number,
  size: number,
  anchors: readonly Uint16Array[],
  sample: number,
  emptyHasIndex: boolean,
): number {
  const { sampleType, readWords } = walk;
  const outside = size + 1;
  let next = walk.from;
  if ((sampleType & SAMPLE.READ) !== 0 && readWords.isGroup) {
    if (next + 2 > size) return outside;
    next += readWords.fixed + count(words, mask, at + next) * readWords.each;
    if (next > size) return outside;
  }
  anchors[ANCHOR.CALLCHAIN][sample] = next;
  if ((sampleType & SAMPLE.CALLCHAIN) !== 0) {
    if (next + 2 > size) return outside;
    next += 2 + count(words, mask, at + next) * 2;
    if (next > size) return outside;
  }
  anchors[ANCHOR.RAW][sample] = next;
  if ((sampleType & SAMPLE.RAW) !== 0) {
    if (next + 1 > size) return outside;
    const bytes = words[(at + next) & mask];
    // The kernel pads what it copies so that the field behind it is aligned.
    if ((bytes & 7) !== 4) return outside;
    next += 1 + bytes / 4;
    if (next > size) return outside;
  }
  anchors[ANCHOR.BRANCH_STACK][sample] = next;
  if ((sampleType & SAMPLE.BRANCH_STACK) !== 0) {
    if (next + 2 > size) return outside;
    const entries = count(words, mask, at + next);
    const index = entries === 0 ? emptyHasIndex : walk.branchHasIndex;
    next += 2 + (index ? 2 : 0) + entries * walk.branchWords;
    if (next > size) return outside;
  }
  anchors[ANCHOR.REGS_USER][sample] = next;
  if ((sampleType & SAMPLE.REGS_USER) !== 0) {
    if (next + 2 > size) return outside;
    next += 2 + (count(words, mask, at + next) === 0 ? 0 : walk.regsUserWords);
    if (next > size) return outside;
  }
  anchors[ANCHOR.STACK_USER][sample] = next;
  if ((sampleType & SAMPLE.STACK_USER) !== 0) {
    if (next + 2 > size) return outside;
    const bytes = count(words, mask, at + next);
    next += 2;
    if (bytes > 0) {
      // The bytes, then how many of them the kernel could copy.
      next += bytes / 4 + 2;
      if ((bytes & 7) !== 0 || next > size || count(words, mask, at + next - 2) > bytes) return outside;
    }
  }
  anchors[ANCHOR.BEHIND_STACK][sample] = next;
  next += walk.behindStackWords;
  if ((sampleType & SAMPLE.REGS_INTR) !== 0) {
    if (next + 2 > size) return outside;
    next += 2 + (count(words, mask, at + next) === 0 ? 0 : walk.regsIntrWords);
  }
  if (next > size) return outside;
  anchors[ANCHOR.BEHIND_REGS_INTR][sample] = next;
  next += walk.behindRegsIntrWords;
  if ((sampleType & SAMPLE.AUX) !== 0) {
    if (next + 2 > size) return outside;
    next += 2 + Math.ceil(count(words, mask, at + next) / 8) * 2;
  }
  return next > size ? outside : next;
}
