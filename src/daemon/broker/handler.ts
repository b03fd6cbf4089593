/** One registered handler, as the broker knows it. */
import type { SlotHandle } from "../../registry/table.js";
import type { Peer } from "../auth/peer.js";
import type { Visibility } from "../auth/rights.js";
import type { Books } from "../delivery/books.js";
import type { HandlerDelivery } from "../delivery/delivery.js";
import type { ArmedEvent, EventUser } from "./armed-events.js";
import type { HandlerSpec } from "./request.js";

export interface RemovalResult {
  readonly books: Books;
  /** How long dispatchers took to leave the handler. */
  readonly waitedNs: number;
}

/** On which terms a peer registers a handler. */
export interface RegistrationTerms {
  readonly principal: string;
  readonly registrant: Peer | null;
  readonly visibility: Visibility;
  /** Throws where the handler is not allowed; told what the principal's other handlers take. */
  readonly admit: (spec: HandlerSpec, held: Held) => void;
}

/** Of a principal's handlers. */
export interface Held {
  readonly handlers: number;
  readonly queueBytes: number;
}

export interface Handler {
  readonly id: number;
  readonly handle: SlotHandle;
  readonly spec: HandlerSpec;
  /** Who registered it, for people: "uid=1000 pid=4711", or an address. */
  readonly peer: string;
  /** Whose it is: whoever comes as the same may subscribe to it and deregister it. */
  readonly principal: string;
  /** As it was when it connected; null: nobody asks. */
  readonly registrant: Peer | null;
  readonly visibility: Visibility;
  /** Seconds since the epoch. */
  readonly registeredAt: number;
  /** Where each of spec.events stands on the wire: SampleBatch.event_index. */
  readonly places: readonly number[];
  /** In the order of spec.events. */
  readonly users: readonly EventUser[];
  readonly armed: readonly ArmedEvent[];
  readonly delivery: HandlerDelivery;
  /** What its outbox and its filter take of the daemon's memory, until it is removed. */
  readonly chargedBytes: number;
  lease: { readonly timer: NodeJS.Timeout; readonly endsAtMs: number } | null;
  everSubscribed: boolean;
  /** Where it is suspended: since when nobody counts its events. */
  stoppedNs: number;
  /** Set by the first who removes it; the others wait for the same end. */
  removal: Promise<RemovalResult> | null;
  /** When that began; null before. */
  removingSinceNs: number | null;
}

/** What every line about a handler says of it. */
export function whose({ id, spec, peer }: Handler): Record<string, unknown> {
  return { handler: id, name: spec.name, peer };
}
