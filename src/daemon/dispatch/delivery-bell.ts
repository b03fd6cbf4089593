/**
 * Wakes the main thread when a dispatcher has something to deliver. A word a dispatcher says that it has, and one for all
 * says whether the main thread sleeps. While it does not, which is always under load, dispatchers write to nothing that
 * another writes or reads: the sleeper's word stays in all their caches, and V8's lock for waiters is not taken.
 */

/** Values of a signal. */
const QUIET = 0;
const SIGNALLED = 1;

/** Values of the sleeper's word. */
const AWAKE = 0;
const ASLEEP = 1;

export class DeliveryBell {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #sleeper: number;
  readonly #signals: readonly number[];

  /** `sleeper` and the dispatchers' `signals` are indexes into `words`, each on a cache line of its own. */
  constructor(words: Int32Array<SharedArrayBuffer>, sleeper: number, signals: readonly number[]) {
    this.#words = words;
    this.#sleeper = sleeper;
    this.#signals = signals;
  }

  /** Dispatcher: after it has marked what there is. */
  ring(dispatcher: number): void {
    // Written by this dispatcher and, in take, by the main thread; ordered after the marks. Before the look at the sleeper:
    // either that sees ASLEEP, or the main thread, which looks at the signals after it has lain down, sees this.
    Atomics.store(this.#words, this.#signals[dispatcher], SIGNALLED);
    this.wake();
  }

  /** Main thread: whether the dispatcher has rung since the last call. What it marked before is visible then. */
  take(dispatcher: number): boolean {
    const signal = this.#signals[dispatcher];
    // A plain look is enough of a hint: what it misses, sleep does not. Cleared before the marks are looked at: what is
    // marked from then on rings again.
    return this.#words[signal] !== QUIET && Atomics.exchange(this.#words, signal, QUIET) !== QUIET;
  }

  /** Main thread: resolves when a dispatcher has rung that has not been taken, or somebody called wake. */
  async sleep(): Promise<void> {
    const words = this.#words;
    // Written by ringers, too. Ordered before the looks at the signals, see ring.
    Atomics.store(words, this.#sleeper, ASLEEP);
    if (this.#signals.some((signal) => Atomics.load(words, signal) !== QUIET)) {
      Atomics.store(words, this.#sleeper, AWAKE);
      // Dispatchers that ring without end must not keep the event loop from writing what they delivered.
      await new Promise((resolve) => setImmediate(resolve));
      return;
    }
    // Compares once more: whoever has rung meanwhile has changed the word.
    const outcome = Atomics.waitAsync(words, this.#sleeper, ASLEEP);
    if (outcome.async) await outcome.value;
  }

  wake(): void {
    // Written by the main thread and by whoever wakes it; pairs with the store in sleep.
    if (Atomics.load(this.#words, this.#sleeper) === AWAKE) return;
    // One of those who find it asleep wakes it.
    if (Atomics.compareExchange(this.#words, this.#sleeper, ASLEEP, AWAKE) === ASLEEP) {
      Atomics.notify(this.#words, this.#sleeper);
    }
  }
}
