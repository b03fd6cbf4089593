/** Events of a named PMU: `cpu/event=0x3c,umask=0x0/`, `cpu_core/cycles/`, `cpu/r1a8/`. */
import { TYPE } from "../abi.js";
import { genericEventByName, genericEventNames } from "../generic-events.js";
import { applyFormat, type ConfigWords, formatMax } from "./format.js";
import { complaint, type Piece, quote, suggestion, syntaxError, wholeOf } from "./piece.js";
import type { Pmu } from "./pmu-directory.js";
import {
  GENERAL_NAMES,
  isGeneralTerm,
  numberOf,
  readGeneralTerms,
  refuseTwice,
  splitTerms,
  type Term,
} from "./terms.js";

export interface PmuEvent {
  readonly type: number;
  readonly config: ConfigWords;
  /** The `name=` term. */
  readonly alias: string | null;
  readonly period: number | null;
  readonly frequencyHz: number | null;
}

const RAW = /^r(?:0x)?([0-9a-fA-F]{1,16})$/;
/** The PMU's type stands in these bits where a machine has several that know the generic events. */
export const PMU_TYPE_SHIFT = 32n;

/** The generic event on one of several PMUs (PERF_PMU_CAP_EXTENDED_HW_TYPE). */
export function onPmu(config: bigint, pmu: Pmu): bigint {
  return config | (BigInt(pmu.type) << PMU_TYPE_SHIFT);
}

/**
 * Unlike in perf, a term that is also one of the named event's replaces it: `cpu/mem-loads,ldlat=30/` has an ldlat of 30,
 * where perf would or the bits of the two. Throws PmuError.
 */
export function resolvePmuEvent(pmu: Pmu, piece: Piece, isHybrid: boolean): PmuEvent {
  const terms = splitTerms(piece);
  refuseTwice(terms);
  const own = terms.filter(({ name }) => pmu.format.has(name.text) || !isGeneralTerm(name));
  const general = readGeneralTerms(terms.filter((term) => !own.includes(term)));
  const config: ConfigWords = [0n, 0n, 0n, 0n];
  let { type } = pmu;
  const named = own.filter((term) => term.value === null && !pmu.format.has(term.name.text));
  const set = new Set(own.filter((term) => !named.includes(term)).map(({ name }) => name.text));
  for (const [i, { name }] of named.entries()) {
    const alias = pmu.events.get(name.text);
    const raw = RAW.exec(name.text);
    const generic = pmu.isCore ? genericEventByName(name.text) : undefined;
    if (alias !== undefined) applyAlias(pmu, name, alias, set, config);
    else if (raw !== null) config[0] |= BigInt(`0x${raw[1]}`);
    else if (
      generic !== undefined &&
      generic.type !== TYPE.SOFTWARE &&
      i === 0 &&
      named.length === 1 &&
      set.size === 0
    ) {
      ({ type } = generic);
      config[0] = isHybrid ? onPmu(generic.config, pmu) : generic.config;
    } else throw unknownTerm(pmu, name);
  }
  for (const [word, value] of general.config.entries()) if (value !== null) config[word] |= value;
  for (const term of own) if (!named.includes(term)) applyTerm(pmu, term, config);
  const { name: alias, period, frequencyHz } = general;
  return { type, config, alias, period, frequencyHz };
}

function applyTerm(pmu: Pmu, term: Term, config: ConfigWords): void {
  const field = pmu.format.get(term.name.text);
  if (field === undefined) throw unknownTerm(pmu, term.name);
  const value = numberOf(term);
  if (value > formatMax(field)) {
    const { text } = term.value ?? term.name;
    throw syntaxError(
      term.value ?? term.name,
      `${text} does not fit: ${term.name.text} is at most 0x${formatMax(field).toString(16)}`,
    );
  }
  applyFormat(field, value, config);
}

/** `event=0xcd,umask=0x1,ldlat=3`, as the kernel wrote it; `?` is left for the user to give. */
function applyAlias(pmu: Pmu, name: Piece, alias: string, set: ReadonlySet<string>, config: ConfigWords): void {
  for (const term of splitTerms(wholeOf(alias))) {
    const key = term.name.text;
    if (set.has(key)) continue;
    if (term.value?.text === "?") throw syntaxError(name, `${quote(name.text)} needs a value for ${key}: add ${key}=…`);
    const words = ["config", "config1", "config2", "config3"];
    const field = pmu.format.get(key);
    if (field !== undefined) applyFormat(field, numberOf(term), config);
    else if (words.includes(key)) config[words.indexOf(key)] |= numberOf(term);
    else throw complaint("EVENT_UNSUPPORTED", name, `${pmu.name} names ${quote(key)} and has no format for it`);
  }
}

function unknownTerm(pmu: Pmu, name: Piece): Error {
  const terms = [...pmu.format.keys(), ...GENERAL_NAMES];
  const candidates = [...terms, ...pmu.events.keys(), ...(pmu.isCore ? genericEventNames() : [])];
  const hint = suggestion(name.text, candidates);
  return complaint(
    "EVENT_UNKNOWN",
    name,
    `${pmu.name} has no term or event ${quote(name.text)}: ${hint}its terms are ${terms.join(", ")}`,
  );
}
