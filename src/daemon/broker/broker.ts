/**
 * Registering, subscribing and removing: the daemon's state, and the order in which it changes. Runs on the main thread;
 * what takes time is awaited, and every step leaves table, dispatchers and kernel in agreement.
 */
import { EventEmitter } from "node:events";
import { PmuError } from "../../pmu/errors.js";
import type { Source } from "../../pmu/source.js";
import type { SlotCounters } from "../../registry/counters.js";
import { generationOfId, slotOfId } from "../../registry/layout.js";
import type { HandlerTable } from "../../registry/table.js";
import { SEES_EVERYTHING, type Visibility } from "../auth/rights.js";
import type { NsClock } from "../clock.js";
import type { DaemonLimits } from "../config/config.js";
import { TIMER_MS_MAX } from "../config/limits.js";
import type { Books, LossReason } from "../delivery/books.js";
import type { DeliveryStream } from "../delivery/delivery-options.js";
import type { FlushPacer, FlushTimes } from "../delivery/flush.js";
import type { MemoryBudget, StreamMemory } from "../delivery/memory.js";
import type { SegmentReader } from "../delivery/segments.js";
import type { DispatcherHost } from "../dispatch/host.js";
import type { LatencyHistogram } from "../observe/histogram.js";
import type { Records } from "../state/records.js";
import type { RecoveredHandler } from "../state/recover.js";
import type { ArmedEvents } from "./armed-events.js";
import type { BooksAudit } from "./audit.js";
import { booksOf, Departed, tellDeparted } from "./departed.js";
import { BrokerError } from "./errors.js";
import type { Handler, Held, RegistrationTerms, RemovalResult } from "./handler.js";
import type { KernelLossWatch } from "./kernel-loss.js";
import type { MachineWatch } from "./machine-watch.js";
import { resolvedEventMessages } from "./messages.js";
import { closeHandler, type DeliveryReports, openHandler, taskShape } from "./registration.js";
import { checkRegister, type HandlerSpec, type RegisterRequestMessage, refusal } from "./request.js";
import { type RestoreCounts, Restoring } from "./restore.js";
import type { Tally } from "./tally.js";
import type { TaskTracking } from "./task-tracking.js";

export type EndReason = "DEREGISTERED" | "SOURCE_ENDED" | "OVERFLOWED" | "DAEMON_STOPPING";
/** A handler that is suspended goes on in the next daemon. */
type RemovalReason = EndReason | "SUSPENDED";

/** The dispatchers, as the broker needs them. */
export interface Dispatchers extends Pick<DispatcherHost, "tellAll"> {
  readonly threads: readonly { readonly segments: SegmentReader }[];
}

export interface BrokerParts {
  readonly source: Source;
  readonly fallback: boolean;
  readonly table: HandlerTable;
  readonly counters: SlotCounters;
  readonly host: Dispatchers;
  readonly armedEvents: ArmedEvents;
  readonly kernelLoss: KernelLossWatch;
  readonly taskTracking: TaskTracking;
  /** Bytes of AUX data that handlers were delivered or lost, those that are gone included. */
  readonly auxBytes: { delivered: number; lost: number };
  readonly machine: Pick<MachineWatch, "look">;
  readonly limits: DaemonLimits;
  readonly tally: Tally;
  readonly audit: BooksAudit;
  readonly removalWait: LatencyHistogram;
  readonly dispatchToStream: LatencyHistogram;
  /** null where samples' times are not this machine's. */
  readonly sampleToStream: LatencyHistogram | null;
  readonly outboxMemory: MemoryBudget;
  readonly streamMemory: StreamMemory;
  readonly flushPacer: FlushPacer;
  readonly flushTimes: FlushTimes;
  /** What the next daemon is left with. */
  readonly records: Records;
  readonly now: NsClock;
  /** "info" where no level is given. */
  readonly log: (event: string, fields: Record<string, unknown>, level?: "info" | "warn" | "error") => void;
}

interface BrokerEvents {
  changed: [handler: Handler, kind: "ADDED" | "CHANGED" | "REMOVED"];
  stopped: [];
}

const NS_PER_MS = 1_000_000;
/** A stream that is discarded gets this long to take its end. */
const CUT_MS = 1000;

