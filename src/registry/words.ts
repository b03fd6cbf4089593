/**
 * Shared 32-bit words, all accesses sequentially consistent. The protocol's code reaches shared state through this
 * interface alone, so that a test can put a scheduler between any two accesses.
 */
export interface SharedWords {
  /** Indexes count words (4 bytes). Values are signed 32-bit. */
  load(index: number): number;
  /**
   * A plain load, ten times cheaper, since V8 calls out for every Atomics operation. Only for hints that a `load`
   * confirms before they are acted on, and for words that do not change any more.
   */
  peek(index: number): number;
  store(index: number, value: number): void;
  /** Returns what was there: equal to `expected` when the exchange happened. */
  compareExchange(index: number, expected: number, replacement: number): number;
}

/** The real thing: `Atomics` over mapped memory. */
export class AtomicWords implements SharedWords {
  readonly #words: Int32Array;

  constructor(memory: ArrayBufferLike) {
    this.#words = new Int32Array(memory, 0, Math.floor(memory.byteLength / 4));
  }

  load(index: number): number {
    return Atomics.load(this.#words, index);
  }

  peek(index: number): number {
    return this.#words[index];
  }

  store(index: number, value: number): void {
    Atomics.store(this.#words, index, value);
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    return Atomics.compareExchange(this.#words, index, expected, replacement);
  }
}

/**
 * Wakes whoever waits for dispatchers to leave a handler. Separate from the table, since Atomics.wait needs a
 * SharedArrayBuffer and the table is a mapped file.
 */
export interface Doorbell {
  /** Dispatcher side: something changed. Called after the change. */
  ring(): void;
  /** Remover side: read before looking at the table, then handed to `waitPast`. */
  value(): number;
  /** Resolves at once when the bell has rung since `value`, else at the next ring or after `timeoutMs`. */
  waitPast(value: number, timeoutMs: number): Promise<void>;
}

/** A doorbell on one word of a SharedArrayBuffer. */
export class AtomicDoorbell implements Doorbell {
  readonly #word: Int32Array;
  readonly #index: number;

  constructor(buffer: SharedArrayBuffer, index = 0) {
    this.#word = new Int32Array(buffer);
    this.#index = index;
  }

  ring(): void {
    // Written by every ringer; ordered after the change it announces, pairs with value() before the look.
    Atomics.add(this.#word, this.#index, 1);
    Atomics.notify(this.#word, this.#index);
  }

  value(): number {
    return Atomics.load(this.#word, this.#index);
  }

  async waitPast(value: number, timeoutMs: number): Promise<void> {
    const outcome = Atomics.waitAsync(this.#word, this.#index, value, timeoutMs);
    if (outcome.async) await outcome.value;
  }
}
