/** PERF_RECORD_SAMPLE in full: order and sizes of the fields in linux/perf_event.h, "PERF_RECORD_SAMPLE". */
import { BRANCH_SAMPLE, FORMAT, SAMPLE } from "../abi.js";
import type { RecordedAttr } from "./attr.js";
import { CALLCHAIN_CONTEXT } from "./format.js";
import type { Cursor } from "./image.js";

/** What decides how an event's records are laid out. */
export type SampleLayout = Pick<
  RecordedAttr,
  "sampleType" | "readFormat" | "sampleIdAll" | "branchSampleType" | "sampleRegsUser" | "sampleRegsIntr"
>;

export interface CounterValue {
  readonly value: bigint;
  /** Null where read_format does not ask for them. */
  readonly id: bigint | null;
  readonly lost: bigint | null;
}

/** What read() of the event, or of its group, returned when the sample was taken. */
export interface CounterReading {
  readonly timeEnabled: bigint | null;
  readonly timeRunning: bigint | null;
  /** One without FORMAT_GROUP; else the leader's and its members'. */
  readonly values: readonly CounterValue[];
}

export interface Branch {
  readonly from: bigint;
  readonly to: bigint;
  readonly mispredicted: boolean;
  readonly predicted: boolean;
  readonly inTransaction: boolean;
  readonly abort: boolean;
  readonly cycles: number;
  /** enum perf_branch_type, or PERF_BR_EXTEND_ABI with `newType`. */
  readonly type: number;
  readonly speculation: number;
  readonly newType: number;
  readonly privilege: number;
  /** The word that those come from. */
  readonly flags: bigint;
}

export interface BranchStack {
  /** Of the newest entry in hardware, or null where it was not asked for. */
  readonly hwIndex: bigint | null;
  readonly entries: readonly Branch[];
  /** One word of counters an entry; null where they were not asked for. */
  readonly counters: BigUint64Array | null;
}

export interface Registers {
  /** enum perf_sample_regs_abi: 0 none, 1 32 bits, 2 64 bits. */
  readonly abi: bigint;
  /** Bit n: register n of the architecture is in `values`, in the order of the bits. */
  readonly mask: bigint;
  readonly values: BigUint64Array;
}

export interface UserStack {
  /** As many bytes as were dumped; `used` of them are the stack's. */
  readonly data: Uint8Array;
  readonly used: bigint;
}

/** PERF_SAMPLE_WEIGHT's word, and the three parts that it has under WEIGHT_STRUCT. */
export interface Weight {
  readonly full: bigint;
  readonly var1: number;
  readonly var2: number;
  readonly var3: number;
}

/** A field is null where sample_type does not ask for it. Words are u64 as in the record. */
export interface Sample {
  readonly identifier: bigint | null;
  readonly ip: bigint | null;
  readonly pid: number | null;
  readonly tid: number | null;
  /** Nanoseconds on the event's clock. */
  readonly time: bigint | null;
  readonly addr: bigint | null;
  /** PERF_SAMPLE_ID: in a group, the leader's. `identifier` says the same. */
  readonly id: bigint | null;
  readonly streamId: bigint | null;
  readonly cpu: number | null;
  readonly period: bigint | null;
  readonly read: CounterReading | null;
  /** With its PERF_CONTEXT_* entries; see `callchainFrames`. */
  readonly callchain: BigUint64Array | null;
  readonly raw: Uint8Array | null;
  readonly branchStack: BranchStack | null;
  readonly regsUser: Registers | null;
  readonly stackUser: UserStack | null;
  readonly weight: Weight | null;
  readonly dataSrc: bigint | null;
  readonly transaction: bigint | null;
  readonly regsIntr: Registers | null;
  readonly physAddr: bigint | null;
  readonly cgroup: bigint | null;
  readonly dataPageSize: bigint | null;
  readonly codePageSize: bigint | null;
  readonly aux: Uint8Array | null;
}

