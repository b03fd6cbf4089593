/** The kernel's records, decoded in full: layouts in linux/perf_event.h, enum perf_event_type. */
import { MISC, MISC_CPUMODE_MASK, RECORD } from "../abi.js";
import { RECORD_HEADER_BYTES } from "./format.js";
import { Cursor, type Image } from "./image.js";
import {
  type CounterReading,
  decodeReading,
  decodeSample,
  decodeSampleId,
  type Sample,
  type SampleId,
  type SampleLayout,
  sampleIdBytes,
} from "./sample.js";

interface Task {
  readonly pid: number;
  readonly tid: number;
}

interface Mapping extends Task {
  /** u64 addresses; `length` and `pageOffset` in bytes. */
  readonly addr: bigint;
  readonly length: bigint;
  readonly pageOffset: bigint;
  readonly file: string;
  /** PERF_RECORD_MISC_MMAP_DATA */
  readonly isData: boolean;
}

/** Where a mapped file is found: by inode, or by its build id (PERF_RECORD_MISC_MMAP_BUILD_ID). */
export type MappedFile =
  | {
      readonly kind: "inode";
      readonly major: number;
      readonly minor: number;
      readonly inode: bigint;
      readonly generation: bigint;
    }
  | { readonly kind: "build-id"; readonly buildId: string };

interface Parentage extends Task {
  readonly ppid: number;
  readonly ptid: number;
  readonly time: bigint;
}

interface Throttling {
  readonly time: bigint;
  readonly id: bigint;
  readonly streamId: bigint;
}

export type KernelRecordBody =
  | ({ readonly type: "MMAP" } & Mapping)
  | { readonly type: "LOST"; readonly id: bigint; readonly lost: bigint }
  | ({ readonly type: "COMM"; readonly comm: string; readonly byExec: boolean } & Task)
  | ({ readonly type: "EXIT" } & Parentage)
  | ({ readonly type: "THROTTLE" } & Throttling)
  | ({ readonly type: "UNTHROTTLE" } & Throttling)
  | ({ readonly type: "FORK" } & Parentage)
  | ({ readonly type: "READ"; readonly read: CounterReading } & Task)
  | { readonly type: "SAMPLE"; readonly sample: Sample }
  | ({
      readonly type: "MMAP2";
      readonly where: MappedFile;
      readonly protection: number;
      readonly flags: number;
    } & Mapping)
  | { readonly type: "AUX"; readonly offset: bigint; readonly size: bigint; readonly flags: bigint }
  | ({ readonly type: "ITRACE_START" } & Task)
  | { readonly type: "LOST_SAMPLES"; readonly lost: bigint }
  | { readonly type: "SWITCH"; readonly out: boolean; readonly preempted: boolean }
  | {
      readonly type: "SWITCH_CPU_WIDE";
      readonly out: boolean;
      readonly preempted: boolean;
      /** The next task if `out`, else the previous one. */
      readonly otherPid: number;
      readonly otherTid: number;
    }
  | ({
      readonly type: "NAMESPACES";
      /** In the order of the kernel's NET_NS_INDEX and so on. */
      readonly links: readonly { readonly device: bigint; readonly inode: bigint }[];
    } & Task)
  | {
      readonly type: "KSYMBOL";
      readonly addr: bigint;
      readonly length: number;
      /** enum perf_record_ksymbol_type: 1 BPF, 2 out of line. */
      readonly kind: number;
      readonly unregistered: boolean;
      readonly name: string;
    }
  | {
      readonly type: "BPF_EVENT";
      readonly kind: number;
      readonly flags: number;
      readonly id: number;
      readonly tag: string;
    }
  | { readonly type: "CGROUP"; readonly id: bigint; readonly path: string }
  | { readonly type: "TEXT_POKE"; readonly addr: bigint; readonly before: Uint8Array; readonly after: Uint8Array }
  | { readonly type: "AUX_OUTPUT_HW_ID"; readonly hwId: bigint }
  | { readonly type: "CALLCHAIN_DEFERRED"; readonly cookie: bigint; readonly callchain: BigUint64Array }
  /** Of a kernel younger than this decoder. */
  | { readonly type: "UNKNOWN"; readonly typeNumber: number; readonly payload: Uint8Array };

