/**
 * Numbers of the perf.data format: tools/perf/Documentation/perf.data-file-format.txt, and perf's util/header.h and
 * lib/perf/include/perf/event.h for what that leaves out.
 */

/** struct perf_file_header, byte offsets. A pipe's header ends behind SIZE. */
export const HEADER = {
  MAGIC: 0,
  SIZE: 8,
  ATTR_SIZE: 16,
  ATTRS: 24,
  DATA: 40,
  EVENT_TYPES: 56,
  FEATURES: 72,
  /** Before there were features. */
  BYTES_MIN: 72,
  BYTES: 104,
} as const;

export const PIPE_HEADER_BYTES = 16;
export const FEATURE_BITS = 256;

/** struct perf_file_section: offset, size. */
export const SECTION_BYTES = 16;

/** perf_event_header: u32 type, u16 misc, u16 size. */
export const RECORD_HEADER_BYTES = 8;

/** enum perf_callchain_context: from MAX on, an entry of a callchain says where those behind it ran. */
export const CALLCHAIN_CONTEXT = {
  HV: -32n,
  KERNEL: -128n,
  USER: -512n,
  USER_DEFERRED: -640n,
  GUEST: -2048n,
  GUEST_KERNEL: -2176n,
  GUEST_USER: -2560n,
  MAX: -4095n,
} as const;

/** enum perf_user_event_type: perf's own records, which never were in a ring. */
export const USER_RECORD_START = 64;
export const USER_RECORD = {
  HEADER_ATTR: 64,
  EVENT_TYPE: 65,
  TRACING_DATA: 66,
  BUILD_ID: 67,
  FINISHED_ROUND: 68,
  ID_INDEX: 69,
  AUXTRACE_INFO: 70,
  AUXTRACE: 71,
  AUXTRACE_ERROR: 72,
  THREAD_MAP: 73,
  CPU_MAP: 74,
  STAT_CONFIG: 75,
  STAT: 76,
  STAT_ROUND: 77,
  EVENT_UPDATE: 78,
  TIME_CONV: 79,
  HEADER_FEATURE: 80,
  COMPRESSED: 81,
  FINISHED_INIT: 82,
  COMPRESSED2: 83,
  BPF_METADATA: 84,
  SCHEDSTAT_CPU: 85,
  SCHEDSTAT_DOMAIN: 86,
} as const;

/** Types from here on are no type of any perf: what is read there is no record. */
export const RECORD_TYPE_MAX = 255;

/** HEADER_*: bits of the feature bitmap, and feat_id of HEADER_FEATURE. */
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
  CPU_TOPOLOGY: 13,
  NUMA_TOPOLOGY: 14,
  BRANCH_STACK: 15,
  PMU_MAPPINGS: 16,
  GROUP_DESC: 17,
  AUXTRACE: 18,
  STAT: 19,
  CACHE: 20,
  SAMPLE_TIME: 21,
  MEM_TOPOLOGY: 22,
  CLOCKID: 23,
  DIR_FORMAT: 24,
  BPF_PROG_INFO: 25,
  BPF_BTF: 26,
  COMPRESSED: 27,
  CPU_PMU_CAPS: 28,
  CLOCK_DATA: 29,
  HYBRID_TOPOLOGY: 30,
  PMU_CAPS: 31,
} as const;

export type FeatureName = keyof typeof FEATURE;

const FEATURE_NAME = new Map<number, FeatureName>(
  Object.entries(FEATURE).map(([name, bit]) => [bit, name as FeatureName]),
);

export function featureName(bit: number): string {
  return FEATURE_NAME.get(bit) ?? `FEATURE_${bit}`;
}
