/** Events in perf's syntax: `cycles`, `L1-dcache-load-misses`, `r01c0`, each with modifiers (`cycles:upp`). Pure. */
import { closest, distance } from "fastest-levenshtein";
import { COUNT_SW, TYPE } from "./abi.js";
import { PmuError } from "./errors.js";
import { genericEventByName, genericEventNames } from "./generic-events.js";
import type { EventRequest, Rate } from "./source.js";

export { type GenericEvent, genericEvents } from "./generic-events.js";

export interface ParsedEvent {
  /** Canonical: the alias resolved, modifiers in the order u, k, h, p and left out where they change nothing. */
  readonly name: string;
  /** perf_event_attr.type and .config. */
  readonly type: number;
  readonly config: bigint;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
  readonly excludeHv: boolean;
  /** perf_event_attr.precise_ip, 0 to 3: how many p. */
  readonly preciseIp: number;
  /** What a period counts: "ns" for clocks, "events" otherwise. */
  readonly periodUnit: "ns" | "events";
}

const PRECISE_IP_MAX = 3;
const RAW = /^r[0-9a-fA-F]{1,16}$/;
/** All that perf takes, so that recorded names can be split, too. */
const MODIFIER_LETTERS = /^[ukhpPGHISDWeb]*$/;
/** A name this long is no typo of anything; searching for its neighbours would only cost time. */
const NAME_CHARS_MAX = 128;

/**
 * Whether the kernel, sampling the event by period, makes a sample of every occurrence, whatever the period: it does for
 * software events that are no clocks, when the sample carries its period (kernel/events/core.c, perf_swevent_event).
 */
export function samplesEachOccurrence({ type, periodUnit }: Pick<ParsedEvent, "type" | "periodUnit">): boolean {
  return type === TYPE.SOFTWARE && periodUnit === "events";
}

/** Throws PmuError EVENT_UNKNOWN or EVENT_SYNTAX; the message says at which column (from 1). */
export function parseEventSpec(text: string): ParsedEvent {
  const { base, modifiers } = splitModifiers(text);
  const found = findEvent(text, base);
  const parsed = parseModifiers(text, modifiers, base.length + 2);
  return { ...found, ...parsed, name: found.name + modifierSuffix(parsed) };
}

/** `cycles:u` is base `cycles` with modifiers `u`. A tracepoint's `subsystem:event` keeps its first colon. */
export function splitModifiers(text: string): { readonly base: string; readonly modifiers: string | null } {
  const colon = text.lastIndexOf(":");
  if (colon < 0) return { base: text, modifiers: null };
  const base = text.slice(0, colon);
  const modifiers = text.slice(colon + 1);
  const isTracepoint =
    !base.includes(":") && genericEventByName(base) === undefined && !MODIFIER_LETTERS.test(modifiers);
  return isTracepoint ? { base: text, modifiers: null } : { base, modifiers };
}

type Named = Pick<ParsedEvent, "name" | "type" | "config" | "periodUnit">;

function findEvent(text: string, base: string): Named {
  if (base === "") throw new PmuError("EVENT_SYNTAX", `event ${quote(text)}, column 1: there is no event name`);
  const event = genericEventByName(base);
  if (event !== undefined) {
    const { name, type, config } = event;
    const isClock =
      type === TYPE.SOFTWARE && (config === BigInt(COUNT_SW.CPU_CLOCK) || config === BigInt(COUNT_SW.TASK_CLOCK));
    return { name, type, config, periodUnit: isClock ? "ns" : "events" };
  }
  if (RAW.test(base)) {
    const config = BigInt(`0x${base.slice(1)}`);
    return { name: `r${config.toString(16)}`, type: TYPE.RAW, config, periodUnit: "events" };
  }
  throw new PmuError("EVENT_UNKNOWN", `event ${quote(text)}, column 1: ${whyUnknown(base)}`);
}

