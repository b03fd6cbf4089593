import type { CpusStatus, KernelSettings } from "./machine-messages.js";
import type { AuxData, Tasks } from "./task-messages.js";

export type * from "./machine-messages.js";
export type * from "./task-messages.js";

/**
 * The messages of proto/nmi.proto as this library gives and takes them: names in camelCase, enums as their names.
 * 64-bit integers are numbers, exact up to 2^53, except where a field's type says bigint.
 */

export interface ListEventsResponse {
  readonly events: readonly EventInfo[];
  readonly pmus: readonly Pmu[];
  readonly defaultEvent: string;
}

export interface EventInfo {
  readonly name: string;
  readonly type: number;
  readonly config: bigint;
  readonly description: string;
  readonly canSample: boolean;
  /** Why it cannot be sampled here; empty when it can. */
  readonly reason: string;
  readonly aliases: readonly string[];
  readonly group: string;
}

export interface Pmu {
  readonly name: string;
  readonly type: number;
  readonly cpus: string;
}

export interface EventSpec {
  /** perf's syntax; left out or empty means the daemon's default event. */
  readonly event?: string;
  /** At most one of the two. */
  readonly frequencyHz?: number;
  readonly period?: number;
}

export interface Filter {
  readonly pids: readonly number[];
  readonly cpus: readonly number[];
  readonly uids: readonly number[];
  readonly cgroups: readonly string[];
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
}

export type Field =
  | "CALLCHAIN"
  | "BRANCH_STACK"
  | "ADDR"
  | "WEIGHT"
  | "DATA_SRC"
  | "CGROUP"
  | "RAW"
  | "REGS_USER"
  | "STACK_USER"
  | "AUX"
  | "TRANSACTION"
  | "PHYS_ADDR"
  | "DATA_PAGE_SIZE"
  | "CODE_PAGE_SIZE"
  | "REGS_INTR"
  | "READ"
  | "BRANCH_COUNTERS";

export type Overflow = "DROP_NEWEST" | "DROP_OLDEST" | "DISCONNECT";

export interface RegisterRequest {
  readonly name: string;
  readonly events: readonly EventSpec[];
  readonly filter?: Partial<Filter>;
  readonly fields?: readonly Field[];
  /** With BRANCH_STACK: which branches, PERF_SAMPLE_BRANCH_* bits; 0 or left out means any. */
  readonly branchSampleType?: number;
  readonly queue?: {
    readonly maxBytes?: number;
    readonly overflow?: Overflow;
    /** 0 sends each sample at once; left out means the daemon's default. */
    readonly flushIntervalMs?: number;
  };
  readonly leaseMs?: number;
  /** COMM, MMAP2, FORK, EXIT and their like, preceded by a snapshot of what was running already. */
  readonly tasks?: boolean;
  /** Needs `tasks`. */
  readonly contextSwitches?: boolean;
  /** Refuse where the events would be multiplexed with those of other handlers. */
  readonly exclusive?: boolean;
}

export interface ResolvedEvent {
  readonly name: string;
  readonly type: number;
  readonly config: bigint;
  /** One of the two; both 0 means every sample. */
  readonly frequencyHz: number;
  readonly period: number;
  readonly periodUnit: string;
  /** What follows is perf_event_attr's, needed to interpret columns; of an older daemon 0 and empty. */
  readonly sampleRegsUser: bigint;
  readonly sampleRegsIntr: bigint;
  readonly readFormat: bigint;
  readonly branchSampleType: bigint;
  /** Index among the request's events of the group's leader; its own where it leads or is in no group. */
  readonly leaderIndex: number;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
  readonly excludeHv: boolean;
  readonly preciseIp: number;
  readonly config1: bigint;
  readonly config2: bigint;
  readonly config3: bigint;
  /** Of breakpoints: HW_BREAKPOINT_*. */
  readonly bpType: number;
  /** PERF_SAMPLE_* that the samples have, as far as they were asked for; 0 from older daemons. */
  readonly sampleType: bigint;
  readonly sampleStackUser: number;
  /** Of tracepoints: the text of the tracefs `format` file, in UTF-8. */
  readonly format: Uint8Array;
}

export interface RegisterResponse {
  readonly handlerId: number;
  readonly events: readonly ResolvedEvent[];
  readonly leaseMs: number;
  readonly queueMaxBytes: number;
  readonly flushIntervalMs: number;
}

