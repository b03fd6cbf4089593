/**
 * The rows behind the labelled metric families: what a snapshot holds of events and handlers, with unique labels and
 * in bounded number.
 */
import type { EventSnapshot, HandlerSnapshot, HistogramSnapshot, LossSnapshot } from "./snapshot.js";

/** Handlers with series of their own; each has about ten. What comes on top is summed under handler="other". */
export const HANDLER_SERIES_MAX = 200;

export interface EventRow {
  readonly labels: { readonly event: string; readonly sampling: "frequency" | "period" | "all" };
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
  readonly labels: { readonly handler: string; readonly name: string };
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
    labels: { event: event.name, sampling },
    frequencyHz: event.loweredFrequencyHz || event.frequencyHz,
    period: event.loweredPeriod || event.period,
  };
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

/**
 * One row for each name and kind of rate. Events that share both are merged: Prometheus refuses a series that appears
 * twice.
 */
export function eventRows(events: readonly EventSnapshot[]): EventRow[] {
  const rows = new Map<string, EventRow>();
  for (const event of events) {
    const row = eventRow(event);
    const key = `${row.labels.sampling} ${row.labels.event}`;
    const present = rows.get(key);
    rows.set(key, present === undefined ? row : mergeEvents(present, row));
  }
  return [...rows.values()];
}

function handlerRow(handler: HandlerSnapshot): HandlerRow {
  return {
    ...handler,
    labels: { handler: String(handler.handlerId), name: handler.name },
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
    labels: { handler: "other", name: "" },
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
  labels: { handler: "other", name: "" },
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

/**
 * Chooses who has series of its own: whoever was seen first keeps them until it is gone, so that no handler's counters
 * jump between its own series and "other" because somebody else came.
 */
export class HandlerSeries {
  readonly #named = new Set<number>();

  rows(handlers: readonly HandlerSnapshot[]): HandlerRow[] {
    const present = new Set(handlers.map((handler) => handler.handlerId));
    for (const id of this.#named) if (!present.has(id)) this.#named.delete(id);

    const rows: HandlerRow[] = [];
    let other: HandlerRow | undefined;
    for (const handler of handlers) {
      if (this.#named.size < HANDLER_SERIES_MAX) this.#named.add(handler.handlerId);
      if (this.#named.has(handler.handlerId)) rows.push(handlerRow(handler));
      else other = mergeHandlers(other ?? NO_HANDLER, handlerRow(handler));
    }
    if (other !== undefined) rows.push(other);
    return rows;
  }
}
