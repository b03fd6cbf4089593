/**
 * The filters of a dispatcher's lanes, each compiled once and indexed once, whatever the number of events and rates it is
 * asked for with: a filter may name thousands of processes. What comes and goes touches its own values only, for an index
 * may hold a thousand filters of a thousand values each.
 */
import { type FilterDimension, type FilterSpec, indexedBy, type OwnerCache, SampleFilter } from "./filter.js";
import type { Lane } from "./lane.js";
import type { Ownership } from "./ownership.js";

export interface SharedFilter {
  readonly filter: SampleFilter;
  /** What its lanes are found by; null where only a look at each sample tells. */
  readonly by: ReturnType<typeof indexedBy>;
  /** By armed event. */
  readonly lanes: Map<number, Lane[]>;
}

export class LaneIndex {
  readonly #owners: OwnerCache;
  readonly #ownership: Ownership | null;
  readonly #filters = new Map<string, SharedFilter>();
  readonly #byValue = {
    pid: new Map<number, SharedFilter[]>(),
    uid: new Map<number, SharedFilter[]>(),
    cgroup: new Map<number, SharedFilter[]>(),
    cpu: new Map<number, SharedFilter[]>(),
  } as const satisfies Record<FilterDimension, unknown>;

  constructor(owners: OwnerCache, ownership: Ownership | null = null) {
    this.#owners = owners;
    this.#ownership = ownership;
  }

  /** `key` is filterKey of `spec`. */
  of(key: string, spec: FilterSpec): SharedFilter {
    const known = this.#filters.get(key);
    if (known !== undefined) return known;
    const by = indexedBy(spec);
    const filter = new SampleFilter(spec, this.#owners, this.#ownership);
    const shared = { filter, by, lanes: new Map<number, Lane[]>() };
    this.#filters.set(key, shared);
    if (by !== null) for (const value of by.values) addTo(this.#byValue[by.dimension], value, shared);
    return shared;
  }

  add(shared: SharedFilter, lane: Lane): void {
    addTo(shared.lanes, lane.event, lane);
  }

  /** Returns what the lane was found by. */
  remove(lane: Lane): SharedFilter["by"] {
    const shared = this.#filters.get(lane.filterKey) as SharedFilter;
    takeFrom(shared.lanes, lane.event, lane);
    const { by } = shared;
    if (shared.lanes.size > 0) return by;
    this.#filters.delete(lane.filterKey);
    if (by !== null) for (const value of by.values) takeFrom(this.#byValue[by.dimension], value, shared);
    return by;
  }

  find(dimension: FilterDimension, value: number): readonly SharedFilter[] | undefined {
    return this.#byValue[dimension].get(value);
  }
}

function addTo<T>(lists: Map<number, T[]>, key: number, element: T): void {
  const list = lists.get(key);
  if (list === undefined) lists.set(key, [element]);
  else list.push(element);
}

function takeFrom<T>(lists: Map<number, T[]>, key: number, element: T): void {
  const list = lists.get(key) as T[];
  removeFrom(list, element);
  if (list.length === 0) lists.delete(key);
}

/** The last takes its place: order does not matter. */
export function removeFrom<T>(list: T[], element: T): void {
  const last = list.pop() as T;
  if (last !== element) list[list.indexOf(element)] = last;
}
