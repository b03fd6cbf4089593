/** Constants and offsets of linux/perf_event.h. Names are the kernel's without their PERF_ prefix where a group says it. */

export const PAGE_BYTES = 4096;

/** enum perf_type_id */
export const TYPE = { HARDWARE: 0, SOFTWARE: 1, TRACEPOINT: 2, HW_CACHE: 3, RAW: 4, BREAKPOINT: 5 } as const;

/** enum perf_sw_ids, those the daemon itself needs. */
export const COUNT_SW = { CPU_CLOCK: 0, TASK_CLOCK: 1, DUMMY: 9 } as const;

/** enum perf_event_sample_format */
export const SAMPLE = {
  IP: 1 << 0,
  TID: 1 << 1,
  TIME: 1 << 2,
  ADDR: 1 << 3,
  READ: 1 << 4,
  CALLCHAIN: 1 << 5,
  ID: 1 << 6,
  CPU: 1 << 7,
  PERIOD: 1 << 8,
  STREAM_ID: 1 << 9,
  RAW: 1 << 10,
  BRANCH_STACK: 1 << 11,
  REGS_USER: 1 << 12,
  STACK_USER: 1 << 13,
  WEIGHT: 1 << 14,
  DATA_SRC: 1 << 15,
  IDENTIFIER: 1 << 16,
  TRANSACTION: 1 << 17,
  REGS_INTR: 1 << 18,
  PHYS_ADDR: 1 << 19,
  AUX: 1 << 20,
  CGROUP: 1 << 21,
  DATA_PAGE_SIZE: 1 << 22,
  CODE_PAGE_SIZE: 1 << 23,
  WEIGHT_STRUCT: 1 << 24,
} as const;

/** For messages: the names of the bits. */
export function sampleTypeNames(sampleType: number): string[] {
  return Object.entries(SAMPLE).flatMap(([name, bit]) => ((sampleType & bit) !== 0 ? [name] : []));
}

/** enum perf_branch_sample_type */
export const BRANCH_SAMPLE = {
  USER: 1 << 0,
  KERNEL: 1 << 1,
  HV: 1 << 2,
  ANY: 1 << 3,
  ANY_CALL: 1 << 4,
  ANY_RETURN: 1 << 5,
  IND_CALL: 1 << 6,
  ABORT_TX: 1 << 7,
  IN_TX: 1 << 8,
  NO_TX: 1 << 9,
  COND: 1 << 10,
  CALL_STACK: 1 << 11,
  IND_JUMP: 1 << 12,
  CALL: 1 << 13,
  NO_FLAGS: 1 << 14,
  NO_CYCLES: 1 << 15,
  TYPE_SAVE: 1 << 16,
  HW_INDEX: 1 << 17,
  PRIV_SAVE: 1 << 18,
  COUNTERS: 1 << 19,
} as const;

/** enum perf_event_type, all of it. CALLCHAIN_DEFERRED is younger than 6.18. */
export const RECORD = {
  MMAP: 1,
  LOST: 2,
  COMM: 3,
  EXIT: 4,
  THROTTLE: 5,
  UNTHROTTLE: 6,
  FORK: 7,
  READ: 8,
  SAMPLE: 9,
  MMAP2: 10,
  AUX: 11,
  ITRACE_START: 12,
  LOST_SAMPLES: 13,
  SWITCH: 14,
  SWITCH_CPU_WIDE: 15,
  NAMESPACES: 16,
  KSYMBOL: 17,
  BPF_EVENT: 18,
  CGROUP: 19,
  TEXT_POKE: 20,
  AUX_OUTPUT_HW_ID: 21,
  CALLCHAIN_DEFERRED: 22,
} as const;

/** perf_event_header.misc; a bit means another thing in each type of record. */
export const MISC_CPUMODE_MASK = 7;
export const MISC = {
  /** MMAP: of data, not of code. */
  MMAP_DATA: 1 << 13,
  /** COMM: by exec. */
  COMM_EXEC: 1 << 13,
  /** SWITCH: the task goes, and does not come. */
  SWITCH_OUT: 1 << 13,
  /** SAMPLE: IP is the very instruction. */
  EXACT_IP: 1 << 14,
  SWITCH_OUT_PREEMPT: 1 << 14,
  MMAP_BUILD_ID: 1 << 14,
} as const;
export const CPUMODE = { UNKNOWN: 0, KERNEL: 1, USER: 2, HYPERVISOR: 3, GUEST_KERNEL: 4, GUEST_USER: 5 } as const;

