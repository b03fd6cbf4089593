/** Rates of one event: which is faster, and the steps in which an overloaded daemon lowers and raises them. Pure. */
import type { Rate, ResolvedEvent } from "../../pmu/source.js";

const NS_PER_SECOND = 1_000_000_000;
/** What a step multiplies or divides a rate by. */
const STEP = 2;
/** Periods of what is no clock have no floor in Hz: so many times what was asked for is the end. */
const PERIOD_FACTOR_MAX = STEP ** 10;

/** Every sample is faster than any rate: software sources put every kind on one event. */
export function faster(a: Rate, b: Rate): Rate {
  if (a.kind === "frequency" && b.kind === "frequency") return b.hz > a.hz ? b : a;
  if (a.kind === "period" && b.kind === "period") return b.period < a.period ? b : a;
  return { kind: "all" };
}

export function isFaster(a: Rate, b: Rate): boolean {
  return !sameRate(a, b) && sameRate(faster(a, b), a);
}

export function sameRate(a: Rate, b: Rate): boolean {
  if (a.kind === "frequency" && b.kind === "frequency") return a.hz === b.hz;
  if (a.kind === "period" && b.kind === "period") return a.period === b.period;
  return a.kind === b.kind;
}

/** A rate of another kind than the cap's cannot be compared with it and stays as it is. */
export function capped(rate: Rate, cap: Rate | null): Rate {
  return cap !== null && cap.kind === rate.kind && isFaster(rate, cap) ? cap : rate;
}

/** No faster than kernel.perf_event_max_sample_rate; null: not known. Periods of what is no clock have no rate to compare. */
export function heldBelow(rate: Rate, { periodUnit }: Pick<ResolvedEvent, "periodUnit">, maxHz: number | null): Rate {
  if (maxHz === null) return rate;
  if (rate.kind === "frequency") return capped(rate, { kind: "frequency", hz: maxHz });
  if (periodUnit === "events") return rate;
  return capped(rate, { kind: "period", period: Math.ceil(NS_PER_SECOND / maxHz) });
}

/** Half as fast as `inForce`, but never below the floor; null when it is there, or has no rate to lower. */
export function lowered(event: ResolvedEvent, asked: Rate, inForce: Rate, floorHz: number): Rate | null {
  if (inForce.kind === "frequency") {
    const hz = Math.max(floorHz, Math.ceil(inForce.hz / STEP));
    return hz < inForce.hz ? { kind: "frequency", hz } : null;
  }
  if (inForce.kind === "period" && asked.kind === "period") {
    const longest = event.periodUnit === "ns" ? Math.floor(NS_PER_SECOND / floorHz) : asked.period * PERIOD_FACTOR_MAX;
    const period = Math.min(longest, inForce.period * STEP);
    return period > inForce.period ? { kind: "period", period } : null;
  }
  return null;
}

/** The cap with which an event ticks twice as fast as `inForce`; null when what is asked for is no faster. */
export function raised(asked: Rate, inForce: Rate): Rate | null {
  const rate: Rate =
    inForce.kind === "frequency"
      ? { kind: "frequency", hz: inForce.hz * STEP }
      : inForce.kind === "period"
        ? { kind: "period", period: Math.max(1, Math.floor(inForce.period / STEP)) }
        : inForce;
  return isFaster(asked, rate) ? rate : null;
}

/** Which share of the rate asked for is in force: 1 when it is not lowered. */
export function shareInForce(asked: Rate, inForce: Rate): number {
  if (asked.kind === "frequency" && inForce.kind === "frequency") return inForce.hz / asked.hz;
  if (asked.kind === "period" && inForce.kind === "period") return asked.period / inForce.period;
  return 1;
}

/** For logs. */
export function rateText(rate: Rate): string {
  switch (rate.kind) {
    case "frequency":
      return `${rate.hz} Hz`;
    case "period":
      return `each ${rate.period}`;
    case "all":
      return "every sample";
  }
}
