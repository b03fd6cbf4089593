/**
 * Registering, subscribing and removing: the daemon's state, and the order in which it changes. Runs on the main thread;
 * what takes time is awaited, and every step leaves table, dispatchers and kernel in agreement.
 */
import { EventEmitter } from "node:events";
import { PmuError } from "../../pmu/errors.js";
import type { Source } from "../../pmu/source.js";
import type { SlotCounters } from "../../registry/counters.js";
import { FILTER_FLAG, generationOfId, handlerId, slotOfId } from "../../registry/layout.js";
import type { HandlerTable, SlotHandle } from "../../registry/table.js";
import type { NsClock } from "../clock.js";
import type { DaemonLimits } from "../config/config.js";
import type { Books, LossReason } from "../delivery/books.js";
import { type DeliveryStream, HandlerDelivery } from "../delivery/delivery.js";
import { allocateOutbox, OutboxReader, regionBytes } from "../delivery/outbox.js";
import type { DispatcherHost } from "../dispatch/host.js";
import { encodeDelivery } from "../grpc/proto.js";
import type { LatencyHistogram } from "../observe/histogram.js";
import { AcquireError, type ArmedEvents, type EventUser } from "./armed-events.js";
import { BrokerError } from "./errors.js";
import type { Handler, RemovalResult } from "./handler.js";
import type { KernelLossWatch } from "./kernel-loss.js";
import { resolvedEventMessage } from "./messages.js";
import {
  checkRegister,
  type FilterMessage,
  type HandlerSpec,
  type RegisterRequestMessage,
  refusal,
} from "./request.js";
import type { Tally } from "./tally.js";

export type EndReason = "DEREGISTERED" | "SOURCE_ENDED" | "OVERFLOWED" | "DAEMON_STOPPING";

export interface BrokerParts {
  readonly source: Source;
  readonly fallback: boolean;
  readonly table: HandlerTable;
  readonly counters: SlotCounters;
  readonly host: DispatcherHost;
  readonly armedEvents: ArmedEvents;
  readonly kernelLoss: KernelLossWatch;
  readonly limits: DaemonLimits;
  readonly tally: Tally;
  readonly removalWait: LatencyHistogram;
  readonly dispatchToStream: LatencyHistogram;
  readonly now: NsClock;
  readonly log: (event: string, fields: Record<string, unknown>) => void;
}

interface BrokerEvents {
  changed: [handler: Handler, kind: "ADDED" | "CHANGED" | "REMOVED"];
  stopped: [];
}

const NS_PER_MS = 1_000_000;

