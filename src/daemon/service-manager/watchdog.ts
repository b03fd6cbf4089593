/**
 * The service manager's watchdog (WatchdogSec=) is fed with proof: by the main thread, whose timer this is, and only when
 * every dispatcher has answered since the timer fired (observe/liveness.ts, which logs who has not). Where one hangs, or
 * never comes back from a handler, the manager ends the daemon.
 */
import type { Environment } from "../config/environment.js";
import type { LivenessWatch } from "../observe/liveness.js";

/** Node's timers have whole milliseconds. */
const US_PER_MS = 1000;
const MS_PER_SECOND = 1000;
/** sd_watchdog_enabled(3) wants two. With four, the log names a dispatcher that hangs well before the manager acts. */
const TIMES_A_PERIOD = 4;

/** How often the watchdog of the process `pid` is to be fed; null where there is none. */
export function watchdogIntervalMs(env: Environment, pid: number): number | null {
  if (env.WATCHDOG_PID !== undefined && env.WATCHDOG_PID !== String(pid)) return null;
  const periodUs = /^\d{1,15}$/.test(env.WATCHDOG_USEC ?? "") ? Number(env.WATCHDOG_USEC) : 0;
  return periodUs === 0 ? null : Math.max(1, Math.floor(periodUs / US_PER_MS / TIMES_A_PERIOD));
}

export interface WatchdogParts {
  readonly intervalMs: number;
  readonly liveness: Pick<LivenessWatch, "answered" | "expectWithin" | "look">;
  readonly feed: () => void;
}

export class Watchdog {
  readonly #parts: WatchdogParts;
  /** Some dispatcher has not answered. */
  #waiting = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(parts: WatchdogParts) {
    this.#parts = parts;
  }

  /** The first meal is due at once. */
  start(): void {
    if (this.#timer !== null) return;
    const { intervalMs, liveness } = this.#parts;
    // After two of the four looks there is still time to read in the log why the manager is about to act.
    liveness.expectWithin((2 * intervalMs) / MS_PER_SECOND);
    this.#timer = setInterval(() => this.#ask(), intervalMs);
    this.#ask();
  }

  /** Nothing is fed any more. */
  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #ask(): void {
    const { liveness } = this.#parts;
    // For the log; it asks nobody twice.
    liveness.look();
    if (this.#waiting) return;
    this.#waiting = true;
    liveness.answered().then(
      () => this.#answered(),
      // One that cannot be asked is as good as one that does not answer.
      () => {},
    );
  }

  #answered(): void {
    this.#waiting = false;
    if (this.#timer !== null) this.#parts.feed();
  }
}
