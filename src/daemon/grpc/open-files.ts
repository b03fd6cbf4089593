/** How many file descriptors connections may take: what they leave is for events, rings and files. */
import { readFileSync } from "node:fs";

const LIMITS_FILE = "/proc/self/limits";
const SHARE = 1 / 2;

/** The soft limit of proc_pid_limits(5); null where there is none, or it cannot be read. */
export function openFilesMax(limits: string): number | null {
  const soft = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return soft === undefined ? null : Number(soft);
}

export interface ConnectionRoom {
  readonly connectionsMax: number;
  /** What the operator must know; null when there is room for all that are configured. */
  readonly problem: string | null;
}

/** At start Node raises the soft limit to the hard one. */
export function roomForConnections(connectionsMax: number, limits = readLimits()): ConnectionRoom {
  const files = openFilesMax(limits);
  const room = files === null ? connectionsMax : Math.max(1, Math.floor(files * SHARE));
  if (room >= connectionsMax) return { connectionsMax, problem: null };
  const problem =
    `limits.connections_max is ${connectionsMax}, and of the ${files} files that may be open (RLIMIT_NOFILE) connections get half: ` +
    `no more than ${room} are let in. Raise LimitNOFILE= or ulimit -n to ${2 * connectionsMax}, or lower limits.connections_max`;
  return { connectionsMax: room, problem };
}

function readLimits(): string {
  try {
    return readFileSync(LIMITS_FILE, "utf8");
  } catch {
    return "";
  }
}
