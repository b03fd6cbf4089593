/** struct perf_event_attr of live events. */
import { COUNT_SW, encodeAttr, FORMAT, SAMPLE, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import type { EventShape, Rate, ResolvedEvent } from "../source.js";

const NS_PER_SECOND = 1_000_000_000;

const BASE_SAMPLE_TYPE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;
const TIMES = FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING;

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

export function sampleTypeOf({ sampleRead }: ResolvedEvent, shape: EventShape): number {
  let sampleType: number = BASE_SAMPLE_TYPE;
  if (shape.callchain) sampleType |= SAMPLE.CALLCHAIN;
  if (shape.cgroup) sampleType |= SAMPLE.CGROUP;
  if (sampleRead) sampleType |= SAMPLE.READ;
  return sampleType;
}

/** Of a group whose leader is read with its members, or of one event. */
export function readFormatOf({ sampleRead }: ResolvedEvent, countsLost: boolean): number {
  return TIMES | (countsLost ? FORMAT.LOST : 0) | (sampleRead ? FORMAT.GROUP | FORMAT.ID : 0);
}

export interface AttrOptions {
  readonly sampleType: number;
  readonly readFormat: number;
  readonly wakeEach: boolean;
  /** A member of a group: it counts when its leader does. */
  readonly isMember: boolean;
  /** null where the event only counts. */
  readonly rate: Rate | null;
}

export function attrOf(event: ResolvedEvent, options: AttrOptions): Uint8Array {
  const { sampleType, readFormat, wakeEach, isMember, rate } = options;
  return encodeAttr({
    ...event,
    sampleType,
    readFormat,
    samplePeriod: rate === null ? 0n : kernelPeriod(event, rate),
    freq: rate?.kind === "frequency" && !isClock(event),
    enabled: isMember,
    wakeup: wakeEach ? 1 : 0,
    watermark: false,
  });
}
