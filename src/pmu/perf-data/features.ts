/** What a recording says of the machine and of itself: one section a feature, layouts in perf's util/header.c. */
import { type RecordedAttr, readAttr } from "./attr.js";
import { RECORD_HEADER_BYTES } from "./format.js";
import type { Cursor } from "./image.js";
import { readTracingData, type TracingData } from "./tracing-data.js";

export interface EventDescription {
  readonly name: string;
  readonly attr: Omit<RecordedAttr, "name" | "ids">;
  readonly ids: readonly bigint[];
}

export interface BuildId {
  /** -1 for the host's kernel and modules. */
  readonly pid: number;
  /** PERF_RECORD_MISC_CPUMODE_MASK of it says whether it is the kernel's or a user's. */
  readonly misc: number;
  /** Hexadecimal. */
  readonly buildId: string;
  readonly file: string;
}

export interface CpuTopology {
  /** CPU lists, "0-1". */
  readonly coreSiblings: readonly string[];
  readonly threadSiblings: readonly string[];
  readonly dieSiblings: readonly string[];
  /** By CPU; empty where the recording does not say. */
  readonly cpus: readonly { readonly core: number; readonly socket: number; readonly die: number | null }[];
}

export interface Capability {
  readonly name: string;
  readonly value: string;
}

/** Those that the recording holds, by perf's names. Sizes are in bytes unless the name says otherwise. */
export interface Features {
  readonly TRACING_DATA?: TracingData;
  readonly BUILD_ID?: readonly BuildId[];
  readonly HOSTNAME?: string;
  readonly OSRELEASE?: string;
  readonly VERSION?: string;
  readonly ARCH?: string;
  readonly NRCPUS?: { readonly available: number; readonly online: number };
  readonly CPUDESC?: string;
  readonly CPUID?: string;
  readonly TOTAL_MEM?: { readonly kib: number };
  readonly CMDLINE?: readonly string[];
  readonly EVENT_DESC?: readonly EventDescription[];
  readonly CPU_TOPOLOGY?: CpuTopology;
  readonly NUMA_TOPOLOGY?: readonly {
    readonly node: number;
    readonly totalKib: number;
    readonly freeKib: number;
    readonly cpus: string;
  }[];
  readonly BRANCH_STACK?: true;
  readonly PMU_MAPPINGS?: readonly { readonly type: number; readonly name: string }[];
  readonly GROUP_DESC?: readonly { readonly name: string; readonly leader: number; readonly members: number }[];
  /** Where AUXTRACE records lie in the file, with what follows them. */
  readonly AUXTRACE?: readonly { readonly offset: number; readonly size: number }[];
  readonly STAT?: true;
  readonly CACHE?: readonly {
    readonly level: number;
    readonly lineSize: number;
    readonly sets: number;
    readonly ways: number;
    readonly type: string;
    readonly size: string;
    readonly cpus: string;
  }[];
  /** Nanoseconds on the recording's clock. */
  readonly SAMPLE_TIME?: { readonly first: bigint; readonly last: bigint };
  readonly MEM_TOPOLOGY?: {
    readonly blockSize: number;
    /** `blocks` is a bitmap. */
    readonly nodes: readonly { readonly node: number; readonly blocks: BigUint64Array }[];
  };
  readonly CLOCKID?: { readonly resolutionNs: bigint };
  readonly DIR_FORMAT?: { readonly version: number };
  /** Not interpreted: how many there are, and how long the section is. */
  readonly BPF_PROG_INFO?: { readonly count: number; readonly size: number };
  readonly BPF_BTF?: { readonly count: number; readonly size: number };
  readonly COMPRESSED?: {
    readonly type: number;
    readonly level: number;
    readonly ratio: number;
    readonly mmapBytes: number;
  };
  readonly CPU_PMU_CAPS?: readonly Capability[];
  /** Both clocks, read at the same time. */
  readonly CLOCK_DATA?: { readonly clockId: number; readonly wallClockNs: bigint; readonly clockNs: bigint };
  readonly HYBRID_TOPOLOGY?: readonly { readonly pmu: string; readonly cpus: string }[];
  readonly PMU_CAPS?: readonly { readonly pmu: string; readonly capabilities: readonly Capability[] }[];
}

