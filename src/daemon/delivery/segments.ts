/**
 * Where encoded samples wait for their streams: reference-counted segments in shared memory, one arena a dispatcher. A
 * chunk is encoded once, into one segment, however many handlers are given it; each handler's outbox refers to it.
 *
 * A segment's dispatcher allocates it, fills it, and takes it back; the delivering thread reads it, and whoever drops the
 * last reference hands it back: the dispatcher itself, or the delivering thread through the list of returned segments.
 *
 *   FREE ──allocate──► FILLING (BIAS references, the dispatcher's) ──publish──► SHARED (one reference an outbox entry)
 *    ▲                                                                              │
 *    └──── taken back from the returned list ◄──── the last reference is dropped ───┘
 *
 * What keeps readers that are stuck from starving others:
 *
 * - Half of the arena is for whoever comes first, up to a dynamic threshold (findShare). Blocks in it are buddies
 *   (slabs.ts), so that every free byte is room for somebody: a chunk that finds no block of its size is cut to the
 *   largest there is (dispatch/chunks.ts).
 * - Two reserves, a quarter each, of segments of one size each, which nothing can fragment. Out of them an outbox is served
 *   that refers to less than its own part, and may be given a segment from there only then: all own parts together are
 *   no more than a reserve, so that each is there for certain, whatever the others hold.
 *
 * What is left to an attacker: one sample cannot be cut. Two readers who conspire can keep one segment of
 * SEGMENT_BYTES_MIN in each block that such a sample would need, and so deny the shared half to it. For the 2 KiB of a
 * callchain as deep as kernel.perf_event_max_stack is by default (127) they are charged for a sixteenth of what they
 * deny; a sample that fits SEGMENT_BYTES_MIN they can deny nothing but what they hold. The reserves they cannot touch: only
 * callchains of some 2,000 addresses, which no reserve has segments for, can be denied altogether, to those who raised
 * that bound.
 */
import {
  Arena,
  type ChunkFacts,
  CLASSES,
  CONTROL,
  classOf,
  FACT,
  HEADER,
  RETURNED_WORD,
  SEGMENT_BYTES_MIN,
  SEGMENT_HEADER_BYTES,
  SLAB_BYTES,
  SURVIVORS_WORD,
  UNITS_PER_SLAB,
} from "./segment-layout.js";
import { SlabPool } from "./slabs.js";

/** A sample with a callchain of the default depth and more, or some forty without. */
export const RESERVE_SMALL_BYTES = 2048;
/** The largest chunk of more than one sample. */
export const RESERVE_LARGE_BYTES = 16 * 1024;
const SMALL = classOf(RESERVE_SMALL_BYTES);
const LARGE = classOf(RESERVE_LARGE_BYTES);
/** An outbox below this is never refused for want of memory, as long as there is any: two of the largest chunks. */
export const OWN_BYTES_MIN = 2 * RESERVE_LARGE_BYTES;

/** More references than there can be handlers: the dispatcher's own, while it still hands the segment out. */
const BIAS = 2 ** 30;
const NO_UNIT = -1;

/** The dispatcher's end of its arena. Not thread-safe: one thread allocates. */
export class SegmentWriter {
  /** Where chunks are encoded: unsigned words of the whole arena. */
  readonly data: Uint32Array;
  /** Of the segment that was allocated last; 0 before. */
  segmentBytes = 0;
  /** As of the last findShare: what is there for each outbox, whatever the others hold. */
  ownBytes = 0;
  readonly #arena: Arena;
  readonly #shared: SlabPool;
  readonly #small: SlabPool;
  readonly #large: SlabPool;
  readonly #smallFrom: number;
  readonly #largeFrom: number;
  #sharedUsedBytes = 0;

  /** Takes over what a predecessor left, once SegmentReader.recount has settled it. */
  constructor(buffer: ArrayBufferLike) {
    const arena = new Arena(buffer);
    const { sharedSlabs, reserveSlabs, words, doubles } = arena;
    this.#arena = arena;
    this.data = arena.data;
    this.#shared = new SlabPool(0, sharedSlabs);
    this.#small = new SlabPool(sharedSlabs, reserveSlabs);
    this.#large = new SlabPool(sharedSlabs + reserveSlabs, reserveSlabs);
    this.#smallFrom = sharedSlabs * UNITS_PER_SLAB;
    this.#largeFrom = (sharedSlabs + reserveSlabs) * UNITS_PER_SLAB;
    doubles[CONTROL.USED_BYTES] = 0;
    // Left by recount. What the delivering thread has let go of since comes back as any other segment.
    for (let link = words[SURVIVORS_WORD]; link !== 0; link = words[arena.wordOf(link - 1) + HEADER.NEXT_SURVIVOR]) {
      const bytes = words[arena.wordOf(link - 1) + HEADER.BYTES];
      this.#poolOf(link - 1).takeAt(link - 1, classOf(bytes));
      this.#countUsed(link - 1, bytes);
    }
    this.findShare(1);
  }

