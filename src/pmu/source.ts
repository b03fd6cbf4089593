/**
 * What every source of records offers: rings in the kernel's format, and events that write into them.
 *
 * `perf` hands out the kernel's own rings; `synthetic` and `replay` write genuine perf records into rings of the same
 * format, so that everything behind the ring is the same code.
 */

export type SourceKind = "perf" | "replay" | "synthetic";

/** One CPU's ring: a control page (struct perf_event_mmap_page), then `dataBytes` of records. */
export interface RingDescriptor {
  readonly cpu: number;
  /** Address of the control page in this process; every thread makes its own view of it. */
  readonly address: bigint;
  /** Size of the data area, a power of two. It starts one page (4,096 bytes) behind `address`. */
  readonly dataBytes: number;
  /** Readable when there is something to drain. */
  readonly pollFd: number;
  /** An eventfd stays readable until it is read; a perf fd is reset by poll itself. */
  readonly pollKind: "perf" | "eventfd";
}

/**
 * The ring of one event that writes into an AUX area, on one CPU (or of one thread of a recording): as a CPU's ring, but
 * its records tell of the area. Nobody but that event writes here.
 */
export interface AuxRingDescriptor extends RingDescriptor {
  readonly auxAddress: bigint;
  /** Size of the AUX area, a power of two. */
  readonly auxBytes: number;
  /** Enabled again whenever room was made in the area, for the kernel disables what finds none; null: nothing is to do. */
  readonly eventFd: number | null;
  /** One word: not 0 while the event is meant to be enabled. Written by whoever opened it. */
  readonly wanted: Int32Array<SharedArrayBuffer>;
}

/** How often an event samples. `all` is every record the source has (replay and synthetic). */
export type Rate =
  | { readonly kind: "frequency"; readonly hz: number }
  | { readonly kind: "period"; readonly period: number }
  | { readonly kind: "all" };

export interface EventRequest {
  /** perf's syntax; empty means the source's default event. */
  readonly event: string;
  /** 0 or absent: not given. */
  readonly frequencyHz?: number;
  readonly period?: number;
  /** Which branches BRANCH_STACK holds: BRANCH_SAMPLE bits without HW_INDEX and COUNTERS; 0 or absent: any. */
  readonly branchSampleType?: number;
}

/** What struct perf_event_attr says of which event is meant, under its names. */
export interface EventAttr {
  readonly type: number;
  readonly config: bigint;
  /** Of a breakpoint: bp_addr, which is the same word. */
  readonly config1: bigint;
  /** Of a breakpoint: bp_len. */
  readonly config2: bigint;
  readonly config3: bigint;
  readonly bpType: number;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
  readonly excludeHv: boolean;
  readonly excludeHost: boolean;
  readonly excludeGuest: boolean;
  readonly excludeIdle: boolean;
  readonly pinned: boolean;
  /** 0 to 3: how many p. */
  readonly preciseIp: number;
}

/** For events of which only type and config are known. */
export const PLAIN_ATTR: EventAttr = {
  type: 0,
  config: 0n,
  config1: 0n,
  config2: 0n,
  config3: 0n,
  bpType: 0,
  excludeUser: false,
  excludeKernel: false,
  excludeHv: false,
  excludeHost: false,
  excludeGuest: false,
  excludeIdle: false,
  pinned: false,
  preciseIp: 0,
};

/** An event as it can be opened, once for all handlers whose `key` is the same. */
export interface ResolvedEvent extends EventAttr {
  /** Canonical name with modifiers, `cpu-clock:u`; what a `name=` term says. */
  readonly name: string;
  /** Handlers with the same key share one kernel event; frequency and period sampling are different events. */
  readonly key: string;
  /** What this request asked for, defaults filled in. */
  readonly rate: Rate;
  /** What a period counts: "ns" for clocks, "events" otherwise. */
  readonly periodUnit: "ns" | "events";
  /** Where it can be opened, in the kernel's list format; empty means on every CPU. */
  readonly cpus: string;
  /** What a tracepoint's raw data hold: the text of its tracefs `format` file. Empty for other events. */
  readonly format: string;
  /** Those that are opened in a group with this one, its leader. */
  readonly members: readonly ResolvedEvent[];
  /** Its samples carry READ, with the members' counts beside its own (`{a,b}:S`); then members do not sample. */
  readonly sampleRead: boolean;
  /** Whether the event writes into an AUX area. It has no rate then, and is opened in one shape. */
  readonly hasAux?: boolean;
  /** As EventRequest's: users who want other branches have another event. */
  readonly branchSampleType?: number;
}

