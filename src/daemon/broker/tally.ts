/** What is gone but still counts: totals over handlers and events that no longer exist. */
import type { EventReading } from "../../pmu/source.js";
import type { Books, LossReason } from "../delivery/books.js";
import type { EVENT_STAT } from "../dispatch/stats.js";

/** Of one event, over all dispatchers. */
export type EventCounters = Readonly<Record<keyof typeof EVENT_STAT, number>>;

export class Tally {
  registrations = 0;
  removals = 0;
  matched = 0;
  delivered = 0;
  lost = 0;
  readonly losses = new Map<LossReason, number>();
  /** Of events that were closed. */
  readonly events = { samples: 0, unclaimed: 0, kernelLost: 0, throttled: 0 };
  /** Of those among them whose producer counts: produced = drained + lost. */
  readonly counted = { produced: 0, drained: 0, lost: 0 };

  retireEvent(counters: EventCounters, { produced, lost }: EventReading): void {
    this.events.samples += counters.SAMPLES;
    this.events.unclaimed += counters.UNCLAIMED;
    this.events.throttled += counters.THROTTLED;
    this.events.kernelLost += lost ?? 0;
    if (produced === null) return;
    this.counted.produced += produced;
    this.counted.drained += counters.SAMPLES;
    this.counted.lost += lost ?? 0;
  }

  retireHandler(books: Books): void {
    this.removals++;
    this.matched += books.matched;
    this.delivered += books.delivered;
    this.lost += books.lost;
    for (const { reason, count } of books.losses) this.losses.set(reason, (this.losses.get(reason) ?? 0) + count);
  }
}
