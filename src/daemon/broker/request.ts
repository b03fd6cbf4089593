/** A Register request as the client sent it, checked field by field. Every refusal names the field and the remedy. */
import { statSync } from "node:fs";
import { PmuError } from "../../pmu/errors.js";
import type { EventRequest, ResolvedEvent, Source } from "../../pmu/source.js";
import type { DaemonLimits } from "../config/config.js";
import type { Overflow } from "../delivery/delivery-options.js";
import { EVENTS_PER_HANDLER_MAX, REGION_BYTES_MIN } from "../delivery/outbox.js";
import type { FilterSpec } from "../dispatch/filter.js";
import { BrokerError } from "./errors.js";
import { checkAux, checkBranches, checkFields, type SampleFields } from "./fields.js";

/** nmi.v1.Filter */
export interface FilterMessage {
  readonly pids: readonly number[];
  readonly cpus: readonly number[];
  readonly uids: readonly number[];
  readonly cgroups: readonly string[];
  readonly exclude_user: boolean;
  readonly exclude_kernel: boolean;
}

/** nmi.v1.RegisterRequest, with proto-loader's defaults filled in. */
export interface RegisterRequestMessage {
  readonly name: string;
  readonly events: readonly { readonly event: string; readonly frequency_hz: number; readonly period: number }[];
  readonly filter: FilterMessage | null;
  readonly fields: readonly string[];
  readonly queue: {
    readonly max_bytes: number;
    readonly overflow: string;
    /** "flush_interval_ms" when the client set it. */
    readonly flush?: string;
    readonly flush_interval_ms?: number;
  } | null;
  readonly lease_ms: number;
  readonly tasks: boolean;
  readonly context_switches: boolean;
  readonly exclusive: boolean;
  readonly branch_sample_type: number;
}

export interface HandlerSpec {
  readonly name: string;
  /** What it was made from: a daemon that comes after this one makes it again. */
  readonly request: RegisterRequestMessage;
  /** Those that sample; a group's members are its leader's. */
  readonly events: readonly ResolvedEvent[];
  /** Which of the request's events each of them comes from. */
  readonly requestIndexes: readonly number[];
  /** As the client wrote it, for those who list handlers. */
  readonly filterMessage: FilterMessage;
  readonly filter: FilterSpec;
  readonly fields: SampleFields;
  /** Null: no task records. */
  readonly tasks: { readonly contextSwitches: boolean } | null;
  readonly queueMaxBytes: number;
  readonly overflow: Overflow;
  /** null: the daemon decides. */
  readonly flushIntervalMs: number | null;
  readonly leaseMs: number;
  /** Its events must not be multiplexed with those of other handlers. */
  readonly exclusive: boolean;
}

export interface RequestContext {
  readonly source: Source;
  readonly limits: DaemonLimits;
  readonly dispatchers: number;
}

const NAME_BYTES_MAX = 63;
const NO_FILTER: FilterMessage = {
  pids: [],
  cpus: [],
  uids: [],
  cgroups: [],
  exclude_user: false,
  exclude_kernel: false,
};

export function checkRegister(request: RegisterRequestMessage, context: RequestContext): HandlerSpec {
  const { limits } = context;
  const filterMessage = request.filter ?? NO_FILTER;
  const name = checkName(request.name);
  const fields = checkFields(request.fields);
  const branches = checkBranches(request.branch_sample_type, fields);
  const { events, requestIndexes } = checkEvents(request.events, branches, context);
  checkAux(fields, events);
  return {
    name,
    request,
    events,
    requestIndexes,
    filterMessage,
    filter: checkFilter(filterMessage, context),
    fields,
    tasks: checkTasks(request),
    ...checkQueue(request.queue, context),
    leaseMs: checkLease(request.lease_ms, limits),
    exclusive: request.exclusive,
  };
}

function invalid(message: string, cause?: unknown): BrokerError {
  return new BrokerError("INVALID_ARGUMENT", message, { cause });
}

