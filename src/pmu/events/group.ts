/** Groups: `{cycles,instructions}:S`. */
import { needsCounter, type ParsedEvent } from "./parsed-event.js";
import {
  complaint,
  cut,
  endOfQuoted,
  indexUnquoted,
  type Piece,
  quote,
  SEVERAL_EVENTS,
  syntaxError,
  trimmed,
} from "./piece.js";

export interface GroupSyntax {
  readonly whole: Piece;
  readonly members: readonly Piece[];
  readonly modifiers: Piece | null;
}

/** perf lets a group have a name, which only its own output shows. */
const NAME = /^[A-Za-z0-9_]*$/;

/** null where `piece` is no group. Throws PmuError EVENT_SYNTAX. */
export function splitGroup(piece: Piece): GroupSyntax | null {
  const open = piece.text.indexOf("{");
  if (open < 0 || !NAME.test(piece.text.slice(0, open).trimEnd().replace(/:$/, ""))) return null;
  const close = indexUnquoted(piece.text, "}", open);
  if (close < 0) throw syntaxError(piece, "a brace must close the group: {a,b}", piece.text.length);
  const behind = cut(piece, close + 1);
  if (trimmed(behind).text.startsWith(",")) throw syntaxError(trimmed(behind), SEVERAL_EVENTS);
  if (behind.text !== "" && !behind.text.startsWith(":")) {
    throw syntaxError(behind, "only a colon and modifiers may follow the group: {a,b}:S");
  }
  const modifiers = behind.text === "" ? null : cut(behind, 1);
  if (modifiers?.text === "") throw syntaxError(modifiers, "a modifier must follow the colon, as in {a,b}:S");
  const members = splitMembers(cut(piece, open + 1, close));
  return { whole: piece, members, modifiers };
}

/** At commas, but not at those between a PMU's slashes. */
function splitMembers(piece: Piece): Piece[] {
  const members: Piece[] = [];
  let from = 0;
  let inTerms = false;
  const push = (to: number): void => {
    const member = trimmed(cut(piece, from, to));
    if (member.text === "") throw syntaxError(member, "an event must stand before and after each comma of a group");
    members.push(member);
    from = to + 1;
  };
  let isBreakpoint = startsBreakpoint(piece.text, from);
  for (let index = 0; index < piece.text.length; index = endOfQuoted(piece.text, index) + 1) {
    const letter = piece.text[index];
    // A breakpoint has one slash, before its length.
    if (letter === "/" && !isBreakpoint) inTerms = !inTerms;
    else if (letter === "," && !inTerms) {
      push(index);
      isBreakpoint = startsBreakpoint(piece.text, from);
    }
  }
  push(piece.text.length);
  return members;
}

function startsBreakpoint(text: string, from: number): boolean {
  let at = from;
  while (at < text.length && (text[at] as string).trim() === "") at++;
  return text.startsWith("mem:", at);
}

/** One group, or one for each type of core. `resolve` is told a member, and answers with at least one event. */
export function resolveGroup(group: GroupSyntax, resolve: (member: Piece) => ParsedEvent[]): ParsedEvent[] {
  const members = group.members.map((piece) => ({ piece, events: resolve(piece) }));
  for (const { piece, events } of members) refuseSingly(group, piece, events[0]);
  return pmusOf(members.map(({ events }) => events)).map((pmu) => {
    const [leader, ...others] = members.map(({ piece, events }) => {
      const fitting = events.length === 1 ? events[0] : events.find((event) => event.pmu === pmu);
      if (fitting === undefined) {
        throw complaint(
          "EVENT_UNSUPPORTED",
          piece,
          `${quote(piece.text)} means ${events.length} events, which do not go with the others of the group: name the one that is meant`,
        );
      }
      return fitting;
    });
    // Only leaders can be pinned; their members go with them.
    const rest = others.map((event) => ({ ...event, pinned: false, sampleRead: false }));
    return { ...leader, cpus: commonCpus(group, [leader, ...others]), members: rest };
  });
}

function refuseSingly({ modifiers, whole, members }: GroupSyntax, piece: Piece, event: ParsedEvent): void {
  const ofGroup = modifiers?.text ?? "";
  const place = (what: string): string => `${what} goes for the whole group: write it behind the brace`;
  if (event.sampleRead && !ofGroup.includes("S")) throw syntaxError(piece, place("S"));
  if (event.pinned && !ofGroup.includes("D")) throw syntaxError(piece, place("D"));
  const leads = members[0] === piece;
  if (!leads && ofGroup.includes("S") && (event.period !== null || event.frequencyHz !== null)) {
    throw syntaxError(
      piece,
      `in ${quote(whole.text)} only the first event samples: leave period and freq out of the others`,
    );
  }
}

/** For each of which there is a group: those that some member leaves open and no member rules out. */
function pmusOf(members: readonly (readonly ParsedEvent[])[]): readonly string[] {
  const open = members.find((events) => events.length > 1);
  if (open === undefined) return [""];
  const pmus = open.map(({ pmu }) => pmu);
  const bound = members.flatMap((events) => (events.length === 1 ? [events[0].pmu] : []));
  const ruled = pmus.filter((pmu) => bound.includes(pmu));
  return ruled.length > 0 ? ruled : pmus;
}

/** Members of a group are counted by one PMU, on its CPUs; software events go with any. Throws PmuError. */
function commonCpus({ whole }: GroupSyntax, events: readonly ParsedEvent[]): string {
  const bound = events.filter((event) => event.pmu !== "" && needsCounter(event));
  const [first] = bound;
  if (first === undefined) return "";
  const other = bound.find(({ pmu }) => pmu !== first.pmu);
  if (other !== undefined) {
    throw complaint(
      "EVENT_UNSUPPORTED",
      whole,
      `${first.name} and ${other.name} are counted by different PMUs (${first.pmu}, ${other.pmu}): give them without the braces`,
    );
  }
  return first.cpus;
}