/** The columns of one event's samples: element i of every column belongs to sample i. */
export interface SampleBatch {
  readonly kind: "samples";
  /** Index into Started.events. */
  readonly eventIndex: number;
  /** Number, within the handler, of the first sample. */
  readonly sequence: number;
  /** Samples in the batch. A column that the daemon left out is empty, every other is this long. */
  readonly length: number;
  /** Nanoseconds of Started.clock. */
  readonly time: BigUint64Array;
  readonly ip: BigUint64Array;
  readonly pid: Uint32Array;
  readonly tid: Uint32Array;
  readonly cpu: Uint32Array;
  /** The weight, in ResolvedEvent.periodUnit. */
  readonly period: BigUint64Array;
  /** All callchains, end to end: callchainLength[i] addresses for sample i. */
  readonly callchain: BigUint64Array;
  readonly callchainLength: Uint32Array;
  readonly addr: BigUint64Array;
  /** PERF_SAMPLE_WEIGHT whole, or PERF_SAMPLE_WEIGHT_STRUCT: var1_dw (the low 32 bits), var2_w, var3_w. */
  readonly weight: BigUint64Array;
  readonly dataSrc: BigUint64Array;
  readonly cgroup: BigUint64Array;
  /** Words of 4 bytes, rawLength[i] of them for sample i. */
  readonly raw: Uint32Array;
  readonly rawLength: Uint32Array;
  /** Three words an entry: from, to, flags. branchStackLength counts entries. */
  readonly branchStack: BigUint64Array;
  readonly branchStackLength: Uint32Array;
  readonly branchHwIndex: BigUint64Array;
  /** One word for each entry of branchStack. */
  readonly branchCounters: BigUint64Array;
  /** As many for each sample as ResolvedEvent.sampleRegsUser has bits, none where regsUserAbi is 0. */
  readonly regsUser: BigUint64Array;
  readonly regsUserAbi: Uint32Array;
  /** stackUserLength[i] bytes for sample i, rounded up to words of 8 bytes. */
  readonly stackUser: BigUint64Array;
  readonly stackUserLength: Uint32Array;
  readonly transaction: BigUint64Array;
  readonly physAddr: BigUint64Array;
  readonly dataPageSize: BigUint64Array;
  readonly codePageSize: BigUint64Array;
  readonly regsIntr: BigUint64Array;
  readonly regsIntrAbi: Uint32Array;
  /** What read(2) gives, in words as ResolvedEvent.readFormat says; readLength counts them. */
  readonly read: BigUint64Array;
  readonly readLength: Uint32Array;
  /** auxLength[i] bytes for sample i, rounded up to words of 8 bytes. */
  readonly aux: BigUint64Array;
  readonly auxLength: Uint32Array;
  /** PERF_RECORD_MISC_CPUMODE_MASK and PERF_RECORD_MISC_EXACT_IP of the record's misc; with RegisterRequest.tasks. */
  readonly cpumode: Uint32Array;
}

export interface Started {
  readonly kind: "started";
  readonly handlerId: number;
  readonly events: readonly ResolvedEvent[];
  readonly nextSequence: number;
  readonly resumed: boolean;
  readonly clock: string;
  readonly source: string;
  readonly fallback: boolean;
  /** How long the handler outlives this stream; 0 from a daemon that does not say. */
  readonly leaseMs: number;
}

export type LossReason =
  | "QUEUE_FULL"
  | "QUEUE_DROPPED_OLDEST"
  | "STREAM_BROKEN"
  | "DISCARDED"
  | "LEASE_EXPIRED"
  | "DISCONNECTED"
  | "SHUTDOWN"
  | "KERNEL"
  | "DISPATCHER_DIED"
  | "MEMORY"
  | "RESTART";

export interface Loss {
  readonly kind: "loss";
  readonly count: number;
  readonly reason: LossReason;
  /** Not part of the handler's books, and not numbered: nobody knows whether its filter would have matched. */
  readonly eventWide: boolean;
  /** 0n when unknown. */
  readonly firstTime: bigint;
  readonly lastTime: bigint;
  readonly eventIndex: number;
  readonly period: number;
  /** Task records and bytes of AUX data that were lost; `count` is 0 where one of them is not. */
  readonly tasks: number;
  readonly auxBytes: number;
}

export interface EventBooks {
  readonly eventIndex: number;
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly periodDelivered: bigint;
  readonly periodLost: bigint;
  readonly periodCarried: bigint;
}

export interface End {
  readonly kind: "end";
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly reason: "DEREGISTERED" | "SOURCE_ENDED" | "OVERFLOWED" | "DAEMON_STOPPING" | "NOT_REARMED";
  readonly events: readonly EventBooks[];
  readonly message: string;
}

export type Delivery = Started | SampleBatch | Tasks | Loss | AuxData | End;

export interface LossCount {
  readonly reason: LossReason;
  readonly count: number;
}

export interface DeregisterResponse {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly waitedNs: number;
  readonly lastSequence: number;
  readonly events: readonly EventBooks[];
  readonly losses: readonly LossCount[];
}

