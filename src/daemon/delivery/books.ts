/** A handler's books on the delivering side. Together with the dispatchers' `matched` they must balance at the end. */
import { LOSS_REASONS } from "../../registry/layout.js";

export type LossReason = (typeof LOSS_REASONS)[number];

export interface EventBooks {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
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
export class EventLedger {
  delivered = 0;
  periodDelivered = 0;
  lost = 0;
  periodLost = 0;
}

export function lossReasonIndex(reason: LossReason): number {
  return LOSS_REASONS.indexOf(reason);
}
