/** A scan that indexes the records of a ring without copying them. What is where in a sample says sample-layout.ts. */
import { CPUMODE, MISC_CPUMODE_MASK, RECORD } from "./abi.js";
import type { Format, FormatTable } from "./format-table.js";
import type { RingReader } from "./ring.js";
import { ANCHORS, type FieldPlace, internedOffsets, type SampleOffsets, walkSample } from "./sample-layout.js";
import { endsBatch, isTaskRecord } from "./task-record.js";

const ABSENT = -1;
const NO_OFFSETS = internedOffsets();

/** A constant of this module, which the engine folds into code: RECORD's property it would look up for every record. */
const RECORD_SAMPLE = RECORD.SAMPLE;

/** Bits of a handler's event mask. */
export const EVENTS_MAX = 64;
/** Events that can be armed at once, one bit each; the last bit stands for task records. */
export const EVENTS_ARMED_MAX = EVENTS_MAX - 1;
export const TASKS_BIT = EVENTS_MAX - 1;

/** Samples of one batch: bounds the time one dispatch may take. */
export const BATCH_SAMPLES_MAX = 1024;
/** Task records of one batch. */
export const BATCH_TASKS_MAX = 1024;
/** A batch ends with the first record beyond this many bytes of ring; it always makes progress. */
export const BATCH_BYTES_MAX = 64 * 1024;

/** What a scan met besides samples of known events. The dispatcher turns it into counters. */
export interface ScanListener {
  throttle(event: number, on: boolean): void;
  /** Ring data that is no record: the scan has resynchronized at the head. */
  corrupt(bytes: number): void;
  /** A sample whose id belongs to no armed event: left over from one that was closed. */
  stray(): void;
  /** The kernel had no room for `records` of any type. Late, and not to be had per event. */
  lost(records: number): void;
}

/**
 * The columns of the batch that was scanned last, in this thread: constants of the module, since the engine writes a
 * constant's address and length into the code that uses it, and loads an object's anew for every element.
 */
const AT = new Uint32Array(BATCH_SAMPLES_MAX);
const CPUMODE_OF = new Uint8Array(BATCH_SAMPLES_MAX);
const PID = new Uint32Array(BATCH_SAMPLES_MAX);
const TIME = new Float64Array(BATCH_SAMPLES_MAX);
const PERIOD = new Float64Array(BATCH_SAMPLES_MAX);
const ANCHORS_OF = Array.from({ length: ANCHORS }, () => new Uint16Array(BATCH_SAMPLES_MAX));

/** Where the loops below stand: bytes behind the tail, and the word in the ring. */
const CURSOR = new Uint32Array(2);
const TAKEN = 0;
const WORD = 1;

/**
 * An index over one batch of samples in a ring: columns, allocated once a thread. Element i is sample i, until the next
 * scan by anyone in the thread; word offsets still need `& mask`, since a record may wrap.
 */
export class BatchIndex {
  readonly event = new Uint8Array(BATCH_SAMPLES_MAX);
  /** Word offset of the sample's header in the ring. */
  readonly at = AT;
  readonly cpumode = CPUMODE_OF;
  readonly pid = PID;
  /** Nanoseconds; exact to 2^53, and for arithmetic only: the wire gets the ring's own words. */
  readonly time = TIME;
  readonly period = PERIOD;
  /**
   * Where fields lie whose place differs from sample to sample: words from the header, by ANCHOR. The first is all 0, so
   * that fixed places are found in the same way.
   */
  readonly anchors: readonly Uint16Array[] = ANCHORS_OF;
  /** 1 once a handler has matched the sample. */
  readonly claimed = new Uint8Array(BATCH_SAMPLES_MAX);
  /** Of the scan: bytes behind the tail, where that is in the ring, and the id of the run. */
  #taken = 0;
  #word = 0;
  #idAt = ABSENT;
  #idLow = 0;
  #idHigh = 0;
  /** Only where samples differ: two openings of an event in one batch. */
  readonly #offsets: SampleOffsets[] = new Array(BATCH_SAMPLES_MAX).fill(NO_OFFSETS);
  /** The offsets that all samples share, or null while they differ. */
  uniform: SampleOffsets | null = null;
  /** Samples by event. */
  readonly countOf = new Uint32Array(EVENTS_MAX);
  /** The events that the batch holds samples of, and how many those are. */
  readonly eventAt = new Uint8Array(EVENTS_MAX);
  events = 0;
  count = 0;
  /** Whether anybody wants task records; else they are passed over. */
  wantsTasks = false;
  /** Word offsets of the headers of task records, all of which come before the samples. */
  readonly taskAt = new Uint32Array(BATCH_TASKS_MAX);
  tasks = 0;
  /** Bit e % 32 of word e / 32: the batch holds a sample of event e. */
  eventMaskLow = 0;
  eventMaskHigh = 0;

