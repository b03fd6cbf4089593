/** Hardware breakpoints: `mem:0x7f00[/length][:rwx]`. */
import { TYPE } from "../abi.js";
import { cut, type Piece, parseNumber, quote, syntaxError } from "./piece.js";

/** linux/hw_breakpoint.h */
const HW_BREAKPOINT = { R: 1, W: 2, X: 4 } as const;
/** Lengths that x86 has; an instruction's must be that of a long. */
const LENGTHS = [1, 2, 4, 8];
const LENGTH_DEFAULT = 4;
const LENGTH_EXECUTE = 8;
const FORM = "write mem:ADDRESS[/LENGTH][:ACCESS], as in mem:0x7f001000/8:rw";

export interface Breakpoint {
  readonly name: string;
  readonly type: number;
  readonly bpType: number;
  /** bp_addr and bp_len share their words with config1 and config2. */
  readonly config1: bigint;
  readonly config2: bigint;
  readonly modifiers: Piece | null;
}

/** `piece` begins with `mem:`. Throws PmuError EVENT_SYNTAX. */
export function parseBreakpoint(piece: Piece): Breakpoint {
  const parts: Piece[] = [];
  for (let from = "mem:".length; from <= piece.text.length; ) {
    const colon = piece.text.indexOf(":", from);
    const end = colon < 0 ? piece.text.length : colon;
    parts.push(cut(piece, from, end));
    from = end + 1;
  }
  const [place, ...rest] = parts as [Piece, ...Piece[]];
  const slash = place.text.indexOf("/");
  const address = slash < 0 ? place : cut(place, 0, slash);
  const value = parseNumber(address.text);
  if (value === null) {
    throw syntaxError(address, `${quote(address.text)} is no address (symbols are not looked up): ${FORM}`);
  }
  const hasAccess = rest.length > 0 && /^[rwx]+$/.test(rest[0].text);
  const access = hasAccess ? accessOf(rest[0]) : { bits: HW_BREAKPOINT.R | HW_BREAKPOINT.W, text: "rw" };
  const [modifiers = null, extra] = hasAccess ? rest.slice(1) : rest;
  if (extra !== undefined) throw syntaxError(extra, `nothing may follow the modifiers: ${FORM}`);
  if (modifiers !== null && modifiers.text === "") {
    throw syntaxError(modifiers, `an access of r, w and x or a modifier must follow the colon: ${FORM}`);
  }
  const executes = access.bits === HW_BREAKPOINT.X;
  const length = slash < 0 ? (executes ? LENGTH_EXECUTE : LENGTH_DEFAULT) : lengthOf(cut(place, slash + 1), executes);
  return {
    name: `mem:0x${value.toString(16)}/${length}:${access.text}`,
    type: TYPE.BREAKPOINT,
    bpType: access.bits,
    config1: value,
    config2: BigInt(length),
    modifiers,
  };
}

function accessOf(piece: Piece): { readonly bits: number; readonly text: string } {
  const { text } = piece;
  if (new Set(text).size < text.length) throw syntaxError(piece, `access ${quote(text)} names a letter twice`);
  const has = (letter: string, bit: number): number => (text.includes(letter) ? bit : 0);
  const bits = has("r", HW_BREAKPOINT.R) | has("w", HW_BREAKPOINT.W) | has("x", HW_BREAKPOINT.X);
  if (bits > HW_BREAKPOINT.X) {
    throw syntaxError(piece, "the CPU watches either for execution or for accesses: give x alone, or r and w");
  }
  return { bits, text: ["r", "w", "x"].filter((letter) => text.includes(letter)).join("") };
}

function lengthOf(piece: Piece, executes: boolean): number {
  const length = Number(parseNumber(piece.text) ?? -1n);
  if (!LENGTHS.includes(length)) {
    throw syntaxError(piece, `${quote(piece.text)} is no length: give 1, 2, 4 or 8 bytes`);
  }
  if (executes && length !== LENGTH_EXECUTE) {
    throw syntaxError(piece, `a breakpoint on execution has the length ${LENGTH_EXECUTE}: leave the length out`);
  }
  return length;
}