function whyUnknown(base: string): string {
  const instead = "use a name that ListEvents shows, or a raw rNNN";
  if (base.includes("/")) return `events of a named PMU (pmu/terms/) are not supported: ${instead}`;
  if (base.includes(":")) return `tracepoints, probes and breakpoints are not supported: ${instead}`;
  const nearest = nearestName(base, genericEventNames());
  return `no event ${quote(base)}: ${nearest === null ? instead : `did you mean ${quote(nearest)}? Else ${instead}`}`;
}

/** The candidate that `name` may be a slip of, or null when none is near. */
export function nearestName(name: string, candidates: Iterable<string>): string | null {
  const list = [...candidates];
  if (name.length > NAME_CHARS_MAX || list.length === 0) return null;
  const nearest = closest(name, list);
  return distance(name, nearest) <= Math.max(2, name.length / 3) ? nearest : null;
}

type Modifiers = Pick<ParsedEvent, "excludeUser" | "excludeKernel" | "excludeHv" | "preciseIp">;

/** Naming any of u, k and h excludes those of the three that are not named (get_event_modifier in tools/perf). */
function parseModifiers(text: string, modifiers: string | null, column: number): Modifiers {
  if (modifiers === null) return { excludeUser: false, excludeKernel: false, excludeHv: false, preciseIp: 0 };
  if (modifiers === "") {
    throw new PmuError(
      "EVENT_SYNTAX",
      `event ${quote(text)}, column ${column}: a modifier must follow the colon: u, k, h or p`,
    );
  }
  let [user, kernel, hv, preciseIp] = [false, false, false, 0];
  for (const [index, letter] of [...modifiers].entries()) {
    const at = `event ${quote(text)}, column ${column + index}`;
    if (letter === "u") user = true;
    else if (letter === "k") kernel = true;
    else if (letter === "h") hv = true;
    else if (letter !== "p")
      throw new PmuError("EVENT_SYNTAX", `${at}: unknown modifier ${quote(letter)}: use u, k, h or p`);
    else if (++preciseIp > PRECISE_IP_MAX) throw new PmuError("EVENT_SYNTAX", `${at}: more than ${PRECISE_IP_MAX} p`);
  }
  const any = user || kernel || hv;
  return { excludeUser: any && !user, excludeKernel: any && !kernel, excludeHv: any && !hv, preciseIp };
}

/** As `parseEventSpec` spells them. */
export function modifierSuffix({ excludeUser, excludeKernel, excludeHv, preciseIp }: Modifiers): string {
  const any = excludeUser || excludeKernel || excludeHv;
  const levels = any ? `${excludeUser ? "" : "u"}${excludeKernel ? "" : "k"}${excludeHv ? "" : "h"}` : "";
  const letters = levels + "p".repeat(preciseIp);
  return letters === "" ? "" : `:${letters}`;
}

const FREQUENCY_HZ_MAX = 1e9;

/**
 * What the request asks for, or null when it gives neither frequency nor period (0 is not given). A source may know a
 * lower limit. Throws PmuError RATE_INVALID.
 */
export function requestedRate({ frequencyHz = 0, period = 0 }: EventRequest): Rate | null {
  if (frequencyHz !== 0 && period !== 0) {
    throw new PmuError(
      "RATE_INVALID",
      "events[].frequency_hz and events[].period: both are given; give one of the two",
    );
  }
  if (!Number.isSafeInteger(frequencyHz) || frequencyHz < 0 || frequencyHz > FREQUENCY_HZ_MAX) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].frequency_hz: ${frequencyHz} is no frequency; give a whole number of samples a second from 1 to ${FREQUENCY_HZ_MAX}`,
    );
  }
  if (!Number.isSafeInteger(period) || period < 0) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].period: ${period} is no period; give a whole number from 1 to ${Number.MAX_SAFE_INTEGER}`,
    );
  }
  if (frequencyHz !== 0) return { kind: "frequency", hz: frequencyHz };
  return period !== 0 ? { kind: "period", period } : null;
}

function quote(text: string): string {
  return JSON.stringify(text.length > NAME_CHARS_MAX ? `${text.slice(0, NAME_CHARS_MAX)}…` : text);
}
