/** When one stream is to be written to again, and the alarm that wakes it then. */
import type { FlushRule, FlushTimes } from "./flush.js";

export class FlushAlarm {
  readonly #rule: FlushRule;
  readonly #times: FlushTimes;
  readonly #wake: () => void;
  #dueNs = 0;
  /** When the stream is to be woken; null: not at all. */
  #wakeNs: number | null = null;

  /** `wake`, which must not throw, is called when the time has come that `isDue` was asked too early for. */
  constructor(rule: FlushRule, times: FlushTimes, wake: () => void) {
    this.#rule = rule;
    this.#times = times;
    this.#wake = () => {
      this.#wakeNs = null;
      wake();
    };
  }

  /** A new stream is due at once. */
  reset(): void {
    this.#dueNs = 0;
  }

  /** Samples were written: the rule says when the next ones are due. */
  written(nowNs: number): void {
    this.#dueNs = this.#rule.dueNs(nowNs);
  }

  /** Sets the alarm when it is too early. */
  isDue(nowNs: number): boolean {
    if (nowNs >= this.#dueNs) return true;
    this.#setAlarm(this.#dueNs);
    return false;
  }

  cancel(): void {
    this.#setAlarm(null);
  }

  #setAlarm(atNs: number | null): void {
    if (atNs === this.#wakeNs) return;
    if (this.#wakeNs !== null) this.#times.cancel(this.#wakeNs, this.#wake);
    if (atNs !== null) this.#times.at(atNs, this.#wake);
    this.#wakeNs = atNs;
  }
}
