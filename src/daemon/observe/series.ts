/**
 * The rows behind the labelled metric families: what a snapshot holds of events and handlers, with unique labels and in
 * bounded number, however many names clients think of: see NameBudget.
 */
import type { NsClock } from "../clock.js";
import { NameBudget, OTHERS, Rest } from "./cardinality.js";
import { withoutKernelAddresses } from "./kernel-address.js";
import type { EventSnapshot, HandlerSnapshot, HistogramSnapshot, LossSnapshot } from "./snapshot.js";

/** Handlers' names with series of their own within an hour; each has about 30. */
export const HANDLER_NAMES_MAX = 200;
/** The same of events and kinds of rate; 63 can be armed at once. */
export const EVENT_NAMES_MAX = 128;
/** Of an event's name in a label; the text of a specification can be long. */
const EVENT_LABEL_MAX = 128;

export interface EventRow {
  readonly labels: { readonly event: string; readonly sampling: "frequency" | "period" | "all" | "any" };
  /** In force. */
  readonly frequencyHz: number;
  readonly period: number;
  /** Share of the rate asked for that is in force. */
  readonly loweredRatio: number;
  readonly samples: number;
  readonly unclaimed: number;
  readonly kernelLost: number;
  readonly throttled: number;
  readonly unthrottled: number;
  readonly timeEnabledSeconds: number;
  readonly timeRunningSeconds: number;
}

export interface HandlerRow {
  readonly labels: { readonly name: string };
  readonly matched: number;
  readonly delivered: number;
  readonly losses: readonly LossSnapshot[];
  readonly queueBytes: number;
  readonly queueMaxBytes: number;
  readonly subscribed: number;
  readonly dispatches: number;
  readonly longestDispatchNs: number;
  readonly dispatchTime: HistogramSnapshot;
}

function eventRow(event: EventSnapshot): EventRow {
  const sampling = event.frequencyHz > 0 ? "frequency" : event.period > 0 ? "period" : "all";
  return {
    ...event,
    labels: { event: eventLabel(event.name), sampling },
    frequencyHz: event.loweredFrequencyHz || event.frequencyHz,
    period: event.loweredPeriod || event.period,
  };
}

function eventLabel(name: string): string {
  const text = withoutKernelAddresses(name);
  return text.length <= EVENT_LABEL_MAX ? text : `${text.slice(0, EVENT_LABEL_MAX - 1)}…`;
}

function mergeEvents(a: EventRow, b: EventRow): EventRow {
  return {
    labels: a.labels,
    frequencyHz: Math.max(a.frequencyHz, b.frequencyHz),
    period: Math.min(a.period, b.period),
    loweredRatio: Math.min(a.loweredRatio, b.loweredRatio),
    samples: a.samples + b.samples,
    unclaimed: a.unclaimed + b.unclaimed,
    kernelLost: a.kernelLost + b.kernelLost,
    throttled: a.throttled + b.throttled,
    unthrottled: a.unthrottled + b.unthrottled,
    timeEnabledSeconds: a.timeEnabledSeconds + b.timeEnabledSeconds,
    timeRunningSeconds: a.timeRunningSeconds + b.timeRunningSeconds,
  };
}

const NO_EVENT: EventRow = {
  labels: { event: OTHERS, sampling: "any" },
  frequencyHz: 0,
  period: Number.POSITIVE_INFINITY,
  loweredRatio: 1,
  samples: 0,
  unclaimed: 0,
  kernelLost: 0,
  throttled: 0,
  unthrottled: 0,
  timeEnabledSeconds: 0,
  timeRunningSeconds: 0,
};

/**
 * One row for each name and kind of rate. Events that share both are merged: Prometheus refuses a series that appears
 * twice.
 */
