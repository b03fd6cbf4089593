/**
 * What consumers can make the daemon hold is bounded by one number, limits.memory_max_bytes, in three parts that are
 * kept apart, so that none of them can starve another: segments (encoded samples that wait), outboxes, and what waits
 * inside the transport.
 */
import { frameBytes, messageBytesIn } from "./frame-size.js";
import { RESERVE_PART, SLAB_BYTES } from "./segment-layout.js";
import { OWN_BYTES_MIN } from "./segments.js";

/**
 * A message may always be as large as a chunk of the usual size: each stream has room for its frame of its own. A chunk of
 * one sample with a callchain of some 2,000 addresses or more is larger, and goes out all the same:
 * CHUNK_PAYLOAD_BYTES_MAX says how large.
 */
export const MESSAGE_BYTES_MIN = 16 * 1024;
/** What a message's columns come with: its header, and the frame's. */
const AROUND_COLUMNS_BYTES = 64;
/** A stream's own. */
export const STREAM_BYTES_MIN = frameBytes(MESSAGE_BYTES_MIN + AROUND_COLUMNS_BYTES);
/** A message is written when it is this large, however young its samples are: half a megabyte with its frame, well below
 * the 4 MiB that gRPC clients usually accept. */
export const MESSAGE_BYTES = 512 * 1024 - AROUND_COLUMNS_BYTES;
/** Of what streams share, one may take this part of what is left. */
const STREAM_SHARE = 1 / 16;

const SEGMENTS_PART = 1 / 2;
const OUTBOXES_PART = 1 / 4;
const STREAMS_PART = 1 / 4;

/** Of the streams' part, what may be each stream's own: the rest is shared. */
const STREAMS_OWN_PART = 9 / 16;
/** Bytes of the limit for each slot of the table. */
export const MEMORY_BYTES_PER_HANDLER = STREAM_BYTES_MIN / STREAMS_OWN_PART / STREAMS_PART;
/** Bytes of the limit for each dispatcher: slabs for the shared half of its segments and for both reserves. */
export const MEMORY_BYTES_PER_DISPATCHER = (32 * SLAB_BYTES) / SEGMENTS_PART;

/**
 * Bytes of the limit for each slot of the table and dispatcher: with as much, each handler's own part of the segments is
 * there for sure. With less those who come last may find it taken by others, however little they have themselves.
 */
export const MEMORY_BYTES_PER_SHARE = OWN_BYTES_MIN / RESERVE_PART / SEGMENTS_PART;

export interface MemoryPlan {
  readonly segmentBytes: number;
  readonly outboxBytes: number;
  readonly streamBytes: number;
}

export function planMemory(limitBytes: number): MemoryPlan {
  return {
    segmentBytes: limitBytes * SEGMENTS_PART,
    outboxBytes: limitBytes * OUTBOXES_PART,
    streamBytes: limitBytes * STREAMS_PART,
  };
}

/** A part that is taken whole or not at all. */
export class MemoryBudget {
  readonly limitBytes: number;
  #usedBytes = 0;
  #peakBytes = 0;

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** False when it does not fit: then nothing is taken. */
  take(bytes: number): boolean {
    if (this.#usedBytes + bytes > this.limitBytes) return false;
    this.#usedBytes += bytes;
    this.#peakBytes = Math.max(this.#peakBytes, this.#usedBytes);
    return true;
  }

  give(bytes: number): void {
    this.#usedBytes -= bytes;
  }
}

/** Frames that the transport keeps for the next messages. */
export interface IdleFrames {
  readonly keptBytes: number;
  /** Lets go of frames until no more than `bytes` are kept. */
  trim(bytes: number): void;
}

/** Keeps none. */
const NO_FRAMES: IdleFrames = { keptBytes: 0, trim() {} };

/**
 * Bounds what waits inside the transport, over all streams, in the frames it takes there: how much one may hand over
 * depends on how much all the others hold. Every stream has room for a frame of STREAM_BYTES_MIN of its own, so that
 * readers who never read keep nobody from being served; the rest is shared, and one may take a part of what is left.
 * Frames that are kept for the next messages count too, and make room for those that are needed.
 *
 * One sample whose callchain makes it larger than a stream's own part is written all the same, on an idle stream.
 */
export class StreamMemory {
  readonly limitBytes: number;
  readonly #sharedBytes: number;
  readonly #idle: IdleFrames;
  #heldBytes = 0;
  #sharedUsedBytes = 0;
  #peakBytes = 0;

  /** `streams`: the most there can be. */
  constructor(limitBytes: number, streams: number, idle = NO_FRAMES) {
    this.limitBytes = limitBytes;
    this.#sharedBytes = Math.max(0, limitBytes - streams * STREAM_BYTES_MIN);
    this.#idle = idle;
  }

  /** How large the columns of a stream's next message may be that has frames of `heldBytes` on their way. */
  messageBytesMax(heldBytes: number): number {
    const share = Math.max(0, this.#sharedBytes - this.#sharedUsedBytes) * STREAM_SHARE;
    return Math.min(MESSAGE_BYTES, messageBytesIn(STREAM_BYTES_MIN + share - heldBytes) - AROUND_COLUMNS_BYTES);
  }

  /** Frames on their way, and frames that are kept. */
  get usedBytes(): number {
    return this.#heldBytes + this.#idle.keptBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** No stream is left that could use the frames that are kept. */
  letGoOfIdle(): void {
    this.#idle.trim(0);
  }

  /** A frame is handed to the transport by a stream that has `heldBytes` there now. */
  take(heldBytes: number, bytes: number): void {
    this.#heldBytes += bytes;
    this.#sharedUsedBytes += sharedPart(heldBytes) - sharedPart(heldBytes - bytes);
    if (this.usedBytes > this.limitBytes) this.#idle.trim(Math.max(0, this.limitBytes - this.#heldBytes));
    this.#peakBytes = Math.max(this.#peakBytes, this.usedBytes);
  }

  /** The transport has taken a frame of a stream that had `heldBytes` there, or has gone. */
  give(heldBytes: number, bytes: number): void {
    this.#heldBytes -= bytes;
    this.#sharedUsedBytes -= sharedPart(heldBytes) - sharedPart(heldBytes - bytes);
  }
}

/** What a stream holds beyond what is its own. */
function sharedPart(heldBytes: number): number {
  return Math.max(0, heldBytes - STREAM_BYTES_MIN);
}
