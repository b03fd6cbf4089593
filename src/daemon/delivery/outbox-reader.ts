/** The delivering thread's end of an outbox (outbox.ts): takes entries out, and settles the books of a dispatcher that died. */
import {
  BOOK,
  ENTRY,
  HEAD_WORD,
  LOSS,
  LOSS_UNITS,
  type OutboxShape,
  PENDING,
  POSTED_DOUBLE,
  REFUSAL,
  REFUSALS,
  type Refusal,
  Region,
  TAIL_WORD,
  TAKEN_DOUBLE,
  TASKS_LOST_DOUBLE,
} from "./outbox.js";
import type { ChunkFacts } from "./segment-layout.js";
import type { SegmentReader } from "./segments.js";

/** One entry as the reader sees it; the same object is refilled by every peek. */
export interface Entry extends ChunkFacts {
  kind: number;
  event: number;
  /** Of a LOSS. */
  refusal: number;
  /** Of a CHUNK, TASKS or AUX: in the dispatcher's arena, with its size there. `samples` are records of TASKS, bytes of AUX. */
  segment: number;
  segmentBytes: number;
}

export interface PendingLoss {
  readonly refusal: Refusal;
  readonly samples: number;
  readonly period: number;
  readonly firstNs: number;
  readonly lastNs: number;
}

export interface Abandoned {
  readonly unaccounted: readonly { readonly samples: number; readonly period: number }[];
  /** All that the dispatcher has ever matched, and could not queue, by refusal. */
  readonly matched: number;
  readonly refused: readonly number[];
}

/** The delivering thread's end of one region. */
export class OutboxReader {
  readonly segments: SegmentReader;
  readonly entry: Entry = {
    kind: 0,
    event: 0,
    refusal: 0,
    segment: 0,
    segmentBytes: 0,
    samples: 0,
    period: 0,
    firstNs: 0,
    lastNs: 0,
    dispatchNs: 0,
  };
  readonly #region: Region;
  #tail: number;
  /** What has been taken from the queue, by event, and how much of it was refused. */
  #accounted: { samples: number; period: number }[];
  #refused: number[] = new Array(REFUSALS).fill(0);

  constructor(buffer: SharedArrayBuffer, dispatcher: number, shape: OutboxShape, segments: SegmentReader) {
    this.#region = new Region(buffer, dispatcher, shape);
    this.segments = segments;
    this.#tail = Atomics.load(this.#region.words, TAIL_WORD);
    this.#accounted = Array.from({ length: shape.events }, () => ({ samples: 0, period: 0 }));
  }

  /** The event's books begin with these. Before its dispatcher knows the outbox. */
  carry(event: number, samples: number, period: number): void {
    const book = this.#region.book(event);
    this.#region.doubles[book + BOOK.MATCHED] = samples;
    this.#region.doubles[book + BOOK.WEIGHT] = period;
    this.#accounted[event] = { samples, period };
  }

  /** As `carry`, of what was refused, by REFUSAL. */
  carryRefused(refused: readonly number[]): void {
    this.#refused = [...refused];
  }

  get isEmpty(): boolean {
    return this.#tail === Atomics.load(this.#region.words, HEAD_WORD);
  }

  /** Fills `entry` with the oldest entry; false when there is none. */
  peek(): boolean {
    // Written by the dispatcher; acquire: what it wrote into the entry and its segment is visible.
    if (this.isEmpty) return false;
    this.#readEntry(this.#tail);
    return true;
  }

