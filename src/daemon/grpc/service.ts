/** nmi.v1.Broker on grpc-js: requests in, the broker asked, answers out. No state of its own. */
import type { ServerUnaryCall, ServerWritableStream, sendUnaryData, UntypedServiceImplementation } from "@grpc/grpc-js";
import type { Source } from "../../pmu/source.js";
import type { Access } from "../auth/access.js";
import type { Authority } from "../auth/authority.js";
import { describePeer } from "../auth/peer.js";
import { checkRequest, checkSpec } from "../auth/register-checks.js";
import { covers } from "../auth/rights.js";
import type { Broker } from "../broker/broker.js";
import { BrokerError } from "../broker/errors.js";
import type { Handler } from "../broker/handler.js";
import { resolvedEventMessages } from "../broker/messages.js";
import type { RegisterRequestMessage } from "../broker/request.js";
import { eventBooksMessages } from "../delivery/control-messages.js";
import type { HandlerSnapshot, MemoryPart, Snapshot } from "../observe/snapshot.js";
import type { CallStreams, EncodedCall } from "./call-stream.js";
import { toCallError } from "./status.js";

export interface ServiceParts {
  readonly authority: Authority;
  readonly broker: Broker;
  readonly source: Source;
  readonly snapshot: () => Snapshot;
  readonly snapshotHandler: (handler: Handler) => HandlerSnapshot;
  readonly addresses: () => { readonly listen: readonly string[]; readonly metrics: string };
  readonly runtimeDir: string;
  readonly streams: CallStreams;
  readonly onFault: (error: Error) => void;
}

type SubscribeCall = EncodedCall & { readonly request: { readonly handler_id: number } };

/** Changes a watcher may lag behind before it is cut off. */
const WATCH_BACKLOG_MAX = 1024;

export function brokerImplementation(parts: ServiceParts): UntypedServiceImplementation {
  const unary =
    <Request, Response>(rpc: string, answer: (request: Request, access: Access) => Response | Promise<Response>) =>
    async (call: ServerUnaryCall<Request, Response>, callback: sendUnaryData<Response>): Promise<void> => {
      try {
        callback(null, await answer(call.request, enter(parts, call, rpc)));
      } catch (error) {
        callback(toCallError(error, parts.onFault));
      }
    };
  return {
    ListEvents: unary("ListEvents", () => listEvents(parts.source)),
    Register: unary("Register", (request: RegisterRequestMessage, access) => register(parts, request, access)),
    Subscribe: (call: SubscribeCall) => subscribe(parts, call),
    Deregister: unary("Deregister", (request: DeregisterRequestMessage, access) => deregister(parts, request, access)),
    ListHandlers: unary("ListHandlers", (_request, access) => ({
      handlers: parts.broker.handlers
        .filter((handler) => mayList(access, handler))
        .map((handler) => handlerMessage(handler, parts)),
    })),
    WatchHandlers: (call: ServerWritableStream<unknown, unknown>) => watchHandlers(parts, call),
    GetStatus: unary("GetStatus", (_request, access) =>
      access.rights.administer ? statusMessage(parts) : publicStatus(parts, access),
    ),
  };
}

/** Nobody is told anything of whom no rule speaks. */
function enter({ authority }: ServiceParts, call: object, rpc: string): Access {
  const access = authority.identify(call, rpc);
  access.requireRule();
  return access;
}

/** Others' handlers are left out whole: their names, rates and filters say what others do. */
function mayList(access: Access, handler: Handler): boolean {
  return access.owns(handler) || access.rights.administer || access.rights.deregisterOthers;
}

function listEvents(source: Source): object {
  const { events, pmus } = source.listEvents();
  return {
    events: events.map((event) => ({
      name: event.name,
      type: event.type,
      config: event.config.toString(),
      description: event.description,
      can_sample: event.canSample,
      reason: event.reason,
      aliases: event.aliases,
      group: event.group,
    })),
    pmus,
    default_event: source.defaultEvent,
  };
}

async function register(parts: ServiceParts, request: RegisterRequestMessage, access: Access): Promise<object> {
  const visibility = checkRequest(access, request, parts.source);
  const handler = await parts.broker.register(request, describePeer(access.peer), {
    principal: access.principal,
    registrant: access.peer,
    visibility,
    admit: (spec, held) => checkSpec(access, spec, held),
  });
  return {
    handler_id: handler.id,
    events: resolvedEventMessages(handler),
    lease_ms: handler.spec.leaseMs,
    queue_max_bytes: handler.delivery.queueMaxBytes,
    flush_interval_ms: handler.delivery.flushIntervalMs,
  };
}

interface DeregisterRequestMessage {
  readonly handler_id: number;
  readonly timeout_ms: number;
  readonly discard: boolean;
}

