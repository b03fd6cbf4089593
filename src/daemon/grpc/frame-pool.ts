/**
 * Buffers for gRPC frames, used again and again. A new half megabyte for each message would have the engine collect
 * garbage all the time: at 500 MB/s that took as long as sending them.
 */

/** Smaller frames come from Node's own pool and are not worth keeping. */
const POOLED_BYTES_MIN = 4096;
/** Larger frames, of single samples with very deep callchains, are rare. */
const POOLED_BYTES_MAX = 512 * 1024;
/** Kept for the next message, all sizes together: as many as sixty-four busy streams have on their way. */
const KEPT_BYTES_MAX = 32 * 1024 * 1024;

export class FramePool {
  /** By power of two. */
  readonly #free = new Map<number, Buffer[]>();
  #keptBytes = 0;

  /** At least `bytes` long, with anything in it. */
  take(bytes: number): Buffer {
    if (bytes < POOLED_BYTES_MIN || bytes > POOLED_BYTES_MAX) return Buffer.allocUnsafe(bytes);
    const size = 2 ** Math.ceil(Math.log2(bytes));
    const kept = this.#free.get(size)?.pop();
    if (kept === undefined) return Buffer.allocUnsafeSlow(size);
    this.#keptBytes -= size;
    return kept;
  }

  /** Only what `take` gave, and only when nobody reads it any more. */
  give(buffer: Buffer): void {
    const size = buffer.length;
    const isPooled = size >= POOLED_BYTES_MIN && size <= POOLED_BYTES_MAX && Number.isInteger(Math.log2(size));
    if (!isPooled || this.#keptBytes + size > KEPT_BYTES_MAX) return;
    const free = this.#free.get(size);
    if (free === undefined) this.#free.set(size, [buffer]);
    else free.push(buffer);
    this.#keptBytes += size;
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }
}
