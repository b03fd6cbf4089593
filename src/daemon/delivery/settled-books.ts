/**
 * What of a handler's books no crash can undo: what its streams have taken, by event: samples, and losses by reason. Rows of
 * doubles in a file on tmpfs, written on the main thread as the transport takes messages, read by the next daemon. What was
 * matched and is not in here was in the daemon's memory, and is lost with it.
 */
import { LOSS_REASONS } from "../../registry/layout.js";
import type { LossReason } from "./books.js";
import { EVENTS_PER_HANDLER_MAX } from "./outbox.js";

const REASONS = LOSS_REASONS.length;
/** Doubles of an event: samples and their periods, the periods of what was told as lost, and by reason how much that was. */
const EVENT = { DELIVERED: 0, PERIOD_DELIVERED: 1, PERIOD_LOST: 2, LOST: 3 } as const;
const EVENT_DOUBLES = EVENT.LOST + REASONS;
/** Doubles of a row before its events: id, and when the lease ends (CLOCK_MONOTONIC; 0: it has a stream). */
const ROW = { HANDLER_ID: 0, LEASE_ENDS_NS: 1, EVER_SUBSCRIBED: 2, EVENTS: 8 } as const;
export const SETTLED_ROW_DOUBLES = ROW.EVENTS + EVENTS_PER_HANDLER_MAX * EVENT_DOUBLES;

export interface SettledEvent {
  readonly delivered: number;
  readonly periodDelivered: number;
  readonly periodLost: number;
  /** By LOSS_REASONS. */
  readonly lost: readonly number[];
}

export class SettledBooks {
  readonly #row: Float64Array<ArrayBufferLike>;

  /** On a row of SETTLED_ROW_DOUBLES, of a file's or of nobody else's. */
  constructor(row: Float64Array<ArrayBufferLike> = new Float64Array(SETTLED_ROW_DOUBLES)) {
    this.#row = row;
  }

  get handlerId(): number {
    return this.#row[ROW.HANDLER_ID];
  }

  /** The row is another handler's from now on. The id comes last: a row without one is nobody's. */
  begin(handlerId: number, events: readonly SettledEvent[]): void {
    this.clear();
    for (const [event, settled] of events.entries()) {
      const at = ROW.EVENTS + event * EVENT_DOUBLES;
      this.#row[at + EVENT.DELIVERED] = settled.delivered;
      this.#row[at + EVENT.PERIOD_DELIVERED] = settled.periodDelivered;
      this.#row[at + EVENT.PERIOD_LOST] = settled.periodLost;
      this.#row.set(settled.lost, at + EVENT.LOST);
    }
    this.#row[ROW.HANDLER_ID] = handlerId;
  }

  clear(): void {
    this.#row[ROW.HANDLER_ID] = 0;
    this.#row.fill(0);
  }

  /** 0 while it has a stream. */
  get leaseEndsNs(): number {
    return this.#row[ROW.LEASE_ENDS_NS];
  }

  set leaseEndsNs(ns: number) {
    this.#row[ROW.LEASE_ENDS_NS] = ns;
  }

  get everSubscribed(): boolean {
    return this.#row[ROW.EVER_SUBSCRIBED] !== 0;
  }

  set everSubscribed(value: boolean) {
    this.#row[ROW.EVER_SUBSCRIBED] = value ? 1 : 0;
  }

  deliver(event: number, samples: number, period: number): void {
    const at = ROW.EVENTS + event * EVENT_DOUBLES;
    this.#row[at + EVENT.DELIVERED] += samples;
    this.#row[at + EVENT.PERIOD_DELIVERED] += period;
  }

  tell(event: number, reason: LossReason, samples: number, period: number): void {
    const at = ROW.EVENTS + event * EVENT_DOUBLES;
    this.#row[at + EVENT.LOST + LOSS_REASONS.indexOf(reason)] += samples;
    this.#row[at + EVENT.PERIOD_LOST] += period;
  }

  events(count: number): SettledEvent[] {
    return Array.from({ length: count }, (_, event) => {
      const at = ROW.EVENTS + event * EVENT_DOUBLES;
      return {
        delivered: this.#row[at + EVENT.DELIVERED],
        periodDelivered: this.#row[at + EVENT.PERIOD_DELIVERED],
        periodLost: this.#row[at + EVENT.PERIOD_LOST],
        lost: Array.from(this.#row.subarray(at + EVENT.LOST, at + EVENT_DOUBLES)),
      };
    });
  }
}

export const NOTHING_SETTLED: SettledEvent = {
  delivered: 0,
  periodDelivered: 0,
  periodLost: 0,
  lost: LOSS_REASONS.map(() => 0),
};

/** Number after the last sample that is settled, delivered or told as lost. */
export function settledSequence(events: readonly SettledEvent[]): number {
  return events.reduce((sum, { delivered, lost }) => sum + delivered + lost.reduce((n, count) => n + count, 0), 0);
}
