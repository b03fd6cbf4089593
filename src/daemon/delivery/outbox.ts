/**
 * A handler's outbox: a bounded queue between dispatchers and the thread that writes its gRPC stream, in one
 * SharedArrayBuffer. It holds no samples but refers to segments that do (segments.ts), which handlers of one lane share.
 * Each dispatcher has a region of its own, a single-producer single-consumer ring of entries, so that no two threads ever
 * write the same word.
 *
 *   region d:  head line │ tail line │ books: one of 128 bytes an event │ entries: a power of two of 8-byte units │ guard
 *              dispatcher   delivery   dispatcher (delivery reads them)   dispatcher                                nobody
 *
 * An entry that refers to a segment takes one unit, one that tells of a loss LOSS_UNITS. Positions count units modulo
 * 2^32. The bound is on the bytes of the segments referred to, as if nobody else used them.
 */
import { EVENTS_ARMED_MAX } from "../../pmu/record.js";

/** All that can be armed: `sched:*` alone means more than twenty. A recording's events are recorded again by one handler. */
export const EVENTS_PER_HANDLER_MAX = EVENTS_ARMED_MAX;

/**
 * LOSS is part of the handler's books; GAP is event-wide and is not. CHUNK refers to samples, TASKS to task records
 * and AUX to a piece of an AUX area, which are in no books.
 */
export const ENTRY = { CHUNK: 1, LOSS: 2, GAP: 3, TASKS: 4, AUX: 5 } as const;

/** No refusal: the segment may be posted. */
export const ADMITTED = -1;
/** Why a dispatcher could not queue samples: the outbox's own bound, or the daemon's memory for all of them. */
export const REFUSAL = { QUEUE_FULL: 0, MEMORY: 1 } as const;
export type Refusal = (typeof REFUSAL)[keyof typeof REFUSAL];
export const REFUSAL_REASONS = ["QUEUE_FULL", "MEMORY"] as const;
export const REFUSALS = REFUSAL_REASONS.length;

const LINE = 64;
export const HEAD_WORD = 0;
/** Doubles: bytes of all segments ever put in, and ever taken out. */
export const POSTED_DOUBLE = 1;
/** Task records that could not be queued, ever, by refusal: two of them. */
export const TASKS_LOST_DOUBLE = 2;
export const TAIL_WORD = LINE / 4;
export const TAKEN_DOUBLE = LINE / 8 + 1;
const BOOKS_AT = 2 * LINE;
const BOOK_BYTES = 192;
const UNIT_BYTES = 8;

/** A header unit, then the doubles of LOSS. */
export const LOSS_UNITS = 6;
export const LOSS = { SAMPLES: 1, PERIOD: 2, FIRST_NS: 3, LAST_NS: 4, DISPATCH_NS: 5 } as const;

/** A queue's bytes for each dispatcher: room for some of the largest chunks. */
export const REGION_BYTES_MIN = 64 * 1024;
/** Segments are this large on average where it matters how many entries there are; smaller ones fill the entries first. */
const SEGMENT_BYTES_TYPICAL = 2048;
const UNITS_MIN = 512;
const UNITS_MAX = 32_768;

/** Double offsets in an event's book. */
export const BOOK = {
  MATCHED: 0,
  CARRIED: 1,
  /** Sum of the matched samples' periods. */
  WEIGHT: 2,
  /** Of the batch that was matched last. */
  SERIAL: 3,
  /** Samples that could not be queued and are told by no entry yet: four doubles a refusal. */
  PENDING: 4,
  /** Samples that nobody looked at, and that no GAP entry tells of yet. */
  PENDING_GAP: 12,
  /** The piece of an AUX area that was offered last: its area, and the position behind it. */
  AUX_AREA: 13,
  AUX_UNTIL: 14,
  /** Bytes of AUX data that could not be queued, ever, by refusal. */
  AUX_LOST: 15,
} as const;
export const PENDING = { SAMPLES: 0, PERIOD: 1, FIRST_NS: 2, LAST_NS: 3 } as const;
const PENDING_DOUBLES = 4;