/** enum perf_event_read_format */
export const FORMAT = { TOTAL_TIME_ENABLED: 1, TOTAL_TIME_RUNNING: 2, ID: 4, GROUP: 8, LOST: 16 } as const;

/** struct perf_event_mmap_page, byte offsets of the ring's words. */
export const MMAP_PAGE = {
  DATA_HEAD: 1024,
  DATA_TAIL: 1032,
  DATA_OFFSET: 1040,
  DATA_SIZE: 1048,
  AUX_HEAD: 1056,
  AUX_TAIL: 1064,
  AUX_OFFSET: 1072,
  AUX_SIZE: 1080,
} as const;

/** PERF_RECORD_AUX.flags */
export const AUX_FLAG = {
  /** Data was lost for want of room behind this run. */
  TRUNCATED: 1,
  /** The area is written over and over: what is there is all there is. */
  OVERWRITE: 2,
  /** There are gaps in the run. */
  PARTIAL: 4,
  /** A sample collided with another. */
  COLLISION: 8,
} as const;
/** The PMU's own format of the data, in bits 8 to 15 of the flags. */
export const AUX_FLAG_PMU_FORMAT_MASK = 0xff00;

/** ioctl requests */
export const IOC = {
  ENABLE: 0x2400,
  DISABLE: 0x2401,
  /** Hz when attr.freq is set, else events; an _IOW of a u64 pointer. */
  PERIOD: 0x40082404,
  SET_OUTPUT: 0x2405,
  ID: 0x80082407,
} as const;

export const FLAG_FD_CLOEXEC = 8;

export const CLOCK_MONOTONIC = 1;

/** struct perf_event_attr: byte offsets, and the bits of its flag word. */
export const ATTR = {
  TYPE: 0,
  SIZE: 4,
  CONFIG: 8,
  SAMPLE_PERIOD: 16,
  SAMPLE_TYPE: 24,
  READ_FORMAT: 32,
  FLAGS: 40,
  WAKEUP: 48,
  BP_TYPE: 52,
  /** A union with bp_addr. */
  CONFIG1: 56,
  /** A union with bp_len. */
  CONFIG2: 64,
  BRANCH_SAMPLE_TYPE: 72,
  SAMPLE_REGS_USER: 80,
  SAMPLE_STACK_USER: 88,
  CLOCKID: 92,
  SAMPLE_REGS_INTR: 96,
  CONFIG3: 128,
} as const;

export const ATTR_FLAG = {
  DISABLED: 1n << 0n,
  PINNED: 1n << 2n,
  EXCLUDE_USER: 1n << 4n,
  EXCLUDE_KERNEL: 1n << 5n,
  EXCLUDE_HV: 1n << 6n,
  EXCLUDE_IDLE: 1n << 7n,
  FREQ: 1n << 10n,
  WATERMARK: 1n << 14n,
  PRECISE_IP_SHIFT: 15n,
  SAMPLE_ID_ALL: 1n << 18n,
  EXCLUDE_HOST: 1n << 19n,
  EXCLUDE_GUEST: 1n << 20n,
  USE_CLOCKID: 1n << 25n,
} as const;

/** Flags of perf_event_attr that ask for records other than samples. */
export const TRACK = {
  MMAP: 1n << 8n,
  COMM: 1n << 9n,
  TASK: 1n << 13n,
  MMAP2: 1n << 23n,
  COMM_EXEC: 1n << 24n,
  CONTEXT_SWITCH: 1n << 26n,
  NAMESPACES: 1n << 28n,
  KSYMBOL: 1n << 29n,
  BPF_EVENT: 1n << 30n,
  CGROUP: 1n << 32n,
  TEXT_POKE: 1n << 33n,
} as const;

/** PERF_ATTR_SIZE_VER7 (with sig_data): accepted by every kernel since 5.13, and by older ones as long as the tail is 0. */
const ATTR_BYTES = 128;
/** PERF_ATTR_SIZE_VER8, with config3: kernels before 6.3 refuse it with E2BIG where config3 is not 0. */
const ATTR_BYTES_CONFIG3 = 136;

