/** What is gone but still counts: totals over handlers and events that no longer exist. */
import type { Books, LossReason } from "../delivery/books.js";

export class Tally {
  registrations = 0;
  removals = 0;
  matched = 0;
  delivered = 0;
  lost = 0;
  readonly losses = new Map<LossReason, number>();
  /** Of events that were closed. */
  readonly events = { samples: 0, unclaimed: 0, kernelLost: 0, throttled: 0 };

  retireHandler(books: Books): void {
    this.removals++;
    this.matched += books.matched;
    this.delivered += books.delivered;
    this.lost += books.lost;
    for (const { reason, count } of books.losses) this.losses.set(reason, (this.losses.get(reason) ?? 0) + count);
  }
}