/** Of whoever need not be asked: in tests. */
const NO_TERMS: RegistrationTerms = { principal: "", registrant: null, visibility: SEES_EVERYTHING, admit: () => {} };

export class Broker extends EventEmitter<BrokerEvents> {
  readonly #parts: BrokerParts;
  readonly #bySlot = new Map<number, Handler>();
  readonly #byName = new Map<string, Handler | null>();
  /** On the way: a stop waits for them. */
  readonly #registering = new Set<Promise<Handler>>();
  readonly #reserved = new Set<{ readonly principal: string; readonly queueMaxBytes: number }>();
  readonly #departed = new Departed();
  #stopping = false;
  #suspending = false;

  constructor(parts: BrokerParts) {
    super();
    this.setMaxListeners(0);
    this.#parts = parts;
    parts.source.onEnd(() => void this.#sourceEnded());
  }

  get handlers(): readonly Handler[] {
    return [...this.#bySlot.values()];
  }

  /** Something waits in the slot's outbox. */
  wake(slot: number): void {
    this.#bySlot.get(slot)?.delivery.wake();
  }

  /** Its thread is gone: what it had matched and not delivered is lost, and told. */
  dispatcherDied(dispatcher: number): void {
    for (const handler of this.#bySlot.values()) handler.delivery.abandoned(dispatcher);
    this.#parts.host.threads[dispatcher].segments.recount((count) => {
      for (const handler of this.#bySlot.values()) handler.delivery.countSegments(dispatcher, count);
    });
  }

  async register(request: RegisterRequestMessage, peer: string, terms = NO_TERMS): Promise<Handler> {
    const { source, limits, table, machine } = this.#parts;
    // What is asked for is tried on the CPUs and under the settings of now.
    await machine.look();
    if (this.#stopping) throw stoppingError();
    const spec = checkRegister(request, { source, limits, dispatchers: table.layout.dispatchers });
    if (this.#byName.has(spec.name)) {
      throw new BrokerError(
        "ALREADY_EXISTS",
        `name: "${spec.name}" is registered: deregister it, or choose another name.`,
      );
    }
    terms.admit(spec, this.#heldBy(terms.principal));
    // Name and allowance are taken before the next await, or two could have them.
    this.#byName.set(spec.name, null);
    const reserved = { principal: terms.principal, queueMaxBytes: spec.queueMaxBytes };
    this.#reserved.add(reserved);
    const registration = this.#register(spec, peer, terms, () => this.#reserved.delete(reserved));
    this.#registering.add(registration);
    try {
      return await registration;
    } catch (error) {
      this.#byName.delete(spec.name);
      throw error;
    } finally {
      this.#registering.delete(registration);
      this.#reserved.delete(reserved);
    }
  }

  #heldBy(principal: string): Held {
    const held = [...this.#reserved];
    for (const handler of this.#bySlot.values()) {
      held.push({ principal: handler.principal, queueMaxBytes: handler.spec.queueMaxBytes });
    }
    const own = held.filter((part) => part.principal === principal);
    return { handlers: own.length, queueBytes: own.reduce((sum, part) => sum + part.queueMaxBytes, 0) };
  }

  async #register(spec: HandlerSpec, peer: string, terms: RegistrationTerms, onCounted: () => void): Promise<Handler> {
    const { table, armedEvents, kernelLoss, tally, log } = this.#parts;
    // Losses up to now are not this handler's to hear of.
    kernelLoss.poll(this.handlers);
    const reports = this.#reports(() => handler);
    const handler = await openHandler(this.#parts, spec, peer, terms, reports);
    if (this.#stopping) {
      await closeHandler(this.#parts, handler);
      throw stoppingError();
    }
    this.#bySlot.set(handler.handle.slot, handler);
    onCounted();
    this.#byName.set(spec.name, handler);
    table.activate(handler.handle);
    this.#startLease(handler);
    this.#parts.records.registered(handler);
    tally.registrations++;
    log("handler registered", { ...whose(handler), events: spec.events.map((e) => e.name) });
    this.emit("changed", handler, "ADDED");
    try {
      await armedEvents.start(handler.armed);
    } catch (error) {
      await this.#remove(handler, "DEREGISTERED", "DISCARDED");
      throw error instanceof PmuError ? refusal(error, "events[]") : error;
    }
    return handler;
  }

  /** Connects a stream; the caller reports its end through `streamBroken`. null: the stream is told why there is no handler. */
  subscribe(id: number, stream: DeliveryStream): Handler | null {
    if (this.#suspending) throw stoppingError();
    const departed = this.#departed.take(id);
    if (departed !== undefined) {
      const { source, fallback } = this.#parts;
      tellDeparted(departed, stream, { clock: source.clock, source: source.kind, fallback });
      return null;
    }
    const handler = this.#find(id);
    if (handler.removal !== null) {
      throw new BrokerError("FAILED_PRECONDITION", `handler_id: ${id} is being removed: register again.`);
    }
    if (handler.delivery.subscribed) {
      throw new BrokerError(
        "FAILED_PRECONDITION",
        `handler_id: ${id} has a live stream: end that one first, or register another handler.`,
      );
    }
    const { source, fallback } = this.#parts;
    // One that is being removed gets nothing new: a reader that is stuck at its end must not keep a replay from others.
    const first = ![...this.#bySlot.values()].some((other) => other.delivery.subscribed && other.removal === null);
    this.#endLease(handler);
    handler.delivery.attach(stream, {
      started: {
        handler_id: handler.id,
        events: resolvedEventMessages(handler),
        next_sequence: handler.delivery.nextSequence,
        resumed: handler.everSubscribed,
        clock: source.clock,
        source: source.kind,
        fallback,
        lease_ms: handler.spec.leaseMs,
      },
    });
    // It has failed at once, and been logged: the handler waits for another one, as if this had not been.
    if (!handler.delivery.subscribed) return handler;
    const resumed = handler.everSubscribed;
    handler.everSubscribed = true;
    this.#parts.records.lease(handler, 0);
    if (first) source.begin();
    this.#parts.log(resumed ? "handler resumed" : "handler subscribed", whose(handler));
    this.emit("changed", handler, "CHANGED");
    return handler;
  }

  /** The stream has gone without an end: the lease begins. */
  streamBroken(handler: Handler): void {
    if (!handler.delivery.subscribed) return;
    handler.delivery.broken();
    if (handler.removal === null) this.#streamGone(handler, "stream broken", {});
  }

  #streamGone(handler: Handler, event: string, fields: Record<string, unknown>, level: "info" | "warn" = "info"): void {
    const { spec, removal, lease } = handler;
    this.#parts.log(event, { ...whose(handler), lease_ms: spec.leaseMs, ...fields }, level);
    this.#tidyFrames();
    if (removal !== null) return;
    if (lease === null) this.#startLease(handler);
    this.emit("changed", handler, "CHANGED");
  }

  /** Final when it resolves. DEADLINE_EXCEEDED leaves the handler DRAINING; a retry finishes it. */
  async deregister(id: number, timeoutMs: number, discard: boolean): Promise<RemovalResult> {
    if (this.#suspending) throw stoppingError();
    const departed = this.#departed.take(id);
    if (departed !== undefined) return { books: booksOf(departed), waitedNs: 0 };
    const handler = this.#find(id);
    const removal = this.#remove(handler, "DEREGISTERED", discard ? "DISCARDED" : null);
    const asked = timeoutMs === 0 ? this.#parts.limits.deregisterTimeoutDefaultMs : timeoutMs;
    const limit = Math.min(asked, TIMER_MS_MAX);
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<"deadline">((resolve) => {
      timer = setTimeout(resolve, limit, "deadline");
    });
    // Who discards does not wait for a reader that is stuck, beyond the chance to take the end.
    const cut = discard
      ? setTimeout(() => handler.delivery.discard("DISCARDED"), Math.min(CUT_MS, limit / 2))
      : undefined;
    const outcome = await Promise.race([removal, deadline]);
    clearTimeout(timer);
    clearTimeout(cut);
    if (outcome === "deadline") {
      throw new BrokerError(
        "DEADLINE_EXCEEDED",
        `timeout_ms: ${limit} ms passed; the handler is draining and gets nothing new. Retry to finish, with discard when its reader is stuck.`,
      );
    }
    return outcome;
  }

  /** Ends every stream with `end`, bounded by `timeoutMs`; then what is still queued is lost. */
  async stop(timeoutMs: number): Promise<void> {
    this.#stopping = true;
    // Those on the way find out that they are too late, or are removed with the others.
    await Promise.allSettled(this.#registering);
    const removals = [...this.#bySlot.values()].map((handler) =>
      this.#remove(handler, "DAEMON_STOPPING", handler.delivery.subscribed ? null : "SHUTDOWN"),
    );
    const timer = setTimeout(() => {
      for (const handler of this.#bySlot.values()) handler.delivery.discard("SHUTDOWN");
    }, timeoutMs);
    await Promise.all(removals);
    clearTimeout(timer);
    this.emit("stopped");
  }

  /**
   * Leaves the handlers to the next daemon: nothing is counted from here on, streams get what they are owed, bounded by
   * `timeoutMs`, and break.
   */
  async suspend(timeoutMs: number): Promise<void> {
    const { armedEvents, host, now } = this.#parts;
    this.#stopping = true;
    await Promise.allSettled(this.#registering);
    this.#suspending = true;
    await armedEvents.pause();
    const stoppedNs = now();
    // What the rings hold was counted, and is owed.
    await host.tellAll({ kind: "drain" });
    const timer = setTimeout(() => {
      for (const handler of this.#bySlot.values()) handler.delivery.discard("RESTART");
    }, timeoutMs);
    await Promise.all(
      [...this.#bySlot.values()].map((handler) => {
        if (handler.removal === null) handler.stoppedNs = stoppedNs;
        return this.#remove(handler, "SUSPENDED", null);
      }),
    );
    clearTimeout(timer);
    this.#departed.clear();
    this.emit("stopped");
  }

  /** Takes the handlers of the daemon before this one up. Before anyone can call. */
  restore(handlers: readonly RecoveredHandler[]): Promise<RestoreCounts> {
    const restoring = new Restoring(this.#parts, {
      departed: this.#departed,
      reports: (handler) => this.#reports(handler),
      take: (handler, leaseEndsNs) => {
        this.#bySlot.set(handler.handle.slot, handler);
        this.#byName.set(handler.spec.name, handler);
        this.#parts.table.activate(handler.handle);
        this.#startLease(handler, Math.min(leaseEndsNs, this.#parts.now() + handler.spec.leaseMs * NS_PER_MS));
      },
      drop: (handler) => this.#remove(handler, "DEREGISTERED", "RESTART"),
    });
    return restoring.run(handlers);
  }

  /** What delivery has to say of the handler that `handler` will have given by then. */
  #reports(handler: () => Handler): DeliveryReports {
    return {
      onOverflow: () => {
        const why = "its queue overflowed, and it asked for DISCONNECT";
        this.#parts.log("handler evicted", { ...whose(handler()), why }, "warn");
        void this.#removeUnattended(handler(), "OVERFLOWED", "DISCONNECTED");
      },
      // One stream's fault is not the others'.
      onFault: (error) => this.#streamGone(handler(), "stream failed", { error: error.message }, "warn"),
    };
  }

  /** Of a handler, or of one that did not come back after a restart. Throws BrokerError NOT_FOUND. */
  whoseIs(id: number): { readonly principal: string; readonly visibility: Visibility | null } {
    const departed = this.#departed.get(id);
    return departed === undefined ? this.#find(id) : { principal: departed.principal, visibility: null };
  }

  #find(id: number): Handler {
    const handler = this.#bySlot.get(slotOfId(id));
    if (handler === undefined || handler.handle.generation !== generationOfId(id)) {
      throw new BrokerError(
        "NOT_FOUND",
        `handler_id: ${id} is not registered: it was removed, its lease ran out, or it never was.`,
      );
    }
    return handler;
  }

  #remove(handler: Handler, reason: RemovalReason, discard: LossReason | null): Promise<RemovalResult> {
    if (handler.removal === null) {
      handler.removal = this.#removeNow(handler, reason, discard);
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
  async #removeUnattended(handler: Handler, reason: EndReason, discard: LossReason | null): Promise<void> {
    const removal = this.#remove(handler, reason, discard);
    let sequence = -1;
    const watch = setInterval(() => {
      if (handler.delivery.nextSequence === sequence) handler.delivery.discard(discard ?? "DISCARDED");
      sequence = handler.delivery.nextSequence;
    }, this.#parts.limits.deregisterTimeoutDefaultMs / 2);
    // A failure is logged where the removal began.
    await removal.catch(() => {});
    clearInterval(watch);
  }

  async #removeNow(handler: Handler, reason: RemovalReason, discard: LossReason | null): Promise<RemovalResult> {
    const { table, host, armedEvents, removalWait, tally, audit, records, now } = this.#parts;
    const startNs = now();
    const leaseEndsNs = (handler.lease?.endsAtMs ?? startNs / NS_PER_MS + handler.spec.leaseMs) * NS_PER_MS;
    this.#endLease(handler);
    handler.removingSinceNs = startNs;
    table.beginRemoval(handler.handle);
    this.emit("changed", handler, "CHANGED");
    await table.awaitDrained(handler.handle, Number.POSITIVE_INFINITY, () => 0);
    const waitedNs = now() - startNs;
    removalWait.record(waitedNs);
    this.#parts.kernelLoss.poll(this.handlers);
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
    this.#bySlot.delete(handler.handle.slot);
    this.#byName.delete(handler.spec.name);
    this.#parts.outboxMemory.give(handler.chargedBytes);
    this.#tidyFrames();
    if (reason !== "SUSPENDED") records.removed(handler.handle.slot);
    table.release(handler.handle);
    const what = reason === "SUSPENDED" ? "handler suspended" : "handler removed";
    this.#parts.log(what, logBooks(handler, reason, books, waitedNs));
    if (reason !== "SUSPENDED") this.emit("changed", handler, "REMOVED");
    return { books, waitedNs };
  }

  /** Its books are what the next daemon begins with. */
  async #leave(handler: Handler, leaseEndsNs: number): Promise<Books> {
    const { stoppedNs, everSubscribed } = handler;
    const { books, carried } = await handler.delivery.suspend();
    this.#parts.records.suspended(handler, { everSubscribed, leaseEndsNs, stoppedNs, carried });
    return books;
  }

  #tidyFrames(): void {
    for (const { delivery } of this.#bySlot.values()) if (delivery.subscribed) return;
    this.#parts.streamMemory.letGoOfIdle();
  }

  /** Ends at `endsNs`, or when its whole time has passed. */
  #startLease(handler: Handler, endsNs = this.#parts.now() + handler.spec.leaseMs * NS_PER_MS): void {
    const leaseMs = Math.max(0, endsNs - this.#parts.now()) / NS_PER_MS;
    this.#parts.records.lease(handler, endsNs);
    const timer = setTimeout(() => {
      handler.lease = null;
      this.#parts.log("handler evicted", { ...whose(handler), why: "its lease ran out", lease_ms: leaseMs }, "warn");
      void this.#remove(handler, "DEREGISTERED", "LEASE_EXPIRED");
    }, leaseMs);
    handler.lease = { timer, endsAtMs: endsNs / NS_PER_MS };
  }

  #endLease(handler: Handler): void {
    if (handler.lease !== null) clearTimeout(handler.lease.timer);
    handler.lease = null;
  }

  /** A replay is over: its records are dispatched, so every stream gets the rest and its end. */
  async #sourceEnded(): Promise<void> {
    await this.#parts.host.tellAll({ kind: "drain" });
    for (const handler of this.#bySlot.values()) {
      if (handler.delivery.subscribed) void this.#removeUnattended(handler, "SOURCE_ENDED", null);
    }
  }
}

function stoppingError(): BrokerError {
  return new BrokerError("UNAVAILABLE", "the daemon is stopping: connect again when it is back.");
}

function logBooks(handler: Handler, reason: RemovalReason, books: Books, waitedNs: number): Record<string, unknown> {
  const { matched, delivered, lost } = books;
  return { ...whose(handler), reason, matched, delivered, lost, waited_ns: waitedNs };
}

/** What every line about a handler says of it. */
function whose({ id, spec, peer }: Handler): Record<string, unknown> {
  return { handler: id, name: spec.name, peer };
}
