/** Takes the Snapshot: the one place that knows where every counter lives. */
import type { Source } from "../../pmu/source.js";
import type { SlotCounters } from "../../registry/counters.js";
import { DISPATCH_TIME_BUCKETS, LOSS_REASONS, STATE_NAMES } from "../../registry/layout.js";
import type { HandlerTable } from "../../registry/table.js";
import { type ArmedEvent, type ArmedEvents, askedRate } from "../broker/armed-events.js";
import type { BooksAudit } from "../broker/audit.js";
import type { Broker } from "../broker/broker.js";
import type { CpuWatch } from "../broker/cpu-watch.js";
import type { Handler } from "../broker/handler.js";
import type { OverloadControl } from "../broker/overload.js";
import { isFaster, sameRate, shareInForce } from "../broker/rates.js";
import type { SettingsWatch } from "../broker/settings-watch.js";
import type { EventCounters, Tally } from "../broker/tally.js";
import type { TaskTracking } from "../broker/task-tracking.js";
import type { NsClock } from "../clock.js";
import type { MemoryBudget, StreamMemory } from "../delivery/memory.js";
import type { ArenaUse } from "../delivery/segments.js";
import type { DispatcherHost } from "../dispatch/host.js";
import { ringFillHistogram } from "../dispatch/ring-fill.js";
import { DISPATCHER_STAT, EVENT_STAT } from "../dispatch/stats.js";
import { snapshotHistograms } from "./histogram.js";
import type { SlowDispatchWatch } from "./slow-dispatch.js";
import type {
  ConnectionsSnapshot,
  EventSnapshot,
  HandlerSnapshot,
  LossSnapshot,
  MemoryPart,
  MemorySnapshot,
  Snapshot,
} from "./snapshot.js";

export interface CollectParts {
  readonly version: string;
  readonly source: Source;
  /** Why the source stands in for the kernel's; null when it does not. */
  readonly fallbackReason: string | null;
  readonly table: HandlerTable;
  readonly counters: SlotCounters;
  readonly host: DispatcherHost;
  readonly armedEvents: ArmedEvents;
  readonly broker: Broker;
  readonly tally: Tally;
  readonly taskTracking: TaskTracking;
  readonly auxBytes: { readonly delivered: number; readonly lost: number };
  readonly audit: BooksAudit;
  readonly slowDispatches: SlowDispatchWatch;
  readonly overload: OverloadControl;
  readonly cpuWatch: CpuWatch;
  readonly settingsWatch: SettingsWatch;
  readonly removalWait: Float64Array;
  readonly dispatchToStream: Float64Array;
  readonly sampleToStream: Float64Array;
  readonly budgets: { readonly outboxes: MemoryBudget; readonly streams: StreamMemory };
  readonly connections: () => ConnectionsSnapshot;
  readonly startedNs: number;
  readonly now: NsClock;
}

const NS_PER_SECOND = 1e9;
const NS_PER_MS = 1e6;
/** Inclusive upper bounds of all buckets but the last. */
const DISPATCH_TIME_BOUNDS_SECONDS = Array.from({ length: DISPATCH_TIME_BUCKETS - 1 }, (_, i) => 2 ** i / 1e6);
/** The reasons that are part of a handler's books. */
const BOOKED_REASONS = LOSS_REASONS.filter((reason) => reason !== "LOSS_REASON_UNSPECIFIED" && reason !== "KERNEL");

