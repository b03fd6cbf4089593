/** Who may have the PMU's counters: whether what a handler wants fits beside what others have. */
import { needsCounter } from "../../pmu/event-spec.js";
import type { ResolvedEvent, Source } from "../../pmu/source.js";
import { BrokerError } from "./errors.js";

/** The handler that wants events. */
export interface Claimant {
  readonly handler: string;
  /** Its events are never to share a counter with others in turns. */
  readonly exclusive: boolean;
}

/** An event that is armed, and for whom. */
export interface Claim {
  readonly event: ResolvedEvent;
  readonly claimants: readonly Claimant[];
}

const EVENTS = "events";

/**
 * Without exclusive handlers the kernel multiplexes what does not fit at once, and only what can never count is refused.
 * Throws BrokerError FAILED_PRECONDITION that names the handlers in the way.
 */
export function checkBudget(
  source: Source,
  claims: readonly Claim[],
  wanted: readonly ResolvedEvent[],
  claimant: Claimant,
): void {
  const armed = new Set(claims.map(({ event }) => event.key));
  const fresh = wanted.filter((event) => !armed.has(event.key) && takesCounters(event));
  for (const event of fresh) {
    const why = source.whyNotTogether([event]);
    if (why !== null) throw refused(EVENTS, `${event.name} cannot be counted here: ${why}.`);
  }
  const counting = claims.filter(({ event }) => takesCounters(event));
  const all = [...counting.map(({ event }) => event), ...fresh];
  if (claimant.exclusive) {
    checkExclusive(source, counting, wanted, all);
    return;
  }
  const holders = namesOf(counting, ({ exclusive }) => exclusive);
  if (holders.length === 0 || fresh.length === 0) return;
  const why = source.whyNotTogether(all);
  if (why === null) return;
  throw refused(
    EVENTS,
    `they would be multiplexed with those of ${holders.join(", ")}, registered with \`exclusive\`: ask for fewer, or wait until that handler is gone (${why}).`,
  );
}

function checkExclusive(
  source: Source,
  counting: readonly Claim[],
  wanted: readonly ResolvedEvent[],
  all: readonly ResolvedEvent[],
): void {
  const own = source.whyNotTogether(wanted);
  if (own !== null) throw refused("exclusive", `the events do not fit beside each other: ask for fewer (${own}).`);
  const wantedKeys = new Set(wanted.map(({ key }) => key));
  const why = wanted.some(takesCounters) ? source.whyNotTogether(all) : null;
  if (why === null) return;
  // Those who have nothing but what is wanted as well are in nobody's way.
  const inTheWay = namesOf(
    counting.filter(({ event }) => !wantedKeys.has(event.key)),
    () => true,
  );
  throw refused(
    "exclusive",
    `the events would be multiplexed with those of ${inTheWay.join(", ")}: deregister them, ask for fewer, or leave exclusive out (${why}).`,
  );
}

function takesCounters(event: ResolvedEvent): boolean {
  return [event, ...event.members].some((each) => needsCounter(each) && !each.hasAux);
}

function namesOf(claims: readonly Claim[], which: (claimant: Claimant) => boolean): string[] {
  return [...new Set(claims.flatMap(({ claimants }) => claimants.filter(which).map(({ handler }) => handler)))];
}

function refused(field: string, message: string): BrokerError {
  return new BrokerError("FAILED_PRECONDITION", `${field}: ${message}`);
}