  #readEntry(position: number): void {
    const region = this.#region;
    const { words, doubles } = region;
    const { entry } = this;
    const at = region.unit(position) * 2;
    const header = words[at];
    entry.kind = header & 0xff;
    entry.event = (header >>> 8) & 0xff;
    entry.refusal = header >>> 16;
    if (refersToSegment(entry)) {
      entry.segment = words[at + 1];
      entry.segmentBytes = this.segments.segmentBytes(entry.segment);
      this.segments.readFacts(entry.segment, entry);
      return;
    }
    entry.segmentBytes = 0;
    entry.samples = doubles[region.unit(position + LOSS.SAMPLES)];
    entry.period = doubles[region.unit(position + LOSS.PERIOD)];
    entry.firstNs = doubles[region.unit(position + LOSS.FIRST_NS)];
    entry.lastNs = doubles[region.unit(position + LOSS.LAST_NS)];
    entry.dispatchNs = doubles[region.unit(position + LOSS.DISPATCH_NS)];
  }

  /** Takes the peeked entry from the queue; its reference to a segment becomes the caller's, to release when read. */
  take(): void {
    const { words, doubles } = this.#region;
    this.#account(this.entry);
    doubles[TAKEN_DOUBLE] += this.entry.segmentBytes;
    this.#tail = (this.#tail + unitsOf(this.entry)) | 0;
    // Release: the dispatcher may write there again.
    Atomics.store(words, TAIL_WORD, this.#tail);
  }

  /** Takes the peeked entry and lets go of its samples. */
  drop(): void {
    this.take();
    if (refersToSegment(this.entry)) this.segments.release(this.entry.segment);
  }

  #account({ kind, event, refusal, samples, period }: Entry): void {
    if (kind === ENTRY.GAP || kind === ENTRY.TASKS || kind === ENTRY.AUX) return;
    this.#accounted[event].samples += samples;
    this.#accounted[event].period += period;
    if (kind === ENTRY.LOSS) this.#refused[refusal] += samples;
  }

  /** Visits every entry that waits, without taking it. */
  #walk(visit: (entry: Entry) => void): void {
    const head = Atomics.load(this.#region.words, HEAD_WORD);
    for (let position = this.#tail; position !== head; position = (position + unitsOf(this.entry)) | 0) {
      this.#readEntry(position);
      visit(this.entry);
    }
  }

  /**
   * What a dispatcher that died had matched and neither queued nor counted as lost, by event; from then on it counts as
   * dealt with. Also its counters as they should be. Only when its thread is gone and no other has taken its place.
   */
  abandon(): Abandoned {
    const { doubles, shape } = this.#region;
    const saved = { refused: [...this.#refused], accounted: structuredClone(this.#accounted) };
    let queuedBytes = 0;
    this.#walk((entry) => {
      this.#account(entry);
      queuedBytes += entry.segmentBytes;
    });
    // It may have died between the two words of a post.
    doubles[POSTED_DOUBLE] = doubles[TAKEN_DOUBLE] + queuedBytes;
    let matched = 0;
    const refused = [...this.#refused];
    const unaccounted = Array.from({ length: shape.events }, (_, event) => {
      const pending = { samples: 0, period: 0 };
      for (const loss of this.pendingLosses(event)) {
        pending.samples += loss.samples;
        pending.period += loss.period;
        refused[loss.refusal] += loss.samples;
      }
      const weight = doubles[this.#region.book(event) + BOOK.WEIGHT];
      matched += this.matched(event);
      return {
        samples: this.matched(event) - this.#accounted[event].samples - pending.samples,
        period: weight - this.#accounted[event].period - pending.period,
      };
    });
    this.#refused = saved.refused;
    this.#accounted = saved.accounted;
    unaccounted.forEach(({ samples, period }, event) => {
      this.#accounted[event].samples += samples;
      this.#accounted[event].period += period;
    });
    return { unaccounted, matched, refused };
  }

  /** Calls `count` for each segment that an entry refers to. */
  countSegments(count: (segment: number) => void): void {
    this.#walk((entry) => {
      if (refersToSegment(entry)) count(entry.segment);
    });
  }

  /** Task records that its dispatcher could not queue, ever, for `refusal`. */
  tasksLost(refusal: Refusal): number {
    return this.#region.doubles[TASKS_LOST_DOUBLE + refusal];
  }

  /** Bytes of AUX data that its dispatcher could not queue, ever, for `refusal`. */
  auxLost(event: number, refusal: Refusal): number {
    return this.#region.doubles[this.#region.book(event) + BOOK.AUX_LOST + refusal];
  }

  get usedBytes(): number {
    const { doubles } = this.#region;
    return Math.max(0, doubles[POSTED_DOUBLE] - doubles[TAKEN_DOUBLE]);
  }

  /** Share of the outbox's bounds that is in use: of its entries, its bytes, or its part of the daemon's memory. */
  get fill(): number {
    const { words, shape } = this.#region;
    const units = (Atomics.load(words, HEAD_WORD) - this.#tail) >>> 0;
    const bytes = Math.min(shape.queueBytes, this.segments.shareBytes);
    return Math.max(units / shape.units, this.usedBytes / bytes);
  }

  get capacityBytes(): number {
    return this.#region.shape.queueBytes;
  }

  matched(event: number): number {
    return this.#region.doubles[this.#region.book(event) + BOOK.MATCHED];
  }

  /** Sum of the matched samples' periods, as the dispatcher counted it. */
  periodMatched(event: number): number {
    return this.#region.doubles[this.#region.book(event) + BOOK.WEIGHT];
  }

  carried(event: number): number {
    return this.#region.doubles[this.#region.book(event) + BOOK.CARRIED];
  }

  /** Samples that nobody looked at and no entry tells of. Exact only when no dispatcher is inside the handler. */
  pendingGap(event: number): number {
    return this.#region.doubles[this.#region.book(event) + BOOK.PENDING_GAP];
  }

  /** Losses that no entry tells of. Exact only when no dispatcher is inside the handler. */
  pendingLosses(event: number): PendingLoss[] {
    const { doubles } = this.#region;
    return Object.values(REFUSAL).flatMap((refusal) => {
      const at = this.#region.pending(event, refusal);
      const samples = doubles[at + PENDING.SAMPLES];
      if (samples === 0) return [];
      return [{ refusal, samples, period: doubles[at + 1], firstNs: doubles[at + 2], lastNs: doubles[at + 3] }];
    });
  }
}

function refersToSegment({ kind }: Entry): boolean {
  return kind === ENTRY.CHUNK || kind === ENTRY.TASKS || kind === ENTRY.AUX;
}

function unitsOf(entry: Entry): number {
  return refersToSegment(entry) ? 1 : LOSS_UNITS;
}
