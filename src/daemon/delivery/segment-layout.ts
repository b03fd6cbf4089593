/**
 * Where things are in an arena of segments (segments.ts says what they are for), and who writes them.
 *
 *   guard │ control │ returned │ survivors │ slab 0 │ slab 1 │ … │ guard
 *           dispatcher  anyone    delivery
 *
 *   slabs:  shared │ reserve of small segments │ reserve of large segments
 *
 * A segment is a header line and a chunk's bytes, a power of two in all, and aligned to it within its slab. It is named by
 * its position in units of SEGMENT_BYTES_MIN, counted from slab 0.
 */

const LINE = 64;
export const SEGMENT_HEADER_BYTES = 64;
/** Header and a sample's columns: one sample takes 60 bytes. */
export const SEGMENT_BYTES_MIN = 128;
/** Holds the longest record the kernel writes, 64 KiB, encoded. */
export const SLAB_BYTES = 128 * 1024;
/** Sizes of segments: class c has SEGMENT_BYTES_MIN << c bytes. */
export const CLASSES = Math.log2(SLAB_BYTES / SEGMENT_BYTES_MIN) + 1;
export const UNITS_PER_SLAB = SLAB_BYTES / SEGMENT_BYTES_MIN;
const UNIT_WORDS = SEGMENT_BYTES_MIN / 4;

/** Doubles of the control line. The engine aligns a buffer to less than a line: a guard keeps what is before it away. */
const CONTROL_DOUBLE = LINE / 8;
export const CONTROL = {
  USED_BYTES: CONTROL_DOUBLE,
  PEAK_BYTES: CONTROL_DOUBLE + 1,
  EXHAUSTED: CONTROL_DOUBLE + 2,
  SHARE_BYTES: CONTROL_DOUBLE + 3,
} as const;
/** First of the segments that the delivering thread gave back, as a unit + 1. */
export const RETURNED_WORD = (2 * LINE) / 4;
/** First of the segments that outlived their dispatcher, as a unit + 1. */
export const SURVIVORS_WORD = (3 * LINE) / 4;
const SLABS_AT = 4 * LINE;

/** Word offsets in a segment's header. */
export const HEADER = { REFERENCES: 0, BYTES: 1, PAYLOAD_BYTES: 2, NEXT: 3, NEXT_SURVIVOR: 14 } as const;
/** Double offsets in a segment's header. */
export const FACT = { SAMPLES: 2, PERIOD: 3, FIRST_NS: 4, LAST_NS: 5, DISPATCH_NS: 6 } as const;

/** Of the arena: each reserve. */
export const RESERVE_PART = 1 / 4;

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
  return SLABS_AT + slabs * SLAB_BYTES + LINE;
}

/** The class of the smallest segment with so many bytes, header included; CLASSES or more where there is none. */
export function classOf(bytes: number): number {
  return bytes <= SEGMENT_BYTES_MIN ? 0 : 32 - Math.clz32((bytes - 1) >>> Math.log2(SEGMENT_BYTES_MIN));
}

/** Bytes a segment for this much payload takes. */
export function segmentBytesFor(payloadBytes: number): number {
  return SEGMENT_BYTES_MIN << classOf(SEGMENT_HEADER_BYTES + payloadBytes);
}

/** One arena as either end sees it. */
export class Arena {
  readonly words: Int32Array;
  readonly data: Uint32Array;
  readonly doubles: Float64Array;
  readonly slabs: number;
  /** Slabs of each of the two reserves, which are behind the others. */
  readonly reserveSlabs: number;

  constructor(buffer: ArrayBufferLike) {
    this.words = new Int32Array(buffer);
    this.data = new Uint32Array(buffer);
    this.doubles = new Float64Array(buffer, 0, Math.floor(buffer.byteLength / 8));
    this.slabs = Math.floor((buffer.byteLength - SLABS_AT - LINE) / SLAB_BYTES);
    this.reserveSlabs = Math.floor(this.slabs * RESERVE_PART);
  }

  get sharedSlabs(): number {
    return this.slabs - 2 * this.reserveSlabs;
  }

  /** Word index of a segment's header. */
  wordOf(unit: number): number {
    return SLABS_AT / 4 + unit * UNIT_WORDS;
  }
}
