/** A handler's books on the delivering side. Together with the dispatchers' `matched` they must balance at the end. */
import type { SlotCounters } from "../../registry/counters.js";
import { LOSS_REASONS } from "../../registry/layout.js";
import { type CarriedBooks, carriedCounts, eventTotals, lossTotals } from "./carried-books.js";
import { REFUSAL_REASONS } from "./outbox.js";
import type { OutboxReader } from "./outbox-reader.js";
import type { SettledBooks, SettledEvent } from "./settled-books.js";

export type LossReason = (typeof LOSS_REASONS)[number];

const REFUSED: ReadonlySet<LossReason> = new Set(REFUSAL_REASONS);

export interface EventBooks {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  /** Of the matched samples, as the dispatchers counted: what periodDelivered and periodLost must add up to. */
  readonly periodMatched: number;
  readonly periodDelivered: number;
  readonly periodLost: number;
  readonly periodCarried: number;
}

export interface Books {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly losses: readonly { readonly reason: LossReason; readonly count: number }[];
  readonly events: readonly EventBooks[];
  /** Number after the last sample, delivered or lost. */
  readonly sequence: number;
}

/** What the delivering side counts of one event. */
interface Ledger {
  delivered: number;
  periodDelivered: number;
  lost: number;
  periodLost: number;
}

export class HandlerBooks {
  readonly #ledgers: readonly Ledger[];
  readonly #losses = new Map<LossReason, number>();
  readonly #slot: number;
  readonly #counters: SlotCounters;

  readonly #settled: SettledBooks;

  /** They go on from `carried`. */
  constructor(carried: CarriedBooks, slot: number, counters: SlotCounters, settled: SettledBooks) {
    this.#ledgers = eventTotals(carried);
    for (const [i, count] of lossTotals(carried).entries()) if (count > 0) this.#losses.set(LOSS_REASONS[i], count);
    this.#slot = slot;
    this.#counters = counters;
    this.#settled = settled;
    if (this.#ledgers.some(({ delivered, lost }) => delivered + lost > 0)) counters.carry(slot, carriedCounts(carried));
  }

  /** What streams have taken. */
  get settled(): SettledEvent[] {
    return this.#settled.events(this.#ledgers.length);
  }

  /** The transport has taken them. */
  deliver(event: number, samples: number, period: number): void {
    const ledger = this.#ledgers[event];
    ledger.delivered += samples;
    ledger.periodDelivered += period;
    this.#counters.countDelivered(this.#slot, samples);
    this.#settled.deliver(event, samples, period);
  }

  /** The transport has taken what tells of them. */
  tell(event: number, reason: LossReason, samples: number, period: number): void {
    this.#settled.tell(event, reason, samples, period);
  }

  lose(event: number, reason: LossReason, samples: number, period: number): void {
    const ledger = this.#ledgers[event];
    ledger.lost += samples;
    ledger.periodLost += period;
    this.#losses.set(reason, (this.#losses.get(reason) ?? 0) + samples);
    // What dispatchers refused is in their own counters already.
    if (!REFUSED.has(reason)) this.#counters.countLoss(this.#slot, lossReasonIndex(reason), samples);
  }

  /** Exact when nothing is queued or on its way any more. */
  balance(readers: readonly OutboxReader[], sequence: number): Books {
    const events = this.#ledgers.map((ledger, event) => ({
      matched: readers.reduce((sum, reader) => sum + reader.matched(event), 0),
      ...ledger,
      periodMatched: readers.reduce((sum, reader) => sum + reader.periodMatched(event), 0),
      periodCarried: readers.reduce((sum, reader) => sum + reader.carried(event), 0),
    }));
    const total = (pick: (event: EventBooks) => number): number => events.reduce((sum, event) => sum + pick(event), 0);
    return {
      matched: total((event) => event.matched),
      delivered: total((event) => event.delivered),
      lost: total((event) => event.lost),
      losses: LOSS_REASONS.flatMap((reason) => {
        const count = this.#losses.get(reason) ?? 0;
        return count > 0 ? [{ reason, count }] : [];
      }),
      events,
      sequence,
    };
  }
}

export function lossReasonIndex(reason: LossReason): number {
  return LOSS_REASONS.indexOf(reason);
}
