/** A slot's counters by name: each a view on one double that has one writer. */
import {
  DISPATCH_TIME_BUCKETS,
  DISPATCHER,
  dispatcherAt,
  LOSS_REASONS,
  SLOT,
  slotAt,
  type TableLayout,
} from "./layout.js";

/** What one dispatcher counts for one handler. */
export interface DispatcherCounters {
  readonly dispatches: number;
  readonly matched: number;
  readonly queueFull: number;
  /** Refused for want of the daemon's memory. */
  readonly memory: number;
  readonly longestDispatchNs: number;
  readonly lastDispatchNs: number;
  readonly dispatchNsSum: number;
  /** DISPATCH_TIME_BUCKETS counts. */
  readonly dispatchTime: readonly number[];
}

/** Books of a handler that goes on in another table. `losses` is by LOSS_REASONS, without what dispatchers count. */
export interface CarriedCounts {
  readonly matched: number;
  readonly queueFull: number;
  readonly memory: number;
  readonly delivered: number;
  readonly losses: readonly number[];
}

export class SlotCounters {
  readonly #doubles: Float64Array;
  readonly #layout: TableLayout;

  constructor(memory: ArrayBuffer, layout: TableLayout) {
    this.#doubles = new Float64Array(memory, 0, Math.floor(memory.byteLength / 8));
    this.#layout = layout;
  }

