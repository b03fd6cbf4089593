/**
 * The service manager's watchdog (WatchdogSec=) is fed with proof: by the main thread, whose timer this is, and only when
 * every dispatcher has answered since the timer fired. A dispatcher that sleeps is woken by the question, drains its
 * rings and answers; one that hangs, or never comes back from a handler, does not, and the manager ends the daemon.
 */
import type { Environment } from "../config/environment.js";

/** Node's timers have whole milliseconds. */
const US_PER_MS = 1000;
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
  /** One of each dispatcher: resolves when it has gone round its loop. */
  readonly probes: readonly (() => Promise<void>)[];
  readonly feed: () => void;
  /** Told once of a dispatcher that has not answered for a whole interval, and when it does after all. */
  readonly onLate: (dispatcher: number) => void;
  readonly onBack: (dispatcher: number, lateMs: number) => void;
}

interface Question {
  readonly askedMs: number;
  told: boolean;
}

export class Watchdog {
  readonly #parts: WatchdogParts;
  /** Of each dispatcher that has not answered. */
  readonly #open = new Map<number, Question>();
  #timer: NodeJS.Timeout | null = null;

  constructor(parts: WatchdogParts) {
    this.#parts = parts;
  }

  /** The first meal is due at once. */
  start(): void {
    if (this.#timer !== null) return;
    this.#timer = setInterval(() => this.#ask(), this.#parts.intervalMs);
    this.#ask();
  }

  /** Nothing is fed or told any more. */
  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #ask(): void {
    const { probes, onLate, feed } = this.#parts;
    for (const [dispatcher, probe] of probes.entries()) {
      const open = this.#open.get(dispatcher);
      if (open === undefined) this.#askOne(dispatcher, probe);
      else if (!open.told) {
        open.told = true;
        onLate(dispatcher);
      }
    }
    if (probes.length === 0) feed();
  }

  #askOne(dispatcher: number, probe: () => Promise<void>): void {
    const question: Question = { askedMs: performance.now(), told: false };
    this.#open.set(dispatcher, question);
    probe().then(
      () => this.#answered(dispatcher, question),
      // One that cannot be asked is as good as one that does not answer.
      () => {},
    );
  }

  #answered(dispatcher: number, { askedMs, told }: Question): void {
    this.#open.delete(dispatcher);
    if (this.#timer === null) return;
    if (told) this.#parts.onBack(dispatcher, performance.now() - askedMs);
    if (this.#open.size === 0) this.#parts.feed();
  }
}