export interface Handler {
  readonly handlerId: number;
  readonly name: string;
  readonly state: "CLAIMED" | "ACTIVE" | "DRAINING";
  readonly events: readonly ResolvedEvent[];
  readonly filter: Filter | null;
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly losses: readonly LossCount[];
  readonly queueBytes: number;
  readonly queueMaxBytes: number;
  readonly subscribed: boolean;
  /** 0 while subscribed. */
  readonly leaseRemainingMs: number;
  readonly dispatches: number;
  readonly longestDispatchNs: number;
  readonly dispatchNsSum: number;
  /** Dispatches by duration: element i took up to 2^i us and more than the one before; the last has no bound. */
  readonly dispatchTimeBuckets: readonly number[];
  readonly peer: string;
  /** Seconds since the epoch. */
  readonly registeredAt: number;
  /** How long its samples wait for company now. */
  readonly flushIntervalMs: number;
}

export interface ListHandlersResponse {
  readonly handlers: readonly Handler[];
}

export interface HandlerChange {
  readonly kind: "ADDED" | "CHANGED" | "REMOVED" | "SYNCHRONIZED";
  /** null for SYNCHRONIZED. */
  readonly handler: Handler | null;
}

export interface DispatcherStatus {
  readonly index: number;
  /** Whose rings it drains. */
  readonly cpus: readonly number[];
  readonly wakeups: number;
  readonly drains: number;
  readonly samples: number;
  readonly corruptBytes: number;
  /** Times it died and another took its place. */
  readonly restarts: number;
  /** Samples drained that belong to no armed event. */
  readonly straySamples: number;
  /** That its thread may run on; empty when it is not pinned. */
  readonly pinnedCpus: readonly number[];
  /** Share of the last second or so that it was not asleep. */
  readonly busyRatio: number;
  /** How full, 0 to 1, the fullest ring was that it came to in that time, rounded up to a tenth; half is as it should be. */
  readonly ringFillPeak: number;
}

/** The dispatchers do not keep up with the rings: the kernel drops samples, or is about to. */
export interface Overload {
  readonly overloaded: boolean;
  /** Empty, 0 and none when not overloaded. */
  readonly reason: string;
  readonly sinceSeconds: number;
  readonly dispatchers: readonly number[];
  /** Samples the kernel has dropped since it began. */
  readonly kernelLost: number;
  /** How often it has begun since the daemon's start. */
  readonly episodes: number;
}

export interface ArmedEvent {
  readonly name: string;
  readonly frequencyHz: number;
  readonly period: number;
  readonly handlers: number;
  readonly samples: number;
  readonly unclaimed: number;
  readonly kernelLost: number;
  readonly throttled: number;
  readonly unthrottled: number;
  readonly timeEnabledSeconds: number;
  readonly timeRunningSeconds: number;
  /** In force while the rate is lowered, because of an overload or by the kernel's maximum; 0 when it is not. */
  readonly loweredFrequencyHz: number;
  readonly loweredPeriod: number;
  /** Lowered because kernel.perf_event_max_sample_rate is below what was asked for. */
  readonly loweredByKernel: boolean;
  /** Why the kernel would refuse it if it were opened now; empty when it would not. It goes on all the same. */
  readonly refused: string;
  /** Samples made, as whoever makes them counts them; means nothing unless `producedKnown`. */
  readonly produced: number;
  readonly producedKnown: boolean;
}

export interface GetStatusResponse {
  readonly version: string;
  readonly source: string;
  readonly fallback: boolean;
  readonly sourceReason: string;
  readonly uptimeSeconds: number;
  readonly pid: number;
  readonly listenAddresses: readonly string[];
  readonly metricsAddress: string;
  readonly runtimeDir: string;
  readonly dispatchers: readonly DispatcherStatus[];
  readonly events: readonly ArmedEvent[];
  readonly totals: {
    readonly samples: number;
    readonly unclaimed: number;
    readonly kernelLost: number;
    readonly matched: number;
    readonly delivered: number;
    readonly lost: number;
    readonly registrations: number;
    readonly removals: number;
    /** Over the events whose producer counts: produced = producedDrained + producedLost, but for what the rings hold. */
    readonly produced: number;
    readonly producedDrained: number;
    readonly producedLost: number;
    /** Bytes of AUX data: drained, written to streams, and lost on the way to a handler. */
    readonly auxBytes: number;
    readonly auxBytesDelivered: number;
    readonly auxBytesLost: number;
  } | null;
  readonly handlers: number;
  readonly capacity: number;
  readonly defaultEvent: string;
  readonly clock: string;
  /** Books that did not balance when they were closed. Anything but 0 is a bug of the daemon. */
  readonly unbalanced: number;
  /** null from a daemon that is older than this. */
  readonly overload: Overload | null;
  /** null from a daemon that is older than this. */
  readonly cpus: CpusStatus | null;
  /** null where no kernel is asked. */
  readonly kernelSettings: KernelSettings | null;
  readonly memory: {
    readonly segments: MemoryPart;
    readonly outboxes: MemoryPart;
    readonly streams: MemoryPart;
  } | null;
}

/** One part of what consumers can make the daemon hold. */
export interface MemoryPart {
  readonly usedBytes: number;
  readonly peakBytes: number;
  readonly limitBytes: number;
}