/** Of events that stand for themselves. */
export const UNGROUPED = { cpus: "", format: "", members: [], sampleRead: false } as const;

/** What a sample of the event must carry beyond the fixed columns. */
export interface EventShape {
  /** SAMPLE bits; WEIGHT stands for WEIGHT_STRUCT too. */
  readonly sampleType: number;
  /** PERF_SAMPLE_BRANCH_COUNTERS, beside BRANCH_STACK. */
  readonly branchCounters: boolean;
  /** Wake the dispatcher for every sample instead of by the ring's watermark. */
  readonly wakeEach: boolean;
}

/** How records with these ids are to be read. */
export interface RecordFormat {
  /** PERF_SAMPLE_IDENTIFIER ids that carry this format; empty where the recording has no ids (then it is the only format). */
  readonly ids: readonly bigint[];
  /** perf_event_attr.sample_type. */
  readonly sampleType: number;
  readonly sampleIdAll: boolean;
  /** Used where the records carry no period of their own. */
  readonly fixedPeriod: number;
  /** perf_event_attr's of the same names: how long READ, BRANCH_STACK and registers are. Absent: 0. */
  readonly readFormat?: number;
  readonly branchSampleType?: number;
  readonly sampleRegsUser?: bigint;
  readonly sampleRegsIntr?: bigint;
  readonly sampleStackUser?: number;
  /** Whose samples these are in a group: 0 or absent is the leader, then its members in their order. */
  readonly member?: number;
}

/** What the kernel says of one open event, summed over CPUs. */
export interface EventReading {
  /** Samples that did not fit into the ring, or null where the kernel cannot say (before 6.0). */
  readonly lost: number | null;
  /**
   * Samples that the producer has made for the event: each was written to a ring or is in `lost`. Counted where they are
   * made, not derived from what was drained; exact while the event is disabled. Null where nobody counts them: the
   * kernel does not (docs/books.md).
   */
  readonly produced: number | null;
  readonly timeEnabledNs: number;
  readonly timeRunningNs: number;
}

/** One event, or the task records, where CPUs come and go. CPUs that it is not for, or is not open on, are passed over. */
export interface OpenOnCpus {
  /**
   * Opens it on a CPU whose ring has come, disabled, and says how the new records are to be read. Throws PmuError; then
   * it is open on the others as before.
   */
  open(cpu: number): readonly RecordFormat[];
  /** Of an event that writes into AUX areas: those of the CPU, where it is open there. */
  auxRings?(cpu: number): readonly AuxRingDescriptor[];
  enable(cpu: number): void;
  /** Disables it on one CPU; the formats are of the records that its ring may still hold. */
  disable(cpu: number): readonly RecordFormat[];
  /** Closes it on one CPU. Its readings stay in the sums. */
  close(cpu: number): void;
}

/** An event that is open on every CPU of the source. It starts disabled. */
export interface OpenEvent {
  /** As of now, where CPUs come and go. */
  readonly formats: readonly RecordFormat[];
  /** Of an event that writes into AUX areas; as of now, where CPUs come and go. */
  readonly auxRings?: readonly AuxRingDescriptor[];
  /** Absent where the source's CPUs do not change. */
  readonly onCpus?: OpenOnCpus;
  /**
   * Takes effect without a gap for those who already receive the event. False, with nothing done, where the rate of an
   * open event cannot be changed: open another in its place.
   */
  setRate(rate: Rate): boolean;
  enable(): void;
  disable(): void;
  read(): EventReading;
  /** Idempotent. Records already in the ring stay there. */
  close(): void;
}

export interface TaskShape {
  /** SWITCH records too. */
  readonly contextSwitches: boolean;
}

/** Task records (task-record.ts) of every CPU, written into the rings. Starts disabled. */
export interface OpenTasks {
  /** How the sample_id at the end of the records is to be read. */
  readonly formats: readonly RecordFormat[];
  /** Absent where the source's CPUs do not change. */
  readonly onCpus?: OpenOnCpus;
  enable(): void;
  disable(): void;
  /** Records that did not fit into the rings, ever; null where nobody can say. */
  readLost(): number | null;
  /** Idempotent. Records already in the ring stay there. */
  close(): void;
}

