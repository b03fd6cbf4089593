/**
 * A handler up to the moment it goes ACTIVE: slot, outbox, events, and dispatchers that know it. What fails on the way
 * is undone.
 */
import { SAMPLE } from "../../pmu/abi.js";
import { PmuError } from "../../pmu/errors.js";
import { TASKS_BIT } from "../../pmu/record.js";
import { FILTER_FLAG, handlerId } from "../../registry/layout.js";
import type { SlotHandle } from "../../registry/table.js";
import type { Visibility } from "../auth/rights.js";
import type { DaemonLimits } from "../config/config.js";
import { HandlerDelivery } from "../delivery/delivery.js";
import type { DeliveryOptions } from "../delivery/delivery-options.js";
import { FixedFlush, type FlushRule } from "../delivery/flush.js";
import type { MemoryBudget } from "../delivery/memory.js";
import { allocateOutbox, type OutboxShape, outboxBytes, outboxShape } from "../delivery/outbox.js";
import { OutboxReader } from "../delivery/outbox-reader.js";
import { COLUMN } from "../dispatch/columns.js";
import { filterBytes } from "../dispatch/filter.js";
import { NOT_ARMED } from "../dispatch/messages.js";
import { encodeDelivery } from "../grpc/proto.js";
import type { RecoveredHandler } from "../state/recover.js";
import { mayBeTold, snapshotMessages } from "../tasks/snapshot-messages.js";
import { TaskFilter, type TaskSpec } from "../tasks/task-filter.js";
import { AcquireError, type ArmedEvent, type EventUser } from "./armed-events.js";
import type { BrokerParts } from "./broker.js";
import { BrokerError } from "./errors.js";
import type { Handler, RegistrationTerms } from "./handler.js";
import { wireCount, wirePlaces } from "./messages.js";
import { type FilterMessage, type HandlerSpec, refusal } from "./request.js";

export type OpeningParts = Pick<
  BrokerParts,
  | "source"
  | "auxBytes"
  | "taskTracking"
  | "table"
  | "host"
  | "armedEvents"
  | "counters"
  | "outboxMemory"
  | "flushPacer"
  | "flushTimes"
  | "limits"
  | "streamMemory"
  | "dispatchToStream"
  | "sampleToStream"
  | "records"
  | "now"
  | "log"
>;

/** What delivery reports of a handler. */
export type DeliveryReports = Pick<DeliveryOptions, "onOverflow" | "onFault">;

interface Outbox {
  readonly buffer: SharedArrayBuffer;
  readonly shape: OutboxShape;
  /** Charged for it and for the handler's filter. */
  readonly bytes: number;
}

/** In CLAIMED: no dispatch yet. Throws BrokerError with nothing changed. */
export async function openHandler(
  parts: OpeningParts,
  spec: HandlerSpec,
  peer: string,
  terms: Omit<RegistrationTerms, "admit">,
  reports: DeliveryReports,
  allocate = allocateOutbox,
  recovered: RecoveredHandler | null = null,
): Promise<Handler> {
  const { table, armedEvents, outboxMemory } = parts;
  const outbox = openOutbox(parts, spec, allocate);
  const handle = recovered === null ? table.claim() : handleOf(recovered);
  if (handle === null) {
    outboxMemory.give(outbox.bytes);
    throw new BrokerError(
      "RESOURCE_EXHAUSTED",
      `all ${table.layout.capacity} slots of the handler table are taken: deregister handlers, or start the daemon with a larger --capacity.`,
    );
  }
  const users = spec.events.map(
    (event): EventUser =>
      // Of an event that writes into AUX areas there can be one at a time: it cannot change its shape.
      event.hasAux
        ? { event, sampleType: 0, branchCounters: false, wakeEach: false }
        : {
            event,
            sampleType: spec.fields.sampleType | (spec.filter.cgroupIds.length > 0 ? SAMPLE.CGROUP : 0),
            branchCounters: spec.fields.branchCounters,
            wakeEach: (spec.flushIntervalMs ?? parts.limits.flushIntervalDefaultMs) === 0,
          },
  );
  let armed: readonly ArmedEvent[];
  try {
    armed = await armedEvents.acquire(users, { handler: spec.name, exclusive: spec.exclusive });
  } catch (error) {
    table.abandon(handle);
    outboxMemory.give(outbox.bytes);
    if (!(error instanceof AcquireError)) throw error;
    throw error.cause instanceof PmuError
      ? refusal(error.cause, `events[${spec.requestIndexes[error.index]}]`)
      : error.cause;
  }
  const tasks = taskShape({ spec, visibility: terms.visibility });
  try {
    if (tasks !== null) await parts.taskTracking.acquire(tasks);
  } catch (error) {
    const failed = (cause: Error): void =>
      parts.log("a registration could not be undone", { name: spec.name, peer, error: cause.message }, "error");
    await armedEvents.release(armed, users).catch(failed);
    table.abandon(handle);
    outboxMemory.give(outbox.bytes);
    throw error instanceof PmuError ? refusal(error, "tasks") : error;
  }
  try {
    const handler = createHandler(parts, handle, spec, users, armed, outbox, peer, terms, reports, recovered);
    await attach(parts, handler, outbox);
    return handler;
  } catch (error) {
    await closeHandler(parts, { handle, spec, armed, users, visibility: terms.visibility, chargedBytes: outbox.bytes });
    throw error;
  }
}

