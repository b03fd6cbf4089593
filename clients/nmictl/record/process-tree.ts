/**
 * Who belongs to the processes that are recorded: they, and whom they and theirs forked since. A handler's filter by
 * pid knows only pids that were given to it; so the daemon sends everybody's samples, and this says whose are kept.
 */

/** A sample's process may be known later than the sample: its FORK lies in another CPU's ring. */
export type Verdict = "ours" | "others" | "unknown";

export class ProcessTree {
  readonly #ours = new Map<number, boolean>();
  /** By parents of whom nothing is known yet. */
  readonly #orphans = new Map<number, Set<number>>();

  constructor(pids: Iterable<number>) {
    for (const pid of pids) this.#ours.set(pid, true);
    // The idle task and the kernel itself.
    this.#ours.set(0, false);
    this.#ours.set(0xffff_ffff, false);
  }

  of(pid: number): Verdict {
    const ours = this.#ours.get(pid);
    if (ours === undefined) return "unknown";
    return ours ? "ours" : "others";
  }

  /** It was there already, whoever its parent is; or nothing will say more of it. */
  stranger(pid: number): void {
    if (!this.#ours.has(pid)) this.#settle(pid, false);
  }

  /** A FORK record. That of a thread tells nothing. A pid may have been another's before. */
  fork(pid: number, ppid: number): void {
    if (pid === ppid) return;
    const parent = this.#ours.get(ppid);
    if (parent !== undefined) {
      this.#settle(pid, parent);
      return;
    }
    this.#ours.delete(pid);
    const waiting = this.#orphans.get(ppid) ?? new Set();
    this.#orphans.set(ppid, waiting.add(pid));
  }

  #settle(pid: number, ours: boolean): void {
    const due = [pid];
    for (let next = due.pop(); next !== undefined; next = due.pop()) {
      this.#ours.set(next, ours);
      due.push(...(this.#orphans.get(next) ?? []));
      this.#orphans.delete(next);
    }
  }
}