export interface KernelRecordHead {
  readonly misc: number;
  /** PERF_RECORD_MISC_CPUMODE_MASK of misc. */
  readonly cpumode: number;
  /** What the kernel put behind the record; null for a sample, which has its own fields, and without sample_id_all. */
  readonly sampleId: SampleId | null;
}

export type KernelRecord = KernelRecordHead & KernelRecordBody;

/**
 * The record at byte `at` of the image. `layout` is its event's: an event's id is in the record, see
 * `record-index.ts`. Throws RecordingError with the place where it does not fit its own size.
 */
export function decodeKernelRecord(image: Image, at: number, layout: SampleLayout): KernelRecord {
  const header = new Cursor(image, at, image.length, "a record");
  const type = header.u32("its type");
  const misc = header.u16("its misc bits");
  const size = header.u16("its size");
  const whole = new Cursor(image, at + RECORD_HEADER_BYTES, Math.max(at + RECORD_HEADER_BYTES, at + size), "a record");
  const trailer = type === RECORD.SAMPLE ? 0 : sampleIdBytes(layout);
  const body = whole.sub(whole.left - trailer, `PERF_RECORD_${nameOf(type)}`);
  const sampleId = type === RECORD.SAMPLE ? null : decodeSampleId(whole, layout);
  return { misc, cpumode: misc & MISC_CPUMODE_MASK, sampleId, ...decodeBody(body, type, misc, layout) };
}

const NAMES = new Map<number, keyof typeof RECORD>(
  Object.entries(RECORD).map(([name, type]) => [type, name as keyof typeof RECORD]),
);

function nameOf(type: number): string {
  return NAMES.get(type) ?? String(type);
}

type Bodies = {
  readonly [Type in keyof typeof RECORD]: (
    cursor: Cursor,
    misc: number,
    layout: SampleLayout,
  ) => Extract<KernelRecordBody, { readonly type: Type }>;
};

function decodeBody(cursor: Cursor, type: number, misc: number, layout: SampleLayout): KernelRecordBody {
  const name = NAMES.get(type);
  if (name === undefined) return { type: "UNKNOWN", typeNumber: type, payload: cursor.bytes(cursor.left, "the rest") };
  return BODIES[name](cursor, misc, layout);
}

const task = (cursor: Cursor): Task => ({ pid: cursor.i32("the pid"), tid: cursor.i32("the tid") });

function addresses(cursor: Cursor): Pick<Mapping, "addr" | "length" | "pageOffset"> {
  return {
    addr: cursor.u64("the address"),
    length: cursor.u64("the length"),
    pageOffset: cursor.u64("the page offset"),
  };
}

const isSet = (misc: number, bit: number): boolean => (misc & bit) !== 0;

/** { pid, ppid, tid, ptid, time } */
function parentage(cursor: Cursor): Parentage {
  const pid = cursor.i32("the pid");
  const ppid = cursor.i32("the parent's pid");
  const tid = cursor.i32("the tid");
  const ptid = cursor.i32("the parent's tid");
  return { pid, ppid, tid, ptid, time: cursor.u64("the time") };
}

function throttling(cursor: Cursor): Throttling {
  return { time: cursor.u64("the time"), id: cursor.u64("the id"), streamId: cursor.u64("the stream id") };
}

const BUILD_ID_BYTES = 20;
const TAG_BYTES = 8;
const KSYMBOL_UNREGISTER = 1;

/** 24 bytes: { maj, min, ino, ino_generation } or { u8 size, padding to 4, id[20] }. */
function mappedFile(cursor: Cursor, misc: number): MappedFile {
  if (!isSet(misc, MISC.MMAP_BUILD_ID)) {
    const major = cursor.u32("the device");
    const minor = cursor.u32("the device");
    return { kind: "inode", major, minor, inode: cursor.u64("the inode"), generation: cursor.u64("the generation") };
  }
  const size = cursor.u8("the build id's size");
  cursor.take(3, "the build id");
  const id = cursor.bytes(BUILD_ID_BYTES, "the build id").subarray(0, Math.min(size, BUILD_ID_BYTES));
  return { kind: "build-id", buildId: Buffer.from(id).toString("hex") };
}

