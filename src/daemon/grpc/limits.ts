/** What one peer may have at once, and how fast. Knows no sockets. */
import type { NsClock } from "../clock.js";
import type { ConnectionLimits } from "../config/config.js";
import type { RefusalReason } from "./refusals.js";

const NS_PER_SECOND = 1e9;

/** So many at once, and so many a second after that. */
export class TokenBucket {
  readonly #burst: number;
  readonly #perNs: number;
  #tokens: number;
  #filledNs: number;

  constructor(burst: number, perSecond: number, nowNs: number) {
    this.#burst = burst;
    this.#perNs = perSecond / NS_PER_SECOND;
    this.#tokens = burst;
    this.#filledNs = nowNs;
  }

  take(nowNs: number): boolean {
    this.#fill(nowNs);
    if (this.#tokens < 1) return false;
    this.#tokens--;
    return true;
  }

  isFull(nowNs: number): boolean {
    this.#fill(nowNs);
    return this.#tokens >= this.#burst;
  }

  #fill(nowNs: number): void {
    this.#tokens = Math.min(this.#burst, this.#tokens + (nowNs - this.#filledNs) * this.#perNs);
    this.#filledNs = nowNs;
  }
}

export type PeerLimits = Pick<
  ConnectionLimits,
  "connectionsMax" | "connectionsPerPeerMax" | "streamsPerPeerMax" | "requestsPerSecondMax"
>;

/** Why not, in the words that the client is given, or the log. */
export interface Refusal {
  readonly reason: RefusalReason;
  readonly detail: string;
}

/** Seconds' worth of requests that may come at once. */
const BURST_SECONDS = 2;
/** Peers without a connection are remembered, for what they have used up, until there are so many of them. */
const PRUNE_ABOVE = 1024;

interface PeerUse {
  connections: number;
  streams: number;
  readonly requests: TokenBucket;
}

/** A connection that was let in. */
export interface Admitted {
  /** A call comes: null when it may, which `closeStream` must then undo. */
  openStream(): Refusal | null;
  closeStream(): void;
  /** Idempotent. */
  release(): void;
}

export class PeerTable {
  readonly #limits: PeerLimits;
  readonly #now: NsClock;
  readonly #peers = new Map<string, PeerUse>();
  #connections = 0;
  #pruneAbove = PRUNE_ABOVE;

  constructor(limits: PeerLimits, now: NsClock) {
    this.#limits = limits;
    this.#now = now;
  }

  get connections(): number {
    return this.#connections;
  }

  /** Those without a connection included. */
  get remembered(): number {
    return this.#peers.size;
  }

  /** @param key whom the connection counts for. A new connection takes from the rate of requests, too. */
  admit(key: string): Admitted | Refusal {
    const { connectionsMax, connectionsPerPeerMax } = this.#limits;
    if (this.#connections >= connectionsMax) {
      const detail = `${connectionsMax} connections are open, limits.connections_max: close some, or raise it.`;
      return { reason: "connections", detail };
    }
    const use = this.#use(key);
    if (use.connections >= connectionsPerPeerMax) {
      const detail = `${key} has ${connectionsPerPeerMax} connections, limits.connections_per_peer_max: close some, share one among streams, or raise it.`;
      return { reason: "connections_of_peer", detail };
    }
    if (!use.requests.take(this.#now())) return this.#tooFast(key);
    this.#connections++;
    use.connections++;
    return this.#admitted(key, use);
  }

  #admitted(key: string, use: PeerUse): Admitted {
    let released = false;
    return {
      openStream: () => {
        const { streamsPerPeerMax } = this.#limits;
        if (!use.requests.take(this.#now())) return this.#tooFast(key);
        if (use.streams >= streamsPerPeerMax) {
          const detail = `${key} has ${streamsPerPeerMax} calls open, limits.streams_per_peer_max: end some, or raise it.`;
          return { reason: "streams_of_peer", detail };
        }
        use.streams++;
        return null;
      },
      closeStream: () => {
        use.streams--;
      },
      release: () => {
        if (released) return;
        released = true;
        this.#connections--;
        use.connections--;
      },
    };
  }

  #tooFast(key: string): Refusal {
    const detail = `${key} makes more than ${this.#limits.requestsPerSecondMax} requests a second, limits.requests_per_second_max: make fewer, or raise it.`;
    return { reason: "request_rate", detail };
  }

  #use(key: string): PeerUse {
    const known = this.#peers.get(key);
    if (known !== undefined) return known;
    if (this.#peers.size >= this.#pruneAbove) this.#prune();
    const { requestsPerSecondMax } = this.#limits;
    const requests = new TokenBucket(BURST_SECONDS * requestsPerSecondMax, requestsPerSecondMax, this.#now());
    const use: PeerUse = { connections: 0, streams: 0, requests };
    this.#peers.set(key, use);
    return use;
  }

  /** Forgets whom a new entry would treat alike. Looks at all only when their number has doubled. */
  #prune(): void {
    const now = this.#now();
    for (const [key, { connections, streams, requests }] of this.#peers) {
      if (connections === 0 && streams === 0 && requests.isFull(now)) this.#peers.delete(key);
    }
    this.#pruneAbove = Math.max(PRUNE_ABOVE, 2 * this.#peers.size);
  }
}
