/** What a specification means, before a source has said how it opens it. */
import { TYPE } from "../abi.js";
import { type EventAttr, PLAIN_ATTR } from "../source.js";
import { type Modifiers, modifierLetters, parseModifiers } from "./modifiers.js";
import type { Piece } from "./piece.js";

export interface ParsedEvent extends EventAttr {
  /** Canonical: the alias resolved, modifiers in one order and left out where they change nothing; or a `name=` term's. */
  readonly name: string;
  readonly periodUnit: "ns" | "events";
  /** In the kernel's list format; empty means every CPU. */
  readonly cpus: string;
  /** Of a tracepoint: its tracefs `format` file. */
  readonly format: string;
  /** The PMU that it names, or that a plain name means here; else empty. */
  readonly pmu: string;
  /** P: preciseIp is the most there can be, and less where the kernel refuses that. */
  readonly preciseMax: boolean;
  /** The `period` and `freq` terms. */
  readonly period: number | null;
  readonly frequencyHz: number | null;
  /** Of a group's leader. */
  readonly members: readonly ParsedEvent[];
  readonly sampleRead: boolean;
}

/** An event's own modifiers, then its group's. */
export type ModifierPieces = readonly (Piece | null)[];

export function eventOf(
  attr: Partial<EventAttr> & Pick<EventAttr, "type">,
  name: string,
  modifiers: ModifierPieces,
  more: Partial<ParsedEvent> = {},
): ParsedEvent {
  const parsed = parseModifiers(modifiers.filter((piece) => piece !== null));
  return {
    ...PLAIN_ATTR,
    periodUnit: "events",
    cpus: "",
    format: "",
    pmu: "",
    period: null,
    frequencyHz: null,
    members: [],
    ...attr,
    ...more,
    ...parsed,
    name: name + suffixOf(name, parsed),
  };
}

/** `cpu/…/u`, but `cycles:u`. */
function suffixOf(name: string, modifiers: Modifiers): string {
  const letters = modifierLetters(modifiers);
  if (letters === "") return "";
  return name.endsWith("/") ? letters : `:${letters}`;
}

/** Whether it takes one of the PMU's counters while it is enabled. */
export function needsCounter({ type }: Pick<EventAttr, "type">): boolean {
  return type !== TYPE.SOFTWARE && type !== TYPE.TRACEPOINT && type !== TYPE.BREAKPOINT;
}
