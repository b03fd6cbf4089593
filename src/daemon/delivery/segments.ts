/**
 * Where encoded samples wait for their streams: reference-counted segments in shared memory, one arena a dispatcher. A
 * chunk is encoded once, into one segment, however many handlers are given it; each handler's outbox refers to it.
 *
 *   guard │ control │ returned │ slab table │ slab 0 │ slab 1 │ … │ guard
 *           dispatcher  anyone    dispatcher
 *
 * A slab is cut into segments of one size, a power of two. A segment is a header line and a chunk's bytes. Its dispatcher
 * allocates it, fills it, and takes it back; the delivering thread reads it, and whoever drops the last reference hands
 * it back: the dispatcher itself, or the delivering thread through the list of returned segments.
 *
 *   FREE ──allocate──► FILLING (BIAS references, the dispatcher's) ──publish──► SHARED (one reference an outbox entry)
 *    ▲                                                                              │
 *    └──── taken back from the returned list ◄──── the last reference is dropped ───┘
 *
 * A segment is named by its position in units of SEGMENT_BYTES_MIN, counted from slab 0.
 */

const LINE = 64;
export const SEGMENT_HEADER_BYTES = 64;
/** Header and a sample's columns: one sample takes 60 bytes. */
export const SEGMENT_BYTES_MIN = 128;
/** Holds the longest record the kernel writes, 64 KiB, encoded. */
export const SLAB_BYTES = 128 * 1024;
const CLASSES = Math.log2(SLAB_BYTES / SEGMENT_BYTES_MIN) + 1;
const UNITS_PER_SLAB = SLAB_BYTES / SEGMENT_BYTES_MIN;
const UNIT_WORDS = SEGMENT_BYTES_MIN / 4;

/** Doubles of the control line. The engine aligns a buffer to less than a line: a guard keeps what is before it away. */
const CONTROL_DOUBLE = LINE / 8;
const CONTROL = {
  USED_BYTES: CONTROL_DOUBLE,
  PEAK_BYTES: CONTROL_DOUBLE + 1,
  EXHAUSTED: CONTROL_DOUBLE + 2,
  SHARE_BYTES: CONTROL_DOUBLE + 3,
} as const;
const RETURNED_WORD = (2 * LINE) / 4;
const SLAB_TABLE_AT = 3 * LINE;

/** Word offsets in a segment's header. */
const HEADER = { REFERENCES: 0, BYTES: 1, PAYLOAD_BYTES: 2, NEXT: 3 } as const;
/** Double offsets in a segment's header. */
const FACT = { SAMPLES: 2, PERIOD: 3, FIRST_NS: 4, LAST_NS: 5, DISPATCH_NS: 6 } as const;

/** Of the arena: who comes first may take of this, each as much as is left. */
const SHARED_PART = 1 / 2;
/** Of the arena: this is divided among all outboxes that there can be. What is left of the whole is room in slabs that are cut and not full. */
const OWN_PART = 1 / 4;
/** Of the slabs that nobody uses, what one outbox may refer to. */
const UNCUT_PART = 1 / 2;
/** An outbox below this is never refused for want of memory, as long as there is any. */
const SHARE_BYTES_MIN = 32 * 1024;

/** More references than there can be handlers: the dispatcher's own, while it still hands the segment out. */
const BIAS = 2 ** 30;
const NO_UNIT = -1;
/**
 * What a recount leaves in a segment that no outbox refers to. Not 0: a count that the delivering thread takes to 0
 * before the next dispatcher looks is a segment on its way through the returned list.
 */
const UNREFERENCED = -1;

/** What each chunk says of itself; times are the samples' own, `dispatchNs` is CLOCK_MONOTONIC. */
export interface ChunkFacts {
  samples: number;
  /** Sum of the samples' weights. */
  period: number;
  firstNs: number;
  lastNs: number;
  dispatchNs: number;
}

/**
 * Bytes of an arena with `slabBytes` of slabs, rounded down to whole slabs; one slab at least. Zeroed memory: mapped, in the
 * daemon, since the engine copies out of a SharedArrayBuffer byte by byte where its neighbours are not aligned alike.
 */
export function arenaBytes(slabBytes: number): number {
  const slabs = Math.max(1, Math.floor(slabBytes / SLAB_BYTES));
  return slabsAt(slabs) + slabs * SLAB_BYTES + LINE;
}

function slabsAt(slabs: number): number {
  return Math.ceil((SLAB_TABLE_AT + slabs * 4) / LINE) * LINE;
}

class Arena {
  readonly words: Int32Array;
  readonly data: Uint32Array;
  readonly doubles: Float64Array;
  readonly slabs: number;
  /** Byte offset of slab 0. */
  readonly base: number;

  constructor(buffer: ArrayBufferLike) {
    this.words = new Int32Array(buffer);
    this.data = new Uint32Array(buffer);
    this.doubles = new Float64Array(buffer, 0, Math.floor(buffer.byteLength / 8));
    this.slabs = slabCount(buffer.byteLength);
    this.base = slabsAt(this.slabs);
  }