  #poolOf(unit: number): SlabPool {
    if (unit < this.#smallFrom) return this.#shared;
    return unit < this.#largeFrom ? this.#small : this.#large;
  }

  #countUsed(unit: number, bytes: number): void {
    const { doubles } = this.#arena;
    doubles[CONTROL.USED_BYTES] += bytes;
    if (unit < this.#smallFrom) this.#sharedUsedBytes += bytes;
  }

  /**
   * What one outbox of at most `outboxes` may refer to as things stand: as much as is left of what they share (Choudhury
   * and Hahne's dynamic threshold for shared-memory switches), or a part of its own. The threshold alone would not do:
   * what a stuck reader holds it holds for good, so that each that comes after the others halves what is left.
   */
  findShare(outboxes: number): number {
    const { doubles, sharedSlabs, reserveSlabs } = this.#arena;
    this.ownBytes = Math.max(OWN_BYTES_MIN, (reserveSlabs * SLAB_BYTES) / outboxes);
    const share = Math.max(this.ownBytes, sharedSlabs * SLAB_BYTES - this.#sharedUsedBytes);
    doubles[CONTROL.SHARE_BYTES] = share;
    return share;
  }

  /**
   * A segment for a chunk of `payloadBytes`, held by the dispatcher until `publish`; -1 when there is no room, or the
   * chunk is larger than a slab. The payload starts at `payloadWord` in `data`. It is for an outbox that has `ownLeftBytes`
   * left of its own part, which are worth something when the shared half is full: `segmentBytes` may be more then.
   */
  allocate(payloadBytes: number, ownLeftBytes = 0): number {
    const size = classOf(SEGMENT_HEADER_BYTES + payloadBytes);
    let unit = this.#place(size, ownLeftBytes);
    // What was read since the batch began is room, too.
    if (unit < 0 && this.reclaim()) unit = this.#place(size, ownLeftBytes);
    const { words, doubles } = this.#arena;
    if (unit < 0) {
      doubles[CONTROL.EXHAUSTED] += 1;
      return NO_UNIT;
    }
    const at = this.#arena.wordOf(unit);
    words[at + HEADER.REFERENCES] = BIAS;
    words[at + HEADER.BYTES] = this.segmentBytes;
    words[at + HEADER.PAYLOAD_BYTES] = payloadBytes;
    this.#countUsed(unit, this.segmentBytes);
    if (doubles[CONTROL.USED_BYTES] > doubles[CONTROL.PEAK_BYTES])
      doubles[CONTROL.PEAK_BYTES] = doubles[CONTROL.USED_BYTES];
    return unit;
  }

  #place(size: number, ownLeftBytes: number): number {
    if (size >= CLASSES) return NO_UNIT;
    this.segmentBytes = SEGMENT_BYTES_MIN << size;
    const unit = this.#shared.take(size);
    if (unit >= 0) return unit;
    if (size <= SMALL && ownLeftBytes >= RESERVE_SMALL_BYTES) {
      this.segmentBytes = RESERVE_SMALL_BYTES;
      return this.#small.take(SMALL);
    }
    if (size > SMALL && size <= LARGE && ownLeftBytes >= RESERVE_LARGE_BYTES) {
      this.segmentBytes = RESERVE_LARGE_BYTES;
      return this.#large.take(LARGE);
    }
    return NO_UNIT;
  }

  /** Payload of the largest segment that the shared half has room for; less than 0 when it is full. */
  get payloadRoomBytes(): number {
    const size = this.#shared.largest;
    return size < 0 ? NO_UNIT : (SEGMENT_BYTES_MIN << size) - SEGMENT_HEADER_BYTES;
  }

  /** Whether the segment is for outboxes alone that refer to less than their own part. */
  isReserved(unit: number): boolean {
    return unit >= this.#smallFrom;
  }

  payloadWord(unit: number): number {
    return this.#arena.wordOf(unit) + SEGMENT_HEADER_BYTES / 4;
  }

  describe(unit: number, samples: number, period: number, firstNs: number, lastNs: number, dispatchNs: number): void {
    const { doubles } = this.#arena;
    const at = this.#arena.wordOf(unit) / 2;
    doubles[at + FACT.SAMPLES] = samples;
    doubles[at + FACT.PERIOD] = period;
    doubles[at + FACT.FIRST_NS] = firstNs;
    doubles[at + FACT.LAST_NS] = lastNs;
    doubles[at + FACT.DISPATCH_NS] = dispatchNs;
  }