/** `cursor` is at the first field behind the header, and ends with the record. Throws RecordingError. */
export function decodeSample(cursor: Cursor, layout: SampleLayout): Sample {
  const { sampleType } = layout;
  const has = (bit: number): boolean => (sampleType & bit) !== 0;
  const u64 = (bit: number, what: string): bigint | null => (has(bit) ? cursor.u64(what) : null);
  const read = <T>(bit: number, decode: () => T): T | null => (has(bit) ? decode() : null);
  // Properties are evaluated in this order, which is the record's.
  return {
    identifier: u64(SAMPLE.IDENTIFIER, "IDENTIFIER"),
    ip: u64(SAMPLE.IP, "IP"),
    pid: read(SAMPLE.TID, () => cursor.i32("TID")),
    tid: read(SAMPLE.TID, () => cursor.i32("TID")),
    time: u64(SAMPLE.TIME, "TIME"),
    addr: u64(SAMPLE.ADDR, "ADDR"),
    id: u64(SAMPLE.ID, "ID"),
    streamId: u64(SAMPLE.STREAM_ID, "STREAM_ID"),
    cpu: read(SAMPLE.CPU, () => cpu(cursor)),
    period: u64(SAMPLE.PERIOD, "PERIOD"),
    read: read(SAMPLE.READ, () => decodeReading(cursor, layout.readFormat)),
    callchain: read(SAMPLE.CALLCHAIN, () => cursor.u64s(cursor.number("CALLCHAIN"), "addresses of a callchain")),
    raw: read(SAMPLE.RAW, () => raw(cursor)),
    branchStack: read(SAMPLE.BRANCH_STACK, () => branchStack(cursor, layout.branchSampleType)),
    regsUser: read(SAMPLE.REGS_USER, () => registers(cursor, layout.sampleRegsUser)),
    stackUser: read(SAMPLE.STACK_USER, () => userStack(cursor)),
    weight: read(SAMPLE.WEIGHT | SAMPLE.WEIGHT_STRUCT, () => weight(cursor)),
    dataSrc: u64(SAMPLE.DATA_SRC, "DATA_SRC"),
    transaction: u64(SAMPLE.TRANSACTION, "TRANSACTION"),
    regsIntr: read(SAMPLE.REGS_INTR, () => registers(cursor, layout.sampleRegsIntr)),
    physAddr: u64(SAMPLE.PHYS_ADDR, "PHYS_ADDR"),
    cgroup: u64(SAMPLE.CGROUP, "CGROUP"),
    dataPageSize: u64(SAMPLE.DATA_PAGE_SIZE, "DATA_PAGE_SIZE"),
    codePageSize: u64(SAMPLE.CODE_PAGE_SIZE, "CODE_PAGE_SIZE"),
    aux: read(SAMPLE.AUX, () => cursor.bytes(cursor.number("AUX"), "AUX")),
  };
}

/** { cpu, reserved } */
function cpu(cursor: Cursor): number {
  const value = cursor.u32("CPU");
  cursor.take(4, "CPU");
  return value;
}

/** struct read_format, of a sample and of PERF_RECORD_READ. */
export function decodeReading(cursor: Cursor, readFormat: number): CounterReading {
  const has = (bit: number): boolean => (readFormat & bit) !== 0;
  const optional = (bit: number): bigint | null => (has(bit) ? cursor.u64("READ") : null);
  if (!has(FORMAT.GROUP)) {
    const value = cursor.u64("READ");
    const timeEnabled = optional(FORMAT.TOTAL_TIME_ENABLED);
    const timeRunning = optional(FORMAT.TOTAL_TIME_RUNNING);
    return { timeEnabled, timeRunning, values: [{ value, id: optional(FORMAT.ID), lost: optional(FORMAT.LOST) }] };
  }
  const count = cursor.number("READ");
  const timeEnabled = optional(FORMAT.TOTAL_TIME_ENABLED);
  const timeRunning = optional(FORMAT.TOTAL_TIME_RUNNING);
  const bytesEach = 8 + (has(FORMAT.ID) ? 8 : 0) + (has(FORMAT.LOST) ? 8 : 0);
  const values = Array.from({ length: cursor.count(count, bytesEach, "values of a group") }, () => ({
    value: cursor.u64("READ"),
    id: optional(FORMAT.ID),
    lost: optional(FORMAT.LOST),
  }));
  return { timeEnabled, timeRunning, values };
}

/** u32 size, data: padded by the kernel so that both are a multiple of 8 bytes. */
function raw(cursor: Cursor): Uint8Array {
  const size = cursor.u32("RAW");
  const data = cursor.bytes(size, "RAW");
  // The padding belongs to the size already; very old kernels left it out.
  cursor.take((8 - ((size + 4) & 7)) & 7, "RAW");
  return data;
}

const BRANCH_BYTES = 24;

function branchStack(cursor: Cursor, branchSampleType: bigint): BranchStack {
  const count = cursor.number("BRANCH_STACK");
  const hwIndex = (branchSampleType & BigInt(BRANCH_SAMPLE.HW_INDEX)) !== 0n ? cursor.u64("BRANCH_STACK") : null;
  const hasCounters = (branchSampleType & BigInt(BRANCH_SAMPLE.COUNTERS)) !== 0n;
  cursor.count(count, hasCounters ? BRANCH_BYTES + 8 : BRANCH_BYTES, "branches");
  const entries = Array.from({ length: count }, () => branch(cursor));
  return { hwIndex, entries, counters: hasCounters ? cursor.u64s(count, "branches' counters") : null };
}

