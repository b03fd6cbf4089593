/**
 * perf's own records, decoded in full: layouts in perf's lib/perf/include/perf/event.h. Reading samples needs few of
 * them, which `recording.ts` takes in as it scans; the rest is for who wants to know how a recording was made.
 */
import { type RecordedAttr, readAttr } from "./attr.js";
import { type AuxTrace, readAuxTrace } from "./aux-trace.js";
import { type BuildId, readBuildId } from "./features.js";
import { featureName, RECORD_HEADER_BYTES, USER_RECORD } from "./format.js";
import { Cursor, type Image } from "./image.js";

/** Numbers of CPUs; -1 stands for any. */
export interface CpuMap {
  readonly kind: "list" | "mask" | "range";
  readonly cpus: readonly number[];
}

export interface IdIndexEntry {
  readonly id: bigint;
  /** Number of the ring that the event's records are in. */
  readonly idx: bigint;
  /** -1: any. */
  readonly cpu: bigint;
  readonly tid: bigint;
  /** Of a guest; null for those of perfs that did not know guests. */
  readonly machinePid: bigint | null;
  readonly vcpu: bigint | null;
}

export type EventUpdate =
  | { readonly kind: "unit" | "name"; readonly text: string }
  | { readonly kind: "scale"; readonly factor: number }
  | { readonly kind: "cpus"; readonly cpus: CpuMap }
  | { readonly kind: "unknown"; readonly number: number };

export type UserRecord =
  | {
      readonly type: "HEADER_ATTR";
      readonly attr: Omit<RecordedAttr, "name" | "ids">;
      readonly ids: readonly bigint[];
    }
  | { readonly type: "EVENT_TYPE"; readonly config: bigint; readonly name: string }
  /** The data follows the record. */
  | { readonly type: "TRACING_DATA"; readonly size: number }
  | ({ readonly type: "BUILD_ID" } & BuildId)
  | { readonly type: "FINISHED_ROUND" | "FINISHED_INIT" }
  | { readonly type: "ID_INDEX"; readonly entries: readonly IdIndexEntry[] }
  | { readonly type: "AUXTRACE_INFO"; readonly kind: number; readonly parameters: BigUint64Array }
  /** The data follows the record. */
  | ({ readonly type: "AUXTRACE" } & AuxTrace)
  | {
      readonly type: "AUXTRACE_ERROR";
      readonly kind: number;
      readonly code: number;
      readonly cpu: number;
      readonly pid: number;
      readonly tid: number;
      readonly ip: bigint;
      /** 0 where perf was too old to say. */
      readonly time: bigint;
      readonly message: string;
    }
  | { readonly type: "THREAD_MAP"; readonly threads: readonly { readonly tid: bigint; readonly comm: string }[] }
  | { readonly type: "CPU_MAP"; readonly cpus: CpuMap }
  | { readonly type: "STAT_CONFIG"; readonly entries: readonly { readonly tag: bigint; readonly value: bigint }[] }
  | {
      readonly type: "STAT";
      readonly id: bigint;
      readonly cpu: number;
      readonly thread: number;
      readonly value: bigint;
      readonly timeEnabled: bigint;
      readonly timeRunning: bigint;
    }
  /** `kind` 0 is an interval, 1 the end. */
  | { readonly type: "STAT_ROUND"; readonly kind: bigint; readonly time: bigint }
  | { readonly type: "EVENT_UPDATE"; readonly id: bigint; readonly update: EventUpdate }
  | {
      readonly type: "TIME_CONV";
      readonly shift: bigint;
      readonly multiplier: bigint;
      readonly zero: bigint;
      /** 0 where perf was too old to say; only with `hasShort`. */
      readonly cycles: bigint;
      readonly mask: bigint;
      readonly hasZero: boolean;
      readonly hasShort: boolean;
    }
  | { readonly type: "HEADER_FEATURE"; readonly feature: string; readonly size: number }
  | { readonly type: "COMPRESSED" | "COMPRESSED2"; readonly size: number }
  | { readonly type: "UNKNOWN"; readonly typeNumber: number; readonly size: number };

/** The record at byte `at` of the image, which the scan has found there. Throws RecordingError. */
export function decodeUserRecord(image: Image, at: number): UserRecord {
  const header = new Cursor(image, at, image.length, "a record");
  const typeNumber = header.u32("its type");
  const misc = header.u16("its misc bits");
  const size = header.u16("its size");
  const decode = DECODERS.get(typeNumber);
  const end = Math.max(at + RECORD_HEADER_BYTES, at + size);
  const cursor = new Cursor(image, at + RECORD_HEADER_BYTES, end, `a record of type ${typeNumber}`);
  return decode === undefined ? { type: "UNKNOWN", typeNumber, size } : decode(cursor, misc);
}

const TEXT_BYTES = { EVENT_NAME: 64, COMM: 16, MESSAGE: 64 } as const;

