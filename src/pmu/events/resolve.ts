/**
 * Events in the syntax of `perf record -e`: text and a description of the machine in, values out. Reads nothing but the
 * files of that description.
 */
import { TYPE } from "../abi.js";
import { genericEventByName, genericEventNames } from "../generic-events.js";
import { parseBreakpoint } from "./breakpoint.js";
import { type FileTree, NO_FILES } from "./file-tree.js";
import { resolveGroup, splitGroup } from "./group.js";
import { MODIFIER_LETTERS, ONE_COLON } from "./modifiers.js";
import { eventOf, type ModifierPieces, type ParsedEvent } from "./parsed-event.js";
import {
  complaint,
  cut,
  indexUnquoted,
  type Piece,
  quote,
  SEVERAL_EVENTS,
  suggestion,
  syntaxError,
  trimmed,
  wholeOf,
} from "./piece.js";
import { plainEvent, RAW, resolvePlain, SOFTWARE_PMU } from "./plain-event.js";
import { matchingPmus, openPmuDirectory, type Pmu, type PmuDirectory } from "./pmu-directory.js";
import { resolvePmuEvent } from "./pmu-event.js";
import { findTracepoints, hasGlob, openTracefs, type Tracefs, whyNoTracepoints } from "./tracefs.js";

/** What libpfm4 knows of an event by its own names, `INST_RETIRED:ANY_P`. */
export interface PfmEncoding {
  readonly type: number;
  readonly config: bigint;
  readonly config1: bigint;
  readonly config2: bigint;
}

/** Throws an Error that says why not; null where the library is not installed. */
export type PfmEncoder = (name: string) => PfmEncoding | null;

/** The machine whose events are meant. */
export interface EventHost {
  readonly pmus: PmuDirectory;
  readonly tracefs: Tracefs;
  readonly pfm: PfmEncoder;
}

export function openEventHost(files: FileTree, pfm: PfmEncoder = () => null): EventHost {
  return { pmus: openPmuDirectory(files), tracefs: openTracefs(files), pfm };
}

/** Where there is no machine to ask: generic events, raw ones and breakpoints. */
const NO_HOST: EventHost = {
  ...openEventHost(NO_FILES),
  tracefs: { ...openTracefs(NO_FILES), state: "elsewhere" },
};

export interface SingleEvent extends ParsedEvent {
  readonly members: readonly [];
  readonly sampleRead: false;
}

/**
 * For sources that are not this machine: one event, by a name that is the same everywhere. Throws PmuError
 * EVENT_UNKNOWN, EVENT_SYNTAX or EVENT_UNSUPPORTED.
 */
export function parseEventSpec(text: string): SingleEvent {
  const [event] = resolveEventSpec(text, NO_HOST);
  if (event.members.length > 0 || event.sampleRead) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      wholeOf(text),
      "this source knows no groups: use --source perf, or give one event",
    );
  }
  if (event.period !== null || event.frequencyHz !== null) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      wholeOf(text),
      "this source takes no rate among an event's terms: leave period and freq out, and give the rate beside the event",
    );
  }
  return { ...event, members: [], sampleRead: false };
}

/**
 * Most specifications mean one event; some mean one for each PMU or tracepoint. Throws PmuError EVENT_UNKNOWN,
 * EVENT_SYNTAX, EVENT_UNSUPPORTED or PERMISSION; the message says at which column (from 1).
 */
export function resolveEventSpec(text: string, host: EventHost): readonly [ParsedEvent, ...ParsedEvent[]] {
  const whole = trimmed(wholeOf(text));
  const group = splitGroup(whole);
  const events =
    group === null
      ? resolveEvent(whole, null, host)
      : resolveGroup(group, (member) => resolveEvent(member, group.modifiers, host));
  return events as [ParsedEvent, ...ParsedEvent[]];
}

const NOT_RAW = /^r([0-9a-fA-F]{17,})?$/;
/** Events that perf counts by itself. */
const TOOL_EVENTS = ["duration_time", "user_time", "system_time"];