const BODIES: Bodies = {
  MMAP: (cursor, misc) => ({
    ...{ type: "MMAP", ...task(cursor), ...addresses(cursor) },
    ...{ file: cursor.zeroTerminated("the file"), isData: isSet(misc, MISC.MMAP_DATA) },
  }),
  LOST: (cursor) => ({ type: "LOST", id: cursor.u64("the id"), lost: cursor.u64("the count") }),
  COMM: (cursor, misc) => ({
    type: "COMM",
    ...task(cursor),
    comm: cursor.zeroTerminated("the name"),
    byExec: isSet(misc, MISC.COMM_EXEC),
  }),
  EXIT: (cursor) => ({ type: "EXIT", ...parentage(cursor) }),
  THROTTLE: (cursor) => ({ type: "THROTTLE", ...throttling(cursor) }),
  UNTHROTTLE: (cursor) => ({ type: "UNTHROTTLE", ...throttling(cursor) }),
  FORK: (cursor) => ({ type: "FORK", ...parentage(cursor) }),
  READ: (cursor, _misc, layout) => ({ type: "READ", ...task(cursor), read: decodeReading(cursor, layout.readFormat) }),
  SAMPLE: (cursor, _misc, layout) => ({ type: "SAMPLE", sample: decodeSample(cursor, layout) }),
  MMAP2: (cursor, misc) => ({
    ...{ type: "MMAP2", ...task(cursor), ...addresses(cursor), where: mappedFile(cursor, misc) },
    ...{ protection: cursor.u32("the protection"), flags: cursor.u32("the flags") },
    ...{ file: cursor.zeroTerminated("the file"), isData: isSet(misc, MISC.MMAP_DATA) },
  }),
  AUX: (cursor) => ({
    type: "AUX",
    offset: cursor.u64("the offset"),
    size: cursor.u64("the size"),
    flags: cursor.u64("the flags"),
  }),
  ITRACE_START: (cursor) => ({ type: "ITRACE_START", ...task(cursor) }),
  LOST_SAMPLES: (cursor) => ({ type: "LOST_SAMPLES", lost: cursor.u64("the count") }),
  SWITCH: (_cursor, misc) => ({
    type: "SWITCH",
    out: isSet(misc, MISC.SWITCH_OUT),
    preempted: isSet(misc, MISC.SWITCH_OUT_PREEMPT),
  }),
  SWITCH_CPU_WIDE: (cursor, misc) => ({
    type: "SWITCH_CPU_WIDE",
    out: isSet(misc, MISC.SWITCH_OUT),
    preempted: isSet(misc, MISC.SWITCH_OUT_PREEMPT),
    otherPid: cursor.i32("the pid"),
    otherTid: cursor.i32("the tid"),
  }),
  NAMESPACES: (cursor) => {
    const own = task(cursor);
    const count = cursor.count(cursor.number("the number of namespaces"), 16, "namespaces");
    const links = Array.from({ length: count }, () => ({
      device: cursor.u64("a device"),
      inode: cursor.u64("an inode"),
    }));
    return { type: "NAMESPACES", ...own, links };
  },
  KSYMBOL: (cursor) => {
    const addr = cursor.u64("the address");
    const length = cursor.u32("the length");
    const kind = cursor.u16("the kind");
    const unregistered = (cursor.u16("the flags") & KSYMBOL_UNREGISTER) !== 0;
    return { type: "KSYMBOL", addr, length, kind, unregistered, name: cursor.zeroTerminated("the name") };
  },
  BPF_EVENT: (cursor) => {
    const kind = cursor.u16("the kind");
    const flags = cursor.u16("the flags");
    const id = cursor.u32("the id");
    return { type: "BPF_EVENT", kind, flags, id, tag: Buffer.from(cursor.bytes(TAG_BYTES, "the tag")).toString("hex") };
  },
  CGROUP: (cursor) => ({ type: "CGROUP", id: cursor.u64("the id"), path: cursor.zeroTerminated("the path") }),
  TEXT_POKE: (cursor) => {
    const addr = cursor.u64("the address");
    const before = cursor.u16("the old length");
    const after = cursor.u16("the new length");
    return {
      type: "TEXT_POKE",
      addr,
      before: cursor.bytes(before, "the old bytes"),
      after: cursor.bytes(after, "the new bytes"),
    };
  },
  AUX_OUTPUT_HW_ID: (cursor) => ({ type: "AUX_OUTPUT_HW_ID", hwId: cursor.u64("the id") }),
  CALLCHAIN_DEFERRED: (cursor) => ({
    type: "CALLCHAIN_DEFERRED",
    cookie: cursor.u64("the cookie"),
    callchain: cursor.u64s(cursor.number("the number of addresses"), "addresses of a callchain"),
  }),
};