export interface AttrFields {
  readonly type: number;
  readonly config: bigint;
  readonly sampleType: number;
  readonly readFormat: number;
  /** Hz with `freq`, else events. */
  readonly samplePeriod: bigint;
  readonly freq: boolean;
  readonly excludeUser?: boolean;
  readonly excludeKernel?: boolean;
  readonly excludeHv?: boolean;
  readonly preciseIp?: number;
  readonly config1?: bigint;
  readonly config2?: bigint;
  readonly config3?: bigint;
  readonly bpType?: number;
  readonly excludeHost?: boolean;
  readonly excludeGuest?: boolean;
  readonly excludeIdle?: boolean;
  /** Its counter is its own while it is enabled; where there is none left the event ends in error. */
  readonly pinned?: boolean;
  /** Enabled from the start: a group's members, which count when their leader does. */
  readonly enabled?: boolean;
  /** Bytes with `watermark`, else samples. */
  readonly wakeup: number;
  readonly watermark: boolean;
  readonly branchSampleType?: number;
  readonly sampleRegsUser?: bigint;
  readonly sampleRegsIntr?: bigint;
  /** Bytes. */
  readonly sampleStackUser?: number;
  /** TRACK bits. */
  readonly track?: bigint;
}

/** struct perf_event_attr for a per-CPU event: on CLOCK_MONOTONIC, with the sample id in every record. */
export function encodeAttr(fields: AttrFields): Uint8Array {
  const { config1 = 0n, config2 = 0n, config3 = 0n, bpType = 0 } = fields;
  const bytes = new Uint8Array(config3 === 0n ? ATTR_BYTES : ATTR_BYTES_CONFIG3);
  const view = new DataView(bytes.buffer);
  let flags = ATTR_FLAG.SAMPLE_ID_ALL | ATTR_FLAG.USE_CLOCKID;
  if (!fields.enabled) flags |= ATTR_FLAG.DISABLED;
  if (fields.pinned) flags |= ATTR_FLAG.PINNED;
  if (fields.excludeIdle) flags |= ATTR_FLAG.EXCLUDE_IDLE;
  if (fields.excludeHost) flags |= ATTR_FLAG.EXCLUDE_HOST;
  if (fields.excludeGuest) flags |= ATTR_FLAG.EXCLUDE_GUEST;
  if (fields.excludeUser) flags |= ATTR_FLAG.EXCLUDE_USER;
  if (fields.excludeKernel) flags |= ATTR_FLAG.EXCLUDE_KERNEL;
  if (fields.excludeHv) flags |= ATTR_FLAG.EXCLUDE_HV;
  if (fields.freq) flags |= ATTR_FLAG.FREQ;
  if (fields.watermark) flags |= ATTR_FLAG.WATERMARK;
  flags |= BigInt(fields.preciseIp ?? 0) << ATTR_FLAG.PRECISE_IP_SHIFT;
  flags |= fields.track ?? 0n;
  view.setUint32(ATTR.TYPE, fields.type, true);
  view.setUint32(ATTR.SIZE, bytes.length, true);
  view.setBigUint64(ATTR.CONFIG, fields.config, true);
  view.setBigUint64(ATTR.SAMPLE_PERIOD, fields.samplePeriod, true);
  view.setBigUint64(ATTR.SAMPLE_TYPE, BigInt(fields.sampleType), true);
  view.setBigUint64(ATTR.READ_FORMAT, BigInt(fields.readFormat), true);
  view.setBigUint64(ATTR.FLAGS, flags, true);
  view.setUint32(ATTR.WAKEUP, fields.wakeup, true);
  view.setUint32(ATTR.BP_TYPE, bpType, true);
  view.setBigUint64(ATTR.CONFIG1, config1, true);
  view.setBigUint64(ATTR.CONFIG2, config2, true);
  view.setBigUint64(ATTR.BRANCH_SAMPLE_TYPE, BigInt(fields.branchSampleType ?? 0), true);
  view.setBigUint64(ATTR.SAMPLE_REGS_USER, fields.sampleRegsUser ?? 0n, true);
  view.setUint32(ATTR.SAMPLE_STACK_USER, fields.sampleStackUser ?? 0, true);
  view.setInt32(ATTR.CLOCKID, CLOCK_MONOTONIC, true);
  view.setBigUint64(ATTR.SAMPLE_REGS_INTR, fields.sampleRegsIntr ?? 0n, true);
  if (config3 !== 0n) view.setBigUint64(ATTR.CONFIG3, config3, true);
  return bytes;
}