/** At least one. */
function resolveEvent(piece: Piece, groupModifiers: Piece | null, host: EventHost): ParsedEvent[] {
  if (piece.text.startsWith("mem:")) {
    const { name, modifiers, ...attr } = parseBreakpoint(piece);
    return [eventOf(attr, name, [modifiers, groupModifiers])];
  }
  if (piece.text.includes("/")) return resolveNamedPmu(piece, groupModifiers, host);
  const { base, modifiers } = splitPiece(piece);
  refuseMalformed(piece, base, modifiers);
  const letters = [modifiers, groupModifiers];
  const plain = plainEvent(base);
  if (plain !== null) return resolvePlain(plain, null, letters, host.pmus);
  if (TOOL_EVENTS.includes(base.text)) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      base,
      `${base.text} is counted by perf stat itself and cannot be sampled: cpu-clock samples time`,
    );
  }
  return resolveByMachine(base, letters, host);
}

function refuseMalformed(piece: Piece, base: Piece, modifiers: Piece | null): void {
  if (base.text === "") throw syntaxError(base, "there is no event name");
  if (modifiers?.text === "") {
    throw syntaxError(modifiers, "a modifier must follow the colon: u, k, h, p, P, G, H, I, D or S");
  }
  const [first = "", ...more] = base.text.split(":");
  const isOfLetters = more.length === 1 && more.every((letters) => MODIFIER_LETTERS.test(letters));
  if (modifiers !== null && isOfLetters && (genericEventByName(first) !== undefined || RAW.test(first))) {
    throw syntaxError(base, ONE_COLON, base.text.length);
  }
  if (NOT_RAW.test(base.text)) {
    throw syntaxError(
      base,
      "r and 1 to 16 hexadecimal digits are a raw event's config: r1a8, and rNN… of no other length",
    );
  }
  const comma = piece.text.indexOf(",");
  if (comma >= 0) {
    throw syntaxError(piece, SEVERAL_EVENTS, comma);
  }
  const odd = piece.text.search(/[{}\s]/);
  if (odd >= 0) throw syntaxError(piece, `${quote(piece.text[odd])} is out of place`, odd);
}

/** `cycles:u` is base `cycles` with modifiers `u`. A tracepoint's `subsystem:event` keeps its first colon. */
export function splitModifiers(text: string): { readonly base: string; readonly modifiers: string | null } {
  const { base, modifiers } = splitPiece(wholeOf(text));
  return { base: base.text, modifiers: modifiers?.text ?? null };
}

function splitPiece(piece: Piece): { readonly base: Piece; readonly modifiers: Piece | null } {
  const colon = piece.text.lastIndexOf(":");
  if (colon < 0) return { base: piece, modifiers: null };
  const [base, modifiers] = [cut(piece, 0, colon), cut(piece, colon + 1)];
  // libpfm4's attributes, `c=1`, are part of the name as well.
  const isName =
    modifiers.text.includes("=") ||
    (!base.text.includes(":") &&
      genericEventByName(base.text) === undefined &&
      !RAW.test(base.text) &&
      !MODIFIER_LETTERS.test(modifiers.text));
  return isName ? { base: piece, modifiers: null } : { base, modifiers };
}

/** `pmu/terms/modifiers`; a colon before the modifiers is taken, too. */
function resolveNamedPmu(piece: Piece, groupModifiers: Piece | null, host: EventHost): ParsedEvent[] {
  const open = piece.text.indexOf("/");
  const close = indexUnquoted(piece.text, "/", open + 1);
  const [name, terms] = [cut(piece, 0, open), cut(piece, open + 1, close < 0 ? undefined : close)];
  if (name.text === "") throw syntaxError(name, "the name of a PMU must stand before the slash");
  if (close < 0) throw syntaxError(piece, "a second slash must close the terms: pmu/terms/", piece.text.length);
  const behind = cut(piece, close + 1);
  const modifiers = behind.text.startsWith(":") ? cut(behind, 1) : behind;
  if (modifiers === behind ? false : modifiers.text === "") {
    throw syntaxError(modifiers, "a modifier must follow the colon: u, k, h, p, P, G, H, I, D or S");
  }
  const pmus = matchingPmus(host.pmus, name.text);
  if (pmus.length === 0) {
    const plain = name.text === SOFTWARE_PMU.name ? SOFTWARE_PMU : plainEvent(name);
    if (plain !== null) return resolvePlain(plain, terms, [modifiers, groupModifiers], host.pmus);
    const hint = suggestion(name.text, host.pmus.names);
    const have =
      host.pmus.names.length === 0 ? "no PMUs are known here" : `this machine has ${host.pmus.names.join(", ")}`;
    throw complaint("EVENT_UNKNOWN", name, `no PMU ${quote(name.text)}: ${hint}${have}`);
  }
  if (name.text === SOFTWARE_PMU.name) {
    return resolvePlain(SOFTWARE_PMU, terms, [modifiers, groupModifiers], host.pmus);
  }
  return pmus.map((pmu) => eventOnPmu(pmu, terms, [modifiers, groupModifiers], host));
}

