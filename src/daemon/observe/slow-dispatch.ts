/**
 * Looks for dispatches that took too long, in the handlers' own histograms, and says so: one line for a handler in ten
 * seconds at most, since whoever is slow is slow often. Linux's nmiaction.max_duration is the model.
 */
import type { SlotCounters } from "../../registry/counters.js";
import { DISPATCH_TIME_BUCKETS } from "../../registry/layout.js";
import type { Handler } from "../broker/handler.js";
import type { NsClock } from "../clock.js";

const SILENCE_NS = 10_000_000_000;

interface Seen {
  slow: number;
  /** Since the last line. */
  untold: number;
  toldNs: number;
}

export interface SlowDispatchReport {
  readonly handler: number;
  readonly name: string;
  /** Slow dispatches since the last report. */
  readonly dispatches: number;
  readonly longest_ns: number;
}

export class SlowDispatchWatch {
  /** Of all handlers, those that are gone included. */
  total = 0;
  readonly #counters: SlotCounters;
  readonly #now: NsClock;
  readonly #report: (report: SlowDispatchReport) => void;
  readonly #firstSlowBucket: number;
  readonly #seen = new Map<Handler, Seen>();

  /** The threshold is met by histogram buckets: it is rounded down to a power of two. */
  constructor(thresholdUs: number, counters: SlotCounters, now: NsClock, report: (report: SlowDispatchReport) => void) {
    this.#counters = counters;
    this.#now = now;
    this.#report = report;
    this.#firstSlowBucket = Math.min(DISPATCH_TIME_BUCKETS - 1, Math.floor(Math.log2(thresholdUs)) + 1);
  }

  /** Looks at every handler once. */
  poll(handlers: readonly Handler[]): void {
    for (const handler of handlers) this.look(handler);
    if (this.#seen.size > handlers.length) {
      const present = new Set(handlers);
      for (const handler of this.#seen.keys()) if (!present.has(handler)) this.#seen.delete(handler);
    }
  }

  look(handler: Handler): void {
    const { dispatchTime, longestDispatchNs } = this.#counters.dispatched(handler.handle.slot);
    const slow = dispatchTime.slice(this.#firstSlowBucket).reduce((sum, count) => sum + count, 0);
    const seen = this.#seen.get(handler) ?? { slow: 0, untold: 0, toldNs: Number.NEGATIVE_INFINITY };
    this.#seen.set(handler, seen);
    const fresh = slow - seen.slow;
    seen.slow = slow;
    seen.untold += fresh;
    this.total += fresh;
    const now = this.#now();
    if (seen.untold === 0 || now - seen.toldNs < SILENCE_NS) return;
    this.#report({
      handler: handler.id,
      name: handler.spec.name,
      dispatches: seen.untold,
      longest_ns: longestDispatchNs,
    });
    seen.untold = 0;
    seen.toldNs = now;
  }
}
