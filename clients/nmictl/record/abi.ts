/**
 * Numbers of perf.data and of the kernel's records in it: include/uapi/linux/perf_event.h, and of perf's own records
 * and file layout tools/perf/Documentation/perf.data-file-format.txt.
 */
import type { Field } from "../../typescript/index.js";

/** perf_event_header: u32 type, u16 misc, u16 size. */
export const HEADER_BYTES = 8;
/** perf_event_header.size is a u16, and records are whole words of 8 bytes. */
export const RECORD_BYTES_MAX = 65_528;

/** PERF_RECORD_* */
export const RECORD = {
  MMAP: 1,
  LOST: 2,
  COMM: 3,
  EXIT: 4,
  FORK: 7,
  SAMPLE: 9,
  MMAP2: 10,
  ITRACE_START: 12,
  SWITCH: 14,
  SWITCH_CPU_WIDE: 15,
  NAMESPACES: 16,
  KSYMBOL: 17,
  BPF_EVENT: 18,
  CGROUP: 19,
  TEXT_POKE: 20,
  AUX_OUTPUT_HW_ID: 21,
  HEADER_ATTR: 64,
  HEADER_TRACING_DATA: 66,
  HEADER_BUILD_ID: 67,
  FINISHED_ROUND: 68,
  EVENT_UPDATE: 78,
  HEADER_FEATURE: 80,
} as const;

/** PERF_RECORD_MISC_* */
export const MISC = {
  CPUMODE_MASK: 7,
  KERNEL: 1,
  USER: 2,
  SWITCH_OUT: 1 << 13,
  COMM_EXEC: 1 << 13,
  SWITCH_OUT_PREEMPT: 1 << 14,
  MMAP_BUILD_ID: 1 << 14,
  /** Of perf's build-id records: the id's length is written. */
  BUILD_ID_SIZE: 1 << 15,
} as const;

/** PERF_SAMPLE_* of what every sample of the broker has. */
export const SAMPLE = {
  IP: 1 << 0,
  TID: 1 << 1,
  TIME: 1 << 2,
  CPU: 1 << 7,
  PERIOD: 1 << 8,
  IDENTIFIER: 1 << 16,
} as const;

/** PERF_SAMPLE_* of what is there on request. Branch counters lie within the branch stack. */
export const FIELD_BITS: Readonly<Record<Field, number>> = {
  ADDR: 1 << 3,
  READ: 1 << 4,
  CALLCHAIN: 1 << 5,
  RAW: 1 << 10,
  BRANCH_STACK: 1 << 11,
  BRANCH_COUNTERS: 1 << 11,
  REGS_USER: 1 << 12,
  STACK_USER: 1 << 13,
  DATA_SRC: 1 << 15,
  TRANSACTION: 1 << 17,
  REGS_INTR: 1 << 18,
  PHYS_ADDR: 1 << 19,
  AUX: 1 << 20,
  CGROUP: 1 << 21,
  DATA_PAGE_SIZE: 1 << 22,
  CODE_PAGE_SIZE: 1 << 23,
  // PERF_SAMPLE_WEIGHT and PERF_SAMPLE_WEIGHT_STRUCT, one of which an event's samples have: attr.ts.
  WEIGHT: (1 << 14) | (1 << 24),
};

export const WEIGHT_WHOLE = 1 << 14;
export const WEIGHT_STRUCT = 1 << 24;
/** PERF_TYPE_BREAKPOINT */
export const TYPE_BREAKPOINT = 5;

/** PERF_FORMAT_* */
export const READ_FORMAT = {
  TOTAL_TIME_ENABLED: 1n,
  TOTAL_TIME_RUNNING: 2n,
  ID: 4n,
  GROUP: 8n,
  LOST: 16n,
} as const;

/** PERF_SAMPLE_BRANCH_* that change a sample's layout. */
export const BRANCH = { HW_INDEX: 1n << 17n, COUNTERS: 1n << 19n } as const;

/** Features of a recording, HEADER_* in perf's header.h. */
export const FEATURE = {
  TRACING_DATA: 1,
  BUILD_ID: 2,
  HOSTNAME: 3,
  OSRELEASE: 4,
  VERSION: 5,
  ARCH: 6,
  NRCPUS: 7,
  CPUDESC: 8,
  CPUID: 9,
  TOTAL_MEM: 10,
  CMDLINE: 11,
  EVENT_DESC: 12,
  GROUP_DESC: 17,
  SAMPLE_TIME: 21,
  CLOCKID: 23,
  CLOCK_DATA: 29,
} as const;

export interface Feature {
  /** One of FEATURE. */
  readonly id: number;
  readonly bytes: Uint8Array;
}

/** PERF_EVENT_UPDATE__NAME */
export const EVENT_UPDATE_NAME = 2;

/** The clock ids that a recording can have times of, by the names that the daemon gives them. time.h */
export const CLOCK_IDS: ReadonlyMap<string, number> = new Map([
  ["CLOCK_REALTIME", 0],
  ["CLOCK_MONOTONIC", 1],
  ["CLOCK_MONOTONIC_RAW", 4],
  ["CLOCK_BOOTTIME", 7],
  ["CLOCK_TAI", 11],
]);

/** PERF_CONTEXT_USER, -512, in its two words. */
export const CONTEXT_USER_LOW = 0xffff_fe00;
export const CONTEXT_HIGH = 0xffff_ffff;
