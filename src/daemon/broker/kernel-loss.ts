/**
 * What the kernel could not put into the rings, per event, by reading the events themselves: exact, where
 * PERF_RECORD_LOST comes late and names the wrong event in a shared ring.
 */
import type { EventReading } from "../../pmu/source.js";
import type { ArmedEvent, ArmedEvents } from "./armed-events.js";
import type { Handler } from "./handler.js";

export class KernelLossWatch {
  readonly #armedEvents: ArmedEvents;
  readonly #seen = new Map<ArmedEvent, number>();
  /** Of all events, those that are closed included. */
  total = 0;

  constructor(armedEvents: ArmedEvents) {
    this.#armedEvents = armedEvents;
  }

  /** Reads every armed event and tells the handlers of each what is new. */
  poll(handlers: readonly Handler[]): void {
    for (const armed of this.#armedEvents.all) this.#tellFresh(armed, this.#armedEvents.read(armed), handlers);
  }

  /**
   * The last reading of an event that is about to be closed. Whoever had it last is told of what was lost up to the
   * moment the event was disabled: who has had an event all along has been told of all its losses.
   */
  retire(armed: ArmedEvent, handlers: readonly Handler[]): EventReading {
    const reading = this.#armedEvents.read(armed);
    this.#tellFresh(armed, reading, handlers);
    this.#seen.delete(armed);
    return reading;
  }

  /** As of the last look. */
  seen(armed: ArmedEvent): number {
    return this.#seen.get(armed) ?? 0;
  }

  #tellFresh(armed: ArmedEvent, { lost }: EventReading, handlers: readonly Handler[]): void {
    const fresh = (lost ?? 0) - this.seen(armed);
    if (fresh <= 0) return;
    this.#seen.set(armed, lost ?? 0);
    this.total += fresh;
    for (const { armed: events, places, delivery } of handlers) {
      const event = events.indexOf(armed);
      if (event >= 0) delivery.eventWideLoss(places[event], "KERNEL", fresh);
    }
  }
}