function checkName(name: string): string {
  if (name === "") throw invalid("name: empty: give the handler a name that operators will recognize.");
  if (Buffer.byteLength(name) > NAME_BYTES_MAX) {
    throw invalid(`name: ${Buffer.byteLength(name)} bytes long: at most ${NAME_BYTES_MAX}.`);
  }
  // biome's noControlCharactersInRegex: names are shown on terminals and in the table.
  if (/\p{Cc}/u.test(name)) throw invalid("name: holds control characters: use printable ones.");
  return name;
}

function checkEvents(
  specs: RegisterRequestMessage["events"],
  branchSampleType: number,
  { source, limits }: RequestContext,
): Pick<HandlerSpec, "events" | "requestIndexes"> {
  // No event at all asks for the default one.
  const wanted = specs.length === 0 ? [{ event: "", frequency_hz: 0, period: 0 }] : specs;
  if (wanted.length > limits.eventsPerHandlerMax) {
    throw invalid(`events: ${wanted.length} given: ${eventsLimit(limits)}`);
  }
  const found = wanted.map(({ event, frequency_hz, period }, i) => {
    const request: EventRequest = { event, frequencyHz: frequency_hz, period, branchSampleType };
    try {
      return source.resolve(request);
    } catch (error) {
      if (error instanceof PmuError) throw refusal(error, `events[${i}]`);
      throw error;
    }
  });
  const count = found.flat().reduce((sum, { members }) => sum + 1 + members.length, 0);
  if (count > limits.eventsPerHandlerMax) {
    throw invalid(`events: they mean ${count} events: ${eventsLimit(limits)}`);
  }
  const seen = new Set<string>();
  for (const [i, events] of found.entries()) {
    for (const event of events) {
      if (seen.has(event.key)) throw invalid(`events[${i}].event: ${event.name} is given twice: once is enough.`);
      seen.add(event.key);
      if (event.members.length > 0 && !event.sampleRead) {
        throw invalid(
          `events[${i}].event: groups in which every event samples are not offered by this version: write {…}:S, or give the events separately.`,
        );
      }
    }
  }
  return {
    events: found.flat(),
    requestIndexes: found.flatMap((events, i) => events.map(() => i)),
  };
}

function eventsLimit({ eventsPerHandlerMax }: DaemonLimits): string {
  const raise =
    eventsPerHandlerMax < EVENTS_PER_HANDLER_MAX
      ? `raise limits.events_per_handler_max, to ${EVENTS_PER_HANDLER_MAX} at most, or register several handlers`
      : "no more can be armed at once, give fewer";
  return `at most ${eventsPerHandlerMax} a handler; ${raise}.`;
}

/** gRPC's word for what the source refuses. */
export function refusal(error: PmuError, field: string): BrokerError {
  const message = error.message.replaceAll("events[]", field);
  // Of the request as a whole.
  const isWhole = message.startsWith("branch_sample_type: ");
  const text = isWhole || message.startsWith(field) ? message : `${field}.event: ${message}`;
  switch (error.code) {
    case "EVENT_SYNTAX":
    case "EVENT_UNKNOWN":
    case "RATE_INVALID":
    case "SHAPE_UNSUPPORTED":
      return new BrokerError("INVALID_ARGUMENT", text, { cause: error });
    case "RESOURCE":
      return new BrokerError("RESOURCE_EXHAUSTED", text, { cause: error });
    case "EVENT_UNSUPPORTED":
    case "PERMISSION":
    case "RECORDING_UNREADABLE":
    case "SYSCALL":
      return new BrokerError("FAILED_PRECONDITION", text, { cause: error });
  }
}