/** PMUs whose events want more than numbers: linux/trace_events.h, create_local_trace_kprobe. */
const PROBE_PMUS = ["kprobe", "uprobe"];
/** PMUs that perf knows otherwise, by the types that the kernel has had since before they were listed. */
const PLAIN_PMUS = ["breakpoint", "tracepoint"];

function eventOnPmu(pmu: Pmu, terms: Piece, modifiers: ModifierPieces, host: EventHost): ParsedEvent {
  if (PROBE_PMUS.includes(pmu.name)) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      terms,
      `${pmu.name} events need the probe's place, which no term says: make the probe with \`perf probe\` or in tracefs, and name its tracepoint`,
    );
  }
  if (PLAIN_PMUS.includes(pmu.name)) {
    const form = { breakpoint: "mem:ADDRESS", tracepoint: "subsystem:event" };
    throw complaint(
      "EVENT_UNSUPPORTED",
      terms,
      `events of ${pmu.name} have a form of their own: write ${form[pmu.name as keyof typeof form]}`,
    );
  }
  const { type, config, alias, period, frequencyHz } = resolvePmuEvent(pmu, terms, host.pmus.core.length > 1);
  const [word0, config1, config2, config3] = config;
  const event = eventOf({ type, config: word0, config1, config2, config3 }, `${pmu.name}/${terms.text}/`, modifiers, {
    cpus: pmu.cpus,
    pmu: pmu.name,
    period,
    frequencyHz,
  });
  return alias === null ? event : { ...event, name: alias };
}

/** Names that only the machine knows: tracepoints, what PMUs call their events, and what libpfm4 knows. */
function resolveByMachine(base: Piece, modifiers: ModifierPieces, host: EventHost): ParsedEvent[] {
  const { tracefs, pmus } = host;
  const colon = base.text.indexOf(":");
  const isTracepoint = colon > 0 && (hasGlob(base.text) || tracefs.subsystems.includes(base.text.slice(0, colon)));
  if (isTracepoint) {
    return findTracepoints(tracefs, base).map(({ name, id, format }) =>
      eventOf({ type: TYPE.TRACEPOINT, config: id }, name, modifiers, { format }),
    );
  }
  const named = pmusWith(pmus, base.text);
  if (named.length > 0) return named.map((pmu) => eventOnPmu(pmu, base, modifiers, host));
  const { encoding, why } = askPfm(host, base.text);
  if (encoding !== null) return [eventOf(encoding, base.text, modifiers)];
  if (colon > 0 && tracefs.state !== "there") {
    const code = tracefs.state === "denied" ? "PERMISSION" : "EVENT_UNSUPPORTED";
    throw complaint(
      code,
      base,
      `${quote(base.text)} looks like a tracepoint, and ${whyNoTracepoints(tracefs)}; ${why}`,
    );
  }
  const known = colon > 0 ? tracefs.subsystems.map((name) => `${name}:`) : knownNames(pmus);
  const hint = suggestion(colon > 0 ? base.text.slice(0, colon + 1) : base.text, known);
  throw complaint(
    "EVENT_UNKNOWN",
    base,
    `no event ${quote(base.text)}: ${hint}Use a name that ListEvents shows, or a raw rNNN (${why})`,
  );
}

/** Core PMUs first, and alone where they have the name. */
function pmusWith(directory: PmuDirectory, event: string): readonly Pmu[] {
  const core = directory.core.filter(({ events }) => events.has(event));
  if (core.length > 0) return core;
  return directory.names.flatMap((name) => {
    const pmu = directory.find(name);
    return pmu?.events.has(event) ? [pmu] : [];
  });
}

function knownNames({ core }: PmuDirectory): Iterable<string> {
  return [...genericEventNames(), ...core.flatMap(({ events }) => [...events.keys()])];
}

function askPfm({ pfm }: EventHost, name: string): { readonly encoding: PfmEncoding | null; readonly why: string } {
  try {
    const encoding = pfm(name);
    return { encoding, why: "libpfm4, which knows more names, is not installed" };
  } catch (error) {
    return { encoding: null, why: `libpfm4 says: ${(error as Error).message}` };
  }
}
