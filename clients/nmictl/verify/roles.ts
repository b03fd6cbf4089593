/**
 * What the handlers of a run do: read along, read slowly, stop reading, leave, break off, come back, stay away. Each
 * role is there for a kind of loss or of change that the books must survive.
 */
import type { Filter, RegisterRequest } from "../../typescript/index.js";
import type { Random } from "./random.js";
import type { Subject } from "./subject.js";

export interface World {
  readonly random: Random;
  /** In perf's syntax; one handler gets all of them. */
  readonly events: readonly string[];
  /** What the fastest handler was given; 0 where it gets every sample. Nobody asks for more. */
  readonly frequencyHz: number;
  readonly dispatchers: number;
  /** Seen in samples: what filters ask for. */
  readonly pids: () => readonly number[];
  readonly cpus: readonly number[];
  /** Resolves after `ms` of the run, or at once when it is over. */
  readonly pass: (ms: number) => Promise<void>;
}

export interface Role {
  readonly name: string;
  /** All but the name. */
  readonly request: (world: World) => Omit<RegisterRequest, "name">;
  /** From the registration until nothing is left to do but wait for the handler's removal. */
  readonly live: (subject: Subject, world: World) => Promise<void>;
}

/** Long enough that a handler is only lost to its lease where that is what it is for. */
const LEASE_MS = 120_000;
const SHORT_LEASE_MS = 150;
/** The least a queue may have for each dispatcher. */
const REGION_BYTES = 64 * 1024;
const THINNED_HZ = [7, 49, 97, 251, 499, 997, 1999, 4999] as const;
const THINNED_PERIODS = [10_000, 1_000_000, 10_000_000] as const;

/** Every event at the fastest rate there is. */
function everything({ events, frequencyHz }: World): RegisterRequest["events"] {
  return events.map((event) => ({ event, frequencyHz }));
}

function smallQueue({ dispatchers }: World): { maxBytes: number; flushIntervalMs: number } {
  return { maxBytes: dispatchers * REGION_BYTES, flushIntervalMs: 1 };
}

/** Slower than the fastest, by frequency; where that one gets all samples, by period, too. */
function thinned(world: World): RegisterRequest["events"] {
  const { random, events, frequencyHz } = world;
  if (frequencyHz === 0 && random.chance(0.3)) {
    return events.map((event) => ({ event, period: random.pick(THINNED_PERIODS) }));
  }
  const slower = THINNED_HZ.filter((hz) => frequencyHz === 0 || hz <= frequencyHz);
  return events.map((event) => ({ event, frequencyHz: slower.length === 0 ? frequencyHz : random.pick(slower) }));
}

function filter({ random, pids, cpus }: World): Partial<Filter> {
  const seen = pids();
  const kinds: Partial<Filter>[] = [{ excludeKernel: true }, { excludeUser: true }];
  if (seen.length > 0) kinds.push({ pids: [random.pick(seen), random.pick(seen)] });
  if (cpus.length > 0) kinds.push({ cpus: [random.pick(cpus)] });
  return random.pick(kinds);
}

async function readAlong(subject: Subject, { pass, random }: World): Promise<void> {
  await subject.subscribe();
  await pass(random.between(200, 1500));
  await subject.deregister();
}

/** Reads by fits and starts: the queue fills, overflows, and is emptied again. */
async function readByFits(subject: Subject, { pass, random }: World): Promise<void> {
  await subject.subscribe();
  for (let fit = 0; fit < 2; fit++) {
    subject.pause();
    await pass(random.between(200, 700));
    subject.resume();
    await pass(random.between(50, 200));
  }
  await subject.deregister();
}

const plain: Role = {
  name: "plain",
  request: (world) => ({ events: everything(world) }),
  live: readAlong,
};

const thinnedOut: Role = {
  name: "thinned",
  request: (world) => ({ events: thinned(world) }),
  live: readAlong,
};

const filtered: Role = {
  name: "filtered",
  request: (world) => ({ events: thinned(world), filter: filter(world) }),
  live: readAlong,
};

/** Wants the event in another shape: it is opened anew for all who have it, and again when this one leaves. */
const shaped: Role = {
  name: "callchains, at once",
  request: (world) => ({ events: thinned(world), fields: ["CALLCHAIN"], queue: { flushIntervalMs: 0 } }),
  live: readAlong,
};

const dropNewest: Role = {
  name: "slow, DROP_NEWEST",
  request: (world) => ({ events: everything(world), queue: { ...smallQueue(world), overflow: "DROP_NEWEST" } }),
  live: readByFits,
};

const dropOldest: Role = {
  name: "slow, DROP_OLDEST",
  request: (world) => ({ events: everything(world), queue: { ...smallQueue(world), overflow: "DROP_OLDEST" } }),
  live: readByFits,
};

/** Stops reading until it is cut off, or the time is up. */
const disconnect: Role = {
  name: "slow, DISCONNECT",
  request: (world) => ({ events: everything(world), queue: { ...smallQueue(world), overflow: "DISCONNECT" } }),
  async live(subject, { pass, random }) {
    await subject.subscribe();
    subject.pause();
    await pass(random.between(300, 1200));
    subject.resume();
    await pass(random.between(50, 200));
    await subject.deregister();
  },
};

/** Its streams break, with much on the way or little, and each time it comes back within its lease. */
const breaker: Role = {
  name: "breaks off, resumes",
  request: (world) => ({ events: everything(world), queue: smallQueue(world), leaseMs: LEASE_MS }),
  async live(subject, { pass, random }) {
    for (let stream = 0; stream < 3; stream++) {
      await subject.subscribe();
      // In between one breaks while it flows.
      if (stream !== 1) subject.pause();
      await pass(random.between(100, 500));
      await subject.breakOff();
      if (random.chance(0.5)) await pass(random.between(10, 100));
    }
    await subject.subscribe();
    await pass(random.between(50, 300));
    await subject.deregister();
  },
};

const deserter: Role = {
  name: "breaks off, stays away",
  request: (world) => ({ events: everything(world), leaseMs: SHORT_LEASE_MS }),
  async live(subject, { pass, random }) {
    await subject.subscribe();
    await pass(random.between(100, 400));
    await subject.breakOff();
  },
};

/** Leaves with its queue full: the rest is lost on request, and the stream still told its end where that is possible. */
const discarder: Role = {
  name: "discards",
  request: (world) => ({ events: everything(world), queue: smallQueue(world) }),
  async live(subject, { pass, random }) {
    await subject.subscribe();
    subject.pause();
    await pass(random.between(100, 500));
    if (random.chance(0.5)) subject.resume();
    await subject.deregister(true);
  },
};

const absentee: Role = {
  name: "never subscribes",
  request: (world) => ({ events: thinned(world), leaseMs: LEASE_MS }),
  async live(subject, { pass, random }) {
    await pass(random.between(100, 500));
    await subject.deregister();
  },
};

export const ROLES: readonly Role[] = [
  plain,
  thinnedOut,
  filtered,
  shaped,
  dropNewest,
  dropOldest,
  disconnect,
  breaker,
  deserter,
  discarder,
  absentee,
];
