/** Takes up the handlers that the daemon before this one has left: the same ids, books that go on, and the gap told. */
import { handlerId, STATE } from "../../registry/layout.js";
import { finalBooks } from "../delivery/carried-books.js";
import { allocateOutbox } from "../delivery/outbox.js";
import type { RecoveredHandler } from "../state/recover.js";
import type { BrokerParts } from "./broker.js";
import type { Departed } from "./departed.js";
import { BrokerError } from "./errors.js";
import type { Handler } from "./handler.js";
import { wireCount } from "./messages.js";
import { type DeliveryReports, handleOf, openHandler } from "./registration.js";
import { checkRegister } from "./request.js";

export interface RestoreCounts {
  restored: number;
  /** Their lease had run out. */
  expired: number;
  /** What they wanted cannot be had any more. */
  departed: number;
  /** The longest time that nobody counted for one of the restored. */
  gapNsMax: number;
}

/** The broker's side. */
export interface RestoreOptions {
  readonly departed: Departed;
  readonly reports: (handler: () => Handler) => DeliveryReports;
  /** The handler is ACTIVE, and known by its slot and name, when this returns. */
  readonly take: (handler: Handler, leaseEndsNs: number) => void;
  readonly drop: (handler: Handler) => Promise<unknown>;
}

const NS_PER_MS = 1e6;

export class Restoring {
  readonly #parts: BrokerParts;
  readonly #options: RestoreOptions;
  readonly #counts: RestoreCounts = { restored: 0, expired: 0, departed: 0, gapNsMax: 0 };

  constructor(parts: BrokerParts, options: RestoreOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** All at once, as if they registered at one moment: dispatchers are not waited for once a handler. */
  async run(handlers: readonly RecoveredHandler[]): Promise<RestoreCounts> {
    await Promise.all(handlers.map((recovered) => this.#restore(recovered)));
    return this.#counts;
  }

  async #restore(recovered: RecoveredHandler): Promise<void> {
    const { saved, left } = recovered;
    const { table, now, log, records } = this.#parts;
    const id = handlerId(saved.generation, saved.slot);
    if (left.leaseEndsNs <= now()) {
      const { matched, delivered, lost } = finalBooks(left.carried);
      log("lease expired", { handler: id, name: saved.request.name, matched, delivered, lost });
      records.removed(saved.slot);
      if (saved.slot < table.layout.capacity) table.abandon(handleOf(recovered));
      this.#counts.expired++;
      return;
    }
    try {
      await this.#open(recovered);
    } catch (error) {
      this.#depart(recovered, (error as Error).message);
    }
  }

  async #open(recovered: RecoveredHandler): Promise<void> {
    const { saved, left } = recovered;
    const { source, limits, table, armedEvents, tally, records, now, log } = this.#parts;
    if (saved.slot >= table.layout.capacity) {
      throw new BrokerError(
        "RESOURCE_EXHAUSTED",
        `the handler table has ${table.layout.capacity} slots, and the handler had number ${saved.slot}: register again, or start the daemon with its former --capacity.`,
      );
    }
    let handler: Handler | null = null;
    try {
      this.#checkSource(saved);
      const spec = checkRegister(saved.request, { source, limits, dispatchers: table.layout.dispatchers });
      if (wireCount(spec.events) !== saved.events) {
        throw new BrokerError(
          "FAILED_PRECONDITION",
          `events: they mean ${wireCount(spec.events)} events now, and meant ${saved.events}: register again.`,
        );
      }
      const reports = this.#options.reports(() => handler as Handler);
      // Gives the slot back where it fails.
      handler = await openHandler(this.#parts, spec, saved.peer, saved.terms, reports, allocateOutbox, recovered);
    } catch (error) {
      if (table.state(saved.slot) === STATE.CLAIMED) table.abandon(handleOf(recovered));
      throw error;
    }
    this.#options.take(handler, left.leaseEndsNs);
    records.registered(handler);
    tally.registrations++;
    this.#uncount(recovered);
    try {
      await armedEvents.start(handler.armed);
    } catch (error) {
      await this.#options.drop(handler);
      throw new BrokerError("FAILED_PRECONDITION", `events[]: ${(error as Error).message}`, { cause: error });
    }
    const startedNs = now();
    const gapNs = startedNs - left.stoppedNs;
    for (const place of handler.places) {
      const [firstNs, lastNs] = source.clockIsMonotonic ? [left.stoppedNs, startedNs] : [0, 0];
      handler.delivery.restarted(place, firstNs, lastNs);
    }
    this.#counts.restored++;
    this.#counts.gapNsMax = Math.max(this.#counts.gapNsMax, gapNs);
    log("handler restored", { handler: handler.id, name: handler.spec.name, gap_ms: Math.round(gapNs / NS_PER_MS) });
  }

  /** Samples of one source are no continuation of another's, and times of one clock do not follow on another's. */
  #checkSource({ source: before }: RecoveredHandler["saved"]): void {
    const { source } = this.#parts;
    if (source.kind === before.kind && source.clock === before.clock) return;
    throw new BrokerError(
      "FAILED_PRECONDITION",
      `the daemon's source is ${source.kind} (${source.clock}) now, and was ${before.kind} (${before.clock}): register again.`,
    );
  }

  /** The daemon's totals are of what it has done itself. */
  #uncount({ left }: RecoveredHandler): void {
    const { tally } = this.#parts;
    const books = finalBooks(left.carried);
    tally.matched -= books.matched;
    tally.delivered -= books.delivered;
    tally.lost -= books.lost;
    for (const { reason, count } of books.losses) tally.losses.set(reason, (tally.losses.get(reason) ?? 0) - count);
  }

  #depart({ saved, left }: RecoveredHandler, reason: string): void {
    const { now, log, records } = this.#parts;
    const id = handlerId(saved.generation, saved.slot);
    log("handler could not be restored", { handler: id, name: saved.request.name, reason });
    records.removed(saved.slot);
    const { carried, everSubscribed } = left;
    const leaseMs = (left.leaseEndsNs - now()) / NS_PER_MS;
    const { principal } = saved.terms;
    this.#options.departed.add({ id, name: saved.request.name, principal, reason, carried, everSubscribed }, leaseMs);
    this.#counts.departed++;
  }
}
