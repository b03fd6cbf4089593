/**
 * The events every perf knows by name: enum perf_hw_id, perf_sw_ids and the cache events of linux/perf_event.h, under
 * the names of tools/perf (util/parse-events.c, util/evsel.c). Whether a host can sample them is the source's to say.
 */
import { TYPE } from "./abi.js";

export interface GenericEvent {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly type: number;
  readonly config: bigint;
  readonly description: string;
  readonly group: "hardware" | "software" | "cache";
}

type Row = readonly [config: number, name: string, aliases: readonly string[], description: string];

const HARDWARE: readonly Row[] = [
  [0, "cycles", ["cpu-cycles"], "CPU cycles; their rate follows the CPU's frequency"],
  [1, "instructions", [], "Instructions retired"],
  [2, "cache-references", [], "Accesses to the last-level cache"],
  [3, "cache-misses", [], "Accesses that missed the last-level cache"],
  [4, "branches", ["branch-instructions"], "Branch instructions retired"],
  [5, "branch-misses", [], "Branches that were mispredicted"],
  [6, "bus-cycles", [], "Cycles of the bus, which differ from CPU cycles"],
  [7, "stalled-cycles-frontend", ["idle-cycles-frontend"], "Cycles in which the front end issued nothing"],
  [8, "stalled-cycles-backend", ["idle-cycles-backend"], "Cycles in which the back end retired nothing"],
  [9, "ref-cycles", [], "CPU cycles at the reference frequency, unaffected by frequency scaling"],
];

const SOFTWARE: readonly Row[] = [
  [0, "cpu-clock", [], "Time on each CPU, from a high-resolution timer; needs no PMU"],
  [1, "task-clock", [], "Time a task runs, from a high-resolution timer; needs no PMU"],
  [2, "page-faults", ["faults"], "Page faults"],
  [3, "context-switches", ["cs"], "Context switches"],
  [4, "cpu-migrations", ["migrations"], "Moves of a task to another CPU"],
  [5, "minor-faults", [], "Page faults that needed no I/O"],
  [6, "major-faults", [], "Page faults that needed I/O"],
  [7, "alignment-faults", [], "Unaligned accesses that the kernel had to handle; never on x86"],
  [8, "emulation-faults", [], "Instructions that the kernel had to emulate"],
  [9, "dummy", [], "Counts nothing; carries records that are no samples"],
  [10, "bpf-output", [], "Output of BPF programs"],
  [11, "cgroup-switches", [], "Context switches to a task of another cgroup"],
];

interface Term {
  /** The first name is the one perf prints. */
  readonly names: readonly string[];
  readonly text: string;
}

interface CacheTerm extends Term {
  /** Which operations exist on it: evsel__hw_cache_stat in tools/perf/util/evsel.c. */
  readonly ops: readonly number[];
}

const READ = 0;
const WRITE = 1;
const PREFETCH = 2;

/** enum perf_hw_cache_id */
const CACHES: readonly CacheTerm[] = [
  { names: ["L1-dcache", "l1-d", "l1d", "L1-data"], text: "the level 1 data cache", ops: [READ, WRITE, PREFETCH] },
  {
    names: ["L1-icache", "l1-i", "l1i", "L1-instruction"],
    text: "the level 1 instruction cache",
    ops: [READ, PREFETCH],
  },
  { names: ["LLC", "L2"], text: "the last-level cache", ops: [READ, WRITE, PREFETCH] },
  { names: ["dTLB", "d-tlb", "Data-TLB"], text: "the data TLB", ops: [READ, WRITE, PREFETCH] },
  { names: ["iTLB", "i-tlb", "Instruction-TLB"], text: "the instruction TLB", ops: [READ] },
  { names: ["branch", "branches", "bpu", "btb", "bpc"], text: "the branch prediction unit", ops: [READ] },
  { names: ["node"], text: "the memory of the own NUMA node", ops: [READ, WRITE, PREFETCH] },
];