  /** Word index of a segment's header. */
  wordOf(unit: number): number {
    return this.base / 4 + unit * UNIT_WORDS;
  }

  /** Class of the slab's segments plus 1, or 0 while it is not cut. */
  slabClassWord(slab: number): number {
    return SLAB_TABLE_AT / 4 + slab;
  }
}

function slabCount(bytes: number): number {
  let slabs = Math.floor(bytes / SLAB_BYTES);
  while (slabsAt(slabs) + slabs * SLAB_BYTES + LINE > bytes) slabs--;
  return slabs;
}

function classOf(bytes: number): number {
  return bytes <= SEGMENT_BYTES_MIN ? 0 : 32 - Math.clz32((bytes - 1) >>> Math.log2(SEGMENT_BYTES_MIN));
}

/** Slabs by number, lowest first: what is taken again and again stays low, and the rest stays untouched or whole. */
class SlabSet {
  readonly #words: Int32Array;
  /** No word below holds a bit. */
  #lowest = 0;

  constructor(slabs: number) {
    this.#words = new Int32Array(Math.ceil(slabs / 32));
  }

  add(slab: number): void {
    const word = slab >>> 5;
    this.#words[word] |= 1 << (slab & 31);
    if (word < this.#lowest) this.#lowest = word;
  }

  delete(slab: number): void {
    this.#words[slab >>> 5] &= ~(1 << (slab & 31));
  }

  /** -1 when empty. */
  lowest(): number {
    for (let word = this.#lowest; word < this.#words.length; word++) {
      const bits = this.#words[word];
      this.#lowest = word;
      if (bits !== 0) return word * 32 + 31 - Math.clz32(bits & -bits);
    }
    return NO_UNIT;
  }
}

/** The dispatcher's end of its arena. Not thread-safe: one thread allocates. */
export class SegmentWriter {
  /** Where chunks are encoded: unsigned words of the whole arena. */
  readonly data: Uint32Array;
  /** Of the segment that was allocated last; 0 before. */
  segmentBytes = 0;
  readonly #arena: Arena;
  /** By slab: its first free segment that was in use before, segments never used yet, segments in use. */
  readonly #freed: Int32Array;
  readonly #fresh: Int32Array;
  readonly #live: Int32Array;
  readonly #withRoom: readonly SlabSet[];
  readonly #uncut: SlabSet;
  #uncutCount: number;

  /** Takes over what a predecessor left, once SegmentReader.recount has settled it. */
  constructor(buffer: ArrayBufferLike) {
    const arena = new Arena(buffer);
    const { slabs } = arena;
    this.#arena = arena;
    this.data = arena.data;
    this.#freed = new Int32Array(slabs).fill(NO_UNIT);
    this.#fresh = new Int32Array(slabs);
    this.#live = new Int32Array(slabs);
    this.#withRoom = Array.from({ length: CLASSES }, () => new SlabSet(slabs));
    this.#uncut = new SlabSet(slabs);
    this.#uncutCount = 0;
    arena.doubles[CONTROL.USED_BYTES] = 0;
    for (let slab = 0; slab < slabs; slab++) this.#adopt(slab);
    this.findShare(1);
  }

