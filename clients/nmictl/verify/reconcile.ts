/** Compares both ends of a run: what was made, what the daemon's books say, and what the clients received. */
import type { GetStatusResponse } from "../../typescript/index.js";
import { add } from "./ledger.js";
import type { Run } from "./run.js";
import type { Subject } from "./subject.js";

export interface Check {
  readonly what: string;
  readonly left: number;
  readonly right: number;
}

export interface RoleRow {
  readonly role: string;
  readonly handlers: number;
  readonly matched: number;
  readonly received: number;
  readonly lost: number;
  /** Written to streams that their clients had broken off. */
  readonly unread: number;
}

export interface LossRow {
  readonly reason: string;
  /** In streams. */
  readonly told: number;
  /** By the table. Those whose stream was broken off, or who had none, could not be told of all. */
  readonly booked: number;
}

export interface Report {
  readonly balanced: boolean;
  readonly seed: number;
  readonly seconds: number;
  readonly source: string;
  readonly dispatchers: number;
  readonly handlers: number;
  readonly roles: readonly RoleRow[];
  readonly losses: readonly LossRow[];
  /** Told to the handler that was there all along, outside its books. */
  readonly eventWide: Readonly<Record<string, number>>;
  readonly ends: Readonly<Record<string, number>>;
  readonly streamsBroken: number;
  readonly streamsResumed: number;
  /** Of the daemon, and the time that the handler that was there all along was told of; 0 where no clock can say. */
  readonly restarts: number;
  readonly gapMs: number;
  /** Lower bounds. */
  readonly throttled: Readonly<Record<string, number>>;
  readonly refused: Readonly<Record<string, number>>;
  readonly checks: readonly Check[];
  /** Why sums over the whole daemon were not compared, or some of them. */
  readonly unchecked: readonly string[];
  readonly imbalances: readonly string[];
}

type Totals = NonNullable<GetStatusResponse["totals"]>;

export function reconcile(run: Run): Report {
  const { subjects, before, after } = run;
  const unchecked: string[] = [];
  const checks = [
    {
      what: "books that the daemon found unbalanced; none",
      left: after.unbalanced - (run.restarts > 0 ? 0 : before.unbalanced),
      right: 0,
    },
    ...totalsChecks(run, unchecked),
  ];
  const imbalances = [
    ...subjects.flatMap(({ name, handlerId, ledger }) =>
      ledger.problems.map((text) => `${name} (${handlerId}): ${text}`),
    ),
    ...checks.flatMap(({ what, left, right }) => (left === right ? [] : [`${what}: ${left} and ${right}`])),
  ];
  return {
    balanced: imbalances.length === 0,
    seed: run.options.seed,
    seconds: run.seconds,
    source: before.source,
    dispatchers: before.dispatchers.length,
    handlers: subjects.length,
    roles: roleRows(subjects),
    losses: lossRows(subjects),
    eventWide: Object.fromEntries(run.witness.ledger.eventWide),
    ends: endCounts(subjects),
    streamsBroken: sum(subjects, ({ broken }) => broken),
    streamsResumed: sum(subjects, ({ ledger }) => Math.max(0, ledger.streams - 1)),
    restarts: run.restarts,
    gapMs: gapMs(run.witness),
    throttled: Object.fromEntries(run.throttled),
    refused: Object.fromEntries(run.refused),
    checks,
    unchecked,
    imbalances,
  };
}

/** Sums over the daemon, while nobody else had any part in them. */
function totalsChecks(run: Run, unchecked: string[]): Check[] {
  const { before, after, subjects, witness } = run;
  if (before.totals === null || after.totals === null) {
    unchecked.push("the daemon's totals: it told none");
    return [];
  }
  const total = difference(before.totals, after.totals);
  const foreign = whoElse(run, total);
  if (foreign !== null) {
    unchecked.push(`the daemon's totals: ${foreign}`);
    return [];
  }
  const told = (reason: string): number => witness.ledger.eventWide.get(reason) ?? 0;
  const checks: Check[] = [
    { what: "handlers registered, and removed", left: total.registrations, right: total.removals },
    {
      what: "matched by all handlers, and in the daemon's total",
      left: sum(subjects, matchedOf),
      right: total.matched,
    },
    {
      what: "received and unread by all clients, and the daemon's delivered",
      left: sum(subjects, ({ ledger }) => ledger.samples) + sum(subjects, unreadOf),
      right: total.delivered,
    },
    { what: "lost by all handlers, and in the daemon's total", left: sum(subjects, lostOf), right: total.lost },
  ];
  if (total.produced === 0 && total.samples > 0) {
    unchecked.push("samples made: this source does not count them");
  } else {
    checks.push(
      {
        what: "samples made, and drained or lost in the rings",
        left: total.produced,
        right: total.producedDrained + total.producedLost,
      },
      { what: "samples drained, and drained of those made", left: total.samples, right: total.producedDrained },
    );
  }
  return [...checks, ...witnessChecks(run, total, told, unchecked)];
}