  offsetsOf(sample: number): SampleOffsets {
    return this.uniform ?? this.#offsets[sample];
  }

  /** Where the field of a SAMPLE bit is: its first word in the ring, still without `& mask`; -1 where the sample has none. */
  wordOf(sample: number, bit: number): number {
    const place = this.offsetsOf(sample).places.get(bit);
    return place === undefined ? ABSENT : this.wordAt(sample, place);
  }

  wordAt(sample: number, { anchor, offset }: FieldPlace): number {
    return this.at[sample] + this.anchors[anchor][sample] + offset;
  }

  /**
   * Indexes records from the ring's tail up to `head`, as many as one batch takes; returns the position behind the last
   * record indexed. The caller stores it as the tail when every handler has been offered the batch.
   *
   * Where task records are wanted a batch ends before one that follows samples: those it holds come before its samples.
   */
  scan(ring: RingReader, head: number, formats: FormatTable, listener: ScanListener): number {
    const { words, wordMask: mask, dataBytes } = ring;
    const position = ring.tail;
    this.count = 0;
    this.tasks = 0;
    this.uniform = null;
    for (let e = 0; e < this.events; e++) this.countOf[this.eventAt[e]] = 0;
    this.events = 0;
    this.eventMaskLow = 0;
    this.eventMaskHigh = 0;
    if (head - position > dataBytes || head < position) {
      listener.corrupt(Math.max(0, head - position));
      return head;
    }
    // Integers, which the engine compares without converting them: a ring is smaller than 2^31 bytes.
    const available = (head - position) | 0;
    const limit = Math.min(available, BATCH_BYTES_MAX);
    this.#taken = 0;
    this.#word = (position / 4) & mask;
    let runFrom = 0;
    let format: Format | null = null;
    while (this.#taken < limit && this.count < BATCH_SAMPLES_MAX) {
      // Samples come in runs of one format; what ends a run is looked at here, one record at a time.
      if (format !== null) this.#indexRun(words, mask, limit, available, format);
      if (this.#taken >= limit || this.count === BATCH_SAMPLES_MAX) break;
      const word = this.#word;
      const size = words[(word + 1) & mask] >>> 16;
      // A record is at least its header, a multiple of 8, and ends before the head.
      if (size < 8 || (size & 7) !== 0 || this.#taken + size > available) {
        listener.corrupt(available - this.#taken);
        this.#taken = available;
        break;
      }
      const type = words[word];
      if (type === RECORD.SAMPLE && size < (formats.idOffset + 2) * 4) {
        // Too short to say whose it is: the id would be read out of what is behind it.
        listener.corrupt(size);
      } else if (type === RECORD.SAMPLE) {
        const next = formats.ofSample(words, mask, word);
        if (next !== format) {
          this.#endRun(format, runFrom);
          runFrom = this.count;
          format = next;
          if (format !== null) {
            this.#noteId(words, mask, word, formats.idOffset);
            continue;
          }
        }
        // Of a known format, and yet the run did not take it.
        if (format === null) listener.stray();
        else listener.corrupt(size);
      } else if (type === RECORD.THROTTLE || type === RECORD.UNTHROTTLE) {
        throttled(words, mask, word, size, type === RECORD.THROTTLE, formats, listener);
      } else if (type === RECORD.LOST) {
        // { header, id, lost }
        if (size >= 24) listener.lost(words[(word + 4) & mask] + words[(word + 5) & mask] * TWO_32);
      } else if (this.wantsTasks && isTaskRecord(type)) {
        if (this.tasks === BATCH_TASKS_MAX || (this.count > 0 && endsBatch(type))) break;
        this.taskAt[this.tasks++] = word;
      }
      this.#taken += size;
      this.#word = (word + (size >>> 2)) & mask;
    }
    this.#endRun(format, runFrom);
    if (this.tasks > 0) this.eventMaskHigh |= 1 << (TASKS_BIT - 32);
    this.claimed.fill(0, 0, this.count);
    return position + this.#taken;
  }

  #noteId(words: Uint32Array, mask: number, word: number, idAt: number): void {
    this.#idAt = idAt;
    this.#idLow = idAt < 0 ? 0 : words[(word + idAt) & mask];
    this.#idHigh = idAt < 0 ? 0 : words[(word + idAt + 1) & mask];
  }

  /** Indexes samples of one format up to the first record that is none, or no sound one. */
  #indexRun(words: Uint32Array, mask: number, limit: number, available: number, format: Format): void {
    const { pid, time, period, lastCallchain, walk, minWords } = format.offsets;
    const from = this.count;
    const bytesMin = minWords * 4;
    CURSOR[TAKEN] = this.#taken;
    CURSOR[WORD] = this.#word;
    const isPlain = this.#idAt >= 0 && pid >= 0 && time >= 0 && period >= 0 && lastCallchain < 0 && walk === null;
    this.count = isPlain
      ? findPlain(
          words,
          mask,
          limit,
          available,
          from,
          bytesMin,
          this.#idAt,
          this.#idLow,
          this.#idHigh,
          pid,
          time,
          period,
        )
      : findAny(words, mask, limit, available, from, bytesMin, this.#idAt, this.#idLow, this.#idHigh, format);
    this.#taken = CURSOR[TAKEN];
    this.#word = CURSOR[WORD];
  }

  /** The samples from `from` on were all of one format. */
  #endRun(format: Format | null, from: number): void {
    const to = this.count;
    if (format === null || from === to) return;
    const { event, offsets } = format;
    this.event.fill(event, from, to);
    if (this.countOf[event] === 0) this.eventAt[this.events++] = event;
    this.countOf[event] += to - from;
    if (event < 32) this.eventMaskLow |= 1 << event;
    else this.eventMaskHigh |= 1 << (event - 32);
    if (from === 0) {
      this.uniform = offsets;
      return;
    }
    if (this.uniform === offsets) return;
    if (this.uniform !== null) this.#offsets.fill(this.uniform, 0, from);
    this.uniform = null;
    this.#offsets.fill(offsets, from, to);
  }
}