const DECODERS = new Map<number, (cursor: Cursor, misc: number) => UserRecord>([
  [
    USER_RECORD.HEADER_ATTR,
    (cursor) => {
      const attr = readPipeAttr(cursor);
      return { type: "HEADER_ATTR", attr, ids: Array.from(cursor.u64s(Math.floor(cursor.left / 8), "ids")) };
    },
  ],
  [
    USER_RECORD.EVENT_TYPE,
    (cursor) => ({
      type: "EVENT_TYPE",
      config: cursor.u64("an event"),
      name: cursor.text(Math.min(TEXT_BYTES.EVENT_NAME, cursor.left), "an event's name"),
    }),
  ],
  [USER_RECORD.TRACING_DATA, (cursor) => ({ type: "TRACING_DATA", size: cursor.u32("its size") })],
  [USER_RECORD.BUILD_ID, (cursor, misc) => ({ type: "BUILD_ID", ...readBuildId(cursor, misc) })],
  [USER_RECORD.FINISHED_ROUND, () => ({ type: "FINISHED_ROUND" })],
  [USER_RECORD.FINISHED_INIT, () => ({ type: "FINISHED_INIT" })],
  [USER_RECORD.ID_INDEX, (cursor) => ({ type: "ID_INDEX", entries: readIdIndex(cursor) })],
  [
    USER_RECORD.AUXTRACE_INFO,
    (cursor) => {
      const kind = cursor.u32("its kind");
      cursor.take(4, "its kind");
      const parameters = cursor.u64s(Math.floor(cursor.left / 8), "parameters");
      return { type: "AUXTRACE_INFO", kind, parameters };
    },
  ],
  [USER_RECORD.AUXTRACE, (cursor) => ({ type: "AUXTRACE", ...readAuxTrace(cursor, cursor.end) })],
  [USER_RECORD.AUXTRACE_ERROR, readAuxTraceError],
  [
    USER_RECORD.THREAD_MAP,
    (cursor) => {
      const count = cursor.count(cursor.number("the number of threads"), 8 + TEXT_BYTES.COMM, "threads");
      const threads = Array.from({ length: count }, () => ({
        tid: BigInt.asIntN(64, cursor.u64("a thread")),
        comm: cursor.text(TEXT_BYTES.COMM, "a thread's name"),
      }));
      return { type: "THREAD_MAP", threads };
    },
  ],
  [USER_RECORD.CPU_MAP, (cursor) => ({ type: "CPU_MAP", cpus: readCpuMap(cursor) })],
  [
    USER_RECORD.STAT_CONFIG,
    (cursor) => {
      const count = cursor.count(cursor.number("the number of settings"), 16, "settings");
      const entries = Array.from({ length: count }, () => ({ tag: cursor.u64("a tag"), value: cursor.u64("a value") }));
      return { type: "STAT_CONFIG", entries };
    },
  ],
  [
    USER_RECORD.STAT,
    (cursor) => ({
      type: "STAT",
      id: cursor.u64("the id"),
      cpu: cursor.i32("the CPU"),
      thread: cursor.i32("the thread"),
      value: cursor.u64("the value"),
      timeEnabled: cursor.u64("the time enabled"),
      timeRunning: cursor.u64("the time running"),
    }),
  ],
  [
    USER_RECORD.STAT_ROUND,
    (cursor) => ({ type: "STAT_ROUND", kind: cursor.u64("its kind"), time: cursor.u64("the time") }),
  ],
  [USER_RECORD.EVENT_UPDATE, readEventUpdate],
  [USER_RECORD.TIME_CONV, readTimeConversion],
  [
    USER_RECORD.HEADER_FEATURE,
    (cursor) => ({ type: "HEADER_FEATURE", feature: featureName(cursor.number("its number")), size: cursor.left }),
  ],
  [USER_RECORD.COMPRESSED, (cursor) => ({ type: "COMPRESSED", size: cursor.left })],
  [USER_RECORD.COMPRESSED2, (cursor) => ({ type: "COMPRESSED2", size: cursor.number("its size") })],
]);

/** The attr says how long it is; what follows are ids. */
export function readPipeAttr(cursor: Cursor): Omit<RecordedAttr, "name" | "ids"> {
  cursor.need(8, "an attr");
  // perf's first attrs said 0.
  const bytes = cursor.image.view.getUint32(cursor.at + 4, true) || 64;
  return readAttr(cursor.sub(bytes, "an attr"));
}

function readIdIndex(cursor: Cursor): IdIndexEntry[] {
  const count = cursor.count(cursor.number("the number of ids"), 32, "ids");
  const entries = Array.from({ length: count }, () => ({
    id: cursor.u64("an id"),
    idx: cursor.u64("an id's ring"),
    cpu: BigInt.asIntN(64, cursor.u64("an id's CPU")),
    tid: BigInt.asIntN(64, cursor.u64("an id's thread")),
  }));
  // Since perf 6.0, behind all of them: { machine_pid, vcpu } of each.
  const hasGuests = count > 0 && cursor.left >= count * 16;
  return entries.map((entry) => ({
    ...entry,
    machinePid: hasGuests ? cursor.u64("a guest") : null,
    vcpu: hasGuests ? cursor.u64("a guest's CPU") : null,
  }));
}

