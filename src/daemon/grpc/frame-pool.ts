/**
 * Buffers for gRPC frames, used again and again. A new half megabyte for each message would have the engine collect
 * garbage all the time: at 500 MB/s that took as long as sending them.
 */
import { frameBytes, SIZED_FRAME_BYTES_MIN } from "../delivery/frame-size.js";
import type { IdleFrames } from "../delivery/memory.js";

/** Larger frames, of single samples with very deep callchains, are rare. */
const POOLED_BYTES_MAX = 512 * 1024;
/** Kept for the next message, all sizes together: as many as sixty-four busy streams have on their way. */
const KEPT_BYTES_MAX = 32 * 1024 * 1024;
/** Of what streams may use, and no more than this. */
const KEPT_PART = 1 / 4;

export class FramePool implements IdleFrames {
  readonly #keptBytesMax: number;
  /** By size. */
  readonly #free = new Map<number, Buffer[]>();
  #keptBytes = 0;

  /** `streamBytes`: all that streams may use. */
  constructor(streamBytes: number) {
    this.#keptBytesMax = Math.min(KEPT_BYTES_MAX, streamBytes * KEPT_PART);
  }

  /** As long as frameBytes says, with anything in it. */
  take(messageBytes: number): Buffer {
    const size = frameBytes(messageBytes);
    if (size < SIZED_FRAME_BYTES_MIN) return Buffer.allocUnsafe(size);
    const kept = this.#free.get(size)?.pop();
    if (kept === undefined) return Buffer.allocUnsafeSlow(size);
    this.#keptBytes -= size;
    return kept;
  }

  /** Only what `take` gave, and only when nobody reads it any more. */
  give(buffer: Buffer): void {
    const size = buffer.length;
    const isPooled = size >= SIZED_FRAME_BYTES_MIN && size <= POOLED_BYTES_MAX;
    if (!isPooled || this.#keptBytes + size > this.#keptBytesMax) return;
    const free = this.#free.get(size);
    if (free === undefined) this.#free.set(size, [buffer]);
    else free.push(buffer);
    this.#keptBytes += size;
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  trim(bytes: number): void {
    for (const [size, free] of this.#free) {
      while (this.#keptBytes > bytes && free.pop() !== undefined) this.#keptBytes -= size;
    }
  }
}
