/**
 * Which rates an overloaded daemon lowers, and when it dares to raise them again. Pure: figures in, changes out.
 *
 * A step down halves the events that weigh most; a step up doubles all that are lowered. Down goes quickly, since samples
 * are being lost; up slowly, since each step may bring the overload back. A step up that does is taken back, and to
 * try it again takes twice as long each time.
 */
import type { Rate, ResolvedEvent } from "../../pmu/source.js";
import type { Condition } from "./overload-watch.js";
import { isFaster, lowered, raised } from "./rates.js";

export interface GovernedEvent {
  readonly event: ResolvedEvent;
  readonly asked: Rate;
  readonly inForce: Rate;
  /** Since the last look: drained, and dropped by the kernel. */
  readonly samples: number;
}

/** `cap` null lifts what held the event back. */
export interface RateStep<Event extends GovernedEvent> {
  readonly kind: "lower" | "raise";
  readonly changes: readonly { readonly event: Event; readonly cap: Rate | null }[];
}

export interface GovernorLimits {
  /** No rate is lowered below. */
  readonly floorHz: number;
  /** How long it must have been calm before a step up. */
  readonly raiseAfterNs: number;
}

/** One bad look in an overload may be a hiccup, which is no reason to give consumers less than they asked for. */
const BAD_LOOKS = 2;
/** With the default of 10 s, a rate that fails again and again is tried each 5 minutes. */
const PATIENCE_MAX = 32;

export class RateGovernor {
  readonly #limits: GovernorLimits;
  #badLooks = 0;
  #calmSinceNs: number | null = null;
  /** Steps down that have not been taken back. */
  #depth = 0;
  /** The last step was one up, and may still turn out to be too much. */
  #onTrial = false;
  /** At this depth, and above it, there was an overload again; -1: nowhere. */
  #failedDepth = -1;
  #patience = 1;
  /** Since the last release. */
  #hasLowered = false;
  /** The look after a step saw both sides of it. */
  #isMixed = false;
  #demand = "";

  constructor(limits: GovernorLimits) {
    this.#limits = limits;
  }

  /** At most one step a look; it is taken for done. */
  look<Event extends GovernedEvent>(
    nowNs: number,
    condition: Condition,
    events: readonly Event[],
  ): RateStep<Event> | null {
    this.#compareDemand(events);
    if (this.#isMixed) {
      this.#isMixed = false;
      return null;
    }
    if (condition === "bad") return this.#badLook(events);
    if (condition === "uncertain") return null;
    this.#badLooks = 0;
    this.#calmSinceNs ??= nowNs;
    return this.#calmLook(nowNs - this.#calmSinceNs, events);
  }

  /** Takes back what the steps so far have done, where they may be taken no more. Null when there is nothing to take back. */
  release<Event extends GovernedEvent>(events: readonly Event[]): RateStep<Event> | null {
    if (!this.#hasLowered) return null;
    this.#hasLowered = false;
    this.#badLooks = 0;
    this.#calmSinceNs = null;
    this.#depth = 0;
    this.#onTrial = false;
    this.#forgive();
    const held = events.filter(({ asked, inForce }) => isFaster(asked, inForce));
    return this.#step(
      "raise",
      held.map((event) => ({ event, cap: null })),
    );
  }

  /** The kernel would not have the step: it is as if there had been an overload. */
  refused(step: RateStep<GovernedEvent>): void {
    if (step.kind === "raise") this.#fail();
    else this.#depth--;
    this.#hasLowered = true;
    this.#badLooks = 0;
  }

  #badLook<Event extends GovernedEvent>(events: readonly Event[]): RateStep<Event> | null {
    this.#calmSinceNs = null;
    this.#badLooks++;
    if (this.#onTrial) this.#fail();
    else if (this.#badLooks < BAD_LOOKS) return null;
    else this.#depth++;
    const changes = heaviest(events, this.#limits.floorHz);
    if (changes.length === 0) this.#depth--;
    return this.#step("lower", changes);
  }

  #calmLook<Event extends GovernedEvent>(calmNs: number, events: readonly Event[]): RateStep<Event> | null {
    const { raiseAfterNs } = this.#limits;
    if (calmNs < raiseAfterNs) return null;
    if (this.#onTrial) {
      this.#onTrial = false;
      if (this.#depth <= this.#failedDepth) this.#forgive();
    }
    const held = events.filter(({ asked, inForce }) => isFaster(asked, inForce));
    if (held.length === 0) {
      this.#depth = 0;
      return null;
    }
    if (this.#depth - 1 <= this.#failedDepth && calmNs < raiseAfterNs * this.#patience) return null;
    this.#depth = Math.max(0, this.#depth - 1);
    this.#onTrial = true;
    this.#calmSinceNs = null;
    return this.#step(
      "raise",
      held.map((event) => ({ event, cap: raised(event.asked, event.inForce) })),
    );
  }

  #step<Event extends GovernedEvent>(
    kind: RateStep<Event>["kind"],
    changes: RateStep<Event>["changes"],
  ): RateStep<Event> | null {
    if (changes.length === 0) return null;
    // One step down taken, the next bad look is no hiccup.
    this.#badLooks = kind === "lower" ? BAD_LOOKS - 1 : 0;
    this.#hasLowered ||= kind === "lower";
    this.#isMixed = true;
    return { kind, changes };
  }

  #fail(): void {
    this.#failedDepth = this.#depth;
    this.#patience = Math.min(PATIENCE_MAX, this.#patience * 2);
    this.#depth++;
    this.#onTrial = false;
  }

  #forgive(): void {
    this.#failedDepth = -1;
    this.#patience = 1;
  }

  /** What failed under other handlers says nothing of these. */
  #compareDemand(events: readonly GovernedEvent[]): void {
    const demand = JSON.stringify(events.map(({ event, asked }) => [event.key, asked]));
    if (demand !== this.#demand) this.#forgive();
    this.#demand = demand;
  }
}

/** Of the events that can be slower still, those that make at least half as many samples as the one that makes most. */
function heaviest<Event extends GovernedEvent>(
  events: readonly Event[],
  floorHz: number,
): { readonly event: Event; readonly cap: Rate }[] {
  const candidates = events.flatMap((event) => {
    const cap = lowered(event.event, event.asked, event.inForce, floorHz);
    return cap !== null && event.samples > 0 ? [{ event, cap }] : [];
  });
  const most = Math.max(...candidates.map(({ event }) => event.samples));
  return candidates.filter(({ event }) => event.samples * 2 >= most);
}
