/** Which task records a handler is sent. In doubt it is sent one: a record too many does no harm, one too few does. */
import { RECORD } from "../../pmu/abi.js";
import { isSwitch } from "../../pmu/task-record.js";

/** Plain data: crosses from the main thread to the dispatchers. */
export interface TaskSpec {
  readonly contextSwitches: boolean;
  /** Of the handler's filter; empty: all. Owners, cgroups and CPUs may change, and are not looked at. */
  readonly pids: readonly number[];
}

/** The same for all that are sent the same records. */
export function taskKey({ contextSwitches, pids }: TaskSpec): string {
  return `${contextSwitches} ${[...new Set(pids)].sort((a, b) => a - b).join(",")}`;
}

/** Of the kernel's own mappings. */
export const KERNEL_PID = 0xffff_ffff;

/** Where in a record, from its header, are the pids that it is about: words; none for what concerns everybody. */
export const PIDS_AT: ReadonlyMap<number, readonly number[]> = new Map([
  [RECORD.MMAP, [2]],
  [RECORD.MMAP2, [2]],
  [RECORD.COMM, [2]],
  [RECORD.FORK, [2, 3]],
  [RECORD.EXIT, [2, 3]],
  [RECORD.NAMESPACES, [2]],
  [RECORD.ITRACE_START, [2]],
]);

export class TaskFilter {
  readonly #contextSwitches: boolean;
  readonly #pids: ReadonlySet<number> | null;

  constructor({ contextSwitches, pids }: TaskSpec) {
    this.#contextSwitches = contextSwitches;
    this.#pids = pids.length === 0 ? null : new Set(pids);
  }

  /** `words` is the ring, `at` the record's header. */
  wants(words: Uint32Array, mask: number, at: number): boolean {
    const type = words[at & mask];
    if (isSwitch(type)) return this.#contextSwitches;
    if (this.#pids === null) return true;
    const places = PIDS_AT.get(type);
    if (places === undefined) return true;
    for (const place of places) {
      const pid = words[(at + place) & mask];
      if (pid === KERNEL_PID || this.#pids.has(pid)) return true;
    }
    return false;
  }
}