interface OpTerm extends Term {
  /** perf's name for all accesses of this kind: `L1-dcache-loads`, but `L1-dcache-load-misses`. */
  readonly plural: string;
}

/** enum perf_hw_cache_op_id */
const OPS: readonly OpTerm[] = [
  { names: ["load", "loads", "read"], plural: "loads", text: "Loads from" },
  { names: ["store", "stores", "write"], plural: "stores", text: "Stores to" },
  {
    names: ["prefetch", "prefetches", "speculative-read", "speculative-load"],
    plural: "prefetches",
    text: "Prefetches into",
  },
];

/** enum perf_hw_cache_op_result_id */
const RESULT_ACCESS = ["refs", "Reference", "ops", "access"];
const RESULT_MISS = ["misses", "miss"];
const MISS = 1;

function cacheEvents(): GenericEvent[] {
  const events: GenericEvent[] = [];
  for (const [id, cache] of CACHES.entries()) {
    for (const op of cache.ops) {
      const { names, plural, text } = OPS[op] as OpTerm;
      const config = id | (op << 8);
      // perf takes operation and result in either order, and a bare `LLC-misses` or `LLC` as loads.
      const spelled = (results: readonly string[]): string[] => [
        ...names.flatMap((name) => results.flatMap((result) => [`${name}-${result}`, `${result}-${name}`])),
        ...(op === READ ? results : []),
      ];
      const aliases = (suffixes: readonly string[], canonical: string): string[] =>
        cache.names
          .flatMap((name) => suffixes.map((suffix) => (suffix === "" ? name : `${name}-${suffix}`)))
          .filter((name) => name !== canonical);
      const bare = op === READ ? [""] : [];
      const [cacheName] = cache.names;
      const all = `${cacheName}-${plural}`;
      const missed = `${cacheName}-${names[0]}-misses`;
      events.push(
        cacheEvent(all, aliases([...names, ...spelled(RESULT_ACCESS), ...bare], all), config, `${text} ${cache.text}`),
        cacheEvent(
          missed,
          aliases(spelled(RESULT_MISS), missed),
          config | (MISS << 16),
          `${text} ${cache.text} that missed`,
        ),
      );
    }
  }
  return events;
}

function cacheEvent(name: string, aliases: readonly string[], config: number, description: string): GenericEvent {
  return { name, aliases, type: TYPE.HW_CACHE, config: BigInt(config), description, group: "cache" };
}

function rows(table: readonly Row[], type: number, group: GenericEvent["group"]): GenericEvent[] {
  return table.map(([config, name, aliases, description]) => ({
    name,
    aliases,
    type,
    config: BigInt(config),
    description,
    group,
  }));
}

const EVENTS: readonly GenericEvent[] = [
  ...rows(HARDWARE, TYPE.HARDWARE, "hardware"),
  ...rows(SOFTWARE, TYPE.SOFTWARE, "software"),
  ...cacheEvents(),
];

/** By name and by alias. Where two events claim a name (`branch-misses`), the earlier group has it, as in perf. */
const BY_NAME: ReadonlyMap<string, GenericEvent> = EVENTS.reduce((map, event) => {
  for (const name of [event.name, ...event.aliases]) if (!map.has(name)) map.set(name, event);
  return map;
}, new Map<string, GenericEvent>());

/** perf spells each cache event in dozens of ways: all are understood, one is shown. */
const SHOWN = EVENTS.map((event) => (event.group === "cache" ? { ...event, aliases: [] } : event));

/** In perf's order: hardware, software, cache. */
export function genericEvents(): readonly GenericEvent[] {
  return SHOWN;
}

export function genericEventByName(name: string): GenericEvent | undefined {
  return BY_NAME.get(name);
}

export function genericEventNames(): Iterable<string> {
  return BY_NAME.keys();
}

export function genericEventByConfig(type: number, config: bigint): GenericEvent | undefined {
  return EVENTS.find((event) => event.type === type && event.config === config);
}
