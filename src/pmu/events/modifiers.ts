/** What follows the colon: `u`, `k`, `ppp`, `G`, … as tools/perf reads them (get_event_modifier in util/parse-events.c). */
import type { EventAttr } from "../source.js";
import { type Piece, quote, SEVERAL_EVENTS, syntaxError } from "./piece.js";

export interface Modifiers
  extends Pick<
    EventAttr,
    | "excludeUser"
    | "excludeKernel"
    | "excludeHv"
    | "excludeHost"
    | "excludeGuest"
    | "excludeIdle"
    | "pinned"
    | "preciseIp"
  > {
  /** P: as precise as the kernel offers. */
  readonly preciseMax: boolean;
  /** S: samples of a group's leader carry what its members have counted. */
  readonly sampleRead: boolean;
}

export const NO_MODIFIERS: Modifiers = {
  excludeUser: false,
  excludeKernel: false,
  excludeHv: false,
  excludeHost: false,
  excludeGuest: false,
  excludeIdle: false,
  pinned: false,
  preciseIp: 0,
  preciseMax: false,
  sampleRead: false,
};

const PRECISE_IP_MAX = 3;
/** `cycles:u:k` */
export const ONE_COLON = "modifiers follow one colon, with none between them: cycles:uk";
const TAKEN = "u, k, h, p, P, G, H, I, D and S";

/** Those that perf takes and a shared daemon cannot, with what to do instead. */
const REFUSED: Readonly<Record<string, string>> = {
  e: "it would keep the events of all other handlers off the PMU: register with `exclusive` instead",
  W: "a group is opened whole or refused, never broken up: give the events without the braces",
  b: "counting in BPF programs yields no samples: leave it out",
  R: "it reads a latency from a metric's counter, which is no sample: ask for the field WEIGHT",
  X: "events are never regrouped: leave it out",
};

/** All that perf takes, so that recorded names can be split, too. */
export const MODIFIER_LETTERS = /^[ukhpPGHISDWebRX]*$/;

/**
 * `pieces` are an event's own letters and then its group's, each behind its colon; the group's add to the event's.
 * Naming any of u, k and h excludes those of the three that are not named; the same goes for G and H.
 */
export function parseModifiers(pieces: readonly Piece[]): Modifiers {
  const found = new Set<string>();
  let preciseIp = 0;
  for (const piece of pieces) {
    const seen = new Set<string>();
    for (const [index, letter] of [...piece.text].entries()) {
      if (letter === "p") {
        if (++preciseIp > PRECISE_IP_MAX) throw syntaxError(piece, `more than ${PRECISE_IP_MAX} p`, index);
        continue;
      }
      const why = REFUSED[letter];
      if (why !== undefined) throw syntaxError(piece, `modifier ${quote(letter)} is not offered: ${why}`, index);
      if (letter === ":") throw syntaxError(piece, ONE_COLON, index);
      if (letter === ",") throw syntaxError(piece, SEVERAL_EVENTS, index);
      if (!"ukhPGHIDS".includes(letter)) {
        throw syntaxError(piece, `unknown modifier ${quote(letter)}: use ${TAKEN}`, index);
      }
      if (seen.has(letter)) throw syntaxError(piece, `modifier ${quote(letter)} is given twice`, index);
      seen.add(letter);
      found.add(letter);
    }
  }
  return fromLetters(found, preciseIp);
}

function fromLetters(found: ReadonlySet<string>, preciseIp: number): Modifiers {
  const levels = found.has("u") || found.has("k") || found.has("h");
  const sides = found.has("G") || found.has("H");
  const precise = preciseIp > 0 || found.has("P");
  return {
    excludeUser: levels && !found.has("u"),
    excludeKernel: levels && !found.has("k"),
    excludeHv: levels && !found.has("h"),
    excludeHost: sides && !found.has("H"),
    // A guest's samples are not precise, and kernels refuse the combination: perf leaves guests out as well.
    excludeGuest: sides ? !found.has("G") : precise,
    excludeIdle: found.has("I"),
    pinned: found.has("D"),
    preciseIp: found.has("P") ? PRECISE_IP_MAX : preciseIp,
    preciseMax: found.has("P"),
    sampleRead: found.has("S"),
  };
}

/**
 * Canonical letters, in the order u, k, h, p or P, G or H, I, D and left out where they change nothing. S is the
 * group's and not repeated.
 */
export function modifierLetters(modifiers: Partial<Modifiers>): string {
  const { excludeUser, excludeKernel, excludeHv, excludeHost, excludeGuest, excludeIdle, pinned } = modifiers;
  const { preciseIp = 0, preciseMax = false } = modifiers;
  const levels = excludeUser || excludeKernel || excludeHv;
  const letters = [
    levels && !excludeUser ? "u" : "",
    levels && !excludeKernel ? "k" : "",
    levels && !excludeHv ? "h" : "",
    preciseMax ? "P" : "p".repeat(preciseIp),
    excludeHost ? "G" : "",
    excludeGuest && preciseIp === 0 ? "H" : "",
    excludeIdle ? "I" : "",
    pinned ? "D" : "",
  ];
  return letters.join("");
}

/** With the colon, empty where there is no letter. */
export function modifierSuffix(modifiers: Partial<Modifiers>): string {
  const letters = modifierLetters(modifiers);
  return letters === "" ? "" : `:${letters}`;
}
