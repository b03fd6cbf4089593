/**
 * Buffers for gRPC frames, used again and again. A new half megabyte for each message would have the engine collect
 * garbage all the time: at 500 MB/s that took as long as sending them.
 */
import { frameBytes, SIZED_FRAME_BYTES_MIN } from "../delivery/frame-size.js";
import type { IdleFrames } from "../delivery/memory.js";

/** Larger frames, of single samples with very deep callchains, are rare. */
const POOLED_BYTES_MAX = 512 * 1024;
/** So much stays when nothing is sent: as many frames as sixty-four busy streams have on their way. */
const IDLE_BYTES = 32 * 1024 * 1024;
/** Streams of many that wait for their flush send again within two seconds. */
const IDLE_MS = 10_000;

export interface FramePoolOptions {
  /** All that streams may use: no more is kept. */
  readonly streamBytes: number;
  /** What stays of frames that nobody has needed for `idleMs`. */
  readonly idleBytes?: number;
  readonly idleMs?: number;
}

export class FramePool implements IdleFrames {
  readonly #keptBytesMax: number;
  readonly #idleBytes: number;
  readonly #idleMs: number;
  /** By size. */
  readonly #free = new Map<number, Buffer[]>();
  #keptBytes = 0;
  /** The least that was kept since the timer was started: so much was not needed. */
  #idleKeptBytes = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor({ streamBytes, idleBytes = IDLE_BYTES, idleMs = IDLE_MS }: FramePoolOptions) {
    this.#keptBytesMax = streamBytes;
    this.#idleBytes = idleBytes;
    this.#idleMs = idleMs;
  }

  /** As long as frameBytes says, with anything in it. */
  take(messageBytes: number): Buffer {
    const size = frameBytes(messageBytes);
    if (size < SIZED_FRAME_BYTES_MIN) return Buffer.allocUnsafe(size);
    const kept = this.#free.get(size)?.pop();
    if (kept === undefined) return Buffer.allocUnsafeSlow(size);
    this.#takeOff(size);
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
    if (this.#keptBytes > this.#idleBytes) this.#watchIdle();
  }

  get keptBytes(): number {
    return this.#keptBytes;
  }

  trim(bytes: number): void {
    for (const [size, free] of this.#free) {
      while (this.#keptBytes > bytes && free.pop() !== undefined) this.#takeOff(size);
    }
  }

  #takeOff(size: number): void {
    this.#keptBytes -= size;
    this.#idleKeptBytes = Math.min(this.#idleKeptBytes, this.#keptBytes);
  }

  /** Runs while more is kept than an idle daemon should: then never again until there is. */
  #watchIdle(): void {
    if (this.#timer !== null) return;
    this.#idleKeptBytes = this.#keptBytes;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.trim(Math.max(this.#idleBytes, this.#keptBytes - this.#idleKeptBytes));
      if (this.#keptBytes > this.#idleBytes) this.#watchIdle();
    }, this.#idleMs).unref();
  }
}