async function deregister(parts: ServiceParts, request: DeregisterRequestMessage, access: Access): Promise<object> {
  const found = parts.broker.whoseIs(request.handler_id);
  if (!access.owns(found) && !access.rights.deregisterOthers) {
    access.deny(
      `handler_id: ${request.handler_id} is not a handler of ${access.principal}: only those may be deregistered`,
    );
  }
  const { books, waitedNs } = await parts.broker.deregister(request.handler_id, request.timeout_ms, request.discard);
  return {
    matched: books.matched,
    delivered: books.delivered,
    lost: books.lost,
    waited_ns: waitedNs,
    last_sequence: books.sequence,
    events: eventBooksMessages(books),
    losses: books.losses,
  };
}

function subscribe(parts: ServiceParts, call: SubscribeCall): void {
  const stream = parts.streams.open(call);
  try {
    const { handler_id } = call.request;
    const access = enter(parts, call, "Subscribe");
    checkSubscribe(parts, access, handler_id);
    const handler = parts.broker.subscribe(handler_id, stream);
    if (handler === null) return;
    stream.onBroken(() => parts.broker.streamBroken(handler));
    whilePermitted(parts, call, access, (now) => {
      // One that is being removed gets its end, and nothing new.
      if (handler.removal === null) checkSubscribe(parts, now, handler_id);
    });
  } catch (error) {
    call.emit("error", toCallError(error, parts.onFault));
  }
}

/**
 * Ends a call that lasts when a policy comes into force under which `check` throws, or that does not speak of its peer.
 * Its peer is who it was when it connected.
 */
function whilePermitted(
  { authority, onFault }: ServiceParts,
  call: ServerWritableStream<unknown, unknown>,
  { peer, rpc }: Access,
  check: (access: Access) => void,
): void {
  const unwatch = authority.watch(() => {
    try {
      check(authority.access(peer, rpc));
    } catch (error) {
      unwatch();
      call.emit("error", toCallError(error, onFault));
    }
  });
  for (const over of ["cancelled", "error", "finish"]) call.once(over, unwatch);
}

/** Rights may have changed since the handler was registered, and processes of one user may have different groups. */
function checkSubscribe(parts: ServiceParts, access: Access, handler_id: number): void {
  const handler = parts.broker.whoseIs(handler_id);
  if (!access.owns(handler) && !access.rights.administer) {
    access.deny(`handler_id: ${handler_id} is not a handler of ${access.principal}: only those may be subscribed to`);
  }
  if (handler.visibility === null) return;
  if (access.visibility === null || !covers(access.visibility, handler.visibility)) {
    access.deny(
      `handler_id: ${handler_id} is given samples that the peer may not see: deregister it, and register another`,
    );
  }
}

function watchHandlers(parts: ServiceParts, call: ServerWritableStream<unknown, unknown>): void {
  const { broker } = parts;
  let access: Access;
  try {
    access = enter(parts, call, "WatchHandlers");
  } catch (error) {
    call.emit("error", toCallError(error, parts.onFault));
    return;
  }
  let stopped = false;
  const send = (kind: string, handler: Handler | null): void => {
    call.write({ kind, handler: handler === null ? null : handlerMessage(handler, parts) });
  };
  const onChange = (handler: Handler, kind: string): void => {
    if (stopped || !mayList(access, handler)) return;
    if (call.writableLength <= backlogMax) {
      send(kind, handler);
      return;
    }
    stop();
    const lag = `the watcher lags ${WATCH_BACKLOG_MAX} changes behind: read faster, or list handlers instead.`;
    call.emit("error", toCallError(new BrokerError("RESOURCE_EXHAUSTED", lag), parts.onFault));
  };
  const onStopped = (): void => {
    call.end();
  };
  const stop = (): void => {
    stopped = true;
    broker.off("changed", onChange);
    broker.off("stopped", onStopped);
  };
  whilePermitted(parts, call, access, (now) => {
    now.requireRule();
    access = now;
  });
  call.on("cancelled", stop);
  call.on("error", stop);
  call.on("finish", stop);
  broker.on("changed", onChange);
  broker.once("stopped", onStopped);
  // The snapshot is as long as the table; what comes on top is what a reader may lag behind.
  const snapshot = broker.handlers.filter((handler) => mayList(access, handler));
  const backlogMax = snapshot.length + WATCH_BACKLOG_MAX;
  for (const handler of snapshot) send("ADDED", handler);
  send("SYNCHRONIZED", null);
}

function handlerMessage(handler: Handler, parts: ServiceParts): object {
  const snapshot = parts.snapshotHandler(handler);
  return {
    handler_id: snapshot.handlerId,
    name: snapshot.name,
    state: snapshot.state,
    events: resolvedEventMessages(handler),
    filter: handler.spec.filterMessage,
    matched: snapshot.matched,
    delivered: snapshot.delivered,
    lost: snapshot.lost,
    losses: snapshot.losses,
    queue_bytes: snapshot.queueBytes,
    queue_max_bytes: snapshot.queueMaxBytes,
    subscribed: snapshot.subscribed,
    lease_remaining_ms: snapshot.leaseRemainingMs,
    dispatches: snapshot.dispatches,
    longest_dispatch_ns: snapshot.longestDispatchNs,
    dispatch_time_buckets: snapshot.dispatchTime.counts,
    dispatch_ns_sum: Math.round(snapshot.dispatchTime.sum * 1e9),
    peer: handler.peer,
    registered_at: handler.registeredAt,
    flush_interval_ms: handler.delivery.flushIntervalMs,
  };
}

