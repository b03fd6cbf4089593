/** What a request says of an event's rate. */
import { TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import type { EventRequest, Rate } from "../source.js";

/**
 * Whether the kernel, sampling the event by period, makes a sample of every occurrence, whatever the period: it does for
 * what it counts itself and is no clock, when the sample carries its period (kernel/events/core.c, perf_swevent_event).
 */
export function samplesEachOccurrence({
  type,
  periodUnit,
}: {
  readonly type: number;
  readonly periodUnit: "ns" | "events";
}): boolean {
  return (type === TYPE.SOFTWARE && periodUnit === "events") || type === TYPE.TRACEPOINT || type === TYPE.BREAKPOINT;
}

const FREQUENCY_HZ_MAX = 1e9;

/**
 * What the request asks for, or null when it gives neither frequency nor period (0 is not given). A source may know a
 * lower limit. Throws PmuError RATE_INVALID.
 */
export function requestedRate({ frequencyHz = 0, period = 0 }: EventRequest): Rate | null {
  if (frequencyHz !== 0 && period !== 0) {
    throw new PmuError(
      "RATE_INVALID",
      "events[].frequency_hz and events[].period: both are given; give one of the two",
    );
  }
  if (!Number.isSafeInteger(frequencyHz) || frequencyHz < 0 || frequencyHz > FREQUENCY_HZ_MAX) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].frequency_hz: ${frequencyHz} is no frequency; give a whole number of samples a second from 1 to ${FREQUENCY_HZ_MAX}`,
    );
  }
  if (!Number.isSafeInteger(period) || period < 0) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].period: ${period} is no period; give a whole number from 1 to ${Number.MAX_SAFE_INTEGER}`,
    );
  }
  if (frequencyHz !== 0) return { kind: "frequency", hz: frequencyHz };
  return period !== 0 ? { kind: "period", period } : null;
}
