/** Which samples a handler wants, compiled once when it is attached, asked for every sample. */
import { statSync } from "node:fs";
import { SAMPLE } from "../../pmu/abi.js";
import type { BatchIndex } from "../../pmu/record.js";
import { isUserMode } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import { type OwnerSpec, type Ownership, ownerKey } from "./ownership.js";

/** Plain data: crosses from the main thread to the dispatchers. Empty lists let everything pass. */
export interface FilterSpec {
  readonly pids: readonly number[];
  readonly cpus: readonly number[];
  readonly uids: readonly number[];
  /** cgroup ids: inode numbers in the cgroup v2 file system. */
  readonly cgroupIds: readonly number[];
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
  /** Whose processes' samples pass, by what the handler's peer may see and not by what it asks for; absent: everybody's. */
  readonly owner?: OwnerSpec | null;
}

/** The same for all filters that let the same samples pass. */
export function filterKey(spec: FilterSpec): string {
  const list = (values: readonly number[]): string => [...new Set(values)].sort((a, b) => a - b).join(",");
  const lists = [spec.pids, spec.cpus, spec.uids, spec.cgroupIds].map(list).join(";");
  return `${lists};${spec.excludeUser ? "u" : ""}${spec.excludeKernel ? "k" : ""};${ownerKey(spec.owner)}`;
}

/** What lanes are found by, where their filter names values of it: the most telling one first. */
export type FilterDimension = "pid" | "uid" | "cgroup" | "cpu";

/** The dimension that a filter is indexed by and its values there; null where only a look at each sample tells. */
export function indexedBy(spec: FilterSpec): { dimension: FilterDimension; values: readonly number[] } | null {
  if (spec.pids.length > 0) return { dimension: "pid", values: [...new Set(spec.pids)] };
  if (spec.uids.length > 0) return { dimension: "uid", values: [...new Set(spec.uids)] };
  if (spec.cgroupIds.length > 0) return { dimension: "cgroup", values: [...new Set(spec.cgroupIds)] };
  if (spec.cpus.length > 0) return { dimension: "cpu", values: [...new Set(spec.cpus)] };
  return null;
}

/** Measured on Node 20 and taken a little high; what two filters have in common is counted for each. */
const FILTER_BYTES = 1024;
/** A value in a set and its digits in the filter's key, and beside that its list in the index. */
const VALUE_BYTES = 64;
const INDEXED_VALUE_BYTES = 160;

/** An estimate of what a filter that names values makes each dispatcher hold, in bytes: its sets, its key, and the index. */
export function filterBytes(spec: FilterSpec): number {
  const values = spec.pids.length + spec.cpus.length + spec.uids.length + spec.cgroupIds.length;
  if (values === 0) return 0;
  const indexed = indexedBy(spec)?.values.length ?? 0;
  return FILTER_BYTES + indexed * INDEXED_VALUE_BYTES + (values - indexed) * VALUE_BYTES;
}

const OWNER_TTL_NS = 1_000_000_000;
const OWNERS_MAX = 65_536;

/**
 * The one place where a dispatcher asks the kernel, and only for handlers that filter by uid: microseconds for each
 * process once a second. Owners as /proc shows them, asked at most once a second for each process: a pid that is reused, or a process that
 * changes its owner, is seen with the old one for up to that long.
 */
export class OwnerCache {
  readonly #owners = new Map<number, { uid: number; expiresNs: number }>();

  /** The owner's uid, or -1 when the process has gone. */
  owner(pid: number, nowNs: number): number {
    const known = this.#owners.get(pid);
    if (known !== undefined && nowNs < known.expiresNs) return known.uid;
    if (this.#owners.size >= OWNERS_MAX) this.#owners.clear();
    const uid = ownerOf(pid);
    this.#owners.set(pid, { uid, expiresNs: nowNs + OWNER_TTL_NS });
    return uid;
  }
}

function ownerOf(pid: number): number {
  try {
    return statSync(`/proc/${pid}`, { throwIfNoEntry: false })?.uid ?? -1;
  } catch {
    // Whatever keeps us from knowing: who is not known is not shown.
    return -1;
  }
}

export class SampleFilter {
  /** No test at all: the common case, decided once a batch. */
  readonly passesAll: boolean;
  readonly #pids: ReadonlySet<number> | null;
  readonly #cpus: ReadonlySet<number> | null;
  readonly #uids: ReadonlySet<number> | null;
  readonly #cgroups: ReadonlySet<number> | null;
  readonly #excludeUser: boolean;
  readonly #excludeKernel: boolean;
  readonly #owners: OwnerCache;
  readonly #owner: OwnerSpec | null;
  readonly #ownership: Ownership | null;

  /** Without an `ownership` nobody's samples pass a filter that names an owner. */
  constructor(spec: FilterSpec, owners: OwnerCache, ownership: Ownership | null = null) {
    const set = (list: readonly number[]): ReadonlySet<number> | null => (list.length === 0 ? null : new Set(list));
    this.#pids = set(spec.pids);
    this.#cpus = set(spec.cpus);
    this.#uids = set(spec.uids);
    this.#cgroups = set(spec.cgroupIds);
    this.#excludeUser = spec.excludeUser;
    this.#excludeKernel = spec.excludeKernel;
    this.#owners = owners;
    this.#owner = spec.owner ?? null;
    this.#ownership = ownership;
    this.passesAll =
      this.#owner === null &&
      this.#pids === null &&
      this.#cpus === null &&
      this.#uids === null &&
      this.#cgroups === null &&
      !spec.excludeUser &&
      !spec.excludeKernel;
  }

  /** Whether sample `i` passes every list. `nowNs` ages the owners. */
  passes(batch: BatchIndex, ring: RingReader, i: number, ringCpu: number, nowNs: number): boolean {
    if (this.#pids !== null && !this.#pids.has(batch.pid[i])) return false;
    if (this.#cpus !== null && !this.#cpus.has(sampleCpu(batch, ring, i, ringCpu))) return false;
    if (this.#excludeUser || this.#excludeKernel) {
      if (isUserMode(batch.cpumode[i]) ? this.#excludeUser : this.#excludeKernel) return false;
    }
    if (this.#cgroups !== null && !this.#cgroups.has(sampleCgroup(batch, ring, i))) return false;
    if (this.#owner !== null && this.#ownership?.shows(this.#owner, batch, ring, i) !== true) return false;
    return this.#uids === null || this.#uids.has(this.#owners.owner(batch.pid[i], nowNs));
  }
}

/** What sample `i` is in one dimension. */
export function dimensionValue(
  dimension: FilterDimension,
  batch: BatchIndex,
  ring: RingReader,
  i: number,
  ringCpu: number,
  owners: OwnerCache,
  nowNs: number,
): number {
  switch (dimension) {
    case "pid":
      return batch.pid[i];
    case "uid":
      return owners.owner(batch.pid[i], nowNs);
    case "cgroup":
      return sampleCgroup(batch, ring, i);
    case "cpu":
      return sampleCpu(batch, ring, i, ringCpu);
  }
}

function sampleCpu(batch: BatchIndex, ring: RingReader, i: number, ringCpu: number): number {
  const offset = batch.offsetsOf(i).cpu;
  return offset < 0 ? ringCpu : ring.words[(batch.at[i] + offset) & ring.wordMask];
}

/** -1 where the sample carries none. */
function sampleCgroup(batch: BatchIndex, ring: RingReader, i: number): number {
  const at = batch.wordOf(i, SAMPLE.CGROUP);
  if (at < 0) return -1;
  const { words, wordMask: mask } = ring;
  return words[at & mask] + words[(at + 1) & mask] * 2 ** 32;
}