/** The witness had every sample of every event: what it did not match, nobody can have. */
function witnessChecks(run: Run, total: Totals, told: (reason: string) => number, unchecked: string[]): Check[] {
  const { before, after, witness, witnessWasLast } = run;
  const deaths = (status: GetStatusResponse): number => sum(status.dispatchers, ({ restarts }) => restarts);
  if (!witnessWasLast) {
    unchecked.push("one handler's samples against those drained: the source ended before that handler left");
    return [];
  }
  if (deaths(after) !== deaths(before)) {
    unchecked.push("one handler's samples against those drained: a dispatcher died");
    return [];
  }
  return [
    {
      what: "samples drained, and matched by who was there all along or claimed by nobody",
      left: total.samples,
      right: witness.totals.matched + total.unclaimed,
    },
    {
      what: "lost in the rings, and told to who was there all along",
      left: total.kernelLost,
      right: told("KERNEL"),
    },
  ];
}

/** Each of its events was told of each. */
function gapMs({ ledger }: Subject): number {
  const ns = sum(ledger.gaps, ({ firstTime, lastTime }) => Number(lastTime - firstTime));
  return Math.round(ns / 1e6 / Math.max(1, ledger.events.length));
}

function whoElse({ before, after, subjects, quiet, restarts }: Run, total: Totals): string | null {
  if (restarts > 0) return `the daemon was restarted ${restarts} times, and counts from its start`;
  if (before.handlers > 0 || before.events.length > 0) return "other handlers were registered before";
  if (total.registrations !== subjects.length) return "other handlers registered meanwhile";
  if (!quiet) return `${after.handlers} handlers and ${after.events.length} events were left at the end`;
  return null;
}

function difference(before: Totals, after: Totals): Totals {
  const entries = Object.entries(after).map(([name, value]) => [name, value - before[name as keyof Totals]]);
  return Object.fromEntries(entries) as unknown as Totals;
}

const matchedOf = ({ totals }: Subject): number => totals.matched;
const lostOf = ({ totals }: Subject): number => totals.lost;
const unreadOf = ({ totals, ledger }: Subject): number => totals.delivered - ledger.samples;

function roleRows(subjects: readonly Subject[]): RoleRow[] {
  const roles = new Map<string, Subject[]>();
  for (const subject of subjects) {
    const own = roles.get(subject.role);
    if (own === undefined) roles.set(subject.role, [subject]);
    else own.push(subject);
  }
  return [...roles].map(([role, own]) => ({
    role,
    handlers: own.length,
    matched: sum(own, matchedOf),
    received: sum(own, ({ ledger }) => ledger.samples),
    lost: sum(own, lostOf),
    unread: sum(own, unreadOf),
  }));
}

function lossRows(subjects: readonly Subject[]): LossRow[] {
  const told = new Map<string, number>();
  const booked = new Map<string, number>();
  for (const { ledger, totals } of subjects) {
    for (const [reason, count] of ledger.losses) add(told, reason, count);
    for (const { reason, count } of totals.losses) add<string>(booked, reason, count);
  }
  return [...new Set([...booked.keys(), ...told.keys()])].map((reason) => ({
    reason,
    told: told.get(reason) ?? 0,
    booked: booked.get(reason) ?? 0,
  }));
}

function endCounts(subjects: readonly Subject[]): Record<string, number> {
  const ends = new Map<string, number>();
  for (const { ledger } of subjects) {
    add(ends, ledger.end?.reason ?? (ledger.streams === 0 ? "never subscribed" : "no end"), 1);
  }
  return Object.fromEntries(ends);
}

function sum<T>(list: readonly T[], pick: (item: T) => number): number {
  return list.reduce((total, item) => total + pick(item), 0);
}
