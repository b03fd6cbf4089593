/** What stands between the slashes of `cpu/event=0x3c,umask=0x0,period=100003/`. */
import { cut, indexUnquoted, type Piece, parseNumber, quote, syntaxError } from "./piece.js";

export interface Term {
  readonly name: Piece;
  /** null where the term stands alone. */
  readonly value: Piece | null;
}

export function splitTerms(piece: Piece): readonly Term[] {
  if (piece.text === "") return [];
  const terms: Term[] = [];
  for (let from = 0; from <= piece.text.length; ) {
    const comma = indexUnquoted(piece.text, ",", from);
    const end = comma < 0 ? piece.text.length : comma;
    const term = cut(piece, from, end);
    if (term.text === "") throw syntaxError(term, "a term must stand before and after each comma");
    const equals = term.text.indexOf("=");
    if (equals === 0) throw syntaxError(term, "the term has no name");
    if (equals < 0) terms.push({ name: term, value: null });
    else {
      const value = cut(term, equals + 1);
      if (value.text === "") throw syntaxError(value, `a value must follow ${quote(term.text)}`);
      terms.push({ name: cut(term, 0, equals), value });
    }
    from = end + 1;
  }
  return terms;
}

export function refuseTwice(terms: readonly Term[]): void {
  const seen = new Set<string>();
  for (const { name } of terms) {
    if (seen.has(name.text)) throw syntaxError(name, `term ${quote(name.text)} is given twice`);
    seen.add(name.text);
  }
}

const FIELDS = "ask for it by `fields` when registering";
const PER_CPU = "events are opened for each CPU, and for all tasks";

/** perf's terms that are no business of the event here, with the remedy. `allowed` are values that change nothing. */
const REFUSED: Readonly<Record<string, { readonly allowed: readonly string[]; readonly why: string }>> = {
  "call-graph": { allowed: ["no"], why: `${FIELDS} (CALLCHAIN)` },
  branch_type: { allowed: [], why: `${FIELDS} (BRANCH_STACK)` },
  "stack-size": { allowed: [], why: `${FIELDS} (STACK_USER)` },
  "max-stack": { allowed: [], why: "callchains are as long as kernel.perf_event_max_stack allows: leave it out" },
  nr: { allowed: [], why: "callchains are as long as kernel.perf_event_max_stack allows: leave it out" },
  time: { allowed: ["1"], why: "every sample carries its time: leave it out" },
  inherit: { allowed: [], why: `${PER_CPU}: leave it out` },
  "no-inherit": { allowed: ["1"], why: `${PER_CPU}: leave it out` },
  overwrite: { allowed: [], why: "rings are read as they fill: leave it out" },
  "no-overwrite": { allowed: ["1"], why: "rings are read as they fill: leave it out" },
  percore: { allowed: [], why: "adding the threads of a core up is for counting: leave it out" },
  "driver-config": { allowed: [], why: "settings of a driver are not passed on: leave it out" },
  "aux-output": { allowed: [], why: "samples into an AUX area are not offered: leave it out" },
  "aux-action": { allowed: [], why: "pausing an AUX area is not offered: leave it out" },
  "aux-sample-size": { allowed: [], why: `${FIELDS} (AUX)` },
  "metric-id": { allowed: [], why: "it names a metric of perf stat: leave it out" },
  "legacy-cache": { allowed: [], why: "write the cache event's name alone" },
  "ratio-to-prev": { allowed: [], why: "it paces counters by each other, which is for counting: leave it out" },
};

/** perf's general terms, as far as they are taken. */
export interface GeneralTerms {
  readonly config: readonly [bigint | null, bigint | null, bigint | null, bigint | null];
  readonly name: string | null;
  readonly period: number | null;
  readonly frequencyHz: number | null;
}

export const GENERAL_NAMES = ["config", "config1", "config2", "config3", "name", "period", "freq"] as const;
const CONFIG_NAMES = ["config", "config1", "config2", "config3"];

export function isGeneralTerm({ text }: Piece): boolean {
  return (GENERAL_NAMES as readonly string[]).includes(text) || Object.hasOwn(REFUSED, text);
}

/** Of terms that are not the PMU's own. Throws PmuError EVENT_SYNTAX for what is refused or malformed. */
export function readGeneralTerms(terms: readonly Term[]): GeneralTerms {
  const config: [bigint | null, bigint | null, bigint | null, bigint | null] = [null, null, null, null];
  let name: string | null = null;
  let period: number | null = null;
  let frequencyHz: number | null = null;
  for (const term of terms) {
    const key = term.name.text;
    if (Object.hasOwn(REFUSED, key)) {
      refuse(term);
      continue;
    }
    const word = CONFIG_NAMES.indexOf(key);
    if (word >= 0) config[word] = numberOf(term);
    else if (key === "name") name = nameOf(term);
    else if (key === "period") period = countOf(term);
    else frequencyHz = countOf(term);
  }
  return { config, name, period, frequencyHz };
}

function refuse({ name, value }: Term): void {
  const { allowed, why } = REFUSED[name.text];
  if (!allowed.includes(value?.text ?? "1")) throw syntaxError(name, `term ${quote(name.text)} is not offered: ${why}`);
}

/** A term without a value is 1. */
export function numberOf({ name, value }: Term): bigint {
  if (value === null) return 1n;
  const number = parseNumber(value.text);
  if (number === null) {
    throw syntaxError(value, `${quote(value.text)} is no number of 64 bits, as ${quote(name.text)} takes`);
  }
  return number;
}

function countOf(term: Term): number {
  const number = numberOf(term);
  const value = term.value ?? term.name;
  if (term.value === null) throw syntaxError(value, `a value must follow: ${quote(`${term.name.text}=1000`)}`);
  if (number < 1n || number > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw syntaxError(value, `${quote(value.text)}: give a whole number from 1 to ${Number.MAX_SAFE_INTEGER}`);
  }
  return Number(number);
}

function nameOf({ name, value }: Term): string {
  const text = value?.text.replace(/^'(.*)'$/, "$1") ?? "";
  if (text === "" || /\p{Cc}/u.test(text)) throw syntaxError(value ?? name, "give the event a printable name: name=…");
  return text;
}