/** { type, code, cpu, pid, tid, fmt, ip, [time,] msg }: `fmt` says whether there is a time. */
function readAuxTraceError(cursor: Cursor): UserRecord {
  const kind = cursor.u32("its kind");
  const code = cursor.u32("its code");
  const cpu = cursor.i32("the CPU");
  const pid = cursor.i32("the pid");
  const tid = cursor.i32("the tid");
  const format = cursor.u32("its format");
  const ip = cursor.u64("the address");
  const time = format === 0 ? 0n : cursor.u64("the time");
  const message = cursor.text(Math.min(TEXT_BYTES.MESSAGE, cursor.left), "the message");
  return { type: "AUXTRACE_ERROR", kind, code, cpu, pid, tid, ip, time, message };
}

const CPU_MAP_KIND = { LIST: 0, MASK: 1, RANGE: 2 } as const;
const ANY_CPU = 0xffff;

/** u16 kind, then what the kind says; the struct is packed. */
function readCpuMap(cursor: Cursor): CpuMap {
  const kind = cursor.u16("the kind of the CPUs");
  switch (kind) {
    case CPU_MAP_KIND.LIST: {
      const count = cursor.count(cursor.u16("the number of CPUs"), 2, "CPUs");
      const cpus = Array.from({ length: count }, () => cursor.u16("a CPU")).map((cpu) => (cpu === ANY_CPU ? -1 : cpu));
      return { kind: "list", cpus };
    }
    case CPU_MAP_KIND.MASK:
      return { kind: "mask", cpus: readCpuMask(cursor) };
    case CPU_MAP_KIND.RANGE: {
      const any = cursor.u8("whether any CPU will do") !== 0 ? [-1] : [];
      cursor.take(1, "the CPUs");
      const start = cursor.u16("the first CPU");
      const end = cursor.u16("the last CPU");
      const length = Math.max(0, end - start + 1);
      return { kind: "range", cpus: [...any, ...Array.from({ length }, (_, i) => start + i)] };
    }
    default:
      throw cursor.error(`CPUs of kind ${kind}`);
  }
}

/** { u16 words, u16 bytes a word, words }: longs of 8 bytes come behind 4 bytes of padding. */
function readCpuMask(cursor: Cursor): number[] {
  const count = cursor.u16("the number of words");
  const wordBytes = cursor.u16("the size of a word");
  if (wordBytes !== 4 && wordBytes !== 8) throw cursor.error(`words of ${wordBytes} bytes`);
  if (wordBytes === 8) cursor.take(4, "the padding");
  cursor.count(count, wordBytes, "words of a mask");
  const cpus: number[] = [];
  for (let word = 0; word < count; word++) {
    const bits = wordBytes === 8 ? cursor.u64("a word") : BigInt(cursor.u32("a word"));
    for (let bit = 0; bit < wordBytes * 8; bit++) {
      if (((bits >> BigInt(bit)) & 1n) === 1n) cpus.push(word * wordBytes * 8 + bit);
    }
  }
  return cpus;
}

/** enum in perf's event.h */
const EVENT_UPDATE = { UNIT: 0, SCALE: 1, NAME: 2, CPUS: 3 } as const;

function readEventUpdate(cursor: Cursor): UserRecord {
  const kind = cursor.number("its kind");
  const id = cursor.u64("an id");
  return { type: "EVENT_UPDATE", id, update: readUpdate(cursor, kind) };
}

function readUpdate(cursor: Cursor, kind: number): EventUpdate {
  switch (kind) {
    case EVENT_UPDATE.UNIT:
      return { kind: "unit", text: cursor.zeroTerminated("a unit") };
    case EVENT_UPDATE.NAME:
      return { kind: "name", text: cursor.zeroTerminated("a name") };
    case EVENT_UPDATE.SCALE:
      return { kind: "scale", factor: cursor.image.view.getFloat64(cursor.take(8, "a scale"), true) };
    case EVENT_UPDATE.CPUS:
      return { kind: "cpus", cpus: readCpuMap(cursor) };
    default:
      return { kind: "unknown", number: kind };
  }
}

const OLD_FLAGS = { hasZero: true, hasShort: false } as const;

function readTimeConversion(cursor: Cursor): UserRecord {
  const shift = cursor.u64("the shift");
  const multiplier = cursor.u64("the multiplier");
  const zero = cursor.u64("the zero");
  // What perf 5.9 and older wrote ends here, and they wrote it only where the zero was known.
  if (cursor.left < 18) return { type: "TIME_CONV", shift, multiplier, zero, cycles: 0n, mask: 0n, ...OLD_FLAGS };
  const cycles = cursor.u64("the cycles");
  const mask = cursor.u64("the mask");
  const hasZero = cursor.u8("a flag") !== 0;
  const hasShort = cursor.u8("a flag") !== 0;
  return { type: "TIME_CONV", shift, multiplier, zero, cycles, mask, hasZero, hasShort };
}
