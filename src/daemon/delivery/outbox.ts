/**
 * A handler's outbox: a bounded queue between dispatchers and the thread that writes its gRPC stream, in one
 * SharedArrayBuffer. Each dispatcher has a region of its own, a single-producer single-consumer ring, so that no two
 * threads ever write the same word.
 *
 *   region d:  head line │ tail line │ books: EVENTS_PER_HANDLER_MAX × 64 bytes │ data (a power of two)
 *              dispatcher   delivery   dispatcher (delivery reads them)           dispatcher
 *
 * Entries never wrap: where one does not fit before the end, a SKIP entry fills the rest. Positions count bytes modulo
 * 2^32. An entry is a header of ENTRY_HEADER_BYTES and a payload, padded to 8.
 */

export const EVENTS_PER_HANDLER_MAX = 16;

/** LOSS is part of the handler's books; GAP is event-wide and is not. */
export const ENTRY = { SKIP: 0, CHUNK: 1, LOSS: 2, GAP: 3 } as const;

const LINE = 64;
const HEAD_WORD = 0;
const TAIL_WORD = LINE / 4;
const BOOKS_AT = 2 * LINE;
const BOOK_BYTES = 64;
const DATA_AT = BOOKS_AT + EVENTS_PER_HANDLER_MAX * BOOK_BYTES;

/** Room for some chunks: the encoder splits a batch so that none takes more than CHUNK_SHARE of a region. */
export const REGION_BYTES_MIN = 64 * 1024;
export const CHUNK_SHARE = 1 / 4;
export const ENTRY_HEADER_BYTES = 64;
const ENTRY_ALIGN = 8;

/** Word offsets in an entry's header. Doubles are at even words. */
const HEADER = {
  BYTES: 0,
  KIND: 1,
  EVENT: 2,
  PAYLOAD_BYTES: 4,
  FIRST_TIME: 6,
  LAST_TIME: 8,
  DISPATCH_NS: 10,
  PERIOD: 12,
  /** A double: a loss may stand for more than 2^32 samples. */
  SAMPLES: 14,
} as const;

/** Double offsets in an event's book. */
const BOOK = {
  MATCHED: 0,
  CARRIED: 1,
  LOST: 2,
  LOST_PERIOD: 3,
  LOST_FIRST: 4,
  LOST_LAST: 5,
  /** Sum of the matched samples' periods. */
  WEIGHT: 6,
  /** Of the batch that was matched last. */
  SERIAL: 7,
} as const;

/** Data bytes of each region for a handler's queue bound: the largest power of two that keeps the whole below it. */
export function regionBytes(maxBytes: number, dispatchers: number): number {
  return 2 ** Math.floor(Math.log2(Math.max(REGION_BYTES_MIN, maxBytes / dispatchers)));
}

export function allocateOutbox(dispatchers: number, dataBytes: number): SharedArrayBuffer {
  return new SharedArrayBuffer(dispatchers * (DATA_AT + dataBytes));
}

class Region {
  readonly words: Int32Array;
  /** The same words without a sign: what the encoder writes. */
  readonly data: Uint32Array;
  readonly doubles: Float64Array;
  readonly dataBytes: number;
  readonly dataWord = DATA_AT / 4;

  constructor(buffer: SharedArrayBuffer, index: number, dataBytes: number) {
    const at = index * (DATA_AT + dataBytes);
    this.words = new Int32Array(buffer, at, (DATA_AT + dataBytes) / 4);
    this.data = new Uint32Array(buffer, at, (DATA_AT + dataBytes) / 4);
    this.doubles = new Float64Array(buffer, at, (DATA_AT + dataBytes) / 8);
    this.dataBytes = dataBytes;
  }

  bookDouble(event: number, field: number): number {
    return (BOOKS_AT + event * BOOK_BYTES) / 8 + field;
  }
}

/** The dispatcher's end of one region. */
export class OutboxWriter {
  /** Where entries are encoded: unsigned words of the whole region. */
  readonly data: Uint32Array;
  readonly #region: Region;
  #head: number;
  #reserved = 0;

