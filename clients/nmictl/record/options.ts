/** The options of `nmictl record`, perf record's of the same names, and what they ask the daemon for. */
import type { EventSpec, Field, RegisterRequest, ResolvedEvent } from "../../typescript/index.js";
import { NmiError } from "../../typescript/index.js";
import type { BranchFilter } from "./branch-filter.js";

export interface RecordOptions {
  readonly event?: readonly string[];
  readonly frequency?: number;
  readonly period?: number;
  /** A path, or "-" for standard output. */
  readonly output: string;
  readonly g?: true;
  readonly callGraph?: "fp" | "dwarf";
  readonly data?: true;
  readonly weight?: true;
  readonly physData?: true;
  readonly dataPageSize?: true;
  readonly codePageSize?: true;
  readonly transaction?: true;
  readonly allCgroups?: true;
  readonly branchAny?: true;
  readonly branchFilter?: BranchFilter;
  readonly rawSamples?: true;
  readonly userRegs?: true;
  readonly intrRegs?: true;
  readonly pid?: readonly number[];
  readonly allCpus?: true;
  readonly cpu?: readonly number[];
  readonly uid?: readonly number[];
  readonly switchEvents?: true;
  /** false with --no-buildid. */
  readonly buildid: boolean;
  /** Seconds. */
  readonly duration?: number;
}

/** Of batches on the way to the recording, which is read in bulk. */
export const FLUSH_INTERVAL_MS = 250;
/** perf record's -F default. */
const FREQUENCY_HZ = 4000;

/** The fields that the options name, in no particular order. */
export function fieldsOf(options: RecordOptions): readonly Field[] {
  const fields = new Set<Field>();
  const dwarf = options.callGraph === "dwarf";
  if (options.g || options.callGraph) fields.add("CALLCHAIN");
  if (dwarf || options.userRegs) fields.add("REGS_USER");
  if (dwarf) fields.add("STACK_USER");
  if (options.intrRegs) fields.add("REGS_INTR");
  if (options.data || options.physData) for (const field of ["ADDR", "DATA_SRC"] as const) fields.add(field);
  if (options.physData) fields.add("PHYS_ADDR");
  if (options.weight) fields.add("WEIGHT");
  if (options.rawSamples) fields.add("RAW");
  if (options.dataPageSize) for (const field of ["ADDR", "DATA_PAGE_SIZE"] as const) fields.add(field);
  if (options.codePageSize) fields.add("CODE_PAGE_SIZE");
  if (options.transaction) fields.add("TRANSACTION");
  if (options.allCgroups) fields.add("CGROUP");
  if (options.branchAny || options.branchFilter) fields.add("BRANCH_STACK");
  if (options.branchFilter?.counters) fields.add("BRANCH_COUNTERS");
  // {a,b}:S, whose leader's samples carry what its members count.
  if (options.event?.some((event) => /\}:\w*S\w*$/.test(event))) fields.add("READ");
  return [...fields];
}

/** Throws NmiError INVALID_OPTIONS where the options contradict each other or name nothing to record. */
export function checkOptions(options: RecordOptions, command: readonly string[]): void {
  const refuse = (text: string): never => {
    throw new NmiError("INVALID_OPTIONS", text);
  };
  const targets = [command.length > 0, options.pid !== undefined, options.allCpus === true].filter(Boolean).length;
  if (targets > 1 && !(options.allCpus && command.length > 0)) {
    refuse("-p records processes: leave the command and -a out, or -p");
  }
  if (targets === 0 && options.cpu === undefined && options.uid === undefined) {
    refuse("nothing to record: name a command after --, or -p PID, -a, -C CPUS or -u UID");
  }
}

/** A rate of the event's own, which stands for the default: `cpu-clock/period=1000000/`. */
const RATE_TERM = /[/,](period|freq)=/;

/** What is asked of the daemon. `replay`: every sample of the recording, whatever the rate, unless a rate is asked for. */
export function registerRequest(options: RecordOptions, replay: boolean): RegisterRequest {
  const unrated = options.frequency === undefined && options.period === undefined && !replay;
  const rate = {
    frequencyHz: unrated ? FREQUENCY_HZ : options.frequency,
    period: options.period,
  };
  const events: readonly EventSpec[] = (options.event ?? [""]).map((event) =>
    unrated && RATE_TERM.test(event) ? { event } : { event, ...rate },
  );
  return {
    name: `nmictl-record-${process.pid}`,
    events,
    filter: { cpus: options.cpu, uids: options.uid },
    fields: fieldsOf(options),
    branchSampleType: options.branchFilter?.bits,
    queue: { flushIntervalMs: FLUSH_INTERVAL_MS },
    tasks: true,
    contextSwitches: options.switchEvents ?? false,
  };
}

const TRACEPOINT_TYPE = 2;

/**
 * Whether the event that was asked for means tracepoints, of `resolved`, which all of those asked for mean; a group does
 * where one of its events does. Patterns are only theirs.
 */
export function namesTracepoint(event: string, resolved: readonly Pick<ResolvedEvent, "name" | "type">[]): boolean {
  const subsystems = new Set(
    resolved.filter(({ type }) => type === TRACEPOINT_TYPE).map(({ name }) => name.split(":")[0]),
  );
  const names = event.replace(/^[^{]*\{/, "").split(",");
  return names.some((name) => {
    const [subsystem = "", ...rest] = name.trim().split(":");
    return rest.length > 0 && !name.includes("/") && (subsystems.has(subsystem) || /[*?]/.test(name));
  });
}
