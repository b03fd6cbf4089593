/**
 * Whether the dispatchers live: each is sent a question and must come round to answer it. A dispatcher that sleeps with
 * nothing to drain is woken by it and answers; one that hangs, or is stopped, does not. Asked by probes, scrapes, the
 * service manager's watchdog and the daemon's housekeeping: nothing here runs by itself.
 */
import type { NsClock } from "../clock.js";

/** One dispatcher's thread, as the main thread sees it. */
export interface AskedThread {
  /** Resolves when the dispatcher, or the one that took its place, has answered. */
  ask(): Promise<void>;
  /** How long the oldest of what it was told has waited for its answer, in ns; 0 when nothing waits. */
  readonly unansweredNs: number;
}

export interface Liveness {
  /** By dispatcher, in seconds: see AskedThread.unansweredNs. */
  readonly unansweredSeconds: readonly number[];
  /** Those that have not answered for DISPATCHER_STALLED_SECONDS, or for as long as `expectWithin` says. */
  readonly stalled: readonly number[];
}

export type LivenessLog = (level: "error" | "info", fields: Record<string, unknown>, message: string) => void;

/**
 * A batch is offered within milliseconds. A machine without CPU to spare can keep a thread waiting for seconds, and ending
 * the daemon for that would make it worse.
 */
export const DISPATCHER_STALLED_SECONDS = 10;

const NS_PER_SECOND = 1e9;

export class LivenessWatch {
  readonly #threads: readonly AskedThread[];
  readonly #log: LivenessLog;
  /** Since when, by dispatcher. */
  readonly #stalledSinceNs = new Map<number, number>();
  readonly #now: NsClock;
  #stalledSeconds = DISPATCHER_STALLED_SECONDS;

  constructor(threads: readonly AskedThread[], now: NsClock, log: LivenessLog) {
    this.#threads = threads;
    this.#now = now;
    this.#log = log;
  }

  /** Somebody acts on silence sooner than that: it is told, and logged, from `seconds` on. */
  expectWithin(seconds: number): void {
    this.#stalledSeconds = Math.min(this.#stalledSeconds, seconds);
  }

  /** Asks every dispatcher that owes no answer yet, says what is known by now, and logs what has changed. */
  look(): Liveness {
    for (const thread of this.#threads) void thread.ask();
    return this.#read();
  }

  /** As look(), but waits for the answers, for at most `waitMs`. */
  async check(waitMs: number): Promise<Liveness> {
    let timer: NodeJS.Timeout | undefined;
    const waited = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, waitMs);
    });
    await Promise.race([this.answered(), waited]);
    clearTimeout(timer);
    return this.#read();
  }

  /** Asks likewise; resolves when every dispatcher has answered, however long that takes. */
  async answered(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.ask()));
  }

  #read(): Liveness {
    const unansweredSeconds = this.#threads.map((thread) => thread.unansweredNs / NS_PER_SECOND);
    const stalled = unansweredSeconds.flatMap((seconds, d) => (seconds >= this.#stalledSeconds ? [d] : []));
    this.#note(unansweredSeconds, stalled);
    return { unansweredSeconds, stalled };
  }

  #note(unansweredSeconds: readonly number[], stalled: readonly number[]): void {
    const now = this.#now();
    for (const d of stalled) {
      if (this.#stalledSinceNs.has(d)) continue;
      this.#stalledSinceNs.set(d, now - unansweredSeconds[d] * NS_PER_SECOND);
      const seconds = Math.round(unansweredSeconds[d]);
      this.#log("error", { dispatcher: d, seconds }, "dispatcher stalled: it does not answer");
    }
    for (const [d, sinceNs] of this.#stalledSinceNs) {
      if (stalled.includes(d)) continue;
      this.#stalledSinceNs.delete(d);
      const seconds = Math.round((now - sinceNs) / NS_PER_SECOND);
      this.#log("info", { dispatcher: d, seconds }, "dispatcher answers again");
    }
  }
}