/** Geometry of one handler's outbox; the same for each of its dispatchers' regions. */
export interface OutboxShape {
  readonly events: number;
  /** Units for entries, a power of two. */
  readonly units: number;
  /** Bytes of segments that a region may refer to. */
  readonly queueBytes: number;
}

export function outboxShape(maxBytes: number, dispatchers: number, events: number): OutboxShape {
  const queueBytes = Math.floor(maxBytes / dispatchers);
  const units = 2 ** Math.floor(Math.log2(queueBytes / SEGMENT_BYTES_TYPICAL));
  return { events, units: Math.min(UNITS_MAX, Math.max(UNITS_MIN, units)), queueBytes };
}

function regionBytes({ events, units }: OutboxShape): number {
  // The engine aligns a buffer to less than a cache line: the guard keeps the next region's line from beginning in here.
  return BOOKS_AT + events * BOOK_BYTES + units * UNIT_BYTES + LINE;
}

/** Bytes that the outbox itself takes. */
export function outboxBytes(dispatchers: number, shape: OutboxShape): number {
  return dispatchers * regionBytes(shape);
}

export function allocateOutbox(dispatchers: number, shape: OutboxShape): SharedArrayBuffer {
  return new SharedArrayBuffer(outboxBytes(dispatchers, shape));
}

export class Region {
  readonly words: Int32Array;
  readonly doubles: Float64Array;
  readonly shape: OutboxShape;
  readonly #firstUnit: number;
  readonly #unitMask: number;

  constructor(buffer: SharedArrayBuffer, index: number, shape: OutboxShape) {
    const bytes = regionBytes(shape);
    this.words = new Int32Array(buffer, index * bytes, bytes / 4);
    this.doubles = new Float64Array(buffer, index * bytes, bytes / 8);
    this.shape = shape;
    this.#firstUnit = (BOOKS_AT + shape.events * BOOK_BYTES) / UNIT_BYTES;
    this.#unitMask = shape.units - 1;
  }

  /** Double index of the unit at a position; its words are at twice that. */
  unit(position: number): number {
    return this.#firstUnit + (position & this.#unitMask);
  }

  book(event: number): number {
    return (BOOKS_AT + event * BOOK_BYTES) / 8;
  }

  pending(event: number, refusal: number): number {
    return this.book(event) + BOOK.PENDING + refusal * PENDING_DOUBLES;
  }
}

/** Kind, event and refusal of an entry, in one word. */
function packHeader(kind: number, event: number, refusal: number): number {
  return kind | (event << 8) | (refusal << 16);
}

/** The dispatcher's end of one region. */
export class OutboxWriter {
  readonly #region: Region;
  readonly #carriedBefore: Float64Array;
  #head: number;

