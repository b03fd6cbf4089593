/**
 * Whether the dispatchers keep up, judged from one look a second at what they count anyway. Pure: figures in, state out.
 *
 *     fine ── the kernel dropped samples, or a dispatcher was late or restless several looks in a row ──► overloaded
 *     overloaded ── several looks in a row with nothing of that kind, and some way from it ──► fine
 */

/** What one dispatcher did since the last look. */
export interface DispatcherLook {
  /** The fullest ring that it began to drain, 0..1. */
  readonly ringFillPeak: number;
  /** Share of the time that it was not asleep, 0..1. */
  readonly busyRatio: number;
}

export interface Look {
  readonly nowNs: number;
  /** Since the last look. */
  readonly kernelLost: number;
  readonly dispatchers: readonly DispatcherLook[];
}

/** `uncertain`: overloaded, though this look does not show it; it may be over. */
export type Condition = "fine" | "uncertain" | "bad";

export interface Verdict {
  readonly condition: Condition;
  readonly change: "began" | "ended" | null;
}

/**
 * A ring wakes its dispatcher when it is half full. One that is nearly full when the dispatcher comes is drained too
 * slowly or too late: one more delay, and the kernel drops samples.
 */
const LATE_FILL = 0.9;
const LATE_LOOKS = 3;
/**
 * Restless: at work all the time, and each ring is past its mark when its turn comes. Either alone is harmless: one that
 * is woken for every sample is always at work and has empty rings, and half a ring is what wakes the others.
 */
const RESTLESS_BUSY = 0.95;
const RESTLESS_FILL = 0.5;
const RESTLESS_LOOKS = 5;
/** For the end it must be better than just not as bad as for the beginning. */
const CALM_FILL = 0.8;
const CALM_BUSY = 0.9;
const CALM_LOOKS = 5;

export class OverloadWatch {
  overloaded = false;
  /** Of the last look that showed an overload; empty when there is none. */
  reason = "";
  /** Indices of those who do not keep up. */
  dispatchers: readonly number[] = [];
  /** What the kernel has dropped since it began. */
  kernelLost = 0;
  /** How often it has begun. */
  episodes = 0;
  #sinceNs = 0;
  #calmLooks = 0;
  /** By dispatcher: bad looks in a row. */
  readonly #late: number[];
  readonly #restless: number[];

  constructor(dispatchers: number) {
    this.#late = new Array(dispatchers).fill(0);
    this.#restless = new Array(dispatchers).fill(0);
  }

  lastedNs(nowNs: number): number {
    return this.overloaded ? nowNs - this.#sinceNs : 0;
  }

  look(look: Look): Verdict {
    look.dispatchers.forEach((dispatcher, d) => {
      this.#late[d] = isLate(dispatcher) ? this.#late[d] + 1 : 0;
      this.#restless[d] = isRestless(dispatcher) ? this.#restless[d] + 1 : 0;
    });
    const before = this.overloaded;
    if (!before && this.#begins(look)) this.#begin(look.nowNs);
    if (!this.overloaded) return { condition: "fine", change: null };
    this.kernelLost += look.kernelLost;
    const bad = isBad(look);
    if (bad) {
      this.reason = describe(look);
      this.dispatchers = blame(look);
    }
    this.#calmLooks = isCalm(look) ? this.#calmLooks + 1 : 0;
    if (this.#calmLooks >= CALM_LOOKS) {
      this.#end();
      return { condition: "fine", change: "ended" };
    }
    return { condition: bad ? "bad" : "uncertain", change: before ? null : "began" };
  }

  /** Nothing is sampled any more; `kernelLost` since the last look. True when that ends an overload. */
  idle(kernelLost: number): boolean {
    this.#late.fill(0);
    this.#restless.fill(0);
    if (!this.overloaded) return false;
    this.kernelLost += kernelLost;
    this.#end();
    return true;
  }

  #begins({ kernelLost }: Look): boolean {
    return (
      kernelLost > 0 ||
      this.#late.some((looks) => looks >= LATE_LOOKS) ||
      this.#restless.some((looks) => looks >= RESTLESS_LOOKS)
    );
  }

  #begin(nowNs: number): void {
    this.overloaded = true;
    this.episodes++;
    this.kernelLost = 0;
    this.#sinceNs = nowNs;
    this.#calmLooks = 0;
  }

  #end(): void {
    this.overloaded = false;
    this.reason = "";
    this.dispatchers = [];
  }
}

function isLate({ ringFillPeak }: DispatcherLook): boolean {
  return ringFillPeak > LATE_FILL;
}

function isRestless({ busyRatio, ringFillPeak }: DispatcherLook): boolean {
  return busyRatio >= RESTLESS_BUSY && ringFillPeak > RESTLESS_FILL;
}

function isBad({ kernelLost, dispatchers }: Look): boolean {
  return kernelLost > 0 || dispatchers.some((one) => isLate(one) || isRestless(one));
}

function isCalm({ kernelLost, dispatchers }: Look): boolean {
  return (
    kernelLost === 0 &&
    dispatchers.every(
      (one) => one.ringFillPeak <= CALM_FILL && (one.busyRatio < CALM_BUSY || one.ringFillPeak <= RESTLESS_FILL),
    )
  );
}

/** The kernel tells losses by event, not by ring: where no dispatcher stands out, the one with the fullest ring did it. */
function blame({ dispatchers }: Look): number[] {
  const indices = dispatchers.map((_, d) => d);
  const behind = indices.filter((d) => isLate(dispatchers[d]) || isRestless(dispatchers[d]));
  if (behind.length > 0) return behind;
  const fullest = Math.max(...dispatchers.map(({ ringFillPeak }) => ringFillPeak));
  return indices.filter((d) => dispatchers[d].ringFillPeak === fullest);
}

function describe(look: Look): string {
  const who = blame(look).map((d) => {
    const { ringFillPeak, busyRatio } = look.dispatchers[d];
    return `dispatcher ${d} was at work ${percent(busyRatio)} of the time and found a ring ${percent(ringFillPeak)} full`;
  });
  const what = look.kernelLost > 0 ? [`rings were full and the kernel dropped ${look.kernelLost} samples`] : [];
  return [...what, ...who].join("; ");
}

function percent(ratio: number): string {
  return `${Math.round(ratio * 100)} %`;
}