export class Broker extends EventEmitter<BrokerEvents> {
  readonly #parts: BrokerParts;
  readonly #bySlot = new Map<number, Handler>();
  readonly #byName = new Map<string, Handler | null>();
  #stopping = false;

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
  }

  async register(request: RegisterRequestMessage, peer: string): Promise<Handler> {
    if (this.#stopping) throw new BrokerError("UNAVAILABLE", "the daemon is stopping: connect again when it is back.");
    const { source, limits, table } = this.#parts;
    const spec = checkRegister(request, { source, limits, dispatchers: table.layout.dispatchers });
    if (this.#byName.has(spec.name)) {
      throw new BrokerError(
        "ALREADY_EXISTS",
        `name: "${spec.name}" is registered: deregister it, or choose another name.`,
      );
    }
    // The name is taken before the first await, or two could have it.
    this.#byName.set(spec.name, null);
    try {
      return await this.#register(spec, peer);
    } catch (error) {
      this.#byName.delete(spec.name);
      throw error;
    }
  }

  async #register(spec: HandlerSpec, peer: string): Promise<Handler> {
    const { table, armedEvents, kernelLoss } = this.#parts;
    const handle = table.claim();
    if (handle === null) {
      throw new BrokerError(
        "RESOURCE_EXHAUSTED",
        `all ${table.layout.capacity} slots of the handler table are taken: deregister handlers, or start the daemon with a larger --capacity.`,
      );
    }
    const users = spec.events.map(
      (event): EventUser => ({
        event,
        callchain: spec.callchain,
        cgroup: spec.filter.cgroupIds.length > 0,
        wakeEach: spec.flushIntervalMs === 0,
      }),
    );
    // Losses up to now are not this handler's to hear of.
    kernelLoss.poll(this.handlers);
    let armed: Handler["armed"];
    try {
      armed = await armedEvents.acquire(users);
    } catch (error) {
      table.abandon(handle);
      if (!(error instanceof AcquireError)) throw error;
      throw error.cause instanceof PmuError ? refusal(error.cause, `events[${error.index}]`) : error.cause;
    }
    const handler = await this.#activate(handle, spec, users, armed, peer);
    this.#parts.tally.registrations++;
    this.#parts.log("handler registered", {
      handler: handler.id,
      name: spec.name,
      peer,
      events: spec.events.map((e) => e.name),
    });
    this.emit("changed", handler, "ADDED");
    return handler;
  }

  /** The dispatchers know the handler before it is ACTIVE, and the kernel ticks for it only after. */
  async #activate(
    handle: SlotHandle,
    spec: HandlerSpec,
    users: readonly EventUser[],
    armed: Handler["armed"],
    peer: string,
  ): Promise<Handler> {
    const { table, host, armedEvents } = this.#parts;
    const dispatchers = table.layout.dispatchers;
    const dataBytes = regionBytes(spec.queueMaxBytes, dispatchers);
    const outbox = allocateOutbox(dispatchers, dataBytes);
    const registeredAt = Date.now() / 1000;
    table.describe(handle, {
      name: spec.name,
      events: spec.events.map((event) => event.name).join(","),
      filterFlags: filterFlags(spec.filterMessage),
      queueMaxBytes: dataBytes * dispatchers,
      registeredAt,
    });
    const mask = [0, 0];
    for (const { index } of armed) mask[index >>> 5] |= 1 << (index & 31);
    table.setEventMask(handle, mask[0], mask[1]);
    await host.tellAll({
      kind: "attach",
      spec: {
        slot: handle.slot,
        generation: handle.generation,
        outbox,
        regionBytes: dataBytes,
        events: armed.map(({ index }, i) => ({ armed: index, ...requestedRate(spec, i) })),
        filter: spec.filter,
        callchain: spec.callchain,
        flushIntervalMs: spec.flushIntervalMs,
      },
    });
    const handler: Handler = {
      id: handlerId(handle.generation, handle.slot),
      handle,
      spec,
      peer,
      registeredAt,
      users,
      armed,
      delivery: new HandlerDelivery({
        slot: handle.slot,
        readers: Array.from({ length: dispatchers }, (_, d) => new OutboxReader(outbox, d, dataBytes)),
        events: spec.events.length,
        counters: this.#parts.counters,
        overflow: spec.overflow,
        flushIntervalMs: spec.flushIntervalMs,
        now: this.#parts.now,
        encode: encodeDelivery,
        latency: this.#parts.dispatchToStream,
        onOverflow: () => void this.#removeUnattended(handler, "OVERFLOWED", "DISCONNECTED"),
      }),
      lease: null,
      everSubscribed: false,
      removal: null,
    };
    this.#bySlot.set(handle.slot, handler);
    this.#byName.set(spec.name, handler);
    table.activate(handle);
    this.#startLease(handler);
    try {
      await armedEvents.start(armed);
    } catch (error) {
      await this.#remove(handler, "DEREGISTERED", "DISCARDED");
      throw error;
    }
    return handler;
  }

  /** Connects a stream; the caller reports its end through `streamBroken`. */
  subscribe(id: number, stream: DeliveryStream): Handler {
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
        events: handler.spec.events.map(resolvedEventMessage),
        next_sequence: handler.delivery.nextSequence,
        resumed: handler.everSubscribed,
        clock: source.clock,
        source: source.kind,
        fallback,
      },
    });
    handler.everSubscribed = true;
    if (first) source.begin();
    this.#parts.log("handler subscribed", { handler: id, name: handler.spec.name });
    this.emit("changed", handler, "CHANGED");
    return handler;
  }

  /** The stream has gone without an end: the lease begins. */
  streamBroken(handler: Handler): void {
    if (!handler.delivery.subscribed) return;
    handler.delivery.broken();
    if (handler.removal !== null) return;
    this.#startLease(handler);
    this.#parts.log("stream broken", { handler: handler.id, name: handler.spec.name, lease_ms: handler.spec.leaseMs });
    this.emit("changed", handler, "CHANGED");
  }

  /** Final when it resolves. DEADLINE_EXCEEDED leaves the handler DRAINING; a retry finishes it. */
  async deregister(id: number, timeoutMs: number, discard: boolean): Promise<RemovalResult> {
    const handler = this.#find(id);
    const removal = this.#remove(handler, "DEREGISTERED", discard ? "DISCARDED" : null);
    const limit = timeoutMs === 0 ? this.#parts.limits.deregisterTimeoutDefaultMs : timeoutMs;
    let timer: NodeJS.Timeout | undefined;
    const deadline = new Promise<"deadline">((resolve) => {
      timer = setTimeout(resolve, limit, "deadline");
    });
    const outcome = await Promise.race([removal, deadline]);
    clearTimeout(timer);
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

  #remove(handler: Handler, reason: EndReason, discard: LossReason | null): Promise<RemovalResult> {
    if (handler.removal === null) {
      handler.removal = this.#removeNow(handler, reason, discard);
      // The awaiting caller sees a failure; a removal nobody waits for must not end the daemon unexplained.
      handler.removal.catch((error: Error) =>
        this.#parts.log("removal failed", { handler: handler.id, error: error.message }),
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

  async #removeNow(handler: Handler, reason: EndReason, discard: LossReason | null): Promise<RemovalResult> {
    const { table, host, armedEvents, removalWait, tally, now } = this.#parts;
    this.#endLease(handler);
    const startNs = now();
    table.beginRemoval(handler.handle);
    this.emit("changed", handler, "CHANGED");
    await table.awaitDrained(handler.handle, Number.POSITIVE_INFINITY, () => 0);
    const waitedNs = now() - startNs;
    removalWait.record(waitedNs);
    this.#parts.kernelLoss.poll(this.handlers);
    // Before the stream is settled: a reader that takes its time does not keep the event armed.
    await armedEvents.release(handler.armed, handler.users);
    const books = await handler.delivery.finish(reason, discard);
    if (books.matched !== books.delivered + books.lost) {
      this.#parts.log("books do not balance", { handler: handler.id, ...books });
    }
    await host.tellAll({ kind: "detach", slot: handler.handle.slot, generation: handler.handle.generation });
    tally.retireHandler(books);
    this.#bySlot.delete(handler.handle.slot);
    this.#byName.delete(handler.spec.name);
    table.release(handler.handle);
    this.#parts.log("handler removed", logBooks(handler, reason, books, waitedNs));
    this.emit("changed", handler, "REMOVED");
    return { books, waitedNs };
  }

  #startLease(handler: Handler): void {
    const { leaseMs } = handler.spec;
    const timer = setTimeout(() => {
      handler.lease = null;
      this.#parts.log("lease expired", { handler: handler.id, name: handler.spec.name });
      void this.#remove(handler, "DEREGISTERED", "LEASE_EXPIRED");
    }, leaseMs);
    handler.lease = { timer, endsAtMs: this.#parts.now() / NS_PER_MS + leaseMs };
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

function requestedRate(spec: HandlerSpec, i: number): { frequencyHz: number; period: number } {
  const { rate } = spec.events[i];
  return {
    frequencyHz: rate.kind === "frequency" ? rate.hz : 0,
    period: rate.kind === "period" ? rate.period : 0,
  };
}

function filterFlags(filter: FilterMessage): number {
  return (
    (filter.pids.length > 0 ? FILTER_FLAG.PIDS : 0) |
    (filter.cpus.length > 0 ? FILTER_FLAG.CPUS : 0) |
    (filter.uids.length > 0 ? FILTER_FLAG.UIDS : 0) |
    (filter.cgroups.length > 0 ? FILTER_FLAG.CGROUPS : 0) |
    (filter.exclude_user ? FILTER_FLAG.EXCLUDE_USER : 0) |
    (filter.exclude_kernel ? FILTER_FLAG.EXCLUDE_KERNEL : 0)
  );
}

function logBooks(handler: Handler, reason: EndReason, books: Books, waitedNs: number): Record<string, unknown> {
  const { matched, delivered, lost } = books;
  return { handler: handler.id, name: handler.spec.name, reason, matched, delivered, lost, waited_ns: waitedNs };
}
