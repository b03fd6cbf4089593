/** What a peer may do. Plain values; who has which is the policy's affair. */

/** Whose processes a peer may see: everybody's, those of its own user, or those of the users with these ids. */
export type Processes = "all" | "own" | readonly number[];

export interface Rights {
  /** Handlers of its own. Without it nothing else that follows up to `administer` is of use. */
  readonly register: boolean;
  /** Patterns of event specifications as clients write them; `*` stands for any text. */
  readonly events: readonly string[];
  /** The highest rate of an event, in samples a second on each CPU; null: any, and periods too. */
  readonly rateMaxHz: number | null;
  /** Of all the peer's handlers together; null: what the daemon's limits leave. */
  readonly handlersMax: number | null;
  readonly queueMaxBytes: number | null;
  readonly kernelAddresses: boolean;
  readonly processes: Processes;
  /** Keep counters from others. */
  readonly exclusive: boolean;
  readonly deregisterOthers: boolean;
  /** See the whole handler table and status, and be given others' streams. */
  readonly administer: boolean;
}

export const EVERYTHING: Rights = {
  register: true,
  events: ["*"],
  rateMaxHz: null,
  handlersMax: null,
  queueMaxBytes: null,
  kernelAddresses: true,
  processes: "all",
  exclusive: true,
  deregisterOthers: true,
  administer: true,
};

/** What a rule gives that does not say otherwise: nothing that others must be asked for. */
export const NOTHING: Rights = {
  register: false,
  events: [],
  rateMaxHz: null,
  handlersMax: null,
  queueMaxBytes: null,
  kernelAddresses: false,
  processes: "own",
  exclusive: false,
  deregisterOthers: false,
  administer: false,
};

/** What of the samples a handler's peer may see: fixed when it registers. Plain data. */
export interface Visibility {
  readonly kernelAddresses: boolean;
  /** null: everybody's processes. */
  readonly owner: { readonly uids: readonly number[]; readonly gid: number | null } | null;
}

export const SEES_EVERYTHING: Visibility = { kernelAddresses: true, owner: null };

/** Whether who may see `mine` may see all that `theirs` shows. */
export function covers(mine: Visibility, theirs: Visibility): boolean {
  if (theirs.kernelAddresses && !mine.kernelAddresses) return false;
  if (mine.owner === null) return true;
  const { uids, gid } = mine.owner;
  if (theirs.owner === null || !theirs.owner.uids.every((uid) => uids.includes(uid))) return false;
  return gid === null || gid === theirs.owner.gid;
}

/** `*` is any text, also none; everything else stands for itself. */
export function matchesPattern(pattern: string, text: string): boolean {
  const parts = pattern.split("*");
  const [first, last] = [parts[0], parts[parts.length - 1]];
  if (parts.length === 1) return pattern === text;
  if (!text.startsWith(first) || !text.endsWith(last) || text.length < first.length + last.length) return false;
  let at = first.length;
  // The leftmost place of each leaves the most for those behind it.
  for (const part of parts.slice(1, -1)) {
    const found = text.indexOf(part, at);
    if (found < 0) return false;
    at = found + part.length;
  }
  return at <= text.length - last.length;
}