  constructor(buffer: SharedArrayBuffer, dispatcher: number, shape: OutboxShape) {
    const region = new Region(buffer, dispatcher, shape);
    this.#region = region;
    this.#head = Atomics.load(region.words, HEAD_WORD);
    // Of a dispatcher that died: what it carried is carried for good, since its successor begins afresh.
    this.#carriedBefore = Float64Array.from(
      { length: shape.events },
      (_, event) => region.doubles[region.book(event) + BOOK.CARRIED],
    );
  }

  /** Bytes of the segments that wait for delivery. */
  get usedBytes(): number {
    const { doubles } = this.#region;
    // TAKEN is the delivering thread's; an older value only makes the outbox look fuller than it is.
    return doubles[POSTED_DOUBLE] - doubles[TAKEN_DOUBLE];
  }

  /** Whether a segment fits the handler's own bound. */
  hasRoom(segmentBytes: number): boolean {
    const { shape } = this.#region;
    return this.#freeUnits() >= 1 && this.usedBytes + segmentBytes <= shape.queueBytes;
  }

  #freeUnits(): number {
    // Written by the delivering thread; acquire, so that what it has read is read before it is overwritten.
    const tail = Atomics.load(this.#region.words, TAIL_WORD);
    return this.#region.shape.units - ((this.#head - tail) >>> 0);
  }

  /** Whether the queue's bound, or the ring of entries, leaves no room for the segment and what must be told before it. */
  isFull(event: number, segmentBytes: number): boolean {
    const { queueBytes } = this.#region.shape;
    return this.#freeUnits() < 1 + this.#pendingUnits(event) || this.usedBytes + segmentBytes > queueBytes;
  }

  /**
   * ADMITTED when a segment may be posted; what was lost before it has been told by then. Otherwise why not. `isFull` is
   * what the method of that name has said: asked again it may say something else, since the reader makes room meanwhile.
   * `isShort`: the daemon's memory will not do. Losses wait for the next segment that is admitted, or for the reader to catch up:
   * told one by one they would fill an outbox that is refused memory, and the reason would seem to be another.
   */
  admit(event: number, isFull: boolean, isShort: boolean, dispatchNs: number): Refusal | typeof ADMITTED {
    if (isFull || isShort) {
      if (this.#freeUnits() === this.#region.shape.units) this.flushPendingLoss(event, dispatchNs);
      return isFull ? REFUSAL.QUEUE_FULL : REFUSAL.MEMORY;
    }
    this.flushPendingLoss(event, dispatchNs);
    return ADMITTED;
  }

  /** Units of the entries that would tell of everything that is pending. */
  #pendingUnits(event: number): number {
    const { doubles } = this.#region;
    let units = doubles[this.#region.book(event) + BOOK.PENDING_GAP] === 0 ? 0 : LOSS_UNITS;
    for (let refusal = 0; refusal < REFUSALS; refusal++) {
      if (doubles[this.#region.pending(event, refusal) + PENDING.SAMPLES] > 0) units += LOSS_UNITS;
    }
    return units;
  }

  /** Hands one reference to the segment to the delivering thread. Only after `admit` or `hasRoom`. */
  post(event: number, segment: number, segmentBytes: number): void {
    this.#refer(packHeader(ENTRY.CHUNK, event, 0), segment, segmentBytes);
  }

  /** As `post`, of task records. */
  postTasks(segment: number, segmentBytes: number): void {
    this.#refer(packHeader(ENTRY.TASKS, 0, 0), segment, segmentBytes);
  }

  /** As `post`, of a piece of an AUX area. */
  postAux(event: number, segment: number, segmentBytes: number): void {
    this.#refer(packHeader(ENTRY.AUX, event, 0), segment, segmentBytes);
  }

  addAuxLost(event: number, refusal: Refusal, bytes: number): void {
    this.#region.doubles[this.#region.book(event) + BOOK.AUX_LOST + refusal] += bytes;
  }

  /**
   * Notes that the handler is offered what area `area` holds up to `until`; false when it was before, by a dispatcher
   * that died before it gave the bytes back to the area.
   */
  offerAux(event: number, area: number, until: number): boolean {
    const { doubles } = this.#region;
    const book = this.#region.book(event);
    if (doubles[book + BOOK.AUX_AREA] === area && doubles[book + BOOK.AUX_UNTIL] === until) return false;
    doubles[book + BOOK.AUX_AREA] = area;
    doubles[book + BOOK.AUX_UNTIL] = until;
    return true;
  }

  /** The area is no more: another may be given its address. */
  forgetAux(event: number, area: number): void {
    const { doubles } = this.#region;
    const book = this.#region.book(event);
    if (doubles[book + BOOK.AUX_AREA] === area) doubles[book + BOOK.AUX_UNTIL] = 0;
  }

  addTasksLost(refusal: Refusal, records: number): void {
    this.#region.doubles[TASKS_LOST_DOUBLE + refusal] += records;
  }

  #refer(header: number, segment: number, segmentBytes: number): void {
    const { words, doubles } = this.#region;
    const at = this.#region.unit(this.#head) * 2;
    words[at] = header;
    words[at + 1] = segment;
    doubles[POSTED_DOUBLE] += segmentBytes;
    this.#commit(1);
  }

  #commit(units: number): void {
    this.#head = (this.#head + units) | 0;
    // Release: the entry, and the segment it refers to, are ordered before it.
    Atomics.store(this.#region.words, HEAD_WORD, this.#head);
  }

  #tell(header: number, samples: number, period: number, firstNs: number, lastNs: number, dispatchNs: number): boolean {
    if (this.#freeUnits() < LOSS_UNITS) return false;
    const region = this.#region;
    const { doubles } = region;
    region.words[region.unit(this.#head) * 2] = header;
    doubles[region.unit(this.#head + LOSS.SAMPLES)] = samples;
    doubles[region.unit(this.#head + LOSS.PERIOD)] = period;
    doubles[region.unit(this.#head + LOSS.FIRST_NS)] = firstNs;
    doubles[region.unit(this.#head + LOSS.LAST_NS)] = lastNs;
    doubles[region.unit(this.#head + LOSS.DISPATCH_NS)] = dispatchNs;
    this.#commit(LOSS_UNITS);
    return true;
  }

  /**
   * Before the samples are queued: whoever buries a dispatcher finds what it owed, and what it still carried then, which
   * is no longer what these samples have taken along. `serial` names the batch.
   */
  addMatched(event: number, samples: number, period: number, carried: number, serial: number): void {
    const { doubles } = this.#region;
    const book = this.#region.book(event);
    doubles[book + BOOK.MATCHED] += samples;
    doubles[book + BOOK.WEIGHT] += period;
    doubles[book + BOOK.SERIAL] = serial;
    this.setCarried(event, carried);
  }

  /** Serial number of the batch that addMatched counted last. */
  matchedSerial(event: number): number {
    return this.#region.doubles[this.#region.book(event) + BOOK.SERIAL];
  }

  /** Samples that nobody looked at: told in their place, or when there is room again. */
  addGap(event: number, samples: number, dispatchNs: number): void {
    const at = this.#region.book(event) + BOOK.PENDING_GAP;
    this.#region.doubles[at] += samples;
    this.#flushPendingGap(event, dispatchNs);
  }

  #flushPendingGap(event: number, dispatchNs: number): boolean {
    const { doubles } = this.#region;
    const at = this.#region.book(event) + BOOK.PENDING_GAP;
    if (doubles[at] === 0) return true;
    if (!this.#tell(packHeader(ENTRY.GAP, event, 0), doubles[at], 0, 0, 0, dispatchNs)) return false;
    doubles[at] = 0;
    return true;
  }

  /** Weight of samples left out since the last one sent. */
  setCarried(event: number, period: number): void {
    this.#region.doubles[this.#region.book(event) + BOOK.CARRIED] = this.#carriedBefore[event] + period;
  }

  /** Samples that could not be queued, until a LOSS entry tells of them. */
  addPendingLoss(
    event: number,
    refusal: Refusal,
    samples: number,
    period: number,
    firstNs: number,
    lastNs: number,
  ): void {
    const { doubles } = this.#region;
    const at = this.#region.pending(event, refusal);
    if (doubles[at + PENDING.SAMPLES] === 0) doubles[at + PENDING.FIRST_NS] = firstNs;
    doubles[at + PENDING.LAST_NS] = lastNs;
    doubles[at + PENDING.PERIOD] += period;
    doubles[at + PENDING.SAMPLES] += samples;
  }

  /** Turns the event's pending losses into entries at their place in the queue; false when one does not fit. */
  flushPendingLoss(event: number, dispatchNs: number): boolean {
    const { doubles } = this.#region;
    if (!this.#flushPendingGap(event, dispatchNs)) return false;
    for (let refusal = 0; refusal < REFUSALS; refusal++) {
      const at = this.#region.pending(event, refusal);
      const samples = doubles[at + PENDING.SAMPLES];
      if (samples === 0) continue;
      const header = packHeader(ENTRY.LOSS, event, refusal);
      const [period, firstNs, lastNs] = [doubles[at + 1], doubles[at + 2], doubles[at + 3]];
      if (!this.#tell(header, samples, period, firstNs, lastNs, dispatchNs)) return false;
      doubles[at + PENDING.SAMPLES] = 0;
      doubles[at + PENDING.PERIOD] = 0;
    }
    return true;
  }
}
