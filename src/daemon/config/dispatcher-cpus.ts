/** `--dispatcher-cpus`: on which CPUs the dispatchers' threads may run. */
import { CPUS_MAX, formatCpuList, parseCpuList } from "../../pmu/cpu-list.js";
import { accept, type Parsed, reject } from "./address.js";

export type DispatcherCpus =
  /** Wherever the kernel puts them. */
  | { readonly kind: "off" }
  /** Each on the CPUs whose rings it drains. */
  | { readonly kind: "auto" }
  /** One list a dispatcher. */
  | { readonly kind: "lists"; readonly lists: readonly (readonly number[])[] };

export const DISPATCHER_CPUS_SYNTAX = "off, auto, or a list of CPUs for each dispatcher such as 0-3;4-7";
const REMEDY = `give ${DISPATCHER_CPUS_SYNTAX}`;
const BETWEEN_LISTS = ";";

export function parseDispatcherCpus(text: string): Parsed<DispatcherCpus> {
  if (text === "off" || text === "auto") return accept({ kind: text });
  const lists: number[][] = [];
  for (const list of text.split(BETWEEN_LISTS)) {
    const cpus = parseList(list.trim());
    if (cpus === null) return reject(text, `has ${JSON.stringify(list)} for dispatcher ${lists.length}`, REMEDY);
    lists.push(cpus);
  }
  return accept({ kind: "lists", lists });
}

/** null for what is no list of CPUs in the kernel's format. */
function parseList(text: string): number[] | null {
  if (!/^\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*$/.test(text)) return null;
  const ends = text.split(",").map((range) => range.split("-").map(Number));
  if (ends.some(([first, last = first]) => last < first || last >= CPUS_MAX)) return null;
  return [...new Set(parseCpuList(text))].sort((a, b) => a - b);
}

/** As the operator would write it. */
export function formatDispatcherCpus(cpus: DispatcherCpus): string {
  return cpus.kind === "lists" ? cpus.lists.map(formatCpuList).join(BETWEEN_LISTS) : cpus.kind;
}
