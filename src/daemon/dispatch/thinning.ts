/**
 * Several rates on one event. The kernel samples at the fastest rate asked for; a slower handler gets a thinned stream.
 * Which samples it gets is decided by the event's samples on each CPU alone, before the handler's filter, just as a
 * slower event of its own would have ticked: a process with a tenth of the CPU gets a tenth of the ticks. What is left
 * out is carried: its period is added to the next sample sent.
 */

/** Every sample, one each `intervalNs` of the sample clock, or one each `period` counted. */
export type Pace =
  | { readonly kind: "every" }
  | { readonly kind: "time"; readonly intervalNs: number }
  | { readonly kind: "weight"; readonly period: number };

/** One handler's pace on one event, with a state for each ring. */
export class Thinner {
  pace: Pace;
  /** Time pace: when the next sample is due. Weight pace: what was counted since the last. By ring. */
  readonly #state: Float64Array;
  /** Weight of matching samples left out since the last one sent. By ring. */
  readonly carry: Float64Array;

  constructor(pace: Pace, rings: number) {
    this.pace = pace;
    this.#state = new Float64Array(rings);
    this.carry = new Float64Array(rings);
  }

  /** Whether the sample is one of the handler's ticks. Called for every sample of the event on the ring, in order. */
  ticks(ring: number, timeNs: number, period: number): boolean {
    const pace = this.pace;
    if (pace.kind === "every") return true;
    const state = this.#state;
    if (pace.kind === "time") {
      const due = state[ring];
      if (timeNs < due) return false;
      // Keeping the phase keeps the mean rate; after a pause there is no burst to catch up.
      const next = due + pace.intervalNs;
      state[ring] = next > timeNs ? next : timeNs + pace.intervalNs;
      return true;
    }
    const counted = state[ring] + period;
    if (counted < pace.period) {
      state[ring] = counted;
      return false;
    }
    state[ring] = counted % pace.period;
    return true;
  }
}

/** What the event ticks at in its ring: the kernel's rate, or null where the source's own rate is unknown. */
export interface EventPace {
  readonly frequencyHz: number | null;
  readonly period: number | null;
}

export const NS_PER_SECOND = 1_000_000_000;

/** The pace of a handler that asked for `wanted` on an event that ticks at `event`. */
export function paceFor(wanted: { readonly frequencyHz: number; readonly period: number }, event: EventPace): Pace {
  if (wanted.frequencyHz > 0) {
    if (event.frequencyHz !== null && wanted.frequencyHz >= event.frequencyHz) return { kind: "every" };
    return { kind: "time", intervalNs: NS_PER_SECOND / wanted.frequencyHz };
  }
  if (wanted.period > 0) {
    if (event.period !== null && wanted.period <= event.period) return { kind: "every" };
    return { kind: "weight", period: wanted.period };
  }
  return { kind: "every" };
}