/** The slot that was adopted for it when the table was made. */
export function handleOf({ saved }: RecoveredHandler): SlotHandle {
  return { slot: saved.slot, generation: saved.generation };
}

/** Undoes openHandler, as long as the handler has not gone ACTIVE. Never rejects: what it took is given back all the same. */
export async function closeHandler(
  { table, host, armedEvents, taskTracking, outboxMemory, log }: OpeningParts,
  handler: Pick<Handler, "handle" | "spec" | "armed" | "users" | "visibility" | "chargedBytes">,
): Promise<void> {
  const { handle, spec, armed, users, chargedBytes } = handler;
  const tasks = taskShape(handler);
  const failed = (error: Error): void =>
    log("a registration could not be undone", { name: spec.name, error: error.message }, "error");
  await armedEvents.release(armed, users).catch(failed);
  if (tasks !== null) await taskTracking.release(tasks).catch(failed);
  await host.tellAll({ kind: "detach", slot: handle.slot, generation: handle.generation }).catch(failed);
  table.abandon(handle);
  outboxMemory.give(chargedBytes);
}

function openOutbox({ table, outboxMemory }: OpeningParts, spec: HandlerSpec, allocate: typeof allocateOutbox): Outbox {
  const { dispatchers } = table.layout;
  const shape = outboxShape(spec.queueMaxBytes, dispatchers, wireCount(spec.events));
  const bytes = outboxBytes(dispatchers, shape);
  const indexBytes = dispatchers * filterBytes(spec.filter);
  if (!outboxMemory.take(bytes)) throw usedUp(outboxMemory, "queue.max_bytes", bytes, "ask for a smaller queue");
  if (!outboxMemory.take(indexBytes)) {
    outboxMemory.give(bytes);
    throw usedUp(outboxMemory, "filter", indexBytes, "name fewer pids, cpus, uids or cgroups");
  }
  try {
    return { buffer: allocate(dispatchers, shape), shape, bytes: bytes + indexBytes };
  } catch (error) {
    outboxMemory.give(bytes + indexBytes);
    throw error;
  }
}

function usedUp({ usedBytes, limitBytes }: MemoryBudget, field: string, bytes: number, remedy: string): BrokerError {
  return new BrokerError(
    "RESOURCE_EXHAUSTED",
    `${field}: the daemon's memory for outboxes and filters is used up (${usedBytes} of ${limitBytes} bytes, and this takes ${bytes}): ${remedy}, deregister handlers, or raise limits.memory_max_bytes.`,
  );
}

function createHandler(
  parts: OpeningParts,
  handle: SlotHandle,
  spec: HandlerSpec,
  users: readonly EventUser[],
  armed: readonly ArmedEvent[],
  outbox: Outbox,
  peer: string,
  { principal, registrant, visibility }: Omit<RegistrationTerms, "admit">,
  reports: DeliveryReports,
  recovered: RecoveredHandler | null,
): Handler {
  const carried = recovered?.left.carried ?? null;
  const settled = parts.records.books(handle.slot);
  settled.begin(handlerId(handle.generation, handle.slot), carried?.settled ?? []);
  return {
    id: handlerId(handle.generation, handle.slot),
    handle,
    spec,
    peer,
    principal,
    registrant,
    visibility,
    registeredAt: recovered?.saved.registeredAt ?? Date.now() / 1000,
    users,
    places: wirePlaces(spec.events),
    armed,
    delivery: new HandlerDelivery({
      slot: handle.slot,
      readers: parts.host.threads.map(({ segments }, d) => new OutboxReader(outbox.buffer, d, outbox.shape, segments)),
      events: wireCount(spec.events),
      counters: parts.counters,
      overflow: spec.overflow,
      flush: flushRule(parts, spec, handle.slot),
      flushTimes: parts.flushTimes,
      now: parts.now,
      encode: encodeDelivery,
      memory: parts.streamMemory,
      carried,
      settled,
      latency: parts.dispatchToStream,
      sampleLatency: parts.sampleToStream,
      ...reports,
      onAux: (delivered, lost) => {
        parts.auxBytes.delivered += delivered;
        parts.auxBytes.lost += lost;
      },
      snapshot: snapshotOf(parts, spec, visibility),
      onTasksLost: (records) => {
        parts.taskTracking.lost += records;
      },
    }),
    chargedBytes: outbox.bytes,
    lease: null,
    everSubscribed: recovered?.left.everSubscribed ?? false,
    stoppedNs: 0,
    removal: null,
    removingSinceNs: null,
  };
}