  #adopt(slab: number): void {
    const { words, doubles } = this.#arena;
    const size = words[this.#arena.slabClassWord(slab)] - 1;
    if (size >= 0) {
      const step = 1 << size;
      this.#fresh[slab] = UNITS_PER_SLAB / step;
      for (let unit = slab * UNITS_PER_SLAB; unit < (slab + 1) * UNITS_PER_SLAB; unit += step) {
        const at = this.#arena.wordOf(unit);
        // Taken down meanwhile by the delivering thread, and never to UNREFERENCED.
        if (Atomics.load(words, at + HEADER.REFERENCES) === UNREFERENCED) {
          words[at + HEADER.NEXT] = this.#freed[slab];
          this.#freed[slab] = unit;
        } else this.#live[slab]++;
      }
      doubles[CONTROL.USED_BYTES] += this.#live[slab] * SEGMENT_BYTES_MIN * step;
    }
    if (this.#live[slab] === 0) this.#uncutSlab(slab);
    else if (this.#freed[slab] !== NO_UNIT) this.#withRoom[size].add(slab);
  }

  #uncutSlab(slab: number): void {
    this.#arena.words[this.#arena.slabClassWord(slab)] = 0;
    this.#uncut.add(slab);
    this.#uncutCount++;
  }

  /**
   * What one outbox of at most `outboxes` may refer to as things stand: as much as is left of what they share (Choudhury
   * and Hahne's dynamic threshold for shared-memory switches), or a part of its own. The threshold alone would not do:
   * what a stuck reader holds it holds for good, so that each that comes after the others halves what is left.
   */
  findShare(outboxes: number): number {
    const { doubles, slabs } = this.#arena;
    const arenaBytes = slabs * SLAB_BYTES;
    const left = arenaBytes * SHARED_PART - doubles[CONTROL.USED_BYTES];
    const own = Math.max(SHARE_BYTES_MIN, (arenaBytes * OWN_PART) / outboxes);
    const share = Math.max(own, Math.min(left, this.#uncutCount * SLAB_BYTES * UNCUT_PART));
    doubles[CONTROL.SHARE_BYTES] = share;
    return share;
  }

  /** Bytes a segment for this much payload takes. */
  static bytesFor(payloadBytes: number): number {
    return SEGMENT_BYTES_MIN << classOf(SEGMENT_HEADER_BYTES + payloadBytes);
  }

  /**
   * A segment for a chunk of `payloadBytes`, held by the dispatcher until `publish`; -1 when the arena is exhausted, or
   * the chunk is larger than a slab. The payload starts at `payloadWord` in `data`.
   */
  allocate(payloadBytes: number): number {
    const size = classOf(SEGMENT_HEADER_BYTES + payloadBytes);
    if (size >= CLASSES) return this.#exhausted();
    let slab = this.#withRoom[size].lowest();
    if (slab < 0) {
      slab = this.#uncut.lowest();
      if (slab < 0) return this.#exhausted();
      this.#cut(slab, size);
    }
    const { words, doubles } = this.#arena;
    let unit = this.#freed[slab];
    if (unit === NO_UNIT) unit = slab * UNITS_PER_SLAB + (this.#fresh[slab]++ << size);
    else this.#freed[slab] = words[this.#arena.wordOf(unit) + HEADER.NEXT];
    this.#live[slab]++;
    if (this.#freed[slab] === NO_UNIT && this.#fresh[slab] << size === UNITS_PER_SLAB)
      this.#withRoom[size].delete(slab);
    const at = this.#arena.wordOf(unit);
    this.segmentBytes = SEGMENT_BYTES_MIN << size;
    words[at + HEADER.REFERENCES] = BIAS;
    words[at + HEADER.BYTES] = this.segmentBytes;
    words[at + HEADER.PAYLOAD_BYTES] = payloadBytes;
    doubles[CONTROL.USED_BYTES] += this.segmentBytes;
    if (doubles[CONTROL.USED_BYTES] > doubles[CONTROL.PEAK_BYTES])
      doubles[CONTROL.PEAK_BYTES] = doubles[CONTROL.USED_BYTES];
    return unit;
  }

  #exhausted(): number {
    this.#arena.doubles[CONTROL.EXHAUSTED] += 1;
    return NO_UNIT;
  }

  #cut(slab: number, size: number): void {
    this.#uncut.delete(slab);
    this.#uncutCount--;
    this.#freed[slab] = NO_UNIT;
    this.#fresh[slab] = 0;
    this.#arena.words[this.#arena.slabClassWord(slab)] = size + 1;
    this.#withRoom[size].add(slab);
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

  /** Takes back what the delivering thread has returned. Once a batch: bounded by what is in use. */
  reclaim(): void {
    const { words } = this.#arena;
    if (words[RETURNED_WORD] === 0) return;
    // Pushed by the delivering thread; acquire: its links are visible. The whole list at once, so there is no ABA.
    for (let link = Atomics.exchange(words, RETURNED_WORD, 0); link !== 0; ) {
      const unit = link - 1;
      link = words[this.#arena.wordOf(unit) + HEADER.NEXT];
      this.#free(unit);
    }
  }

  #free(unit: number): void {
    const { words, doubles } = this.#arena;
    const at = this.#arena.wordOf(unit);
    const slab = Math.floor(unit / UNITS_PER_SLAB);
    doubles[CONTROL.USED_BYTES] -= words[at + HEADER.BYTES];
    const size = words[this.#arena.slabClassWord(slab)] - 1;
    if (--this.#live[slab] === 0) {
      this.#withRoom[size].delete(slab);
      this.#uncutSlab(slab);
      return;
    }
    words[at + HEADER.NEXT] = this.#freed[slab];
    this.#freed[slab] = unit;
    this.#withRoom[size].add(slab);
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
   * Counts all references anew, from the outboxes: `visit` is handed a function to call for each segment that an outbox
   * entry refers to. Only when the dispatcher's thread is gone and no other has taken its place.
   */
  recount(visit: (count: (unit: number) => void) => void): void {
    const { words, slabs } = this.#arena;
    Atomics.store(words, RETURNED_WORD, 0);
    for (let slab = 0; slab < slabs; slab++) {
      const size = words[this.#arena.slabClassWord(slab)] - 1;
      if (size < 0) continue;
      for (let unit = slab * UNITS_PER_SLAB; unit < (slab + 1) * UNITS_PER_SLAB; unit += 1 << size)
        words[this.#arena.wordOf(unit) + HEADER.REFERENCES] = UNREFERENCED;
    }
    visit((unit) => {
      const at = this.#arena.wordOf(unit) + HEADER.REFERENCES;
      words[at] = words[at] === UNREFERENCED ? 1 : words[at] + 1;
    });
  }
}