/** `cursor` holds one section. Each throws RecordingError; `so far` is what earlier sections said. */
type Decoders = { readonly [Name in keyof Features]-?: (cursor: Cursor, soFar: Features) => Features[Name] };

const text = (cursor: Cursor): string => cursor.string("the text");

/** A u32 count, then so many elements of at least `bytesEach`. */
function list<T>(cursor: Cursor, bytesEach: number, what: string, element: () => T): T[] {
  const count = cursor.count(cursor.u32(`the number of ${what}`), bytesEach, what);
  return Array.from({ length: count }, element);
}

const strings = (cursor: Cursor, what: string): string[] => list(cursor, 4, what, () => cursor.string(what));

const capabilities = (cursor: Cursor): Capability[] =>
  list(cursor, 8, "capabilities", () => ({ name: cursor.string("a name"), value: cursor.string("a value") }));

const whole = (cursor: Cursor): { readonly count: number; readonly size: number } => ({
  size: cursor.left,
  count: cursor.u32("the count"),
});

export const FEATURE_DECODERS: Decoders = {
  TRACING_DATA: readTracingData,
  BUILD_ID: readBuildIds,
  HOSTNAME: text,
  OSRELEASE: text,
  VERSION: text,
  ARCH: text,
  NRCPUS: (cursor) => ({ available: cursor.u32("the CPUs"), online: cursor.u32("the CPUs") }),
  CPUDESC: text,
  CPUID: text,
  TOTAL_MEM: (cursor) => ({ kib: cursor.number("the memory") }),
  CMDLINE: (cursor) => strings(cursor, "arguments"),
  EVENT_DESC: readEventDescriptions,
  CPU_TOPOLOGY: readCpuTopology,
  NUMA_TOPOLOGY: (cursor) =>
    list(cursor, 24, "nodes", () => ({
      node: cursor.u32("a node"),
      totalKib: cursor.number("a node's memory"),
      freeKib: cursor.number("a node's memory"),
      cpus: cursor.string("a node's CPUs"),
    })),
  BRANCH_STACK: () => true,
  PMU_MAPPINGS: (cursor) =>
    list(cursor, 8, "PMUs", () => ({ type: cursor.u32("a type"), name: cursor.string("a name") })),
  GROUP_DESC: (cursor) =>
    list(cursor, 12, "groups", () => ({
      name: cursor.string("a name"),
      leader: cursor.u32("a leader"),
      members: cursor.u32("the members"),
    })),
  AUXTRACE: (cursor) => {
    const count = cursor.count(cursor.number("the number of traces"), 16, "traces");
    return Array.from({ length: count }, () => ({ offset: cursor.number("a trace"), size: cursor.number("a trace") }));
  },
  STAT: () => true,
  CACHE: (cursor) => {
    cursor.u32("the version");
    return list(cursor, 28, "caches", () => ({
      level: cursor.u32("a level"),
      lineSize: cursor.u32("a line's size"),
      sets: cursor.u32("the sets"),
      ways: cursor.u32("the ways"),
      type: cursor.string("a type"),
      size: cursor.string("a size"),
      cpus: cursor.string("a cache's CPUs"),
    }));
  },
  SAMPLE_TIME: (cursor) => ({ first: cursor.u64("the first time"), last: cursor.u64("the last time") }),
  MEM_TOPOLOGY: readMemTopology,
  CLOCKID: (cursor) => ({ resolutionNs: cursor.u64("the resolution") }),
  DIR_FORMAT: (cursor) => ({ version: cursor.number("the version") }),
  BPF_PROG_INFO: whole,
  BPF_BTF: whole,
  COMPRESSED: (cursor) => {
    cursor.u32("the version");
    return {
      type: cursor.u32("the type"),
      level: cursor.u32("the level"),
      ratio: cursor.u32("the ratio"),
      mmapBytes: cursor.u32("the rings' size"),
    };
  },
  CPU_PMU_CAPS: capabilities,
  CLOCK_DATA: (cursor) => {
    cursor.u32("the version");
    return {
      clockId: cursor.i32("the clock"),
      wallClockNs: cursor.u64("the wall clock"),
      clockNs: cursor.u64("the clock's time"),
    };
  },
  HYBRID_TOPOLOGY: (cursor) =>
    list(cursor, 8, "PMUs", () => ({ pmu: cursor.string("a PMU"), cpus: cursor.string("a PMU's CPUs") })),
  PMU_CAPS: (cursor) =>
    list(cursor, 8, "PMUs", () => {
      const found = capabilities(cursor);
      return { pmu: cursor.string("a PMU"), capabilities: found };
    }),
};

