/** Which dispatcher drains which CPU's ring. */
import { type CpuPlace, PLACE_LEVELS, type Topology, UNPLACED } from "../../pmu/topology.js";

const NOWHERE: CpuPlace = {
  package: UNPLACED,
  node: UNPLACED,
  lastLevelCache: UNPLACED,
  level2Cache: UNPLACED,
  core: UNPLACED,
};

/**
 * Deals CPUs out to dispatchers: how many each gets differs by one at most, since the busiest dispatcher is what limits
 * the daemon; among the ways to do that it takes the one that tears apart the fewest cores, of these the fewest caches,
 * then nodes, then packages. CPUs whose place is unknown are dealt out in blocks of neighbouring numbers. Where there are
 * more dispatchers than CPUs, the last ones get none.
 */
export function assignRings(cpus: readonly number[], topology: Topology, dispatchers: number): number[][] {
  const place = (cpu: number): CpuPlace => topology.get(cpu) ?? NOWHERE;
  const ordered = [...cpus].sort((a, b) => comparePlaces(place(a), place(b)) || a - b);
  const cuts = cheapestCuts(
    ordered.length,
    Math.min(dispatchers, ordered.length),
    (at) => CUT_COSTS[sharedLevels(place(ordered[at - 1]), place(ordered[at]))],
  );
  return Array.from({ length: dispatchers }, (_, d) =>
    d + 1 < cuts.length ? ordered.slice(cuts[d], cuts[d + 1]) : [],
  );
}

/**
 * The dispatcher for the ring of a CPU that has come: of those with the fewest rings, the one that has the CPU's nearest
 * neighbour. The others keep what they have.
 */
export function assignLate(cpu: number, shares: readonly (readonly number[])[], topology: Topology): number {
  const place = (of: number): CpuPlace => topology.get(of) ?? NOWHERE;
  const nearest = shares.map((cpus) => Math.max(-1, ...cpus.map((other) => sharedLevels(place(cpu), place(other)))));
  const fewest = Math.min(...shares.map(({ length }) => length));
  const candidates = shares.flatMap(({ length }, d) => (length === fewest ? [d] : []));
  return candidates.reduce((best, d) => (nearest[d] > nearest[best] ? d : best));
}

function comparePlaces(a: CpuPlace, b: CpuPlace): number {
  const level = PLACE_LEVELS.find((name) => a[name] !== b[name]);
  return level === undefined ? 0 : a[level] - b[level];
}

/** How many levels, from the widest on, two CPUs are together in. */
function sharedLevels(a: CpuPlace, b: CpuPlace): number {
  const apart = PLACE_LEVELS.findIndex((name) => a[name] !== b[name]);
  return apart < 0 ? PLACE_LEVELS.length : apart;
}

/** More than there are cuts, so that no number of cheaper cuts is as bad as one dearer. */
const CUT_COST_BASE = 256;
/** By the number of levels that the CPUs on both sides share: between packages a cut costs nothing. */
const CUT_COSTS = Array.from({ length: PLACE_LEVELS.length + 1 }, (_, shared) =>
  shared === 0 ? 0 : CUT_COST_BASE ** (shared - 1),
);

/**
 * Where to cut `length` things into `parts` runs whose lengths differ by one at most, at the least sum of `cost(position)`:
 * `parts` + 1 positions, 0 and `length` included. Longer runs come first where that costs the same.
 */
function cheapestCuts(length: number, parts: number, cost: (at: number) => number): number[] {
  if (parts === 0) return [0];
  const short = Math.floor(length / parts);
  const longRuns = length % parts;
  // best[l]: the cheapest way to have cut off the runs so far with l long ones among them, the last of which ends there.
  let best: Way[] = [{ cost: 0, cuts: [0] }];
  for (let run = 1; run <= parts; run++) {
    const next: Way[] = [];
    // All the long runs must still fit into the runs that are left.
    for (let long = Math.max(0, longRuns - (parts - run)); long <= Math.min(longRuns, run); long++) {
      const at = run * short + long;
      const ways = [best[long], best[long - 1]].filter((way) => way !== undefined);
      const way = ways.reduce((cheapest, other) => (other.cost < cheapest.cost ? other : cheapest));
      next[long] = { cost: way.cost + (run === parts ? 0 : cost(at)), cuts: [...way.cuts, at] };
    }
    best = next;
  }
  return best[longRuns].cuts;
}

interface Way {
  readonly cost: number;
  readonly cuts: number[];
}
