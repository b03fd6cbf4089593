/** The PMUs of a machine, as /sys/bus/event_source/devices shows them. */
import type { FileTree } from "./file-tree.js";
import { type FormatField, parseFormat } from "./format.js";

const DEVICES = "/sys/bus/event_source/devices";

export interface Pmu {
  readonly name: string;
  /** perf_event_attr.type of its events. */
  readonly type: number;
  /** Where its events are opened, in the kernel's list format; empty means on every CPU. */
  readonly cpus: string;
  /** It counts what its CPUs execute: `cpu`, or one of the core types of a hybrid CPU. */
  readonly isCore: boolean;
  /** One CPU of many opens for a package or a die: what it counts belongs to no task. */
  readonly isUncore: boolean;
  readonly format: ReadonlyMap<string, FormatField>;
  /** Terms of the events that the kernel names, `event=0x3c`. */
  readonly events: ReadonlyMap<string, string>;
}

export interface PmuDirectory {
  /** Sorted. */
  readonly names: readonly string[];
  find(name: string): Pmu | null;
  /** Those that plain names such as `cycles` mean: one, several on a hybrid CPU, none where there is no PMU. */
  readonly core: readonly Pmu[];
}

/** Files beside an event that are no events: cas_count_read.scale. */
const NO_EVENT = /\.(scale|unit|per-pkg|snapshot)$/;

/** Reads names at once, and a PMU's files when it is asked for. */
export function openPmuDirectory(tree: FileTree): PmuDirectory {
  const names = tree.list(DEVICES) ?? [];
  const known = new Map<string, Pmu | null>();
  const find = (name: string): Pmu | null => {
    if (!names.includes(name)) return null;
    const found = known.get(name) ?? readPmu(tree, name);
    known.set(name, found);
    return found;
  };
  let core: readonly Pmu[] | null = null;
  return {
    names,
    find,
    get core() {
      core ??= names
        .filter((name) => name === "cpu" || tree.read(`${DEVICES}/${name}/cpus`) !== null)
        .flatMap((name) => find(name) ?? []);
      return core;
    },
  };
}

function readPmu(tree: FileTree, name: string): Pmu | null {
  const path = `${DEVICES}/${name}`;
  const type = tree.read(`${path}/type`);
  if (type === null) return null;
  const cpus = tree.read(`${path}/cpus`);
  const cpumask = tree.read(`${path}/cpumask`);
  const format = new Map<string, FormatField>();
  for (const term of tree.list(`${path}/format`) ?? []) {
    const field = parseFormat(tree.read(`${path}/format/${term}`) ?? "");
    if (field !== null) format.set(term, field);
  }
  const events = new Map<string, string>();
  for (const event of tree.list(`${path}/events`) ?? []) {
    const terms = NO_EVENT.test(event) ? null : tree.read(`${path}/events/${event}`);
    if (terms !== null) events.set(event, terms);
  }
  return {
    name,
    type: Number(type),
    cpus: cpus ?? cpumask ?? "",
    isCore: name === "cpu" || cpus !== null,
    isUncore: cpus === null && (cpumask ?? "") !== "",
    format,
    events,
  };
}

/** `uncore_imc` and `imc` are uncore_imc_0, uncore_imc_1, …, as in perf; a name of its own is only itself. */
export function matchingPmus(directory: PmuDirectory, name: string): readonly Pmu[] {
  const exact = directory.find(name);
  if (exact !== null) return [exact];
  // Compared as text: no regular expression holds a name of any length.
  const isInstance = (other: string): boolean => {
    const withoutNumber = other.replace(/_[0-9]+$/, "");
    return [other, withoutNumber].some((own) => own === name || own === `uncore_${name}`);
  };
  return directory.names.filter(isInstance).flatMap((other) => directory.find(other) ?? []);
}
