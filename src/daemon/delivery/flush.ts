/**
 * How long samples wait for company before they are sent. A handler that says so gets its own interval; the others leave
 * it to the daemon, which trades latency for cost: with few streams the base, with many an interval in proportion to
 * their number, up to a maximum, at times that streams share.
 */
import type { NsClock } from "../clock.js";

const NS_PER_MS = 1_000_000;
/** A tenth early is on time: dispatchers drain at the same interval, and must not be missed by a hair. */
const ON_TIME = 0.9;
/** Up to so many streams the base will do: some twenty wake-ups a second. */
export const FLUSH_STREAMS_FEW = 8;
/** Streams of many flush at so many times an interval: that many wake-ups, and no more than this part of them at once. */
export const FLUSH_PHASES = 8;

/** When one handler's samples are sent. */
export interface FlushRule {
  /** In force now; 0 sends them as soon as a dispatcher has them. */
  readonly intervalMs: number;
  /** The handler has a stream from now on, or none any more. */
  streamOpened(): void;
  streamClosed(): void;
  /** When a stream that is written at `nowNs` is due again: an interval later at the latest. */
  dueNs(nowNs: number): number;
}

/** The handler's own interval. */
export class FixedFlush implements FlushRule {
  readonly intervalMs: number;

  constructor(intervalMs: number) {
    this.intervalMs = intervalMs;
  }

  streamOpened(): void {}

  streamClosed(): void {}

  dueNs(nowNs: number): number {
    return nowNs + this.intervalMs * NS_PER_MS * ON_TIME;
  }
}

export interface FlushPacerOptions {
  /** limits.flush_interval_default_ms and limits.flush_interval_default_max_ms. */
  readonly baseMs: number;
  readonly maxMs: number;
  /** Another interval is in force: dispatchers must not sleep longer. */
  readonly onChange: (intervalMs: number) => void;
}

/** The interval of all streams whose handlers leave it to the daemon. */
export class FlushPacer {
  readonly #options: FlushPacerOptions;
  #streams = 0;
  #intervalMs: number;

  constructor(options: FlushPacerOptions) {
    this.#options = options;
    this.#intervalMs = options.baseMs;
  }

  get intervalMs(): number {
    return this.#intervalMs;
  }

  get streams(): number {
    return this.#streams;
  }

  /** For the handler in `slot`, which decides about its place among the others. */
  rule(slot: number): FlushRule {
    const pacer = this;
    return {
      get intervalMs() {
        return pacer.#intervalMs;
      },
      streamOpened: () => this.#count(1),
      streamClosed: () => this.#count(-1),
      dueNs: (nowNs) => this.#dueNs(nowNs, slot),
    };
  }

  #count(change: number): void {
    const { baseMs, maxMs, onChange } = this.#options;
    this.#streams += change;
    const intervalMs = Math.min(
      maxMs,
      Math.round((baseMs * Math.max(this.#streams, FLUSH_STREAMS_FEW)) / FLUSH_STREAMS_FEW),
    );
    if (intervalMs === this.#intervalMs) return;
    this.#intervalMs = intervalMs;
    onChange(intervalMs);
  }

  #dueNs(nowNs: number, slot: number): number {
    const intervalNs = this.#intervalMs * NS_PER_MS;
    if (this.#intervalMs <= this.#options.baseMs) return nowNs + intervalNs * ON_TIME;
    // Whole nanoseconds: streams of one phase have the same times to the digit.
    const phaseNs = ((slot % FLUSH_PHASES) * intervalNs) / FLUSH_PHASES;
    return (Math.floor((nowNs - phaseNs) / intervalNs) + 1) * intervalNs + phaseNs;
  }
}

interface FlushTime {
  readonly timer: NodeJS.Timeout;
  readonly wakes: Set<() => void>;
}

/** Wakes streams when they are due: one timer, and one wake-up of the process, for all that are due at the same time. */
export class FlushTimes {
  readonly #now: NsClock;
  readonly #times = new Map<number, FlushTime>();
  /** Timers that have fired. */
  wakeUps = 0;

  constructor(now: NsClock) {
    this.#now = now;
  }

  /** Times that somebody waits for. */
  get waiting(): number {
    return this.#times.size;
  }

  /** Calls `wake`, which must not throw, at `atNs`. */
  at(atNs: number, wake: () => void): void {
    const time = this.#times.get(atNs);
    if (time !== undefined) {
      time.wakes.add(wake);
      return;
    }
    const wakes = new Set([wake]);
    const timer = setTimeout(
      () => {
        this.#times.delete(atNs);
        this.wakeUps++;
        for (const due of wakes) due();
      },
      Math.ceil((atNs - this.#now()) / NS_PER_MS),
    );
    this.#times.set(atNs, { timer, wakes });
  }

  cancel(atNs: number, wake: () => void): void {
    const time = this.#times.get(atNs);
    if (time === undefined) return;
    time.wakes.delete(wake);
    if (time.wakes.size > 0) return;
    clearTimeout(time.timer);
    this.#times.delete(atNs);
  }
}