  /** Dispatcher `d` only. */
  countDispatch(
    slot: number,
    d: number,
    matched: number,
    queueFull: number,
    memory: number,
    durationNs: number,
    nowNs: number,
  ): void {
    const at = dispatcherAt(this.#layout, slot, d) / 8;
    const doubles = this.#doubles;
    doubles[at + DISPATCHER.DISPATCHES / 8] += 1;
    doubles[at + DISPATCHER.MATCHED / 8] += matched;
    doubles[at + DISPATCHER.QUEUE_FULL / 8] += queueFull;
    doubles[at + DISPATCHER.MEMORY / 8] += memory;
    if (durationNs > doubles[at + DISPATCHER.LONGEST_DISPATCH_NS / 8]) {
      doubles[at + DISPATCHER.LONGEST_DISPATCH_NS / 8] = durationNs;
    }
    doubles[at + DISPATCHER.LAST_DISPATCH_NS / 8] = nowNs;
    doubles[at + DISPATCHER.DISPATCH_NS_SUM / 8] += durationNs;
    doubles[at + DISPATCHER.DISPATCH_TIME / 8 + dispatchTimeBucket(durationNs)] += 1;
  }

  /** What a dead dispatcher should have counted. Only when its thread is gone. */
  amend(slot: number, d: number, matched: number, queueFull: number, memory: number): void {
    const at = dispatcherAt(this.#layout, slot, d) / 8;
    this.#doubles[at + DISPATCHER.MATCHED / 8] = matched;
    this.#doubles[at + DISPATCHER.QUEUE_FULL / 8] = queueFull;
    this.#doubles[at + DISPATCHER.MEMORY / 8] = memory;
  }

  /** What the slot's handler had before this table was made, on dispatcher 0's account. Only in CLAIMED. */
  carry(slot: number, { matched, queueFull, memory, delivered, losses }: CarriedCounts): void {
    this.amend(slot, 0, matched, queueFull, memory);
    this.#doubles[(slotAt(this.#layout, slot) + SLOT.DELIVERED) / 8] = delivered;
    this.#doubles.set(losses, (slotAt(this.#layout, slot) + SLOT.LOSSES) / 8);
  }

  /** Serial number of the last batch that dispatcher `d` has offered to the handler. */
  offered(slot: number, d: number): number {
    return this.#doubles[(dispatcherAt(this.#layout, slot, d) + DISPATCHER.OFFERED) / 8];
  }

  /** Dispatcher `d`, or who buries it. */
  setOffered(slot: number, d: number, serial: number): void {
    this.#doubles[(dispatcherAt(this.#layout, slot, d) + DISPATCHER.OFFERED) / 8] = serial;
  }

  /** All dispatchers together. Exact while none is inside the handler. */
  dispatched(slot: number): DispatcherCounters {
    let dispatches = 0;
    let matched = 0;
    let queueFull = 0;
    let memory = 0;
    let longestDispatchNs = 0;
    let lastDispatchNs = 0;
    let dispatchNsSum = 0;
    const dispatchTime: number[] = new Array(DISPATCH_TIME_BUCKETS).fill(0);
    for (let d = 0; d < this.#layout.dispatchers; d++) {
      const at = dispatcherAt(this.#layout, slot, d) / 8;
      dispatches += this.#doubles[at + DISPATCHER.DISPATCHES / 8];
      matched += this.#doubles[at + DISPATCHER.MATCHED / 8];
      queueFull += this.#doubles[at + DISPATCHER.QUEUE_FULL / 8];
      memory += this.#doubles[at + DISPATCHER.MEMORY / 8];
      longestDispatchNs = Math.max(longestDispatchNs, this.#doubles[at + DISPATCHER.LONGEST_DISPATCH_NS / 8]);
      lastDispatchNs = Math.max(lastDispatchNs, this.#doubles[at + DISPATCHER.LAST_DISPATCH_NS / 8]);
      dispatchNsSum += this.#doubles[at + DISPATCHER.DISPATCH_NS_SUM / 8];
      for (let i = 0; i < DISPATCH_TIME_BUCKETS; i++)
        dispatchTime[i] += this.#doubles[at + DISPATCHER.DISPATCH_TIME / 8 + i];
    }
    return { dispatches, matched, queueFull, memory, longestDispatchNs, lastDispatchNs, dispatchNsSum, dispatchTime };
  }

  /** Samples that dispatchers could not queue, for whichever reason. */
  refused(slot: number): number {
    let refused = 0;
    for (let d = 0; d < this.#layout.dispatchers; d++) {
      const at = dispatcherAt(this.#layout, slot, d) / 8;
      refused += this.#doubles[at + DISPATCHER.QUEUE_FULL / 8] + this.#doubles[at + DISPATCHER.MEMORY / 8];
    }
    return refused;
  }

  /** The delivering thread only. */
  countDelivered(slot: number, samples: number): void {
    this.#doubles[(slotAt(this.#layout, slot) + SLOT.DELIVERED) / 8] += samples;
  }

  /** The delivering thread only. */
  setQueueBytes(slot: number, bytes: number): void {
    this.#doubles[(slotAt(this.#layout, slot) + SLOT.QUEUE_BYTES) / 8] = bytes;
  }

  /** The delivering thread only; `reason` indexes LOSS_REASONS. */
  countLoss(slot: number, reason: number, samples: number): void {
    this.#doubles[(slotAt(this.#layout, slot) + SLOT.LOSSES) / 8 + reason] += samples;
  }

  delivered(slot: number): number {
    return this.#doubles[(slotAt(this.#layout, slot) + SLOT.DELIVERED) / 8];
  }

  /** By LOSS_REASONS; QUEUE_FULL and MEMORY are the dispatchers' own counts. */
  losses(slot: number): number[] {
    const at = (slotAt(this.#layout, slot) + SLOT.LOSSES) / 8;
    const losses = Array.from(this.#doubles.subarray(at, at + LOSS_REASONS.length));
    const { queueFull, memory } = this.dispatched(slot);
    losses[LOSS_REASONS.indexOf("QUEUE_FULL")] = queueFull;
    losses[LOSS_REASONS.indexOf("MEMORY")] = memory;
    return losses;
  }
}

/** Bucket i holds what took up to 2^i us. */
function dispatchTimeBucket(ns: number): number {
  // Minus one, since bounds are inclusive; clz32 drops the fraction.
  const us = (ns - 1) / 1000;
  return us < 1 ? 0 : Math.min(DISPATCH_TIME_BUCKETS - 1, 32 - Math.clz32(us));
}
