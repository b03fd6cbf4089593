/**
 * What the kernel could not put into the rings, per event, by reading the events themselves: exact, where
 * PERF_RECORD_LOST comes late and names the wrong event in a shared ring.
 */
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
    for (const armed of this.#armedEvents.all) {
      const lost = this.#armedEvents.read(armed).lost ?? 0;
      const fresh = lost - this.seen(armed);
      if (fresh <= 0) continue;
      this.#seen.set(armed, lost);
      this.total += fresh;
      for (const { armed: events, delivery } of handlers) {
        const event = events.indexOf(armed);
        if (event >= 0) delivery.eventWideLoss(event, "KERNEL", fresh);
      }
    }
  }

  /** As of the last look. */
  seen(armed: ArmedEvent): number {
    return this.#seen.get(armed) ?? 0;
  }

  /** The last reading of an event that is about to be closed. */
  retire(armed: ArmedEvent): number {
    const lost = this.#armedEvents.read(armed).lost ?? 0;
    this.total += Math.max(0, lost - this.seen(armed));
    this.#seen.delete(armed);
    return lost;
  }
}
