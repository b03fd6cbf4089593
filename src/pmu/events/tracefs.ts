/** Tracepoints, as the events directory of tracefs shows them. */
import { EVENTS_ARMED_MAX } from "../record.js";
import type { FileTree } from "./file-tree.js";
import { complaint, type Piece, quote, suggestion } from "./piece.js";

/** Where distributions mount it, and where the kernel does for those who still look below debugfs. */
const MOUNTS = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const MOUNT_COMMAND = "`mount -t tracefs nodev /sys/kernel/tracing`";

export interface Tracepoint {
  readonly name: string;
  /** perf_event_attr.config */
  readonly id: bigint;
  /** What its raw data hold: the text of its `format` file. */
  readonly format: string;
}

/** `elsewhere`: the events are not this machine's. */
export type TracefsState = "there" | "absent" | "denied" | "elsewhere";

export interface Tracefs {
  readonly state: TracefsState;
  readonly subsystems: readonly string[];
  events(subsystem: string): readonly string[];
  /** The id alone is read from a file of its own; null where there is no such event, or its files may not be read. */
  id(subsystem: string, event: string): bigint | null;
  format(subsystem: string, event: string): string;
}

export function openTracefs(tree: FileTree): Tracefs {
  const mount = MOUNTS.find((path) => tree.list(`${path}/events`) !== null);
  const root = `${mount}/events`;
  const isDenied = MOUNTS.some((path) => tree.denied(path) || tree.denied(`${path}/events`));
  const below = (path: string): readonly string[] =>
    mount === undefined ? [] : (tree.list(path) ?? []).filter((name) => tree.list(`${path}/${name}`) !== null);
  return {
    state: mount !== undefined ? "there" : isDenied ? "denied" : "absent",
    get subsystems() {
      return below(root);
    },
    events: (subsystem) => below(`${root}/${subsystem}`),
    id: (subsystem, event) => {
      if (mount === undefined) return null;
      const text = tree.read(`${root}/${subsystem}/${event}/id`);
      return text === null || !/^\d+$/.test(text) ? null : BigInt(text);
    },
    format: (subsystem, event) => tree.read(`${root}/${subsystem}/${event}/format`) ?? "",
  };
}

/** Why there are none here, with the remedy; null when there are. */
export function whyNoTracepoints({ state }: Tracefs): string | null {
  switch (state) {
    case "there":
      return null;
    case "denied":
      return "tracefs is mounted, but the daemon may not read it: run it as root, give it CAP_DAC_READ_SEARCH, or `mount -o remount,mode=755 /sys/kernel/tracing`";
    case "elsewhere":
      return "this source has none: use --source perf";
    case "absent":
      return `tracefs is not mounted: ${MOUNT_COMMAND} as root`;
  }
}

/** One armed event each: a pattern must not use up all there can be by a slip. */
const MATCHES_MAX = EVENTS_ARMED_MAX;

/** The kernel refuses samples of it beside those of user callchains, and perf for lack of permission. */
const NEVER_BY_PATTERN = "ftrace:function";

/** `sched:sched_switch`, or several by `*` and `?`, which pass over what no samples can be had of. Throws PmuError. */
export function findTracepoints(tracefs: Tracefs, piece: Piece): readonly Tracepoint[] {
  const colon = piece.text.indexOf(":");
  const [subsystem, event] = [piece.text.slice(0, colon), piece.text.slice(colon + 1)];
  const why = whyNoTracepoints(tracefs);
  if (why !== null) {
    throw complaint(
      tracefs.state === "denied" ? "PERMISSION" : "EVENT_UNSUPPORTED",
      piece,
      `${quote(piece.text)} looks like a tracepoint, and ${why}`,
    );
  }
  const subsystems = tracefs.subsystems.filter(globOf(subsystem));
  if (subsystems.length === 0) {
    const hint = suggestion(subsystem, tracefs.subsystems);
    throw complaint("EVENT_UNKNOWN", piece, `no tracepoints ${quote(`${subsystem}:*`)}: ${hint}see ListEvents`);
  }
  const matches = subsystems
    .flatMap((name) =>
      tracefs
        .events(name)
        .filter(globOf(event))
        .map((found) => [name, found] as const),
    )
    .filter((names) => !hasGlob(piece.text) || names.join(":") !== NEVER_BY_PATTERN);
  if (matches.length === 0) {
    const hint = suggestion(event, subsystems.flatMap(tracefs.events));
    throw complaint("EVENT_UNKNOWN", piece, `no tracepoint ${quote(piece.text)}: ${hint}see ListEvents`, colon + 1);
  }
  if (matches.length > MATCHES_MAX) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      piece,
      `${matches.length} tracepoints match ${quote(piece.text)}, ${MATCHES_MAX} are the most: name fewer`,
    );
  }
  const found = matches.flatMap(([system, name]) => {
    const id = tracefs.id(system, name);
    return id === null ? [] : [{ name: `${system}:${name}`, id, format: tracefs.format(system, name) }];
  });
  if (found.length === 0) {
    const first = (matches[0] as readonly string[]).join(":");
    throw complaint(
      "PERMISSION",
      piece,
      `the id of ${first} cannot be read: run the daemon as root, or give it CAP_DAC_READ_SEARCH`,
    );
  }
  return found;
}

export function hasGlob(text: string): boolean {
  return /[*?]/.test(text);
}

function globOf(pattern: string): (name: string) => boolean {
  return (name) => matchesGlob(pattern, name);
}

/**
 * `*` is any text and `?` any character. In steps of at most the lengths' product, whatever a client has written: of the
 * stars only the last is ever tried again.
 */
export function matchesGlob(pattern: string, name: string): boolean {
  let [p, n, star, resumeAt] = [0, 0, -1, 0];
  while (n < name.length) {
    if (pattern[p] === "*") {
      star = p++;
      resumeAt = n;
    } else if (pattern[p] === "?" || pattern[p] === name[n]) {
      p++;
      n++;
    } else if (star >= 0) {
      p = star + 1;
      n = ++resumeAt;
    } else return false;
  }
  while (pattern[p] === "*") p++;
  return p === pattern.length;
}
