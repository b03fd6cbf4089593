/**
 * Whose a thread is, by the rule that perf_event_open itself asks before it shows one user another's process
 * (kernel/ptrace.c, __ptrace_may_access with PTRACE_MODE_READ_REALCREDS, for a caller without capabilities): all its user
 * ids are the user's, all its group ids the user's, it has no capability that the user has not, and its memory may be
 * dumped, which that of set-user-id programs may not.
 */
import { closeSync, openSync, readSync, statSync } from "node:fs";

export interface ThreadOwner {
  readonly uid: number;
  readonly gid: number;
  /**
   * It has used a capability since it was forked (PF_SUPERPRIV), as what was root and has become the user's has: what it is
   * now says nothing of what it was.
   */
  readonly hadPrivilege: boolean;
}

/** Null: nobody's who is without privilege, or not known. */
export type OwnerLookup = (pid: number, tid: number) => ThreadOwner | null;

/** Of /proc/PID/status and stat, more than the part that is looked at. */
const READ_BYTES = 4096;
/** linux/sched.h */
const PF_SUPERPRIV = 0x100;
/** Of the fields behind the command's name in /proc/PID/stat: state is the first. */
const STAT_FLAGS = 6;

/** Asks /proc: some 30 microseconds. Memory is asked last: what an exec changes between the looks shows there. */
export const procOwner: OwnerLookup = (pid, tid) => {
  const directory = `/proc/${pid}/task/${tid}`;
  try {
    const stat = text(`${directory}/stat`);
    const status = text(`${directory}/status`);
    const uid = oneId(status, "\nUid:");
    const gid = oneId(status, "\nGid:");
    if (uid < 0 || gid < 0 || !/\nCapPrm:\t0+\n/.test(status)) return null;
    // Not of those whose mode is that of a directory that all may read; task_dump_owner of fs/proc/base.c: root's where
    // the memory may not be dumped, or there is none.
    if (statSync(`${directory}/maps`).uid !== uid) return null;
    return { uid, gid, hadPrivilege: (flagsOf(stat) & PF_SUPERPRIV) !== 0 };
  } catch {
    // Gone, or hidden from us: who is not known is not shown.
    return null;
  }
};

const buffer = Buffer.allocUnsafe(READ_BYTES);

function text(path: string): string {
  const fd = openSync(path, "r");
  try {
    return buffer.toString("latin1", 0, readSync(fd, buffer, 0, READ_BYTES, 0));
  } finally {
    closeSync(fd);
  }
}

/** Real, effective, saved, file system: the one that all four are; -1 where they differ. */
function oneId(status: string, field: string): number {
  const from = status.indexOf(field);
  if (from < 0) return -1;
  const ids = status
    .slice(from + field.length, status.indexOf("\n", from + 1))
    .trim()
    .split(/\s+/);
  return ids.length === 4 && ids.every((id) => id === ids[0]) ? Number(ids[0]) : -1;
}

/** A command's name may hold anything, blanks and parentheses too. All ones where they cannot be found. */
function flagsOf(stat: string): number {
  const flags = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[STAT_FLAGS]);
  return Number.isInteger(flags) ? flags : -1;
}
