/**
 * Where each CPU is in the machine, as sysfs tells it: which CPUs share a core, caches, a NUMA node, a package. Pure but
 * for the tree that it is handed.
 */
import { readdirSync, readFileSync } from "node:fs";
import { parseCpuList } from "./cpu-list.js";

/** Files below /sys/devices/system/cpu. A path that is not there reads as null and lists as nothing. */
export interface CpuTree {
  read(path: string): string | null;
  list(path: string): readonly string[];
}

/**
 * One CPU's domains, widest first. Two CPUs share a domain when they have the same number at its level and at all levels
 * before. A domain of caches or of a core is named by the lowest of its CPUs; UNPLACED where sysfs does not say.
 */
export interface CpuPlace {
  readonly package: number;
  readonly node: number;
  readonly lastLevelCache: number;
  /** As of four efficient cores of a hybrid CPU. */
  readonly level2Cache: number;
  readonly core: number;
}

export const PLACE_LEVELS = ["package", "node", "lastLevelCache", "level2Cache", "core"] as const;

export const UNPLACED = -1;

/** CPUs that are not in it are UNPLACED at every level. */
export type Topology = ReadonlyMap<number, CpuPlace>;

/** For CPUs that are not this machine's, such as a recording's. */
export const UNKNOWN_TOPOLOGY: Topology = new Map();

const CPU_DEVICES = "/sys/devices/system/cpu";

export const liveCpuTree: CpuTree = {
  read: (path) => {
    try {
      return readFileSync(`${CPU_DEVICES}/${path}`, "utf8").trim();
    } catch {
      return null;
    }
  },
  list: (path) => {
    try {
      return readdirSync(`${CPU_DEVICES}/${path}`);
    } catch {
      return [];
    }
  },
};

/** What the tree knows of these CPUs; of those that it does not know nothing is said. */
export function readTopology(cpus: readonly number[], tree: CpuTree): Topology {
  return new Map(cpus.map((cpu) => [cpu, readPlace(`cpu${cpu}`, tree)]));
}

function readPlace(cpu: string, tree: CpuTree): CpuPlace {
  const caches = readCaches(cpu, tree);
  return {
    package: number(tree.read(`${cpu}/topology/physical_package_id`)),
    node: readNode(cpu, tree),
    lastLevelCache: caches.get(Math.max(...caches.keys())) ?? UNPLACED,
    level2Cache: caches.get(2) ?? UNPLACED,
    // The first is what kernels before 5.3 have alone. core_id is unique neither in the machine nor in its package.
    core: lowest(tree.read(`${cpu}/topology/thread_siblings_list`) ?? tree.read(`${cpu}/topology/core_cpus_list`)),
  };
}

/** The lowest CPU that shares the cache, by level. A first-level cache belongs to one core and says nothing new. */
function readCaches(cpu: string, tree: CpuTree): Map<number, number> {
  const caches = new Map<number, number>();
  for (const index of tree.list(`${cpu}/cache`)) {
    if (!/^index\d+$/.test(index)) continue;
    const level = number(tree.read(`${cpu}/cache/${index}/level`));
    const sharedBy = lowest(tree.read(`${cpu}/cache/${index}/shared_cpu_list`));
    if (level >= 2 && sharedBy !== UNPLACED) caches.set(level, sharedBy);
  }
  return caches;
}

/** The kernel links the node's directory into the CPU's. */
function readNode(cpu: string, tree: CpuTree): number {
  const link = tree.list(cpu).find((name) => /^node\d+$/.test(name));
  return link === undefined ? UNPLACED : number(link.slice("node".length));
}

function number(text: string | null): number {
  return text !== null && /^\d+$/.test(text) ? Number(text) : UNPLACED;
}

function lowest(list: string | null): number {
  const cpus = parseCpuList(list ?? "");
  return cpus.length === 0 || cpus.some(Number.isNaN) ? UNPLACED : Math.min(...cpus);
}
