/**
 * What consumers can make the daemon hold is bounded by one number, limits.memory_max_bytes, in three parts that are
 * kept apart, so that none of them can starve another: segments (encoded samples that wait), outboxes, and what waits
 * inside the transport.
 */
import { SLAB_BYTES } from "./segment-layout.js";

/**
 * A chunk of the usual size in its frame: each stream has room for as much of its own. A chunk of one sample with a
 * callchain of some 2,000 addresses or more is larger, and goes out all the same: CHUNK_PAYLOAD_BYTES_MAX says how large.
 */
export const STREAM_BYTES_MIN = 16 * 1024;
/** A message is written when it is this large, however young its samples are: half a megabyte with its frame, well below
 * the 4 MiB that gRPC clients usually accept. */
export const MESSAGE_BYTES = 512 * 1024 - 64;
/** Of what streams share, one may take this part of what is left. */
const STREAM_SHARE = 1 / 16;

const SEGMENTS_PART = 1 / 2;
const OUTBOXES_PART = 1 / 4;
const STREAMS_PART = 1 / 4;

/** Bytes of the limit for each slot of the table: half of the streams' part is each stream's own. */
export const MEMORY_BYTES_PER_HANDLER = (2 * STREAM_BYTES_MIN) / STREAMS_PART;
/** Bytes of the limit for each dispatcher: slabs for the shared half of its segments and for both reserves. */
export const MEMORY_BYTES_PER_DISPATCHER = (32 * SLAB_BYTES) / SEGMENTS_PART;

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

/**
 * Bounds what waits inside the transport, over all streams: how much one may hand over depends on how much all the others
 * hold. Every stream has room for a message of STREAM_BYTES_MIN of its own, so
 * that readers who never read keep nobody from being served; the rest is shared, and one may take a part of what is left.
 */
export class StreamMemory {
  readonly limitBytes: number;
  readonly #sharedBytes: number;
  #usedBytes = 0;
  #sharedUsedBytes = 0;
  #peakBytes = 0;

  /** `streams`: the most there can be. */
  constructor(limitBytes: number, streams: number) {
    this.limitBytes = limitBytes;
    this.#sharedBytes = Math.max(0, limitBytes - streams * STREAM_BYTES_MIN);
  }

  /** How large the next message of a stream may be that has `heldBytes` on their way. */
  messageBytesMax(heldBytes: number): number {
    const share = Math.max(0, this.#sharedBytes - this.#sharedUsedBytes) * STREAM_SHARE;
    return Math.min(MESSAGE_BYTES, STREAM_BYTES_MIN + share - heldBytes);
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get peakBytes(): number {
    return this.#peakBytes;
  }

  /** A message is handed to the transport by a stream that has `heldBytes` there now. */
  take(heldBytes: number, bytes: number): void {
    this.#usedBytes += bytes;
    this.#sharedUsedBytes += sharedPart(heldBytes) - sharedPart(heldBytes - bytes);
    this.#peakBytes = Math.max(this.#peakBytes, this.#usedBytes);
  }

  /** The transport has taken a message of a stream that had `heldBytes` there, or has gone. */
  give(heldBytes: number, bytes: number): void {
    this.#usedBytes -= bytes;
    this.#sharedUsedBytes -= sharedPart(heldBytes) - sharedPart(heldBytes - bytes);
  }
}

/** What a stream holds beyond what is its own. */
function sharedPart(heldBytes: number): number {
  return Math.max(0, heldBytes - STREAM_BYTES_MIN);
}
