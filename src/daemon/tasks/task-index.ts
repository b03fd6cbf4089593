/**
 * Finds those who want a task record by the pids that it is about: in a storm of forks a thousand filters of a pid each
 * cost a look-up a record, not a thousand tests. Agrees with TaskFilter, which is for one.
 */
import { isSwitch } from "../../pmu/task-record.js";
import { KERNEL_PID, PIDS_AT, type TaskSpec } from "./task-filter.js";

export class TaskIndex<Wanting extends object> {
  readonly #all = new Set<Wanting>();
  readonly #switches = new Set<Wanting>();
  /** Those that name no pids. */
  readonly #unfiltered = new Set<Wanting>();
  readonly #byPid = new Map<number, Set<Wanting>>();
  /** Of the last look-up. */
  readonly #found = new Set<Wanting>();

  add(one: Wanting, { contextSwitches, pids }: TaskSpec): void {
    this.#all.add(one);
    if (contextSwitches) this.#switches.add(one);
    if (pids.length === 0) this.#unfiltered.add(one);
    for (const pid of pids) {
      const same = this.#byPid.get(pid);
      if (same === undefined) this.#byPid.set(pid, new Set([one]));
      else same.add(one);
    }
  }

  /** With the spec that it was added with. */
  remove(one: Wanting, { pids }: TaskSpec): void {
    this.#all.delete(one);
    this.#switches.delete(one);
    this.#unfiltered.delete(one);
    for (const pid of pids) {
      const same = this.#byPid.get(pid);
      if (same?.delete(one) && same.size === 0) this.#byPid.delete(pid);
    }
  }

  /** `words` is the ring, `at` the record's header. Each of them once; good until the next look-up. */
  find(words: Uint32Array, mask: number, at: number): ReadonlySet<Wanting> {
    const type = words[at & mask];
    if (isSwitch(type)) return this.#switches;
    const places = PIDS_AT.get(type);
    if (places === undefined) return this.#all;
    const found = this.#found;
    found.clear();
    for (const place of places) {
      const pid = words[(at + place) & mask];
      if (pid === KERNEL_PID) return this.#all;
      const same = this.#byPid.get(pid);
      if (same !== undefined) for (const one of same) found.add(one);
    }
    for (const one of this.#unfiltered) found.add(one);
    return found;
  }
}
