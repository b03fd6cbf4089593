/** Records of the kernel that are no samples: who runs what, where files are mapped, what was switched to. */

export interface Tasks {
  readonly kind: "tasks";
  /** What was there already; precedes the first sample, and is told again after task records were lost. */
  readonly snapshot: boolean;
  /** The last message of a snapshot. */
  readonly snapshotComplete: boolean;
  readonly records: readonly TaskRecord[];
}

/** Of each record's sample_id; `misc` is perf_event_header's. */
interface TaskRecordHead {
  /** Nanoseconds of Started.clock; 0n in the snapshot of a running system. */
  readonly time: bigint;
  readonly pid: number;
  readonly tid: number;
  readonly cpu: number;
  readonly misc: number;
}

/** `record` names the member that is there; fields are those of linux/perf_event.h. */
export type TaskRecord = TaskRecordHead &
  (
    | { readonly record: "comm"; readonly comm: Comm }
    | { readonly record: "mmap"; readonly mmap: Mmap }
    | { readonly record: "fork"; readonly fork: Fork }
    | { readonly record: "exit"; readonly exit: Fork }
    | { readonly record: "ksymbol"; readonly ksymbol: Ksymbol }
    | { readonly record: "bpfEvent"; readonly bpfEvent: BpfEvent }
    | { readonly record: "cgroup"; readonly cgroup: CgroupRecord }
    | { readonly record: "namespaces"; readonly namespaces: Namespaces }
    | { readonly record: "switch"; readonly switch: Switch }
    | { readonly record: "textPoke"; readonly textPoke: TextPoke }
    | { readonly record: "itraceStart"; readonly itraceStart: ItraceStart }
    | { readonly record: "auxOutputHwId"; readonly auxOutputHwId: AuxOutputHwId }
  );

export interface Comm {
  readonly comm: string;
  readonly exec: boolean;
  readonly pid: number;
  readonly tid: number;
}

/** PERF_RECORD_MMAP and MMAP2. */
export interface Mmap {
  /** 4294967295 for the kernel and its modules. */
  readonly pid: number;
  readonly tid: number;
  readonly addr: bigint;
  readonly len: bigint;
  readonly pgoff: bigint;
  readonly maj: number;
  readonly min: number;
  readonly ino: bigint;
  readonly inoGeneration: bigint;
  readonly prot: number;
  readonly flags: number;
  readonly filename: string;
  /** Empty where the record has device and inode instead. */
  readonly buildId: Uint8Array;
}

/** FORK and EXIT. */
export interface Fork {
  readonly pid: number;
  readonly ppid: number;
  readonly tid: number;
  readonly ptid: number;
  readonly time: bigint;
}

export interface Ksymbol {
  readonly addr: bigint;
  readonly len: number;
  readonly ksymType: number;
  readonly flags: number;
  readonly name: string;
}

export interface BpfEvent {
  readonly type: number;
  readonly flags: number;
  readonly id: number;
  readonly tag: Uint8Array;
}

export interface CgroupRecord {
  readonly id: bigint;
  readonly path: string;
}

export interface Namespaces {
  readonly pid: number;
  readonly tid: number;
  /** In the kernel's order: net, uts, ipc, pid, user, mnt, cgroup. */
  readonly links: readonly { readonly dev: bigint; readonly inode: bigint }[];
}

export interface Switch {
  readonly out: boolean;
  readonly preempt: boolean;
  /** Of SWITCH_CPU_WIDE. */
  readonly nextPrevPid: number;
  readonly nextPrevTid: number;
  readonly cpuWide: boolean;
}

export interface TextPoke {
  readonly addr: bigint;
  readonly old: Uint8Array;
  readonly new: Uint8Array;
}

export interface ItraceStart {
  readonly pid: number;
  readonly tid: number;
}

export interface AuxOutputHwId {
  readonly hwId: bigint;
}

/** A piece of what one event wrote into an AUX area: nmi.v1.AuxData says what it is part of. */
export interface AuxData {
  readonly kind: "aux";
  readonly eventIndex: number;
  readonly cpu: number;
  readonly tid: number;
  readonly offset: bigint;
  readonly flags: bigint;
  readonly time: bigint;
  readonly data: Uint8Array;
  readonly truncated: boolean;
}