const TWO_32 = 2 ** 32;

/**
 * The usual format: every column there, an id, nothing of variable length. Beside findAny, which could do it, because a
 * sample then costs 19.0 ns from the ring to its column and not 22.6 (`npm run bench -- decode`).
 */
function findPlain(
  words: Uint32Array,
  mask: number,
  limit: number,
  available: number,
  from: number,
  bytesMin: number,
  idAt: number,
  idLow: number,
  idHigh: number,
  pidAt: number,
  timeAt: number,
  periodAt: number,
): number {
  let taken = CURSOR[TAKEN];
  let word = CURSOR[WORD];
  let count = from;
  while (taken < limit && count < BATCH_SAMPLES_MAX) {
    const miscAndSize = words[(word + 1) & mask];
    const size = miscAndSize >>> 16;
    if (words[word] !== RECORD_SAMPLE || size < bytesMin || (size & 7) !== 0 || taken + size > available) break;
    if (words[(word + idAt) & mask] !== idLow || words[(word + idAt + 1) & mask] !== idHigh) break;
    AT[count] = word;
    CPUMODE_OF[count] = miscAndSize & MISC_CPUMODE_MASK;
    PID[count] = words[(word + pidAt) & mask];
    TIME[count] = words[(word + timeAt) & mask] + words[(word + timeAt + 1) & mask] * TWO_32;
    PERIOD[count] = words[(word + periodAt) & mask] + words[(word + periodAt + 1) & mask] * TWO_32;
    count++;
    taken += size;
    word = (word + (size >>> 2)) & mask;
  }
  CURSOR[TAKEN] = taken;
  CURSOR[WORD] = word;
  return count;
}