/** Of the daemon itself, whoever asks. */
function daemonMessage(parts: ServiceParts, { version, source, uptimeSeconds, capacity }: Snapshot): object {
  const { listen, metrics } = parts.addresses();
  return {
    version,
    source: source.description,
    fallback: source.fallback,
    source_reason: source.reason,
    uptime_seconds: uptimeSeconds,
    pid: process.pid,
    listen_addresses: listen,
    metrics_address: metrics,
    runtime_dir: parts.runtimeDir,
    capacity,
    default_event: source.defaultEvent,
    clock: source.clock,
  };
}

/** What tells nothing of what others do: no totals, no loads, and of armed events only which the peer's handlers have. */
function publicStatus(parts: ServiceParts, access: Access): object {
  const own = parts.broker.handlers.filter((handler) => access.owns(handler));
  const names = own.flatMap(({ spec }) => spec.events.map(({ name }) => name));
  return {
    ...daemonMessage(parts, parts.snapshot()),
    events: [...new Set(names)].map((name) => ({ name, handlers: names.filter((other) => other === name).length })),
    handlers: own.length,
  };
}

function statusMessage(parts: ServiceParts): object {
  const snapshot = parts.snapshot();
  const { dispatchers, events, totals, handlers, memory, overload, cpus, kernelSettings } = snapshot;
  return {
    ...daemonMessage(parts, snapshot),
    dispatchers: dispatchers.map(
      ({ corruptBytes, straySamples, busyRatio, ringFillPeak, pinnedCpus, unansweredSeconds: _, ...dispatcher }) => ({
        ...dispatcher,
        pinned_cpus: pinnedCpus,
        corrupt_bytes: corruptBytes,
        stray_samples: straySamples,
        busy_ratio: busyRatio,
        ring_fill_peak: ringFillPeak,
      }),
    ),
    events: events.map((event) => ({
      name: event.name,
      frequency_hz: event.frequencyHz,
      period: event.period,
      handlers: event.handlers,
      samples: event.samples,
      unclaimed: event.unclaimed,
      kernel_lost: event.kernelLost,
      throttled: event.throttled,
      unthrottled: event.unthrottled,
      time_enabled_seconds: event.timeEnabledSeconds,
      time_running_seconds: event.timeRunningSeconds,
      lowered_frequency_hz: event.loweredFrequencyHz,
      lowered_period: event.loweredPeriod,
      lowered_by_kernel: event.loweredByKernel,
      refused: event.refused,
      produced: event.produced ?? 0,
      produced_known: event.produced !== null,
    })),
    totals: {
      samples: totals.samples,
      unclaimed: totals.unclaimed,
      kernel_lost: totals.kernelLost,
      matched: totals.matched,
      delivered: totals.delivered,
      lost: totals.lost,
      registrations: totals.registrations,
      removals: totals.removals,
      produced: totals.produced,
      produced_drained: totals.producedDrained,
      produced_lost: totals.producedLost,
      task_records: totals.taskRecords,
      task_records_lost: totals.taskRecordsLost,
      aux_bytes: totals.auxBytes,
      aux_bytes_delivered: totals.auxBytesDelivered,
      aux_bytes_lost: totals.auxBytesLost,
    },
    handlers: handlers.length,
    unbalanced: totals.unbalanced.event + totals.unbalanced.handler,
    overload: {
      overloaded: overload.overloaded,
      reason: overload.reason,
      since_seconds: overload.sinceSeconds,
      episodes: overload.episodes,
      dispatchers: overload.dispatchers,
      kernel_lost: overload.kernelLost,
    },
    cpus: {
      watched: cpus.watched,
      changes: cpus.changes.map(({ watchedUntil, ...change }) => ({ ...change, watched_until: watchedUntil })),
      changes_total: cpus.counts.GONE + cpus.counts.COME + cpus.counts.BACK,
    },
    kernel_settings:
      kernelSettings === null
        ? null
        : {
            paranoid_known: kernelSettings.paranoid !== null,
            perf_event_paranoid: kernelSettings.paranoid ?? 0,
            perf_event_max_sample_rate: kernelSettings.maxSampleRateHz,
          },
    memory: {
      segments: memoryPartMessage(memory.segments),
      outboxes: memoryPartMessage(memory.outboxes),
      streams: memoryPartMessage(memory.streams),
    },
  };
}

function memoryPartMessage({ usedBytes, peakBytes, limitBytes }: MemoryPart): object {
  return { used_bytes: usedBytes, peak_bytes: peakBytes, limit_bytes: limitBytes };
}
