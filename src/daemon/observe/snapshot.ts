/**
 * What the daemon shows of itself, as one value: GetStatus, ListHandlers and the metrics are all derived from it.
 * Taken on the main thread from counters in shared memory; nothing here touches the path of a sample.
 */
import type { KernelSettings, SourceKind } from "../../pmu/source.js";
import type { CpuChange, CpuChangeKind } from "../broker/cpu-watch.js";

/** Cumulative counts per bucket (not cumulated over buckets) with inclusive upper bounds in seconds; the last is +Inf. */
export interface HistogramSnapshot {
  /** Upper bounds of all buckets but the last. */
  readonly bounds: readonly number[];
  /** bounds.length + 1 counts. */
  readonly counts: readonly number[];
  readonly sum: number;
}

export interface EventSnapshot {
  readonly name: string;
  /** Asked for. One of the two, both 0 where the source sends every sample. */
  readonly frequencyHz: number;
  readonly period: number;
  /** In force where that is less, since the daemon is or was overloaded, or since the kernel allows no more; else 0. */
  readonly loweredFrequencyHz: number;
  readonly loweredPeriod: number;
  /** Share of the rate asked for that is in force; 1 when it is not lowered. */
  readonly loweredRatio: number;
  /** It is less since the kernel allows no more (kernel.perf_event_max_sample_rate). */
  readonly loweredByKernel: boolean;
  /** Why the kernel would not open it now; empty when it would. */
  readonly refused: string;
  readonly handlers: number;
  /** Drained from the rings. */
  readonly samples: number;
  /** Drained, and matched by no handler. */
  readonly unclaimed: number;
  readonly kernelLost: number;
  /** As the producer counts, null where it does not: samples + kernelLost once the rings are drained. */
  readonly produced: number | null;
  readonly throttled: number;
  readonly unthrottled: number;
  readonly timeEnabledSeconds: number;
  readonly timeRunningSeconds: number;
}

export interface DispatcherSnapshot {
  readonly index: number;
  /** Whose rings it drains. */
  readonly cpus: readonly number[];
  /** That its thread may run on; empty when it is not pinned. */
  readonly pinnedCpus: readonly number[];
  readonly wakeups: number;
  readonly drains: number;
  readonly samples: number;
  readonly corruptBytes: number;
  /** Drained samples of events that are closed by now: nobody's. */
  readonly straySamples: number;
  /** Times it died and was replaced. */
  readonly restarts: number;
  /** How long the oldest of what it was told has waited for its answer; 0 when nothing waits. */
  readonly unansweredSeconds: number;
  /** Not asleep, since the start. */
  readonly busySeconds: number;
  /** Share of the last second or so that it was not asleep, and the fullest ring that it then came to; 0 while nothing is armed. */
  readonly busyRatio: number;
  readonly ringFillPeak: number;
  /** Rings by how full they were when it came to drain them. */
  readonly ringFill: HistogramSnapshot;
}

export interface OverloadSnapshot {
  readonly overloaded: boolean;
  /** Empty, 0 and none when there is no overload. */
  readonly reason: string;
  readonly sinceSeconds: number;
  readonly dispatchers: readonly number[];
  /** Dropped by the kernel since it began. */
  readonly kernelLost: number;
  /** Since the daemon's start. */
  readonly episodes: number;
}

export interface CpusSnapshot {
  /** As of the last look: once a second while something is armed. */
  readonly watched: readonly number[];
  /** The latest, oldest first, and how many there have been of each kind. */
  readonly changes: readonly CpuChange[];
  readonly counts: Readonly<Record<CpuChangeKind, number>>;
}

export interface LossSnapshot {
  /** LossReason's name in proto/nmi.proto. */
  readonly reason: string;
  readonly count: number;
}

export interface HandlerSnapshot {
  readonly handlerId: number;
  readonly name: string;
  readonly state: "CLAIMED" | "ACTIVE" | "DRAINING";
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly losses: readonly LossSnapshot[];
  readonly queueBytes: number;
  readonly queueMaxBytes: number;
  readonly subscribed: boolean;
  readonly leaseRemainingMs: number;
  readonly dispatches: number;
  readonly longestDispatchNs: number;
  /** Durations of dispatches. */
  readonly dispatchTime: HistogramSnapshot;
}