export function collect(parts: CollectParts): Snapshot {
  const { source, fallbackReason, host, tally, broker, armedEvents, overload } = parts;
  const handlers = broker.handlers.map((handler) => handlerSnapshot(handler, parts));
  const events = armedEvents.all.map((armed) => eventSnapshot(armed, parts));
  const counted = events.flatMap(({ produced, samples, kernelLost }) =>
    produced === null ? [] : [{ produced, samples, kernelLost }],
  );
  const sum = <T>(list: readonly T[], pick: (item: T) => number): number => list.reduce((n, item) => n + pick(item), 0);
  return {
    version: parts.version,
    source: {
      kind: source.kind,
      description: source.description,
      clock: source.clock,
      defaultEvent: source.defaultEvent,
      fallback: fallbackReason !== null,
      reason: fallbackReason ?? "",
    },
    uptimeSeconds: (parts.now() - parts.startedNs) / NS_PER_SECOND,
    capacity: parts.table.layout.capacity,
    dispatchers: host.threads.map(({ cpus, pinnedCpus, stats, restarts, unansweredNs }, index) => ({
      index,
      cpus,
      pinnedCpus,
      wakeups: stats.words[DISPATCHER_STAT.WAKEUPS],
      drains: stats.words[DISPATCHER_STAT.DRAINS],
      samples: stats.words[DISPATCHER_STAT.SAMPLES],
      corruptBytes: stats.words[DISPATCHER_STAT.CORRUPT_BYTES],
      straySamples: stats.words[DISPATCHER_STAT.STRAY_SAMPLES],
      restarts,
      unansweredSeconds: unansweredNs / NS_PER_SECOND,
      busySeconds: overload.busyNs(index) / NS_PER_SECOND,
      busyRatio: overload.looks[index].busyRatio,
      ringFillPeak: overload.looks[index].ringFillPeak,
      ringFill: ringFillHistogram(stats.ringFill),
    })),
    overload: {
      overloaded: overload.state.overloaded,
      reason: overload.state.reason,
      sinceSeconds: overload.lastedNs() / NS_PER_SECOND,
      episodes: overload.state.episodes,
      dispatchers: overload.state.dispatchers,
      kernelLost: overload.state.overloaded ? overload.state.kernelLost : 0,
    },
    cpus: { watched: parts.cpuWatch.watched, changes: parts.cpuWatch.changes, counts: { ...parts.cpuWatch.counts } },
    kernelSettings: parts.settingsWatch.settings,
    events,
    handlers,
    totals: {
      taskRecords: sum(host.threads, ({ stats }) => stats.words[DISPATCHER_STAT.TASK_RECORDS]),
      taskRecordsLost: parts.taskTracking.lost,
      auxBytes: sum(host.threads, ({ stats }) => stats.words[DISPATCHER_STAT.AUX_BYTES]),
      auxBytesDelivered: parts.auxBytes.delivered,
      auxBytesLost: parts.auxBytes.lost,
      auxCorruptBytes: sum(host.threads, ({ stats }) => stats.words[DISPATCHER_STAT.AUX_CORRUPT_BYTES]),
      auxUntoldBytes: sum(host.threads, ({ stats }) => stats.words[DISPATCHER_STAT.AUX_UNTOLD_BYTES]),
      auxTruncated: sum(host.threads, ({ stats }) => stats.words[DISPATCHER_STAT.AUX_TRUNCATED]),
      samples: tally.events.samples + sum(events, (event) => event.samples),
      unclaimed: tally.events.unclaimed + sum(events, (event) => event.unclaimed),
      kernelLost: tally.events.kernelLost + sum(events, (event) => event.kernelLost),
      throttled: tally.events.throttled + sum(events, (event) => event.throttled),
      produced: tally.counted.produced + sum(counted, (event) => event.produced),
      producedDrained: tally.counted.drained + sum(counted, (event) => event.samples),
      producedLost: tally.counted.lost + sum(counted, (event) => event.kernelLost),
      matched: tally.matched + sum(handlers, (handler) => handler.matched),
      delivered: tally.delivered + sum(handlers, (handler) => handler.delivered),
      lost: tally.lost + sum(handlers, (handler) => handler.lost),
      losses: BOOKED_REASONS.map((reason) => ({
        reason,
        count: (tally.losses.get(reason) ?? 0) + sum(handlers, ({ losses }) => countOf(losses, reason)),
      })),
      registrations: tally.registrations,
      removals: tally.removals,
      slowDispatches: parts.slowDispatches.total,
      unbalanced: { ...parts.audit.unbalanced },
    },
    ringToDispatch: snapshotHistograms(
      source.clockIsMonotonic ? host.threads.map(({ stats }) => stats.ringToDispatch) : [],
    ),
    dispatchToStream: snapshotHistograms([parts.dispatchToStream]),
    sampleToStream: snapshotHistograms(source.clockIsMonotonic ? [parts.sampleToStream] : []),
    memory: memorySnapshot(parts),
    removalOldestSeconds: removalOldestNs(parts) / NS_PER_SECOND,
    connections: parts.connections(),
    removalWait: snapshotHistograms([parts.removalWait]),
  };
}

function removalOldestNs({ broker, now }: CollectParts): number {
  const nowNs = now();
  return broker.handlers.reduce(
    (oldest, { removingSinceNs }) => (removingSinceNs === null ? oldest : Math.max(oldest, nowNs - removingSinceNs)),
    0,
  );
}

