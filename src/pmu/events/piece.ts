/** A part of an event specification that remembers where it stood, so that every complaint can name its column. */
import { closest, distance } from "fastest-levenshtein";
import { PmuError, type PmuErrorCode } from "../errors.js";

export interface Piece {
  /** All of the specification. */
  readonly spec: string;
  /** Where `text` begins in it, from 0. */
  readonly at: number;
  readonly text: string;
}

export function wholeOf(spec: string): Piece {
  return { spec, at: 0, text: spec };
}

export function cut({ spec, at, text }: Piece, from: number, to = text.length): Piece {
  return { spec, at: at + from, text: text.slice(from, to) };
}

/** Without the spaces around it. */
export function trimmed(piece: Piece): Piece {
  const from = piece.text.length - piece.text.trimStart().length;
  return cut(piece, from, from + piece.text.trim().length);
}

/** Where the quoted value that begins at `at`, `name='a,b'`, ends; `at` where none begins. */
export function endOfQuoted(text: string, at: number): number {
  if (text[at] !== "'" || text[at - 1] !== "=") return at;
  const end = text.indexOf("'", at + 1);
  return end < 0 ? at : end;
}

/** The first `letter` from `from` on that is in no quoted value; -1 where there is none. */
export function indexUnquoted(text: string, letter: string, from: number): number {
  for (let at = from; at < text.length; at = endOfQuoted(text, at) + 1) if (text[at] === letter) return at;
  return -1;
}

/** Columns are counted from 1. */
export function complaint(code: PmuErrorCode, { spec, at }: Piece, message: string, offset = 0): PmuError {
  return new PmuError(code, `event ${quote(spec)}, column ${at + offset + 1}: ${message}`);
}

export function syntaxError(piece: Piece, message: string, offset = 0): PmuError {
  return complaint("EVENT_SYNTAX", piece, message, offset);
}

export const SEVERAL_EVENTS = "several events: give each an entry of its own, or write a group {a,b}";

/** A name this long is no typo of anything; searching for its neighbours would only cost time. */
const NAME_CHARS_MAX = 128;

/** The candidate that `name` may be a slip of, or null when none is near. */
export function nearestName(name: string, candidates: Iterable<string>): string | null {
  const list = [...candidates];
  if (name.length > NAME_CHARS_MAX || list.length === 0) return null;
  // A name in capitals is no slip of its letters.
  const folded = name.toLowerCase();
  const sameLetters = list.find((candidate) => candidate.toLowerCase() === folded);
  if (sameLetters !== undefined) return sameLetters;
  const nearest = closest(name, list);
  return distance(name, nearest) <= Math.max(2, name.length / 3) ? nearest : null;
}

/** `did you mean "x"? `, or nothing. */
export function suggestion(name: string, candidates: Iterable<string>): string {
  const nearest = nearestName(name, candidates);
  return nearest === null ? "" : `did you mean ${quote(nearest)}? `;
}

export function quote(text: string): string {
  return JSON.stringify(text.length > NAME_CHARS_MAX ? `${text.slice(0, NAME_CHARS_MAX)}…` : text);
}

/** Decimal, or hexadecimal behind 0x, of at most 64 bits; null when it is neither. */
export function parseNumber(text: string): bigint | null {
  if (!/^(0x[0-9a-fA-F]+|[0-9]+)$/.test(text)) return null;
  const value = BigInt(text);
  return value < 1n << 64n ? value : null;
}