/** What a client would know by now, had it had all task records from the start: records in the kernel's format. */
export interface TaskSnapshot {
  readonly formats: readonly RecordFormat[];
  /** Whole records, end to end, at most TASK_RUN_BYTES_MAX bytes a run; made when the next run is asked for. */
  readonly runs: AsyncIterable<Uint32Array>;
}

/** Of a snapshot's run: a record takes up to 64 KiB itself. */
export const TASK_RUN_BYTES_MAX = 64 * 1024;

export interface EventInfo {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly type: number;
  readonly config: bigint;
  readonly description: string;
  readonly group: string;
  readonly canSample: boolean;
  /** Why not; empty when it can. */
  readonly reason: string;
}

export interface PmuInfo {
  readonly name: string;
  readonly type: number;
  readonly cpus: string;
}

export interface EventCatalog {
  readonly events: readonly EventInfo[];
  readonly pmus: readonly PmuInfo[];
}

/** CPUs, by what is to be done. */
export interface CpuLook {
  /** Watched, and offline now. */
  readonly gone: readonly number[];
  /** Watched and online, but gone in between: nothing that is open there will ever sample again. */
  readonly back: readonly number[];
  /** Online, and not watched. */
  readonly come: readonly number[];
}

/** The rings of a source whose CPUs come and go. It changes nothing by itself. */
export interface SourceCpus {
  look(): CpuLook;
  /** Opens the CPU's ring; null where the CPU has gone again. Throws PmuError; then nothing of it stays open. */
  open(cpu: number): RingDescriptor | null;
  /** Only when no dispatcher looks at the ring and nothing writes into it any more. Idempotent. */
  close(cpu: number): void;
}

/** What an administrator, or the kernel by itself, may change while events are open. */
export interface KernelSettings {
  /** kernel.perf_event_paranoid; null where it is hidden. */
  readonly paranoid: number | null;
  /** kernel.perf_event_max_sample_rate. */
  readonly maxSampleRateHz: number;
}

export interface Source {
  readonly kind: SourceKind;
  /** For logs and status: "perf: 2 CPUs, 512 KiB rings". */
  readonly description: string;
  /** The clock of PERF_SAMPLE_TIME: "CLOCK_MONOTONIC", or what a recording says of its own. */
  readonly clock: string;
  /** Whether `time` can be compared with CLOCK_MONOTONIC of now. */
  readonly clockIsMonotonic: boolean;
  readonly defaultEvent: string;
  /** What is wrong with what it serves, for the log: a recording that is damaged. */
  readonly warnings?: readonly string[];
  /** As of now. */
  readonly rings: readonly RingDescriptor[];
  /** Absent where the rings are fixed for the source's life. */
  readonly cpus?: SourceCpus;
  /** Read anew each time. Absent where no kernel is asked. */
  readonly settings?: KernelSettings;
  /** Why the event could not be opened now, or null when it could; leaves nothing open. For sources with `settings`. */
  whyNotOpened?(event: ResolvedEvent): string | null;
  listEvents(): EventCatalog;
  /**
   * Most requests mean one event; `cycles` on a CPU of several core types, a PMU of several instances and `sched:*` mean
   * more. Throws PmuError with a message that names the remedy. Leaves nothing open.
   */
  resolve(request: EventRequest): readonly ResolvedEvent[];
  /**
   * Why the counters of the machine's PMUs cannot count all of these at once, or null when they can. Events that need no
   * counter always fit.
   */
  whyNotTogether(events: readonly ResolvedEvent[]): string | null;
  /** Opens the event, disabled, on every CPU. Throws PmuError; then nothing stays open. */
  open(event: ResolvedEvent, shape: EventShape): OpenEvent;
  /** Task records from now on. Throws PmuError; then nothing stays open. */
  openTasks(shape: TaskShape): OpenTasks;
  /** Where the processes are this machine's, those that are not `wanted` are left out unread. */
  taskSnapshot(wanted?: (pid: number) => boolean): TaskSnapshot;
  /** Why the default event cannot be opened now, or null when it can: tried, not looked up. Absent: it always can. */
  whyNotAble?(): string | null;
  /** A handler has subscribed and there was none before: a replay begins. No effect on other sources. */
  begin(): void;
  /** Called when a replay has written its last record and the rings have been drained. Never for other sources. */
  onEnd(listener: () => void): void;
  /** Unmaps and closes everything. Only after the dispatchers have stopped. Idempotent. */
  close(): Promise<void>;
}
