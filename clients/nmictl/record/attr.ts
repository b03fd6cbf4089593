/** perf_event_attr as a recording describes its events: from what the daemon says of them and what was asked for. */
import type { Field, ResolvedEvent } from "../../typescript/index.js";
import { CLOCK_IDS, FIELD_BITS, SAMPLE, TYPE_BREAKPOINT, WEIGHT_STRUCT, WEIGHT_WHOLE } from "./abi.js";

/** PERF_ATTR_SIZE_VER7. perf 6.1 refuses recordings with larger ones, so config3 is written only where it is not 0. */
const ATTR_BYTES = 128;
const ATTR_BYTES_CONFIG3 = 136;

/** Offsets in perf_event_attr. include/uapi/linux/perf_event.h */
const AT = {
  TYPE: 0,
  SIZE: 4,
  CONFIG: 8,
  SAMPLE_PERIOD: 16,
  SAMPLE_TYPE: 24,
  READ_FORMAT: 32,
  FLAGS: 40,
  BP_TYPE: 52,
  CONFIG1: 56,
  CONFIG2: 64,
  BRANCH_SAMPLE_TYPE: 72,
  SAMPLE_REGS_USER: 80,
  SAMPLE_STACK_USER: 88,
  CLOCKID: 92,
  SAMPLE_REGS_INTR: 96,
  CONFIG3: 128,
} as const;

/** Bits of perf_event_attr's flags. */
const BIT = {
  EXCLUDE_USER: 4n,
  EXCLUDE_KERNEL: 5n,
  EXCLUDE_HV: 6n,
  MMAP: 8n,
  COMM: 9n,
  FREQ: 10n,
  TASK: 13n,
  PRECISE_IP: 15n,
  MMAP_DATA: 17n,
  SAMPLE_ID_ALL: 18n,
  EXCLUDE_CALLCHAIN_USER: 22n,
  MMAP2: 23n,
  COMM_EXEC: 24n,
  USE_CLOCKID: 25n,
  CONTEXT_SWITCH: 26n,
  NAMESPACES: 28n,
  KSYMBOL: 29n,
  BPF_EVENT: 30n,
  CGROUP: 32n,
} as const;

const TRACKING = [
  BIT.MMAP,
  BIT.COMM,
  BIT.TASK,
  BIT.MMAP2,
  BIT.COMM_EXEC,
  BIT.NAMESPACES,
  BIT.KSYMBOL,
  BIT.BPF_EVENT,
  BIT.CGROUP,
];

export interface AttrOptions {
  readonly fields: readonly Field[];
  /** Started.clock */
  readonly clock: string;
  readonly contextSwitches: boolean;
  /** Mappings of data were asked for. */
  readonly mmapData: boolean;
  /** Callchains end where user space begins: its stack is there instead. */
  readonly kernelCallchainsOnly: boolean;
}

/** perf_event_attr.sample_type. Weights are whole only where the event's own are; older daemons do not say. */
export function sampleType(fields: readonly Field[], event: Pick<ResolvedEvent, "sampleType">): number {
  let bits = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;
  for (const field of fields) bits |= FIELD_BITS[field];
  return bits & ~((Number(event.sampleType) & WEIGHT_WHOLE) !== 0 ? WEIGHT_STRUCT : WEIGHT_WHOLE);
}

/** Of all events of a recording, whose attrs are of one size. */
export function attrBytes(events: readonly ResolvedEvent[]): number {
  return events.some(({ config3 }) => config3 !== 0n) ? ATTR_BYTES_CONFIG3 : ATTR_BYTES;
}

/** The first event's is the one that says which task records there are. */
export function encodeAttr(events: readonly ResolvedEvent[], index: number, options: AttrOptions): Uint8Array {
  const event = events[index];
  const size = attrBytes(events);
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  const has = (field: Field) => options.fields.includes(field);
  view.setUint32(AT.TYPE, event.type, true);
  view.setUint32(AT.SIZE, size, true);
  view.setBigUint64(AT.CONFIG, event.config, true);
  view.setBigUint64(AT.SAMPLE_PERIOD, BigInt(event.frequencyHz || event.period || 1), true);
  view.setBigUint64(AT.SAMPLE_TYPE, BigInt(sampleType(options.fields, event)), true);
  if (has("READ")) view.setBigUint64(AT.READ_FORMAT, event.readFormat, true);
  view.setBigUint64(AT.FLAGS, flags(event, index === 0, options), true);
  if (event.type === TYPE_BREAKPOINT) view.setUint32(AT.BP_TYPE, event.bpType, true);
  view.setBigUint64(AT.CONFIG1, event.config1, true);
  view.setBigUint64(AT.CONFIG2, event.config2, true);
  if (has("BRANCH_STACK") || has("BRANCH_COUNTERS")) {
    view.setBigUint64(AT.BRANCH_SAMPLE_TYPE, event.branchSampleType, true);
  }
  if (has("REGS_USER")) view.setBigUint64(AT.SAMPLE_REGS_USER, event.sampleRegsUser, true);
  if (has("STACK_USER")) view.setUint32(AT.SAMPLE_STACK_USER, event.sampleStackUser, true);
  view.setInt32(AT.CLOCKID, CLOCK_IDS.get(options.clock) ?? 0, true);
  if (has("REGS_INTR")) view.setBigUint64(AT.SAMPLE_REGS_INTR, event.sampleRegsIntr, true);
  if (size > AT.CONFIG3) view.setBigUint64(AT.CONFIG3, event.config3, true);
  return bytes;
}

function flags(event: ResolvedEvent, tracking: boolean, options: AttrOptions): bigint {
  let flags = BigInt(event.preciseIp) << BIT.PRECISE_IP;
  const set = (bit: bigint, when = true) => {
    if (when) flags |= 1n << bit;
  };
  set(BIT.SAMPLE_ID_ALL);
  set(BIT.EXCLUDE_USER, event.excludeUser);
  set(BIT.EXCLUDE_KERNEL, event.excludeKernel);
  set(BIT.EXCLUDE_HV, event.excludeHv);
  set(BIT.FREQ, event.frequencyHz > 0);
  set(BIT.USE_CLOCKID, CLOCK_IDS.has(options.clock));
  set(BIT.EXCLUDE_CALLCHAIN_USER, options.kernelCallchainsOnly);
  if (tracking) {
    for (const bit of TRACKING) set(bit);
    set(BIT.CONTEXT_SWITCH, options.contextSwitches);
    set(BIT.MMAP_DATA, options.mmapData);
  }
  return flags;
}