function findAny(
  words: Uint32Array,
  mask: number,
  limit: number,
  available: number,
  from: number,
  bytesMin: number,
  idAt: number,
  idLow: number,
  idHigh: number,
  { offsets, fixedPeriod }: Format,
): number {
  const { pid: pidAt, time: timeAt, period: periodAt, lastCallchain: chainAt, walk } = offsets;
  let taken = CURSOR[TAKEN];
  let word = CURSOR[WORD];
  let count = from;
  while (taken < limit && count < BATCH_SAMPLES_MAX) {
    const miscAndSize = words[(word + 1) & mask];
    const size = miscAndSize >>> 16;
    if (words[word] !== RECORD_SAMPLE || size < bytesMin || (size & 7) !== 0 || taken + size > available) break;
    if (idAt >= 0 && (words[(word + idAt) & mask] !== idLow || words[(word + idAt + 1) & mask] !== idHigh)) break;
    if (chainAt >= 0 && !chainFits(words, mask, word, chainAt, size)) break;
    if (walk !== null && !walkSample(walk, words, mask, word, size >>> 2, ANCHORS_OF, count)) break;
    AT[count] = word;
    CPUMODE_OF[count] = miscAndSize & MISC_CPUMODE_MASK;
    PID[count] = pidAt < 0 ? 0 : words[(word + pidAt) & mask];
    TIME[count] = timeAt < 0 ? 0 : words[(word + timeAt) & mask] + words[(word + timeAt + 1) & mask] * TWO_32;
    PERIOD[count] =
      periodAt < 0 ? fixedPeriod : words[(word + periodAt) & mask] + words[(word + periodAt + 1) & mask] * TWO_32;
    count++;
    taken += size;
    word = (word + (size >>> 2)) & mask;
  }
  CURSOR[TAKEN] = taken;
  CURSOR[WORD] = word;
  return count;
}

/** { header, time, id, stream_id, sample_id } */
function throttled(
  words: Uint32Array,
  mask: number,
  at: number,
  size: number,
  on: boolean,
  formats: FormatTable,
  listener: ScanListener,
): void {
  if (size < 32) return;
  const id = words[(at + 4) & mask] + words[(at + 5) & mask] * TWO_32;
  const event = formats.ofThrottled(id)?.event;
  if (event !== undefined) listener.throttle(event, on);
}

/** A count that runs past the record is corruption; refused here so that the encoder need not look again. */
function chainFits(words: Uint32Array, mask: number, at: number, chainAt: number, size: number): boolean {
  const depthLow = words[(at + chainAt) & mask];
  const depthHigh = words[(at + chainAt + 1) & mask];
  return depthHigh === 0 && depthLow * 8 + (chainAt + 2) * 4 <= size;
}

/** Whether the sample was taken in user space, the guest's included. */
export function isUserMode(cpumode: number): boolean {
  return cpumode === CPUMODE.USER || cpumode === CPUMODE.GUEST_USER;
}
