/** Events that need no PMU's files: generic ones, raw ones and TYPE:CONFIG, with the general terms that perf lets them have. */
import { COUNT_SW, TYPE } from "../abi.js";
import { genericEventByName, genericEvents } from "../generic-events.js";
import { eventOf, type ModifierPieces, type ParsedEvent } from "./parsed-event.js";
import { complaint, type Piece, parseNumber, quote, suggestion } from "./piece.js";
import type { Pmu, PmuDirectory } from "./pmu-directory.js";
import { onPmu } from "./pmu-event.js";
import { GENERAL_NAMES, type GeneralTerms, isGeneralTerm, readGeneralTerms, refuseTwice, splitTerms } from "./terms.js";

/** `r1a8` */
export const RAW = /^r[0-9a-fA-F]{1,16}$/;
/** `1:0`, in decimal or hexadecimal. */
export const NUMERIC = /^(0x[0-9a-fA-F]+|[0-9]+):(0x[0-9a-fA-F]+|[0-9]+)$/;

export interface PlainEvent {
  readonly name: string;
  readonly type: number;
  readonly config: bigint;
}

/** What `base` means where no PMU is asked: `cycles`, `r1a8`, `1:0`. null where it is none of these. Throws PmuError. */
export function plainEvent(base: Piece): PlainEvent | null {
  const generic = genericEventByName(base.text);
  if (generic !== undefined) return generic;
  if (RAW.test(base.text)) return rawEvent(BigInt(`0x${base.text.slice(1)}`));
  return NUMERIC.test(base.text) ? numericEvent(base) : null;
}

function rawEvent(config: bigint): PlainEvent {
  return { name: `r${config.toString(16)}`, type: TYPE.RAW, config };
}

/** The kernel's types that name something by config alone. */
const BY_CONFIG: readonly number[] = [TYPE.HARDWARE, TYPE.SOFTWARE, TYPE.HW_CACHE, TYPE.RAW];
const OTHER_FORMS: ReadonlyMap<number, string> = new Map([
  [TYPE.TRACEPOINT, "tracepoints have names: write subsystem:event"],
  [TYPE.BREAKPOINT, "a breakpoint is more than its config: write mem:ADDRESS"],
]);

function numericEvent(base: Piece): PlainEvent {
  const [first, second] = base.text.split(":") as [string, string];
  const [type, config] = [parseNumber(first), parseNumber(second)];
  if (type === null || config === null) {
    throw complaint("EVENT_SYNTAX", base, `${quote(base.text)}: the numbers of type:config have 64 bits at most`);
  }
  const kind = Number(type);
  if (!BY_CONFIG.includes(kind)) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      base,
      OTHER_FORMS.get(kind) ?? `type ${first} is a PMU's: name it, as in cpu/config=${second}/`,
    );
  }
  if (kind === TYPE.RAW) return rawEvent(config);
  const generic = genericEvents().find((event) => event.type === kind && event.config === config);
  return generic ?? { name: `${kind}:${config}`, type: kind, config };
}

/** One for each type of core where there are several and the kernel does not count by itself. `terms` may be absent. */
export function resolvePlain(
  event: PlainEvent,
  terms: Piece | null,
  modifiers: ModifierPieces,
  pmus: PmuDirectory,
): ParsedEvent[] {
  const general = readTerms(event.name, terms);
  const inner = terms?.text ?? "";
  const named = inner === "" ? event.name : `${event.name}/${inner}/`;
  const make = (pmu: Pmu | undefined, name: string, type: number, config: bigint): ParsedEvent => {
    const [, config1, config2, config3] = general.config;
    const isClock = type === TYPE.SOFTWARE && CLOCKS.includes(config);
    const attr = { type, config, config1: config1 ?? 0n, config2: config2 ?? 0n, config3: config3 ?? 0n };
    const { period, frequencyHz } = general;
    const of = pmu === undefined ? {} : { pmu: pmu.name };
    const found = eventOf(attr, name, modifiers, { ...of, period, frequencyHz, periodUnit: isClock ? "ns" : "events" });
    return general.name === null ? found : { ...found, name: general.name };
  };
  const { type } = event;
  const config = general.config[0] ?? event.config;
  if (type === TYPE.SOFTWARE) return [make(undefined, named, type, config)];
  const { core } = pmus;
  if (core.length < 2) return [make(core[0], named, type, config)];
  const [isRaw, isNamed] = [type === TYPE.RAW, !NUMERIC.test(event.name)];
  // A config that has no name the kernel takes for one of its own choice.
  if (!isRaw && !isNamed) return [make(undefined, named, type, config)];
  return core.map((pmu) => {
    const name = `${pmu.name}/${inner === "" ? event.name : `${event.name},${inner}`}/`;
    const found = isRaw ? make(pmu, name, pmu.type, config) : make(pmu, name, type, onPmu(config, pmu));
    return { ...found, cpus: pmu.cpus };
  });
}

const CLOCKS: readonly bigint[] = [BigInt(COUNT_SW.CPU_CLOCK), BigInt(COUNT_SW.TASK_CLOCK)];

function readTerms(name: string, piece: Piece | null): GeneralTerms {
  const terms = piece === null ? [] : splitTerms(piece);
  refuseTwice(terms);
  const other = terms.find((term) => !isGeneralTerm(term.name));
  if (other !== undefined) {
    throw complaint(
      "EVENT_UNKNOWN",
      other.name,
      `${name} has no term ${quote(other.name.text)}: ${suggestion(other.name.text, GENERAL_NAMES)}its terms are ${GENERAL_NAMES.join(", ")}`,
    );
  }
  return readGeneralTerms(terms);
}

/** `software/config=0/`: the kernel's own PMU has no terms of its own. */
export const SOFTWARE_PMU: PlainEvent = { name: "software", type: TYPE.SOFTWARE, config: 0n };
