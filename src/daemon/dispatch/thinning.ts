/**
 * Several rates on one event. The kernel samples at the fastest rate asked for; a slower handler gets a thinned stream.
 * Which samples it gets is decided by the event's samples on each CPU alone, before the handler's filter, just as a
 * slower event of its own would have ticked: a process with a tenth of the CPU gets a tenth of the ticks. What is left
 * out is carried: its period is added to the next sample sent.
 */
import { BATCH_SAMPLES_MAX, type BatchIndex } from "../../pmu/record.js";

/** Every sample, one each `intervalNs` of the sample clock, or one each `period` counted. */
export type Pace =
  | { readonly kind: "every" }
  | { readonly kind: "time"; readonly intervalNs: number }
  | { readonly kind: "weight"; readonly period: number };

/** With room for `length` values; never shorter. */
export function grown(values: Float64Array, length: number): Float64Array {
  if (values.length >= length) return values;
  const longer = new Float64Array(length);
  longer.set(values);
  return longer;
}

/**
 * Which samples of an event are ticks at one rate: decided once a batch for all lanes that ask for that rate, so that a
 * handler that joins others ticks when they do. With a phase for each ring.
 */
export class Ticker {
  #pace: Pace;
  /** Of the batch marked last: 1 where sample i is a tick. Only samples of the ticker's own event are marked. */
  readonly ticks = new Uint8Array(BATCH_SAMPLES_MAX);
  readonly #event: number;
  /** Time pace: when the next sample is due. Weight pace: what was counted since the last. By ring. */
  #phase: Float64Array;

  constructor(event: number, pace: Pace, rings: number) {
    this.#event = event;
    this.#pace = pace;
    this.#phase = new Float64Array(rings);
    this.pace = pace;
  }

  reserveRings(rings: number): void {
    this.#phase = grown(this.#phase, rings);
  }

  get pace(): Pace {
    return this.#pace;
  }

  set pace(pace: Pace) {
    this.#pace = pace;
    // Nothing to mark from then on.
    if (pace.kind === "every") this.ticks.fill(1);
  }

  /** Called once for every batch that holds samples of the event, in order. */
  mark(batch: BatchIndex, ring: number): void {
    const { pace, ticks } = this;
    const phase = this.#phase;
    if (pace.kind === "every") return;
    for (let i = 0; i < batch.count; i++) {
      if (batch.event[i] !== this.#event) continue;
      if (pace.kind === "time") {
        const timeNs = batch.time[i];
        const due = phase[ring];
        ticks[i] = timeNs < due ? 0 : 1;
        if (timeNs < due) continue;
        // Keeping the phase keeps the mean rate; after a pause there is no burst to catch up.
        const next = due + pace.intervalNs;
        phase[ring] = next > timeNs ? next : timeNs + pace.intervalNs;
      } else {
        const counted = phase[ring] + batch.period[i];
        ticks[i] = counted < pace.period ? 0 : 1;
        phase[ring] = counted < pace.period ? counted : counted % pace.period;
      }
    }
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