/** One part of what consumers can make the daemon hold. */
export interface MemoryPart {
  readonly usedBytes: number;
  readonly peakBytes: number;
  readonly limitBytes: number;
}

export interface MemorySnapshot {
  /** Encoded samples that wait for their streams. */
  readonly segments: MemoryPart;
  readonly outboxes: MemoryPart;
  /** Frames of messages that the transport has not taken yet, and frames that are kept for the next ones. */
  readonly streams: MemoryPart;
}

export interface ConnectionsSnapshot {
  readonly open: Readonly<Record<"unix" | "tls" | "tcp", number>>;
  /** Since the daemon's start. */
  readonly accepted: number;
  /** By reason, all reasons of the closed list, zeroes included. */
  readonly refused: readonly { readonly reason: string; readonly count: number }[];
  /** Seconds since the epoch; null without TLS. */
  readonly certificateExpiresAt: number | null;
}

export interface Snapshot {
  readonly version: string;
  readonly source: {
    readonly kind: SourceKind;
    readonly description: string;
    readonly clock: string;
    readonly defaultEvent: string;
    /** The source stands in for a kernel that refused; `reason` says what is missing. */
    readonly fallback: boolean;
    readonly reason: string;
  };
  readonly uptimeSeconds: number;
  readonly capacity: number;
  readonly dispatchers: readonly DispatcherSnapshot[];
  readonly overload: OverloadSnapshot;
  readonly cpus: CpusSnapshot;
  /** As of the last look; null where no kernel is asked. */
  readonly kernelSettings: KernelSettings | null;
  /** Events armed now. */
  readonly events: readonly EventSnapshot[];
  readonly handlers: readonly HandlerSnapshot[];
  /** Since the daemon's start, handlers and events that are gone included. */
  readonly totals: {
    /** Drained, and lost in the kernel or for a handler. */
    readonly taskRecords: number;
    readonly taskRecordsLost: number;
    /** Drained of AUX areas; then of each handler: what its stream took, and what it lost. */
    readonly auxBytes: number;
    readonly auxBytesDelivered: number;
    readonly auxBytesLost: number;
    /** Named by records that no area held. */
    readonly auxCorruptBytes: number;
    /** In an area, and told of by no record. */
    readonly auxUntoldBytes: number;
    readonly auxTruncated: number;
    readonly samples: number;
    readonly unclaimed: number;
    readonly kernelLost: number;
    readonly throttled: number;
    /** Over the events whose producer counts: produced = producedDrained + producedLost when all is quiet. */
    readonly produced: number;
    readonly producedDrained: number;
    readonly producedLost: number;
    readonly matched: number;
    readonly delivered: number;
    readonly lost: number;
    /** By reason, all reasons of the closed list, zeroes included. */
    readonly losses: readonly LossSnapshot[];
    readonly registrations: number;
    readonly removals: number;
    /** Dispatches that took longer than the configured threshold. */
    readonly slowDispatches: number;
    /** Books that did not balance when they were closed, by kind. */
    readonly unbalanced: Readonly<Record<"event" | "handler", number>>;
  };
  /** From a sample's own time to its dispatch. Empty where the source's clock is not this machine's. */
  readonly ringToDispatch: HistogramSnapshot;
  /** From dispatch to the write on the gRPC stream, per sample. */
  readonly dispatchToStream: HistogramSnapshot;
  /** From a sample's own time to the write on the gRPC stream. Empty where the source's clock is not this machine's. */
  readonly sampleToStream: HistogramSnapshot;
  readonly memory: MemorySnapshot;
  /** How long the oldest removal under way has lasted; 0 when there is none. */
  readonly removalOldestSeconds: number;
  readonly connections: ConnectionsSnapshot;
  /** How long removals waited for dispatchers to leave the handler. */
  readonly removalWait: HistogramSnapshot;
}