const BUILD_ID_BYTES = 20;
const MISC_BUILD_ID_SIZE = 1 << 15;

/** PERF_RECORD_HEADER_BUILD_ID records, end to end. */
function readBuildIds(cursor: Cursor): BuildId[] {
  const found: BuildId[] = [];
  while (cursor.left >= RECORD_HEADER_BYTES) {
    cursor.u32("a type");
    const misc = cursor.u16("the misc bits");
    const size = cursor.u16("a size");
    if (size < RECORD_HEADER_BYTES) throw cursor.error(`a build id of ${size} bytes`);
    found.push(readBuildId(cursor.sub(size - RECORD_HEADER_BYTES, "a build id"), misc));
  }
  return found;
}

/** { pid, u8 id[20], u8 size, padding to 24, file }; the size is given since 5.11. */
export function readBuildId(cursor: Cursor, misc: number): BuildId {
  const pid = cursor.i32("the pid");
  const id = cursor.bytes(BUILD_ID_BYTES, "the id");
  const size = cursor.u8("the id's size");
  cursor.take(3, "the padding");
  const used = (misc & MISC_BUILD_ID_SIZE) === 0 ? BUILD_ID_BYTES : Math.min(size, BUILD_ID_BYTES);
  return {
    pid,
    misc,
    buildId: Buffer.from(id.subarray(0, used)).toString("hex"),
    file: cursor.zeroTerminated("a file"),
  };
}

function readEventDescriptions(cursor: Cursor): EventDescription[] {
  const count = cursor.u32("the number of events");
  const attrBytes = cursor.u32("the size of an attr");
  cursor.count(count, attrBytes + 8, "events");
  return Array.from({ length: count }, () => {
    const attr = readAttr(cursor.sub(attrBytes, "an attr"));
    const ids = cursor.u32("the number of ids");
    const name = cursor.string("an event's name");
    return { name, attr, ids: Array.from(cursor.u64s(ids, "an event's ids")) };
  });
}

function readCpuTopology(cursor: Cursor, { NRCPUS }: Features): CpuTopology {
  const coreSiblings = strings(cursor, "core siblings");
  const threadSiblings = strings(cursor, "thread siblings");
  // perf did not always write what follows, and says nowhere for how many CPUs it did.
  const count = NRCPUS?.available ?? 0;
  if (count === 0 || cursor.left < count * 8) return { coreSiblings, threadSiblings, dieSiblings: [], cpus: [] };
  const places = Array.from({ length: count }, () => ({ core: cursor.u32("a core"), socket: cursor.u32("a socket") }));
  const dieSiblings = cursor.left < 4 ? [] : strings(cursor, "die siblings");
  const hasDies = cursor.left >= count * 4;
  const cpus = places.map((place) => ({ ...place, die: hasDies ? cursor.u32("a die") : null }));
  return { coreSiblings, threadSiblings, dieSiblings, cpus };
}

function readMemTopology(cursor: Cursor): Features["MEM_TOPOLOGY"] {
  cursor.u64("the version");
  const blockSize = cursor.number("a block's size");
  const count = cursor.count(cursor.number("the number of nodes"), 24, "nodes");
  const nodes = Array.from({ length: count }, () => {
    const node = cursor.number("a node");
    cursor.number("a node's blocks");
    const bits = cursor.number("a node's blocks");
    return { node, blocks: cursor.u64s(Math.ceil(bits / 64), "words of a bitmap") };
  });
  return { blockSize, nodes };
}