  constructor(buffer: SharedArrayBuffer, dispatcher: number, dataBytes: number) {
    this.#region = new Region(buffer, dispatcher, dataBytes);
    this.data = this.#region.data;
    this.#head = Atomics.load(this.#region.words, HEAD_WORD);
  }

  /**
   * Makes room for an entry; returns the word index of its header in `data`, or -1 when the outbox is full. Nothing is
   * visible to the reader before commit.
   */
  reserve(payloadBytes: number): number {
    const region = this.#region;
    const bytes = align(ENTRY_HEADER_BYTES + payloadBytes);
    // Written by the delivering thread; acquire, so that what it has read is read before it is overwritten.
    const tail = Atomics.load(region.words, TAIL_WORD);
    const free = region.dataBytes - ((this.#head - tail) >>> 0);
    const offset = this.#head & (region.dataBytes - 1);
    const toEnd = region.dataBytes - offset;
    const skip = bytes > toEnd ? toEnd : 0;
    if (bytes + skip > free) return -1;
    if (skip > 0) {
      const at = region.dataWord + offset / 4;
      region.words[at + HEADER.BYTES] = skip;
      region.words[at + HEADER.KIND] = ENTRY.SKIP;
    }
    this.#reserved = skip + bytes;
    const at = region.dataWord + ((this.#head + skip) & (region.dataBytes - 1)) / 4;
    region.words[at + HEADER.BYTES] = bytes;
    region.words[at + HEADER.PAYLOAD_BYTES] = payloadBytes;
    return at;
  }

  /** Fills a reserved entry's header. `dispatchNs` is CLOCK_MONOTONIC. */
  describe(at: number, kind: number, event: number, samples: number, period: number, dispatchNs: number): void {
    const { words, doubles } = this.#region;
    words[at + HEADER.KIND] = kind;
    words[at + HEADER.EVENT] = event;
    doubles[(at + HEADER.SAMPLES) / 2] = samples;
    doubles[(at + HEADER.PERIOD) / 2] = period;
    doubles[(at + HEADER.DISPATCH_NS) / 2] = dispatchNs;
  }

  describeTimes(at: number, firstNs: number, lastNs: number): void {
    const { doubles } = this.#region;
    doubles[(at + HEADER.FIRST_TIME) / 2] = firstNs;
    doubles[(at + HEADER.LAST_TIME) / 2] = lastNs;
  }

  commit(): void {
    this.#head = (this.#head + this.#reserved) | 0;
    // Release: everything written into the entry is ordered before it.
    Atomics.store(this.#region.words, HEAD_WORD, this.#head);
  }

  /** Bytes that wait for delivery. */
  get usedBytes(): number {
    return (this.#head - Atomics.load(this.#region.words, TAIL_WORD)) >>> 0;
  }

  /** Before the samples are encoded: whoever buries a dispatcher finds what it owed. `serial` names the batch. */
  addMatched(event: number, samples: number, period: number, serial: number): void {
    const { doubles } = this.#region;
    const book = this.#region.bookDouble(event, 0);
    doubles[book + BOOK.MATCHED] += samples;
    doubles[book + BOOK.WEIGHT] += period;
    doubles[book + BOOK.SERIAL] = serial;
  }

  /** Serial number of the batch that addMatched counted last. */
  matchedSerial(event: number): number {
    return this.#region.doubles[this.#region.bookDouble(event, BOOK.SERIAL)];
  }

  /** Samples that nobody looked at. Not told when the outbox is full, which is the least of its losses then. */
  addGap(event: number, samples: number, dispatchNs: number): void {
    const at = this.reserve(0);
    if (at < 0) return;
    this.describe(at, ENTRY.GAP, event, samples, 0, dispatchNs);
    this.describeTimes(at, 0, 0);
    this.commit();
  }

  /** Weight of samples left out since the last one sent; `delta` may be negative. */
  addCarried(event: number, delta: number): void {
    this.#region.doubles[this.#region.bookDouble(event, BOOK.CARRIED)] += delta;
  }

  /** Samples that found the outbox full, until a LOSS entry tells of them. */
  addPendingLoss(event: number, samples: number, period: number, firstNs: number, lastNs: number): void {
    const { doubles } = this.#region;
    const book = this.#region.bookDouble(event, 0);
    if (doubles[book + BOOK.LOST] === 0) doubles[book + BOOK.LOST_FIRST] = firstNs;
    doubles[book + BOOK.LOST_LAST] = lastNs;
    doubles[book + BOOK.LOST_PERIOD] += period;
    doubles[book + BOOK.LOST] += samples;
  }

  hasPendingLoss(event: number): boolean {
    return this.#region.doubles[this.#region.bookDouble(event, BOOK.LOST)] !== 0;
  }

  /** Turns the event's pending loss into an entry at its place in the queue; false when even that does not fit. */
  flushPendingLoss(event: number, dispatchNs: number): boolean {
    const at = this.reserve(0);
    if (at < 0) return false;
    const { doubles } = this.#region;
    const book = this.#region.bookDouble(event, 0);
    this.describe(at, ENTRY.LOSS, event, doubles[book + BOOK.LOST], doubles[book + BOOK.LOST_PERIOD], dispatchNs);
    this.describeTimes(at, doubles[book + BOOK.LOST_FIRST], doubles[book + BOOK.LOST_LAST]);
    doubles.fill(0, book + BOOK.LOST, book + BOOK.LOST_LAST + 1);
    this.commit();
    return true;
  }
}

/** One entry as the reader sees it; the same object is refilled by every peek. */
export interface Entry {
  kind: number;
  event: number;
  samples: number;
  period: number;
  firstNs: number;
  lastNs: number;
  dispatchNs: number;
  /** Into the region's bytes. */
  payloadAt: number;
  payloadBytes: number;
}

export interface PendingLoss {
  readonly samples: number;
  readonly period: number;
  readonly firstNs: number;
  readonly lastNs: number;
}

export interface Abandoned {
  readonly unaccounted: readonly { readonly samples: number; readonly period: number }[];
  /** All that the dispatcher has ever matched, and found the outbox full for. */
  readonly matched: number;
  readonly queueFull: number;
}

/** The delivering thread's end of one region. */
export class OutboxReader {
  readonly entry: Entry = {
    kind: 0,
    event: 0,
    samples: 0,
    period: 0,
    firstNs: 0,
    lastNs: 0,
    dispatchNs: 0,
    payloadAt: 0,
    payloadBytes: 0,
  };
  readonly bytes: Uint8Array;
  readonly #region: Region;
  #tail: number;
  /** What has been taken from the queue, by event, and how much of it was QUEUE_FULL. */
  #accounted = Array.from({ length: EVENTS_PER_HANDLER_MAX }, () => ({ samples: 0, period: 0 }));
  #queueFull = 0;

  constructor(buffer: SharedArrayBuffer, dispatcher: number, dataBytes: number) {
    this.#region = new Region(buffer, dispatcher, dataBytes);
    this.bytes = new Uint8Array(buffer, dispatcher * (DATA_AT + dataBytes), DATA_AT + dataBytes);
    this.#tail = Atomics.load(this.#region.words, TAIL_WORD);
  }

  /** Fills `entry` with the oldest entry; false when there is none. */
  peek(): boolean {
    const { words, doubles, dataBytes, dataWord } = this.#region;
    // Written by the dispatcher; acquire: what it wrote into the entry is visible.
    const head = Atomics.load(words, HEAD_WORD);
    while (this.#tail !== head) {
      const at = dataWord + (this.#tail & (dataBytes - 1)) / 4;
      if (words[at + HEADER.KIND] === ENTRY.SKIP) {
        this.#advance(words[at + HEADER.BYTES]);
        continue;
      }
      const entry = this.entry;
      entry.kind = words[at + HEADER.KIND];
      entry.event = words[at + HEADER.EVENT];
      entry.samples = doubles[(at + HEADER.SAMPLES) / 2];
      entry.payloadBytes = words[at + HEADER.PAYLOAD_BYTES];
      entry.payloadAt = at * 4 + ENTRY_HEADER_BYTES;
      entry.period = doubles[(at + HEADER.PERIOD) / 2];
      entry.dispatchNs = doubles[(at + HEADER.DISPATCH_NS) / 2];
      entry.firstNs = doubles[(at + HEADER.FIRST_TIME) / 2];
      entry.lastNs = doubles[(at + HEADER.LAST_TIME) / 2];
      return true;
    }
    return false;
  }

  /** Gives the peeked entry's room back. Every read of its payload must be done. */
  consume(): void {
    const { words, dataBytes, dataWord } = this.#region;
    this.#account(this.entry);
    this.#advance(words[dataWord + (this.#tail & (dataBytes - 1)) / 4 + HEADER.BYTES]);
  }

  #advance(bytes: number): void {
    this.#tail = (this.#tail + bytes) | 0;
    // Release: the dispatcher may write there again.
    Atomics.store(this.#region.words, TAIL_WORD, this.#tail);
  }

  #account({ kind, event, samples, period }: Entry): void {
    if (kind === ENTRY.GAP) return;
    this.#accounted[event].samples += samples;
    this.#accounted[event].period += period;
    if (kind === ENTRY.LOSS) this.#queueFull += samples;
  }

  /**
   * What a dispatcher that died had matched and neither encoded nor counted as lost, by event; from then on it counts as
   * dealt with. Also its counters as they should be. Only when its thread is gone and no other has taken its place.
   */
  abandon(events: number): Abandoned {
    const saved = { tail: this.#tail, queueFull: this.#queueFull, accounted: structuredClone(this.#accounted) };
    // What is queued is accounted for too: walk it without consuming.
    const { words, dataBytes, dataWord } = this.#region;
    while (this.peek()) {
      this.#account(this.entry);
      this.#tail = (this.#tail + words[dataWord + (this.#tail & (dataBytes - 1)) / 4 + HEADER.BYTES]) | 0;
    }
    let matched = 0;
    let queueFull = this.#queueFull;
    const unaccounted = Array.from({ length: events }, (_, event) => {
      const pending = this.pendingLoss(event);
      const weight = this.#region.doubles[this.#region.bookDouble(event, BOOK.WEIGHT)];
      matched += this.matched(event);
      queueFull += pending.samples;
      return {
        samples: this.matched(event) - this.#accounted[event].samples - pending.samples,
        period: weight - this.#accounted[event].period - pending.period,
      };
    });
    this.#tail = saved.tail;
    // Skipping has moved it; nobody has looked meanwhile.
    Atomics.store(words, TAIL_WORD, saved.tail);
    this.#queueFull = saved.queueFull;
    this.#accounted = saved.accounted;
    unaccounted.forEach(({ samples, period }, event) => {
      this.#accounted[event].samples += samples;
      this.#accounted[event].period += period;
    });
    return { unaccounted, matched, queueFull };
  }

  get usedBytes(): number {
    return (Atomics.load(this.#region.words, HEAD_WORD) - this.#tail) >>> 0;
  }

  get capacityBytes(): number {
    return this.#region.dataBytes;
  }

  matched(event: number): number {
    return this.#region.doubles[this.#region.bookDouble(event, BOOK.MATCHED)];
  }

  carried(event: number): number {
    return this.#region.doubles[this.#region.bookDouble(event, BOOK.CARRIED)];
  }

  /** Losses that no entry tells of. Exact only when no dispatcher is inside the handler. */
  pendingLoss(event: number): PendingLoss {
    const { doubles } = this.#region;
    const book = this.#region.bookDouble(event, 0);
    return {
      samples: doubles[book + BOOK.LOST],
      period: doubles[book + BOOK.LOST_PERIOD],
      firstNs: doubles[book + BOOK.LOST_FIRST],
      lastNs: doubles[book + BOOK.LOST_LAST],
    };
  }
}

function align(bytes: number): number {
  return Math.ceil(bytes / ENTRY_ALIGN) * ENTRY_ALIGN;
}
