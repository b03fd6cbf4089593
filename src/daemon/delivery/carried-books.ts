/** A handler's books on their way from one daemon to the next. */

import type { CarriedCounts } from "../../registry/counters.js";
import { LOSS_REASONS } from "../../registry/layout.js";
import type { Books } from "./books.js";
import type { Gap, Untold } from "./losses.js";
import { REFUSAL, REFUSAL_REASONS } from "./outbox.js";
import { NOTHING_SETTLED, type SettledEvent, settledSequence } from "./settled-books.js";

export interface CarriedBooks {
  /** What its streams have taken. */
  readonly settled: readonly SettledEvent[];
  /** Lost, and told by no stream yet. */
  readonly untold: readonly Untold[];
  readonly gaps: readonly Gap[];
}

export function nothingCarried(events: number): CarriedBooks {
  return { settled: Array.from({ length: events }, () => NOTHING_SETTLED), untold: [], gaps: [] };
}

interface EventTotals {
  readonly delivered: number;
  readonly periodDelivered: number;
  readonly lost: number;
  readonly periodLost: number;
}

/** Of each event: what was not delivered is lost, told or not, so that matched = delivered + lost. */
export function eventTotals({ settled, untold }: CarriedBooks): EventTotals[] {
  return settled.map(({ delivered, periodDelivered, periodLost, lost }, event) => {
    const open = untold.filter((loss) => loss.event === event);
    return {
      delivered,
      periodDelivered,
      lost: sum(lost) + sum(open.map(({ count }) => count)),
      periodLost: periodLost + sum(open.map(({ period }) => period)),
    };
  });
}

/** By LOSS_REASONS, over all events. */
export function lossTotals({ settled, untold }: CarriedBooks): number[] {
  return LOSS_REASONS.map(
    (reason, i) =>
      sum(settled.map(({ lost }) => lost[i])) + sum(untold.map((loss) => (loss.reason === reason ? loss.count : 0))),
  );
}

/** For the handler table. */
export function carriedCounts(carried: CarriedBooks): CarriedCounts {
  const losses = lossTotals(carried);
  const [queueFull, memory] = refusedCounts(losses);
  const delivered = sum(carried.settled.map((event) => event.delivered));
  const matched = delivered + sum(losses);
  for (const reason of REFUSAL_REASONS) losses[LOSS_REASONS.indexOf(reason)] = 0;
  return { matched, queueFull, memory, delivered, losses };
}

/** What dispatchers refused, by REFUSAL. */
export function refusedCounts(losses: readonly number[]): number[] {
  return Object.values(REFUSAL).map((refusal) => losses[LOSS_REASONS.indexOf(REFUSAL_REASONS[refusal])]);
}

/** As final books, of a handler that does not go on. */
export function finalBooks(carried: CarriedBooks): Books {
  const events = eventTotals(carried).map((event) => ({
    ...event,
    matched: event.delivered + event.lost,
    periodMatched: event.periodDelivered + event.periodLost,
    periodCarried: 0,
  }));
  const losses = lossTotals(carried);
  return {
    matched: sum(events.map(({ matched }) => matched)),
    delivered: sum(events.map(({ delivered }) => delivered)),
    lost: sum(losses),
    losses: LOSS_REASONS.flatMap((reason, i) => (losses[i] > 0 ? [{ reason, count: losses[i] }] : [])),
    events,
    sequence: settledSequence(carried.settled) + sum(carried.untold.map(({ count }) => count)),
  };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