export class EventSeries {
  readonly #names: NameBudget;
  readonly #rest = new Rest<EventRow>({
    none: NO_EVENT,
    isContinued: (before, now) => now.samples >= before.samples,
    merge: (a, b) => ({ ...mergeEvents(a, b), labels: NO_EVENT.labels }),
    countersOf: ({ samples, unclaimed, kernelLost, throttled, unthrottled }) => ({
      ...NO_EVENT,
      samples,
      unclaimed,
      kernelLost,
      throttled,
      unthrottled,
    }),
  });

  constructor(now: NsClock) {
    this.#names = new NameBudget(EVENT_NAMES_MAX, now);
  }

  rows(events: readonly EventSnapshot[]): EventRow[] {
    const rows = new Map<string, EventRow>();
    for (const event of events) {
      const row = eventRow(event);
      const key = `${row.labels.sampling} ${row.labels.event}`;
      const present = rows.get(key);
      rows.set(key, present === undefined ? row : mergeEvents(present, row));
    }
    this.#names.look(rows.keys());
    const named = [...rows].filter(([key]) => this.#names.has(key)).map(([, row]) => row);
    const rest = this.#rest.row(new Map([...rows].filter(([key]) => !this.#names.has(key))));
    return rest === null ? named : [...named, rest];
  }
}

function handlerRow(handler: HandlerSnapshot): HandlerRow {
  return {
    ...handler,
    labels: { name: handler.name },
    subscribed: handler.subscribed ? 1 : 0,
  };
}

function mergeLosses(a: readonly LossSnapshot[], b: readonly LossSnapshot[]): LossSnapshot[] {
  const counts = new Map<string, number>();
  for (const { reason, count } of [...a, ...b]) counts.set(reason, (counts.get(reason) ?? 0) + count);
  return Array.from(counts, ([reason, count]) => ({ reason, count }));
}

function mergeHandlers(a: HandlerRow, b: HandlerRow): HandlerRow {
  return {
    labels: a.labels,
    matched: a.matched + b.matched,
    delivered: a.delivered + b.delivered,
    losses: mergeLosses(a.losses, b.losses),
    queueBytes: a.queueBytes + b.queueBytes,
    queueMaxBytes: a.queueMaxBytes + b.queueMaxBytes,
    subscribed: a.subscribed + b.subscribed,
    dispatches: a.dispatches + b.dispatches,
    longestDispatchNs: Math.max(a.longestDispatchNs, b.longestDispatchNs),
    dispatchTime: {
      bounds: b.dispatchTime.bounds,
      counts: b.dispatchTime.counts.map((count, i) => count + (a.dispatchTime.counts[i] ?? 0)),
      sum: a.dispatchTime.sum + b.dispatchTime.sum,
    },
  };
}

const NO_HANDLER: HandlerRow = {
  labels: { name: OTHERS },
  matched: 0,
  delivered: 0,
  losses: [],
  queueBytes: 0,
  queueMaxBytes: 0,
  subscribed: 0,
  dispatches: 0,
  longestDispatchNs: 0,
  dispatchTime: { bounds: [], counts: [], sum: 0 },
};

/** One row for each name. Who shares a row with others stays there, so that no counter jumps from one series to another. */
export class HandlerSeries {
  readonly #names: NameBudget;
  readonly #rest = new Rest<HandlerRow>({
    none: NO_HANDLER,
    isContinued: () => true,
    merge: (a, b) => ({ ...mergeHandlers(a, b), labels: NO_HANDLER.labels }),
    countersOf: (row) => ({ ...row, queueBytes: 0, queueMaxBytes: 0, subscribed: 0, longestDispatchNs: 0 }),
  });
  readonly #inRest = new Set<number>();

  constructor(now: NsClock) {
    this.#names = new NameBudget(HANDLER_NAMES_MAX, now);
  }

  rows(handlers: readonly HandlerSnapshot[]): HandlerRow[] {
    const present = new Set(handlers.map(({ handlerId }) => handlerId));
    for (const id of this.#inRest) if (!present.has(id)) this.#inRest.delete(id);
    this.#names.look(
      handlers.filter(({ handlerId, name }) => name !== OTHERS && !this.#inRest.has(handlerId)).map(({ name }) => name),
    );
    const named = new Map<string, HandlerRow>();
    const rest = new Map<number, HandlerRow>();
    for (const handler of handlers) {
      const { handlerId, name } = handler;
      const row = handlerRow(handler);
      if (this.#inRest.has(handlerId) || !this.#names.has(name)) {
        this.#inRest.add(handlerId);
        rest.set(handlerId, row);
      } else {
        const same = named.get(name);
        named.set(name, same === undefined ? row : mergeHandlers(same, row));
      }
    }
    const others = this.#rest.row(rest);
    return others === null ? [...named.values()] : [...named.values(), others];
  }
}
