/** What of clients is refused, counted by a closed list of reasons, and told in the log without flooding it. */
import type { NsClock } from "../clock.js";

/** Values of the label `reason` of nmid_refused_total. */
export const REFUSAL_REASONS = [
  /** Connections: in all, and of one peer. */
  "connections",
  "connections_of_peer",
  /** Calls that are open at once, and how fast they come. */
  "streams_of_peer",
  "request_rate",
  /** TLS, or HTTP/2's first SETTINGS, took too long. */
  "handshake_timeout",
  /** TLS failed: no certificate, or none that the authority has signed. */
  "tls",
  /** Nobody knows whose connection or call it is. */
  "unknown_peer",
  /** A ping was not answered. */
  "keepalive",
  /** PING and SETTINGS, or RST_STREAM, came faster than any client has reason to send them. */
  "control_frames",
  "resets",
  /** More was sent than any requests can come to. */
  "receive_rate",
  /** nghttp2 found the frames at fault, or too many. */
  "protocol",
  /** The kernel had no file descriptor, or no memory, for another connection. */
  "accept",
] as const;

export type RefusalReason = (typeof REFUSAL_REASONS)[number];

/** One line for each reason in so long, with how many there were. */
const LOG_INTERVAL_NS = 10e9;

export type WarnLog = (fields: object, message: string) => void;

export class Refusals {
  readonly #counts = new Map<RefusalReason, number>(REFUSAL_REASONS.map((reason) => [reason, 0]));
  readonly #told = new Map<RefusalReason, { atNs: number; count: number }>();
  readonly #now: NsClock;
  readonly #warn: WarnLog;

  constructor(now: NsClock, warn: WarnLog) {
    this.#now = now;
    this.#warn = warn;
  }

  /** @param peer for the log: never anything that is secret. */
  count(reason: RefusalReason, peer: string, detail: string): void {
    const count = this.countOf(reason) + 1;
    this.#counts.set(reason, count);
    const told = this.#told.get(reason);
    const now = this.#now();
    if (told !== undefined && now - told.atNs < LOG_INTERVAL_NS) return;
    this.#told.set(reason, { atNs: now, count });
    this.#warn({ reason, peer, refused: count - (told?.count ?? 0) }, `refused: ${detail}`);
  }

  countOf(reason: RefusalReason): number {
    return this.#counts.get(reason) ?? 0;
  }

  /** All reasons, zeroes included. */
  get counts(): readonly { readonly reason: RefusalReason; readonly count: number }[] {
    return REFUSAL_REASONS.map((reason) => ({ reason, count: this.countOf(reason) }));
  }
}
