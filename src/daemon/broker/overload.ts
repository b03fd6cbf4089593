/**
 * The daemon's own overload: looks at the dispatchers once a second, says when they do not keep up and when they do
 * again, and where it is allowed to lowers rates meanwhile.
 */
import type { NsClock } from "../clock.js";
import type { OverloadPolicy } from "../config/schema.js";
import { BusyReader } from "../dispatch/busy-clock.js";
import { ringFillPeak } from "../dispatch/ring-fill.js";
import { DISPATCHER_STAT, type DispatcherStats, EVENT_STAT } from "../dispatch/stats.js";
import type { ArmedEvent, ArmedEvents } from "./armed-events.js";
import type { KernelLossWatch } from "./kernel-loss.js";
import { type DispatcherLook, OverloadWatch } from "./overload-watch.js";
import { type GovernedEvent, type GovernorLimits, RateGovernor, type RateStep } from "./rate-governor.js";
import { rateText } from "./rates.js";

export interface OverloadParts {
  readonly dispatchers: readonly { readonly stats: DispatcherStats }[];
  readonly armedEvents: Pick<ArmedEvents, "all" | "allowedRate" | "limit">;
  /** Polled before each look. */
  readonly kernelLoss: Pick<KernelLossWatch, "total" | "seen">;
  /** In force at the time of a look: it may change from one to the next, and so may the limits. */
  readonly policy: OverloadPolicy;
  readonly limits: GovernorLimits;
  /** Whether the source's events tick at the rate they are given. */
  readonly canLower: boolean;
  readonly now: NsClock;
  readonly log: (level: "info" | "warn", fields: Record<string, unknown>, message: string) => void;
  readonly onProblem: (armed: ArmedEvent, error: Error) => void;
}

interface Seen {
  readonly busyNs: number;
  readonly ringFill: Float64Array;
}

interface Governed extends GovernedEvent {
  readonly armed: ArmedEvent;
}

const NS_PER_SECOND = 1e9;
/** A dispatcher that was at work all the time and began no drain is still in the one before. */
const STUCK_BUSY = 0.9;

const REMEDY =
  "give the daemon more CPU or more dispatchers (--dispatchers), larger rings (ring_kib), or ask for lower rates";
const REMEDY_POLICY = "; --overload lower lets it lower them by itself";
const CANNOT_LOWER = "; --overload lower has no effect on this source, whose pace is its own";

export class OverloadControl {
  readonly #parts: OverloadParts;
  readonly #watch: OverloadWatch;
  readonly #governor: RateGovernor;
  /** By dispatcher. */
  readonly #busy: readonly BusyReader[];
  #lookedNs = 0;
  #kernelLost = 0;
  #seen: readonly Seen[] = [];
  /** Samples of each event up to the last look, drained and dropped. */
  #samples = new Map<ArmedEvent, number>();
  /** What the last look showed, by dispatcher. */
  #looks: readonly DispatcherLook[];
  /** Resolves when the step under way is done; null when there is none. */
  #changing: Promise<void> | null = null;

  constructor(parts: OverloadParts) {
    this.#parts = parts;
    this.#watch = new OverloadWatch(parts.dispatchers.length);
    this.#governor = new RateGovernor(parts.limits);
    this.#busy = parts.dispatchers.map(({ stats }) => new BusyReader(stats.words, DISPATCHER_STAT.BUSY));
    this.#looks = idleLooks(parts.dispatchers.length);
  }

  get state(): Pick<OverloadWatch, "overloaded" | "reason" | "dispatchers" | "kernelLost" | "episodes"> {
    return this.#watch;
  }

  get looks(): readonly DispatcherLook[] {
    return this.#looks;
  }

  /** How long the dispatcher has not been asleep since it was started. */
  busyNs(dispatcher: number): number {
    return this.#busy[dispatcher].read(this.#parts.now());
  }

  /** 0 when there is none. */
  lastedNs(): number {
    return this.#watch.lastedNs(this.#parts.now());
  }

  /** Events are armed again: what was before counts for nothing. */
  begin(): void {
    this.#take();
    this.#looks = idleLooks(this.#parts.dispatchers.length);
  }

