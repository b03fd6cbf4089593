/** How long a handler without a stream is kept. */
import type { BrokerParts } from "./broker.js";
import { type Handler, whose } from "./handler.js";

const NS_PER_MS = 1_000_000;

export class Leases {
  readonly #parts: Pick<BrokerParts, "records" | "now" | "log">;
  readonly #onExpired: (handler: Handler) => void;

  constructor(parts: Pick<BrokerParts, "records" | "now" | "log">, onExpired: (handler: Handler) => void) {
    this.#parts = parts;
    this.#onExpired = onExpired;
  }

  /** Ends at `endsNs`, or when its whole time has passed. */
  start(handler: Handler, endsNs = this.#parts.now() + handler.spec.leaseMs * NS_PER_MS): void {
    const leaseMs = Math.max(0, endsNs - this.#parts.now()) / NS_PER_MS;
    this.#parts.records.lease(handler, endsNs);
    const timer = setTimeout(() => {
      handler.lease = null;
      this.#parts.log("handler evicted", { ...whose(handler), why: "its lease ran out", lease_ms: leaseMs }, "warn");
      this.#onExpired(handler);
    }, leaseMs);
    handler.lease = { timer, endsAtMs: endsNs / NS_PER_MS };
  }

  end(handler: Handler): void {
    if (handler.lease !== null) clearTimeout(handler.lease.timer);
    handler.lease = null;
  }
}
