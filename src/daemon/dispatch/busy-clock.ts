/**
 * How long a dispatcher has been at work, which is all the time it is not asleep in poll: waiting for a CPU counts, too.
 *
 * One word, so that a reader can never see half of a change. Asleep, it is the nanoseconds worked so far, t. At work
 * since s, it is t - s: below 0, since t began to count later than the clock did. The reader adds its own time to that.
 */
import type { NsClock } from "../clock.js";

export class BusyClock {
  readonly #words: Float64Array;
  readonly #word: number;
  readonly #now: NsClock;

  /** `words[word]` is written by this alone. */
  constructor(words: Float64Array, word: number, now: NsClock) {
    this.#words = words;
    this.#word = word;
    this.#now = now;
  }

  /** Also where a predecessor died at work: it then has been at work since. */
  begin(): void {
    const nowNs = this.#now();
    this.#words[this.#word] = busyNs(this.#words[this.#word], nowNs) - nowNs;
  }

  end(): void {
    this.#words[this.#word] = busyNs(this.#words[this.#word], this.#now());
  }
}

/** Another thread's view of the word. */
export class BusyReader {
  readonly #words: Float64Array;
  readonly #word: number;
  #last = 0;

  constructor(words: Float64Array, word: number) {
    this.#words = words;
    this.#word = word;
  }

  /** Never less than before: threads' clocks differ a little, and who counts must not take that for a restart. */
  read(nowNs: number): number {
    this.#last = Math.max(this.#last, busyNs(this.#words[this.#word], nowNs));
    return this.#last;
  }
}

/** What the word says at `nowNs`; never below 0, which would mean another thing. */
function busyNs(word: number, nowNs: number): number {
  return word < 0 ? Math.max(0, word + nowNs) : word;
}