  /** Nothing is armed any more. */
  idle(): void {
    const lastedNs = this.lastedNs();
    this.#looks = idleLooks(this.#parts.dispatchers.length);
    this.#samples.clear();
    const { total } = this.#parts.kernelLoss;
    if (this.#watch.idle(total - this.#kernelLost)) this.#logEnd(lastedNs, "nothing is sampled any more");
  }

  /** Once a second, while something is armed. Resolves when the step that it led to is done. */
  look(): Promise<void> {
    const lastedNs = this.lastedNs();
    const { kernelLost, events } = this.#take();
    const verdict = this.#watch.look({ nowNs: this.#lookedNs, kernelLost, dispatchers: this.#looks });
    if (verdict.change === "began") this.#logBegin();
    if (verdict.change === "ended") this.#logEnd(lastedNs, "the dispatchers keep up");
    const { policy, canLower } = this.#parts;
    if (canLower && this.#changing === null) {
      const step =
        policy === "lower"
          ? this.#governor.look(this.#lookedNs, verdict.condition, events)
          : this.#governor.release(events);
      if (step !== null) {
        this.#changing = this.#apply(step).finally(() => {
          this.#changing = null;
        });
      }
    }
    return this.#changing ?? Promise.resolve();
  }

  /** The figures since the last look. */
  #take(): { kernelLost: number; events: Governed[] } {
    const { dispatchers, armedEvents, kernelLoss, now } = this.#parts;
    const nowNs = now();
    const elapsedNs = Math.max(1, nowNs - this.#lookedNs);
    const seen = dispatchers.map(({ stats }, d) => ({
      busyNs: this.#busy[d].read(nowNs),
      ringFill: stats.ringFill.slice(),
    }));
    if (this.#seen.length > 0) {
      this.#looks = seen.map((one, d) => dispatcherLook(this.#seen[d], one, elapsedNs, this.#looks[d]));
    }
    const samples = new Map(armedEvents.all.map((armed) => [armed, this.#samplesOf(armed)]));
    const events = Array.from(samples, ([armed, count]) => ({
      armed,
      event: armed.event,
      // What the kernel does not allow no step up brings.
      asked: armedEvents.allowedRate(armed),
      inForce: armed.rate,
      samples: Math.max(0, count - (this.#samples.get(armed) ?? 0)),
    }));
    const kernelLost = kernelLoss.total - this.#kernelLost;
    this.#lookedNs = nowNs;
    this.#kernelLost = kernelLoss.total;
    this.#seen = seen;
    this.#samples = samples;
    return { kernelLost, events };
  }

  #samplesOf(armed: ArmedEvent): number {
    const { dispatchers, kernelLoss } = this.#parts;
    const drained = dispatchers.map(({ stats }) => stats.words[stats.event(armed.index, EVENT_STAT.SAMPLES)]);
    return drained.reduce((sum, count) => sum + count, kernelLoss.seen(armed));
  }

  async #apply(step: RateStep<Governed>): Promise<void> {
    const done: Record<string, unknown>[] = [];
    let refused = false;
    for (const { event, cap } of step.changes) {
      const { armed, asked } = event;
      try {
        await this.#parts.armedEvents.limit(armed, cap);
        done.push({ event: armed.event.name, asked: rateText(asked), now: rateText(armed.rate) });
      } catch (error) {
        this.#parts.onProblem(armed, error as Error);
        refused = true;
      }
    }
    if (refused) this.#governor.refused(step);
    if (done.length > 0)
      this.#parts.log("info", { events: done }, step.kind === "lower" ? "rates lowered" : "rates raised");
  }

  #logBegin(): void {
    const { policy, canLower } = this.#parts;
    const { reason, dispatchers, kernelLost } = this.#watch;
    const more = policy === "report" && canLower ? REMEDY_POLICY : policy === "lower" && !canLower ? CANNOT_LOWER : "";
    const fields = { reason, dispatchers, kernel_lost: kernelLost, policy, remedy: REMEDY + more };
    this.#parts.log("warn", fields, "overloaded: the dispatchers do not keep up");
  }

  #logEnd(lastedNs: number, why: string): void {
    const seconds = Math.round(lastedNs / (NS_PER_SECOND / 10)) / 10;
    this.#parts.log("info", { seconds, kernel_lost: this.#watch.kernelLost, why }, "overload has ended");
  }
}

function dispatcherLook(before: Seen, now: Seen, elapsedNs: number, last: DispatcherLook): DispatcherLook {
  const busyRatio = Math.min(1, Math.max(0, now.busyNs - before.busyNs) / elapsedNs);
  const peak = ringFillPeak(before.ringFill, now.ringFill);
  return { busyRatio, ringFillPeak: peak === 0 && busyRatio >= STUCK_BUSY ? last.ringFillPeak : peak };
}

function idleLooks(dispatchers: number): DispatcherLook[] {
  return Array.from({ length: dispatchers }, () => ({ busyRatio: 0, ringFillPeak: 0 }));
}
