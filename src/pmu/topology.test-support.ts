/** Machines as their sysfs shows them: real numberings, the files that topology.ts reads and some that it must not trip over. */
import type { CpuTree } from "./topology.js";

export interface Machine {
  readonly cpus: readonly number[];
  readonly tree: CpuTree;
}

interface CpuFiles {
  readonly package: number;
  readonly node: number;
  readonly coreId: number;
  /** Lists as the kernel writes them. */
  readonly core: string;
  readonly level2: string;
  readonly level3: string | null;
}

/** `files` by path below /sys/devices/system/cpu. */
export function treeOf(files: Readonly<Record<string, string>>): CpuTree {
  return {
    read: (path) => files[path] ?? null,
    list: (path) => {
      const below = Object.keys(files).filter((file) => file.startsWith(`${path}/`));
      return [...new Set(below.map((file) => file.slice(path.length + 1).split("/", 1)[0]))];
    },
  };
}

function machine(cpus: readonly number[], describe: (cpu: number) => CpuFiles): Machine {
  const files: Record<string, string> = { online: "", "cpufreq/x": "", "cpuidle/x": "" };
  for (const cpu of cpus) {
    const { package: socket, node, coreId, core, level2, level3 } = describe(cpu);
    const topology = `cpu${cpu}/topology`;
    files[`${topology}/physical_package_id`] = String(socket);
    files[`${topology}/core_id`] = String(coreId);
    files[`${topology}/thread_siblings_list`] = core;
    files[`cpu${cpu}/node${node}/cpulist`] = "";
    const caches: readonly [string, string, string][] = [
      ["1", "Data", core],
      ["1", "Instruction", core],
      ["2", "Unified", level2],
    ];
    for (const [index, [level, type, shared]] of [
      ...caches,
      ...(level3 === null ? [] : [["3", "Unified", level3] as const]),
    ].entries()) {
      files[`cpu${cpu}/cache/index${index}/level`] = level;
      files[`cpu${cpu}/cache/index${index}/type`] = type;
      files[`cpu${cpu}/cache/index${index}/shared_cpu_list`] = shared;
    }
    files[`cpu${cpu}/cache/uevent`] = "";
  }
  return { cpus, tree: treeOf(files) };
}

const upTo = (end: number): number[] => Array.from({ length: end }, (_, cpu) => cpu);

/** Two sockets of four cores of two threads. Numbers alternate between the sockets, second threads follow all first ones. */
export const TWO_SOCKETS = machine(upTo(16), (cpu) => {
  const [first, socket] = [cpu % 8, cpu % 2];
  const core = `${first},${first + 8}`;
  return {
    package: socket,
    node: socket,
    // The same in both sockets, with gaps, as fused-off cores leave them.
    coreId: [0, 1, 4, 5][first >> 1],
    core,
    level2: core,
    level3: socket === 0 ? "0,2,4,6,8,10,12,14" : "1,3,5,7,9,11,13,15",
  };
});

/** Four fast cores of two threads, and eight efficient ones in two clusters that share a second-level cache. */
export const HYBRID = machine(upTo(16), (cpu) => {
  const fast = cpu < 8;
  const pair = cpu - (cpu % 2);
  const cluster = cpu - (cpu % 4);
  return {
    package: 0,
    node: 0,
    coreId: fast ? pair * 4 : 32 + cpu,
    core: fast ? `${pair}-${pair + 1}` : String(cpu),
    level2: fast ? `${pair}-${pair + 1}` : `${cluster}-${cluster + 3}`,
    level3: "0-15",
  };
});

/** One socket of four core complexes, each with three cores of two threads and a third-level cache of its own. */
export const FOUR_COMPLEXES = machine(upTo(24), (cpu) => {
  const first = cpu % 12;
  const complex = Math.floor(first / 3) * 3;
  return {
    package: 0,
    node: 0,
    coreId: first,
    core: `${first},${first + 12}`,
    level2: `${first},${first + 12}`,
    level3: `${complex}-${complex + 2},${complex + 12}-${complex + 14}`,
  };
});

/** Two sockets, the cores of which have second threads that are off, as are the CPUs between 3 and 40. */
export const SPARSE = machine([0, 2, 3, 40, 41, 47], (cpu) => {
  const socket = cpu < 40 ? 0 : 3;
  return {
    package: socket,
    node: socket === 0 ? 0 : 8,
    coreId: cpu % 40,
    core: String(cpu),
    level2: String(cpu),
    level3: null,
  };
});

/** A virtual machine that tells nothing of its host. */
export const TELLS_NOTHING: Machine = { cpus: upTo(6), tree: treeOf({ online: "0-5" }) };