/** struct perf_branch_entry */
function branch(cursor: Cursor): Branch {
  const from = cursor.u64("a branch");
  const to = cursor.u64("a branch");
  const flags = cursor.u64("a branch");
  const bits = (at: bigint, count: bigint): number => Number((flags >> at) & ((1n << count) - 1n));
  return {
    from,
    to,
    mispredicted: bits(0n, 1n) === 1,
    predicted: bits(1n, 1n) === 1,
    inTransaction: bits(2n, 1n) === 1,
    abort: bits(3n, 1n) === 1,
    cycles: bits(4n, 16n),
    type: bits(20n, 4n),
    speculation: bits(24n, 2n),
    newType: bits(26n, 4n),
    privilege: bits(30n, 3n),
    flags,
  };
}

function registers(cursor: Cursor, mask: bigint): Registers {
  const abi = cursor.u64("registers");
  return { abi, mask, values: cursor.u64s(abi === 0n ? 0 : bitCount(mask), "registers") };
}

function bitCount(mask: bigint): number {
  let count = 0;
  for (let rest = mask; rest > 0n; rest >>= 1n) count += Number(rest & 1n);
  return count;
}

/** { size, data, dyn_size }: the last only where there is data. */
function userStack(cursor: Cursor): UserStack {
  const size = cursor.number("STACK_USER");
  if (size === 0) return { data: new Uint8Array(0), used: 0n };
  return { data: cursor.bytes(size, "STACK_USER"), used: cursor.u64("STACK_USER") };
}

/** union perf_sample_weight */
function weight(cursor: Cursor): Weight {
  const full = cursor.u64("WEIGHT");
  return {
    full,
    var1: Number(full & 0xffff_ffffn),
    var2: Number((full >> 32n) & 0xffffn),
    var3: Number(full >> 48n),
  };
}

/** struct sample_id: what the kernel puts behind every other record of an event with sample_id_all. */
export interface SampleId {
  readonly pid: number | null;
  readonly tid: number | null;
  readonly time: bigint | null;
  readonly id: bigint | null;
  readonly streamId: bigint | null;
  readonly cpu: number | null;
  readonly identifier: bigint | null;
}

const TRAILER_BITS = [SAMPLE.TID, SAMPLE.TIME, SAMPLE.ID, SAMPLE.STREAM_ID, SAMPLE.CPU, SAMPLE.IDENTIFIER];

/** Length of the trailer in bytes. */
export function sampleIdBytes({ sampleType, sampleIdAll }: SampleLayout): number {
  return sampleIdAll ? TRAILER_BITS.filter((bit) => (sampleType & bit) !== 0).length * 8 : 0;
}

/** Null for an event without sample_id_all. Throws RecordingError. */
export function decodeSampleId(cursor: Cursor, { sampleType, sampleIdAll }: SampleLayout): SampleId | null {
  if (!sampleIdAll) return null;
  const read = <T>(bit: number, decode: () => T): T | null => ((sampleType & bit) !== 0 ? decode() : null);
  return {
    pid: read(SAMPLE.TID, () => cursor.i32("TID")),
    tid: read(SAMPLE.TID, () => cursor.i32("TID")),
    time: read(SAMPLE.TIME, () => cursor.u64("TIME")),
    id: read(SAMPLE.ID, () => cursor.u64("ID")),
    streamId: read(SAMPLE.STREAM_ID, () => cursor.u64("STREAM_ID")),
    cpu: read(SAMPLE.CPU, () => cpu(cursor)),
    identifier: read(SAMPLE.IDENTIFIER, () => cursor.u64("IDENTIFIER")),
  };
}

export interface CallchainFrame {
  /** The PERF_CONTEXT_* before it, as a signed number (CALLCHAIN_CONTEXT); null where there was none. */
  readonly context: bigint | null;
  readonly ip: bigint;
}

/** The addresses of a callchain, innermost first, each with its context. */
export function callchainFrames(callchain: BigUint64Array): CallchainFrame[] {
  const frames: CallchainFrame[] = [];
  let context: bigint | null = null;
  for (const ip of callchain) {
    const signed = BigInt.asIntN(64, ip);
    if (signed < 0n && signed >= CALLCHAIN_CONTEXT.MAX) context = signed;
    else frames.push({ context, ip });
  }
  return frames;
}
