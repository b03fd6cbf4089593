/** Which task records a handler is sent. In doubt it is sent one: a record too many does no harm, one too few does. */
import { RECORD } from "../../pmu/abi.js";
import { isSwitch } from "../../pmu/task-record.js";
import { type OwnerSpec, ownerKey } from "../dispatch/ownership.js";
import { isKernelHalf } from "../dispatch/redact.js";

/** Plain data: crosses from the main thread to the dispatchers. */
export interface TaskSpec {
  readonly contextSwitches: boolean;
  /** Of the handler's filter; empty: all. Owners, cgroups and CPUs may change, and are not looked at. */
  readonly pids: readonly number[];
  /** Whose processes' records they are to be; absent: everybody's. What concerns no process is sent to nobody then. */
  readonly owner?: OwnerSpec | null;
  /** Without those that tell addresses of the kernel. */
  readonly redacted?: boolean;
}

/** The same for all that are sent the same records. */
export function taskKey({ contextSwitches, pids, owner, redacted }: TaskSpec): string {
  const list = [...new Set(pids)].sort((a, b) => a - b).join(",");
  return `${contextSwitches} ${list} ${ownerKey(owner)} ${redacted === true}`;
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

/** Whose they are: words of a record that hold the pid and the tid; null for records that concern no process, or several. */
export function threadAt(type: number): { readonly pid: number; readonly tid: number } | null {
  if (type === RECORD.FORK || type === RECORD.EXIT) return { pid: 2, tid: 4 };
  return PIDS_AT.has(type) ? { pid: 2, tid: 3 } : null;
}

const KERNEL_RECORDS: ReadonlySet<number> = new Set([RECORD.KSYMBOL, RECORD.BPF_EVENT, RECORD.TEXT_POKE]);

/** Whether the record tells addresses of the kernel. */
function isKernels(words: Uint32Array, mask: number, at: number): boolean {
  const type = words[at & mask];
  if (KERNEL_RECORDS.has(type)) return true;
  // { header, pid, tid, addr }
  const isMapping = type === RECORD.MMAP || type === RECORD.MMAP2;
  return isMapping && (words[(at + 2) & mask] === KERNEL_PID || isKernelHalf(words[(at + 5) & mask]));
}

export class TaskFilter {
  /** Who may be told is for others to say: `wants` does not look at processes' owners. */
  readonly owner: OwnerSpec | null;
  readonly #redacted: boolean;
  readonly #contextSwitches: boolean;
  readonly #pids: ReadonlySet<number> | null;

  constructor({ contextSwitches, pids, owner, redacted }: TaskSpec) {
    this.owner = owner ?? null;
    this.#redacted = redacted === true;
    this.#contextSwitches = contextSwitches;
    this.#pids = pids.length === 0 ? null : new Set(pids);
  }

  /** `words` is the ring, `at` the record's header. */
  wants(words: Uint32Array, mask: number, at: number): boolean {
    const type = words[at & mask];
    if (this.owner !== null && threadAt(type) === null) return false;
    if (this.#redacted && isKernels(words, mask, at)) return false;
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
