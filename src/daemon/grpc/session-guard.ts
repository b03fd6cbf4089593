/**
 * What one HTTP/2 session may do to the daemon's one thread. nghttp2 refuses by itself what costs memory (frames that wait
 * to be acknowledged, CONTINUATION, settings, too many streams); this closes sessions that cost time, and those that never
 * begin or whose peer is gone.
 */
import { constants, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import type { NsClock } from "../clock.js";
import { TokenBucket } from "./limits.js";
import type { ReceiveWatch, Watched } from "./receive-watch.js";
import type { RefusalReason } from "./refusals.js";

export interface SessionLimits {
  /** PING and SETTINGS together. */
  readonly controlFramesPerSecondMax: number;
  /** null: its peer is on this machine, and the kernel tells when it is gone. */
  readonly keepalive: { readonly intervalMs: number; readonly timeoutMs: number } | null;
}

export interface SessionGuardOptions {
  readonly limits: SessionLimits;
  readonly now: NsClock;
  /** The client's first SETTINGS have come: HTTP/2 is spoken. */
  readonly onSpoken: () => void;
  readonly receiveWatch: ReceiveWatch;
  /** Of the connection. Asked until the session is closed, by when its socket may be gone. */
  readonly bytesRead: () => number;
  readonly bytesWritten: () => number;
  /** Bytes that the kernel has not taken yet; undefined where Node does not say. */
  readonly bytesQueued: () => number | undefined;
  /** Called before the session is destroyed, once. */
  readonly onRefused: (reason: RefusalReason, detail: string) => void;
}

/** Bandwidth probes of some clients come in bursts, as fast as data do. */
const CONTROL_BURST_SECONDS = 10;
/** A little less than what nghttp2 allows, 1,000 at once and 33 a second, after which it closes without a word. */
const RESETS = { burst: 900, perSecond: 30 };
/** Frames are written with the turn of the event loop that makes them. */
const WRITTEN_WITHIN_MS = 100;
/** So many refused calls in a second are no mistake. */
const REFUSED_STREAMS = { burst: 1000, perSecond: 100 };
/** A call's metadata. gRPC's clients hold themselves to 8 KiB; HTTP/2 alone would allow 64. */
export const HEADER_LIST_BYTES_MAX = 16 * 1024;

export class SessionGuard {
  readonly #session: ServerHttp2Session;
  readonly #options: SessionGuardOptions;
  readonly #control: TokenBucket;
  readonly #resets: TokenBucket;
  readonly #refused: TokenBucket;
  readonly #watched: Watched;
  #over = false;
  #timer: NodeJS.Timeout | null = null;

  constructor(session: ServerHttp2Session, options: SessionGuardOptions) {
    const { limits, now } = options;
    this.#session = session;
    this.#options = options;
    const rate = limits.controlFramesPerSecondMax;
    this.#control = new TokenBucket(CONTROL_BURST_SECONDS * rate, rate, now());
    this.#resets = new TokenBucket(RESETS.burst, RESETS.perSecond, now());
    this.#refused = new TokenBucket(REFUSED_STREAMS.burst, REFUSED_STREAMS.perSecond, now());
    session.once("remoteSettings", options.onSpoken);
    session.on("remoteSettings", () => this.#controlFrame());
    session.on("ping", () => this.#controlFrame());
    this.#watched = {
      bytesRead: options.bytesRead,
      onTooMuch: (rate) => this.#tooMuch(rate),
      onQuiet: (answered) => this.#quiet(answered),
    };
    options.receiveWatch.add(this.#watched);
    session.once("close", () => this.#stop());
    session.settings({ maxHeaderListSize: HEADER_LIST_BYTES_MAX });
    this.#waitToPing();
  }

  /** Of each call, whoever answers it. */
  watchStream(stream: ServerHttp2Stream): void {
    stream.once("close", () => {
      if (stream.rstCode === constants.NGHTTP2_NO_ERROR || this.#resets.take(this.#options.now())) return;
      this.#refuse("resets", `a connection reset more than ${RESETS.perSecond} calls a second.`);
    });
  }

  streamRefused(): void {
    if (this.#refused.take(this.#options.now())) return;
    this.#refuse("request_rate", "a connection goes on making calls that are refused.");
  }

  #controlFrame(): void {
    if (this.#control.take(this.#options.now())) return;
    const { controlFramesPerSecondMax } = this.#options.limits;
    this.#refuse(
      "control_frames",
      `a connection sends more than ${controlFramesPerSecondMax} PING and SETTINGS frames a second, limits.control_frames_per_second_max.`,
    );
  }

  #tooMuch(bytesPerSecond: number): void {
    this.#refuse(
      "receive_rate",
      `a connection sends ${bytesPerSecond} bytes a second, limits.receive_bytes_per_second_max: send less, or raise it.`,
    );
  }

  /**
   * After some faults nghttp2 sends GOAWAY and is done with the session, and Node neither closes it nor reads on, so that it
   * never sees the client leave. Nothing tells of it but that a ping is not even written.
   */
  #quiet(answered: () => void): void {
    if (this.#options.limits.keepalive !== null || this.#session.destroyed) return;
    const before = this.#options.bytesWritten();
    this.#session.ping((error) => {
      if (error === null) answered();
    });
    setTimeout(() => {
      if (this.#session.destroyed || this.#options.bytesQueued() !== 0) return;
      if (this.#options.bytesWritten() === before)
        this.#refuse("protocol", "nghttp2 has ended the session for a fault.");
    }, WRITTEN_WITHIN_MS).unref();
  }

  #refuse(reason: RefusalReason, detail: string): void {
    if (this.#over) return;
    this.#stop();
    this.#options.onRefused(reason, detail);
    this.#session.destroy(undefined, constants.NGHTTP2_ENHANCE_YOUR_CALM);
  }

  #waitToPing(): void {
    const { keepalive } = this.#options.limits;
    if (keepalive === null) return;
    this.#timer = setTimeout(() => this.#ping(keepalive.timeoutMs), keepalive.intervalMs).unref();
  }

  #ping(timeoutMs: number): void {
    if (this.#session.destroyed) return;
    const unanswered = (): void => this.#refuse("keepalive", `a peer has not answered a ping for ${timeoutMs} ms.`);
    this.#timer = setTimeout(unanswered, timeoutMs).unref();
    const sent = this.#session.ping((error) => {
      if (this.#over || error !== null) return;
      if (this.#timer !== null) clearTimeout(this.#timer);
      this.#waitToPing();
    });
    // Those before it are still unanswered, and have time-outs of their own.
    if (!sent) unanswered();
  }

  #stop(): void {
    this.#over = true;
    this.#options.receiveWatch.delete(this.#watched);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
