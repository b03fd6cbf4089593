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
import { type Handler, type Held, type RegistrationTerms, type RemovalResult, whose } from "./handler.js";
import type { KernelLossWatch } from "./kernel-loss.js";
import { Leases } from "./leases.js";
import type { MachineWatch } from "./machine-watch.js";
import { resolvedEventMessages } from "./messages.js";
import { closeHandler, type DeliveryReports, openHandler } from "./registration.js";
import { Removals } from "./removal.js";
import { checkRegister, type HandlerSpec, type RegisterRequestMessage, refusal } from "./request.js";
import { type RestoreCounts, Restoring } from "./restore.js";
import type { Tally } from "./tally.js";
import type { TaskTracking } from "./task-tracking.js";

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
  readonly #leases: Leases;
  readonly #removals: Removals;
  #stopping = false;
  #suspending = false;

  constructor(parts: BrokerParts) {
    super();
    this.setMaxListeners(0);
    this.#parts = parts;
    this.#leases = new Leases(parts, (handler) => void this.#removals.remove(handler, "DEREGISTERED", "LEASE_EXPIRED"));
    this.#removals = new Removals(parts, {
      leases: this.#leases,
      handlers: () => this.handlers,
      changed: (handler, kind) => this.emit("changed", handler, kind),
      forget: (handler) => this.#forget(handler),
    });
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
    this.#leases.start(handler);
    this.#parts.records.registered(handler);
    tally.registrations++;
    log("handler registered", { ...whose(handler), events: spec.events.map((e) => e.name) });
    this.emit("changed", handler, "ADDED");
    try {
      await armedEvents.start(handler.armed);
    } catch (error) {
      await this.#removals.remove(handler, "DEREGISTERED", "DISCARDED");
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
    this.#leases.end(handler);
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
    if (lease === null) this.#leases.start(handler);
    this.emit("changed", handler, "CHANGED");
  }

  /** Final when it resolves. DEADLINE_EXCEEDED leaves the handler DRAINING; a retry finishes it. */
  async deregister(id: number, timeoutMs: number, discard: boolean): Promise<RemovalResult> {
    if (this.#suspending) throw stoppingError();
    const departed = this.#departed.take(id);
    if (departed !== undefined) return { books: booksOf(departed), waitedNs: 0 };
    const handler = this.#find(id);
    const removal = this.#removals.remove(handler, "DEREGISTERED", discard ? "DISCARDED" : null);
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
      this.#removals.remove(handler, "DAEMON_STOPPING", handler.delivery.subscribed ? null : "SHUTDOWN"),
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
        return this.#removals.remove(handler, "SUSPENDED", null);
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
        this.#leases.start(handler, Math.min(leaseEndsNs, this.#parts.now() + handler.spec.leaseMs * NS_PER_MS));
      },
      drop: (handler) => this.#removals.remove(handler, "DEREGISTERED", "RESTART"),
    });
    return restoring.run(handlers);
  }

  /** What delivery has to say of the handler that `handler` will have given by then. */
  #reports(handler: () => Handler): DeliveryReports {
    return {
      onOverflow: () => {
        const why = "its queue overflowed, and it asked for DISCONNECT";
        this.#parts.log("handler evicted", { ...whose(handler()), why }, "warn");
        void this.#removals.unattended(handler(), "OVERFLOWED", "DISCONNECTED");
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

  #forget(handler: Handler): void {
    this.#bySlot.delete(handler.handle.slot);
    this.#byName.delete(handler.spec.name);
    this.#parts.outboxMemory.give(handler.chargedBytes);
    this.#tidyFrames();
  }

  #tidyFrames(): void {
    for (const { delivery } of this.#bySlot.values()) if (delivery.subscribed) return;
    this.#parts.streamMemory.letGoOfIdle();
  }

  /** A replay is over: its records are dispatched, so every stream gets the rest and its end. */
  async #sourceEnded(): Promise<void> {
    await this.#parts.host.tellAll({ kind: "drain" });
    for (const handler of this.#bySlot.values()) {
      if (handler.delivery.subscribed) void this.#removals.unattended(handler, "SOURCE_ENDED", null);
    }
  }
}

function stoppingError(): BrokerError {
  return new BrokerError("UNAVAILABLE", "the daemon is stopping: connect again when it is back.");
}