  /** The dispatcher lets go of a segment that it has put into `outboxes` outboxes. */
  publish(unit: number, outboxes: number): void {
    const at = this.#arena.wordOf(unit) + HEADER.REFERENCES;
    // The delivering thread may have dropped some of those references already; whoever gets to 0 owns the segment.
    const before = Atomics.sub(this.#arena.words, at, BIAS - outboxes);
    if (before === BIAS - outboxes) this.#free(unit);
  }

  /** Takes back what the delivering thread has returned, bounded by what is in use. False when that was nothing. */
  reclaim(): boolean {
    const { words } = this.#arena;
    if (words[RETURNED_WORD] === 0) return false;
    // Pushed by the delivering thread; acquire: its links are visible. The whole list at once, so there is no ABA.
    for (let link = Atomics.exchange(words, RETURNED_WORD, 0); link !== 0; ) {
      const unit = link - 1;
      link = words[this.#arena.wordOf(unit) + HEADER.NEXT];
      this.#free(unit);
    }
    return true;
  }

  #free(unit: number): void {
    const bytes = this.#arena.words[this.#arena.wordOf(unit) + HEADER.BYTES];
    this.#countUsed(unit, -bytes);
    this.#poolOf(unit).give(unit, classOf(bytes));
  }
}

export interface ArenaUse {
  readonly usedBytes: number;
  readonly peakBytes: number;
  readonly capacityBytes: number;
  /** Allocations that found no room. */
  readonly exhausted: number;
}

/** The delivering thread's end of one arena. */
export class SegmentReader {
  readonly bytes: Uint8Array;
  readonly #arena: Arena;

  constructor(buffer: ArrayBufferLike) {
    this.#arena = new Arena(buffer);
    this.bytes = new Uint8Array(buffer);
  }

  /** See SegmentWriter.findShare; as of the last batch. */
  get shareBytes(): number {
    return this.#arena.doubles[CONTROL.SHARE_BYTES];
  }

  segmentBytes(unit: number): number {
    return this.#arena.words[this.#arena.wordOf(unit) + HEADER.BYTES];
  }

  payloadBytes(unit: number): number {
    return this.#arena.words[this.#arena.wordOf(unit) + HEADER.PAYLOAD_BYTES];
  }

  /** Into `bytes`. */
  payloadAt(unit: number): number {
    return this.#arena.wordOf(unit) * 4 + SEGMENT_HEADER_BYTES;
  }

  readFacts(unit: number, facts: ChunkFacts): void {
    const { doubles } = this.#arena;
    const at = this.#arena.wordOf(unit) / 2;
    facts.samples = doubles[at + FACT.SAMPLES];
    facts.period = doubles[at + FACT.PERIOD];
    facts.firstNs = doubles[at + FACT.FIRST_NS];
    facts.lastNs = doubles[at + FACT.LAST_NS];
    facts.dispatchNs = doubles[at + FACT.DISPATCH_NS];
  }

  /** Drops one reference. Every read of the segment must be done. */
  release(unit: number): void {
    const { words } = this.#arena;
    const at = this.#arena.wordOf(unit);
    // Written by the dispatcher too (publish): whoever takes the last reference hands the segment back.
    if (Atomics.sub(words, at + HEADER.REFERENCES, 1) !== 1) return;
    for (;;) {
      const head = Atomics.load(words, RETURNED_WORD);
      words[at + HEADER.NEXT] = head;
      // Release: the link is written before it. The dispatcher may take the list meanwhile; then the next try succeeds.
      if (Atomics.compareExchange(words, RETURNED_WORD, head, unit + 1) === head) return;
    }
  }

  use(): ArenaUse {
    const { doubles, slabs } = this.#arena;
    return {
      usedBytes: doubles[CONTROL.USED_BYTES],
      peakBytes: doubles[CONTROL.PEAK_BYTES],
      exhausted: doubles[CONTROL.EXHAUSTED],
      capacityBytes: slabs * SLAB_BYTES,
    };
  }

  /**
   * Counts all references anew, from the outboxes, and leaves a list of the segments that have any: `visit` is handed a
   * function to call for each segment that an outbox entry refers to, twice. Only when the dispatcher's thread is gone
   * and no other has taken its place.
   */
  recount(visit: (count: (unit: number) => void) => void): void {
    const { words } = this.#arena;
    Atomics.store(words, RETURNED_WORD, 0);
    words[SURVIVORS_WORD] = 0;
    visit((unit) => {
      words[this.#arena.wordOf(unit) + HEADER.REFERENCES] = 0;
    });
    visit((unit) => {
      const at = this.#arena.wordOf(unit);
      if (words[at + HEADER.REFERENCES]++ > 0) return;
      words[at + HEADER.NEXT_SURVIVOR] = words[SURVIVORS_WORD];
      words[SURVIVORS_WORD] = unit + 1;
    });
  }
}
