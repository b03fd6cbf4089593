/** A handler's way from ACTIVE to FREE, which is the same whoever removes it and why. */
import type { Books, LossReason } from "../delivery/books.js";
import type { BrokerParts } from "./broker.js";
import { type Handler, type RemovalResult, whose } from "./handler.js";
import type { Leases } from "./leases.js";
import { taskShape } from "./registration.js";

export type EndReason = "DEREGISTERED" | "SOURCE_ENDED" | "OVERFLOWED" | "DAEMON_STOPPING";
/** A handler that is suspended goes on in the next daemon. */
type RemovalReason = EndReason | "SUSPENDED";

/** The broker's side. */
export interface RemovalOptions {
  readonly leases: Leases;
  readonly handlers: () => readonly Handler[];
  readonly changed: (handler: Handler, kind: "CHANGED" | "REMOVED") => void;
  /** Nobody finds the handler any more, its name is free, and so is its memory. */
  readonly forget: (handler: Handler) => void;
}

const NS_PER_MS = 1_000_000;

export class Removals {
  readonly #parts: BrokerParts;
  readonly #options: RemovalOptions;

  constructor(parts: BrokerParts, options: RemovalOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** The first who removes it says why; with `discard` what waits for its stream is lost, also where a removal is under way. */
  remove(handler: Handler, reason: RemovalReason, discard: LossReason | null): Promise<RemovalResult> {
    if (handler.removal === null) {
      handler.removal = this.#run(handler, reason, discard);
      // The awaiting caller sees a failure; a removal nobody waits for must not end the daemon unexplained.
      handler.removal.catch((error: Error) =>
        this.#parts.log("removal failed", { ...whose(handler), error: error.message }, "error"),
      );
    } else if (discard !== null) handler.delivery.discard(discard);
    return handler.removal;
  }

  /**
   * A removal nobody waits for: as long as its reader takes what is on the way it may take its time; when nothing moves
   * for as long as a Deregister would wait, the rest is lost and the stream is cut.
   */
  async unattended(handler: Handler, reason: EndReason, discard: LossReason | null): Promise<void> {
    const removal = this.remove(handler, reason, discard);
    let sequence = -1;
    const watch = setInterval(() => {
      if (handler.delivery.nextSequence === sequence) handler.delivery.discard(discard ?? "DISCARDED");
      sequence = handler.delivery.nextSequence;
    }, this.#parts.limits.deregisterTimeoutDefaultMs / 2);
    // A failure is logged where the removal began.
    await removal.catch(() => {});
    clearInterval(watch);
  }

  async #run(handler: Handler, reason: RemovalReason, discard: LossReason | null): Promise<RemovalResult> {
    const { table, host, armedEvents, removalWait, tally, audit, records, now } = this.#parts;
    const { leases, handlers, changed, forget } = this.#options;
    const startNs = now();
    const leaseEndsNs = (handler.lease?.endsAtMs ?? startNs / NS_PER_MS + handler.spec.leaseMs) * NS_PER_MS;
    leases.end(handler);
    handler.removingSinceNs = startNs;
    table.beginRemoval(handler.handle);
    changed(handler, "CHANGED");
    await table.awaitDrained(handler.handle, Number.POSITIVE_INFINITY, () => 0);
    const waitedNs = now() - startNs;
    removalWait.record(waitedNs);
    this.#parts.kernelLoss.poll(handlers());
    // Before the stream is settled: a reader that takes its time does not keep the event armed.
    await armedEvents.release(handler.armed, handler.users).catch((error: Error) => {
      this.#parts.log(
        "events of a handler could not be released",
        { ...whose(handler), error: error.message },
        "error",
      );
    });
    const tasks = taskShape(handler);
    if (tasks !== null) await this.#parts.taskTracking.release(tasks);
    const books =
      reason === "SUSPENDED" ? await this.#leave(handler, leaseEndsNs) : await handler.delivery.finish(reason, discard);
    audit.checkHandler(handler.id, handler.spec.name, books);
    await host.tellAll({ kind: "detach", slot: handler.handle.slot, generation: handler.handle.generation });
    tally.retireHandler(books);
    forget(handler);
    if (reason !== "SUSPENDED") records.removed(handler.handle.slot);
    table.release(handler.handle);
    const what = reason === "SUSPENDED" ? "handler suspended" : "handler removed";
    this.#parts.log(what, logBooks(handler, reason, books, waitedNs));
    if (reason !== "SUSPENDED") changed(handler, "REMOVED");
    return { books, waitedNs };
  }

  /** Its books are what the next daemon begins with. */
  async #leave(handler: Handler, leaseEndsNs: number): Promise<Books> {
    const { stoppedNs, everSubscribed } = handler;
    const { books, carried } = await handler.delivery.suspend();
    this.#parts.records.suspended(handler, { everSubscribed, leaseEndsNs, stoppedNs, carried });
    return books;
  }
}

function logBooks(handler: Handler, reason: RemovalReason, books: Books, waitedNs: number): Record<string, unknown> {
  const { matched, delivered, lost } = books;
  return { ...whose(handler), reason, matched, delivered, lost, waited_ns: waitedNs };
}