/** What must be told for the handler: what it asks for, or what its samples' owners are known by. */
export function taskShape({ spec, visibility }: Pick<Handler, "spec" | "visibility">): HandlerSpec["tasks"] {
  return spec.tasks ?? (visibility.owner === null ? null : { contextSwitches: false });
}

function snapshotOf(
  { source, log }: OpeningParts,
  spec: HandlerSpec,
  visibility: Visibility,
): DeliveryOptions["snapshot"] {
  const tasks = taskSpec(spec, visibility);
  if (tasks === null) return null;
  const filter = new TaskFilter(tasks);
  return () =>
    snapshotMessages(source.taskSnapshot(mayBeTold(filter)), filter, (error) =>
      log("task snapshot cut short", { name: spec.name, error: error.message }, "warn"),
    );
}

/** The dispatchers know the handler before it is ACTIVE, and the kernel ticks for it only after. */
async function attach({ table, host, limits }: OpeningParts, handler: Handler, outbox: Outbox): Promise<void> {
  const { handle, spec, armed, registeredAt, visibility } = handler;
  table.describe(handle, {
    name: spec.name,
    events: spec.events.map((event) => event.name).join(","),
    filterFlags: filterFlags(spec.filterMessage),
    queueMaxBytes: outbox.shape.queueBytes * table.layout.dispatchers,
    registeredAt,
  });
  const mask = [0, 0];
  for (const { index } of armed) mask[index >>> 5] |= 1 << (index & 31);
  if (spec.tasks !== null) mask[TASKS_BIT >>> 5] |= 1 << (TASKS_BIT & 31);
  table.setEventMask(handle, mask[0], mask[1]);
  await host.tellAll({
    kind: "attach",
    spec: {
      slot: handle.slot,
      generation: handle.generation,
      outbox: outbox.buffer,
      shape: outbox.shape,
      events: armed.flatMap(({ index }, i) => [
        { armed: index, ...requestedRate(spec, i) },
        // Members do not sample: what they counted comes with their leader's samples.
        ...spec.events[i].members.map(() => ({ armed: NOT_ARMED, frequencyHz: 0, period: 0 })),
      ]),
      filter: { ...spec.filter, owner: visibility.owner },
      columns: columnsOf(spec) | (visibility.kernelAddresses ? 0 : COLUMN.REDACTED),
      tasks: taskSpec(spec, visibility),
      aux: spec.fields.aux,
      flushIntervalMs: handler.delivery.flushIntervalMs,
      flushIsDaemons: isAdapting(spec, limits),
    },
  });
}

/** A queue smaller than usual would not hold what comes in a longer interval. */
function isAdapting({ flushIntervalMs, queueMaxBytes }: HandlerSpec, { queueDefaultBytes }: DaemonLimits): boolean {
  return flushIntervalMs === null && queueMaxBytes >= queueDefaultBytes;
}

function flushRule({ limits, flushPacer }: OpeningParts, spec: HandlerSpec, slot: number): FlushRule {
  if (isAdapting(spec, limits)) return flushPacer.rule(slot);
  return new FixedFlush(spec.flushIntervalMs ?? limits.flushIntervalDefaultMs);
}

function taskSpec({ tasks, filter }: HandlerSpec, { owner, kernelAddresses }: Visibility): TaskSpec | null {
  if (tasks === null) return null;
  return { contextSwitches: tasks.contextSwitches, pids: filter.pids, owner, redacted: !kernelAddresses };
}

function columnsOf({ fields, tasks }: HandlerSpec): number {
  const { sampleType, branchCounters } = fields;
  return sampleType | (branchCounters ? COLUMN.BRANCH_COUNTERS : 0) | (tasks === null ? 0 : COLUMN.CPUMODE);
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
