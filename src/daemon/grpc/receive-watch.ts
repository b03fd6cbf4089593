/**
 * Frames that ask for nothing (WINDOW_UPDATE, PRIORITY, empty DATA, types that nobody knows) cost time all the same, and
 * neither nghttp2 nor Node tells of them. What they have in common is that they are received: a client of this daemon has
 * little to say. Looked at now and then, while there are connections.
 */
export interface Watched {
  /** Since the connection began. */
  bytesRead(): number;
  onTooMuch(bytesPerSecond: number): void;
  /**
   * Something has been received since the last time, and now nothing comes: is it still being read? Pings, calls
   * `answered` when the answer has come, which then does not count as something new.
   */
  onQuiet(answered: () => void): void;
}

interface Entry {
  bytes: number;
  /** So many had been read when it was last asked whether it still is. */
  quietAt: number;
}

/** A ping's answer. */
const PING_BYTES = 17;

const LOOK_MS = 5_000;

export class ReceiveWatch {
  readonly #bytesPerSecondMax: number;
  readonly #lookMs: number;
  readonly #watched = new Map<Watched, Entry>();
  #timer: NodeJS.Timeout | null = null;

  constructor(bytesPerSecondMax: number, lookMs = LOOK_MS) {
    this.#bytesPerSecondMax = bytesPerSecondMax;
    this.#lookMs = lookMs;
  }

  add(watched: Watched): void {
    this.#watched.set(watched, { bytes: watched.bytesRead(), quietAt: -1 });
    this.#timer ??= setInterval(() => this.#look(), this.#lookMs).unref();
  }

  delete(watched: Watched): void {
    this.#watched.delete(watched);
    if (this.#watched.size > 0 || this.#timer === null) return;
    clearInterval(this.#timer);
    this.#timer = null;
  }

  #look(): void {
    for (const [watched, entry] of this.#watched) {
      const bytes = watched.bytesRead();
      const rate = ((bytes - entry.bytes) * 1000) / this.#lookMs;
      if (rate > this.#bytesPerSecondMax) {
        watched.onTooMuch(Math.round(rate));
      } else if (bytes === entry.bytes && bytes !== entry.quietAt) {
        entry.quietAt = bytes;
        watched.onQuiet(() => {
          if (entry.quietAt === bytes) entry.quietAt += PING_BYTES;
        });
      }
      entry.bytes = bytes;
    }
  }
}