function countOf(losses: readonly LossSnapshot[], reason: string): number {
  return losses.find((loss) => loss.reason === reason)?.count ?? 0;
}

function memorySnapshot({ host, budgets }: CollectParts): MemorySnapshot {
  const arenas = host.threads.map(({ segments }) => segments.use());
  const total = (pick: (arena: ArenaUse) => number): number => arenas.reduce((sum, arena) => sum + pick(arena), 0);
  return {
    segments: {
      usedBytes: total((arena) => arena.usedBytes),
      peakBytes: total((arena) => arena.peakBytes),
      limitBytes: total((arena) => arena.capacityBytes),
    },
    outboxes: memoryPart(budgets.outboxes),
    streams: memoryPart(budgets.streams),
  };
}

function memoryPart({ usedBytes, peakBytes, limitBytes }: MemoryPart): MemoryPart {
  return { usedBytes, peakBytes, limitBytes };
}

/** One event's counters over all dispatchers. */
export function eventCounters(host: DispatcherHost, event: number): EventCounters {
  const counters = { SAMPLES: 0, UNCLAIMED: 0, THROTTLED: 0, UNTHROTTLED: 0 };
  for (const { stats } of host.threads) {
    for (const name of Object.keys(EVENT_STAT) as (keyof typeof EVENT_STAT)[]) {
      counters[name] += stats.words[stats.event(event, EVENT_STAT[name])];
    }
  }
  return counters;
}

function eventSnapshot(armed: ArmedEvent, { host, armedEvents, settingsWatch }: CollectParts): EventSnapshot {
  const counters = eventCounters(host, armed.index);
  const reading = armedEvents.read(armed);
  const asked = askedRate(armed);
  const { rate } = armed;
  const isLowered = isFaster(asked, rate);
  return {
    name: armed.event.name,
    frequencyHz: asked.kind === "frequency" ? asked.hz : 0,
    period: asked.kind === "period" ? asked.period : 0,
    loweredFrequencyHz: isLowered && rate.kind === "frequency" ? rate.hz : 0,
    loweredPeriod: isLowered && rate.kind === "period" ? rate.period : 0,
    loweredRatio: shareInForce(asked, rate),
    loweredByKernel: isLowered && sameRate(armedEvents.allowedRate(armed), rate),
    refused: settingsWatch.refused(armed),
    handlers: armed.users.size,
    samples: counters.SAMPLES,
    unclaimed: counters.UNCLAIMED,
    kernelLost: reading.lost ?? 0,
    produced: reading.produced,
    throttled: counters.THROTTLED,
    unthrottled: counters.UNTHROTTLED,
    timeEnabledSeconds: reading.timeEnabledNs / NS_PER_SECOND,
    timeRunningSeconds: reading.timeRunningNs / NS_PER_SECOND,
  };
}

/** From the handler's own slot, as an outside reader of the table would see it. */
export function handlerSnapshot(
  handler: Handler,
  { counters, table, now }: Pick<CollectParts, "counters" | "table" | "now">,
): HandlerSnapshot {
  const { slot } = handler.handle;
  const dispatched = counters.dispatched(slot);
  const losses = counters.losses(slot).flatMap((count, i) => (count > 0 ? [{ reason: LOSS_REASONS[i], count }] : []));
  return {
    handlerId: handler.id,
    name: handler.spec.name,
    state: STATE_NAMES[table.state(slot)] as HandlerSnapshot["state"],
    matched: dispatched.matched,
    delivered: counters.delivered(slot),
    lost: losses.reduce((n, { count }) => n + count, 0),
    losses,
    queueBytes: handler.delivery.queuedBytes,
    queueMaxBytes: handler.delivery.queueMaxBytes,
    subscribed: handler.delivery.subscribed,
    leaseRemainingMs: handler.lease === null ? 0 : Math.max(0, Math.round(handler.lease.endsAtMs - now() / NS_PER_MS)),
    dispatches: dispatched.dispatches,
    longestDispatchNs: dispatched.longestDispatchNs,
    dispatchTime: {
      bounds: DISPATCH_TIME_BOUNDS_SECONDS,
      counts: dispatched.dispatchTime,
      sum: dispatched.dispatchNsSum / NS_PER_SECOND,
    },
  };
}
