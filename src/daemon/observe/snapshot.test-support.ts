/** For tests: parts of snapshots, with everything in them. */
import type { EventSnapshot, HandlerSnapshot } from "./snapshot.js";

export function handlerWith(handlerId: number, change: Partial<HandlerSnapshot> = {}): HandlerSnapshot {
  return {
    handlerId,
    name: `handler-${handlerId}`,
    state: "ACTIVE",
    matched: 10,
    delivered: 7,
    lost: 3,
    losses: [{ reason: "QUEUE_FULL", count: 3 }],
    queueBytes: 100,
    queueMaxBytes: 1000,
    subscribed: true,
    leaseRemainingMs: 0,
    dispatches: 2,
    longestDispatchNs: 1_500,
    dispatchTime: { bounds: [1e-6, 2e-6], counts: [1, 1, 0], sum: 2.5e-6 },
    ...change,
  };
}

export function eventWith(name: string, change: Partial<EventSnapshot> = {}): EventSnapshot {
  return {
    name,
    frequencyHz: 997,
    period: 0,
    loweredFrequencyHz: 0,
    loweredPeriod: 0,
    loweredRatio: 1,
    loweredByKernel: false,
    refused: "",
    handlers: 1,
    samples: 1000,
    unclaimed: 5,
    kernelLost: 6,
    produced: null,
    throttled: 7,
    unthrottled: 8,
    timeEnabledSeconds: 4,
    timeRunningSeconds: 3,
    ...change,
  };
}