function checkFilter(filter: FilterMessage, { limits }: RequestContext): FilterSpec {
  for (const list of ["pids", "cpus", "uids", "cgroups"] as const) {
    if (filter[list].length > limits.filterEntriesMax) {
      throw invalid(`filter.${list}: ${filter[list].length} entries: at most ${limits.filterEntriesMax}.`);
    }
  }
  if (filter.exclude_user && filter.exclude_kernel) {
    throw invalid("filter.exclude_kernel: nothing is left when exclude_user is set too: drop one of them.");
  }
  return {
    pids: filter.pids,
    cpus: filter.cpus,
    uids: filter.uids,
    cgroupIds: filter.cgroups.map(cgroupId),
    excludeUser: filter.exclude_user,
    excludeKernel: filter.exclude_kernel,
  };
}

const CGROUP_MOUNTS = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/** PERF_SAMPLE_CGROUP reports the inode number of the group's directory in the cgroup v2 file system. */
function cgroupId(path: string, i: number): number {
  if (!path.startsWith("/") || path.split("/").includes("..")) {
    throw invalid(`filter.cgroups[${i}]: "${path}": give the path below the cgroup v2 mount, such as /system.slice.`);
  }
  for (const mount of CGROUP_MOUNTS) {
    try {
      if (statSync(`${mount}/cgroup.procs`, { throwIfNoEntry: false }) === undefined) continue;
      const stat = statSync(mount + path, { throwIfNoEntry: false });
      if (stat?.isDirectory()) return stat.ino;
    } catch (error) {
      // A path that the file system cannot even look for: too long, holding NUL, a loop of links.
      throw invalid(
        `filter.cgroups[${i}]: ${(error as Error).message.slice(0, 200)}: give an existing group's path.`,
        error,
      );
    }
  }
  throw invalid(`filter.cgroups[${i}]: "${path}": no such group in the cgroup v2 file system (/sys/fs/cgroup).`);
}

function checkTasks({ tasks, context_switches }: RegisterRequestMessage): HandlerSpec["tasks"] {
  if (context_switches && !tasks) {
    throw invalid("context_switches: they come among the task records: set tasks as well, or leave it out.");
  }
  return tasks ? { contextSwitches: context_switches } : null;
}

const OVERFLOW: Record<string, Overflow> = {
  OVERFLOW_UNSPECIFIED: "DROP_NEWEST",
  DROP_NEWEST: "DROP_NEWEST",
  DROP_OLDEST: "DROP_OLDEST",
  DISCONNECT: "DISCONNECT",
};

function checkQueue(
  queue: RegisterRequestMessage["queue"],
  { limits, dispatchers }: RequestContext,
): Pick<HandlerSpec, "queueMaxBytes" | "overflow" | "flushIntervalMs"> {
  const queueMaxBytes = queue?.max_bytes || limits.queueDefaultBytes;
  const least = dispatchers * REGION_BYTES_MIN;
  if (queueMaxBytes < least || queueMaxBytes > limits.queueMaxBytes) {
    throw invalid(
      `queue.max_bytes: ${queueMaxBytes}: give between ${least} and ${limits.queueMaxBytes}, or 0 for ${limits.queueDefaultBytes}.`,
    );
  }
  const overflow = OVERFLOW[queue?.overflow ?? "OVERFLOW_UNSPECIFIED"];
  if (overflow === undefined) throw invalid(`queue.overflow: ${queue?.overflow}: not a policy this version knows.`);
  const flushIntervalMs = queue?.flush === "flush_interval_ms" ? (queue.flush_interval_ms ?? 0) : null;
  if (flushIntervalMs !== null && flushIntervalMs > limits.flushIntervalMaxMs) {
    throw invalid(`queue.flush_interval_ms: ${flushIntervalMs}: at most ${limits.flushIntervalMaxMs}.`);
  }
  return { queueMaxBytes, overflow, flushIntervalMs };
}

function checkLease(leaseMs: number, limits: DaemonLimits): number {
  if (leaseMs > limits.leaseMaxMs) {
    throw invalid(`lease_ms: ${leaseMs}: at most ${limits.leaseMaxMs}, or 0 for ${limits.leaseDefaultMs}.`);
  }
  return leaseMs === 0 ? limits.leaseDefaultMs : leaseMs;
}
