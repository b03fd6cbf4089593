/** struct perf_event_attr of live events. */
import { COUNT_SW, encodeAttr, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import type { Rate, ResolvedEvent } from "../source.js";
import type { CarriedAttr } from "./carried-fields.js";

const NS_PER_SECOND = 1_000_000_000;

/**
 * The kernel turns a clock event's frequency into a fixed period when it opens it (kernel/events/core.c,
 * perf_swevent_init_hrtimer): we open it by period. IOC_PERIOD then changes the timer, but not what the samples say:
 * PERF_SAMPLE_PERIOD stays that of the opening (hw.last_period). So the rate of an open clock is never changed.
 */
export function isClock(event: ResolvedEvent): boolean {
  return (
    event.type === TYPE.SOFTWARE &&
    (event.config === BigInt(COUNT_SW.CPU_CLOCK) || event.config === BigInt(COUNT_SW.TASK_CLOCK))
  );
}

/** What attr.sample_period takes for this event, and IOC_PERIOD where it may be used: Hz, events or nanoseconds. */
export function kernelPeriod(event: ResolvedEvent, rate: Rate): bigint {
  switch (rate.kind) {
    case "frequency":
      return BigInt(isClock(event) ? Math.max(1, Math.round(NS_PER_SECOND / rate.hz)) : rate.hz);
    case "period":
      return BigInt(rate.period);
    case "all":
      throw new PmuError("RATE_INVALID", `${event.name}: a live event needs a frequency or a period`);
  }
}

export interface AttrOptions {
  /** What its samples and its readings hold. */
  readonly carried: Pick<CarriedAttr, "sampleType" | "readFormat"> & Partial<CarriedAttr>;
  readonly wakeEach: boolean;
  /** A member of a group: it counts when its leader does. */
  readonly isMember: boolean;
  /** null where the event only counts. */
  readonly rate: Rate | null;
}

export function attrOf(event: ResolvedEvent, options: AttrOptions): Uint8Array {
  const { carried, wakeEach, isMember, rate } = options;
  return encodeAttr({
    ...event,
    ...carried,
    samplePeriod: rate === null ? 0n : kernelPeriod(event, rate),
    freq: rate?.kind === "frequency" && !isClock(event),
    enabled: isMember,
    wakeup: wakeEach ? 1 : 0,
    watermark: false,
  });
}
