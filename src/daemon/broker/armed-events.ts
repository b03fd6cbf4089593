/**
 * The events that are open now, one for all handlers that want it: opened for the first, re-rated as handlers come and
 * go, closed with the last. The kernel ticks at the fastest rate anyone asked for, unless that is capped.
 *
 * Order matters throughout: dispatchers learn of a faster pace before the kernel ticks faster, and of a slower one only
 * after it ticks slower and the rings are drained, so that no handler is ever given samples at somebody else's rate.
 */
import { samplesEachOccurrence } from "../../pmu/event-spec.js";
import { EVENTS_ARMED_MAX } from "../../pmu/record.js";
import type { EventReading, EventShape, OpenEvent, Rate, ResolvedEvent, Source } from "../../pmu/source.js";
import type { Control } from "../dispatch/messages.js";
import type { EventPace } from "../dispatch/thinning.js";
import { type Claim, type Claimant, checkBudget } from "./budget.js";
import { BrokerError } from "./errors.js";
import { capped, faster, heldBelow, isFaster, sameRate } from "./rates.js";

const NOBODY: Claimant = { handler: "", exclusive: false };

/** What one handler wants of an event; all that its samples carry is what any of them wants. */
export interface EventUser extends EventShape {
  readonly event: ResolvedEvent;
}

export interface ArmedEvent {
  /** 0..EVENTS_ARMED_MAX-1: the bit in a handler's event mask. */
  readonly index: number;
  readonly event: ResolvedEvent;
  readonly users: Set<EventUser>;
  open: OpenEvent;
  shape: EventShape;
  /** In force: the kernel's. */
  rate: Rate;
  /** The kernel ticks no faster, whatever is asked for. */
  cap: Rate | null;
  enabled: boolean;
  /** What dispatchers have been told last. */
  told: EventPace | null;
  /** Readings of kernel events that were replaced by another shape. */
  readonly before: { lost: number; produced: number; timeEnabledNs: number; timeRunningNs: number };
}

/** One of a handler's events could not be had; `cause` says why. */
export class AcquireError extends Error {
  override readonly name = "AcquireError";
  /** Of the user whose event it was. */
  readonly index: number;
  constructor(index: number, cause: unknown) {
    super(`event ${index}: ${(cause as Error).message}`, { cause });
    this.index = index;
  }
}

export interface ArmedEventsOptions {
  readonly source: Source;
  readonly tellAll: (control: Control) => Promise<void>;
  /** The event is disabled, its rings are drained, its last user has left: its books are final. It is closed next. */
  readonly onRetired: (armed: ArmedEvent) => void;
  readonly onArmed: (armed: ArmedEvent) => void;
  /** The event could not be slowed down or simplified for those who stay. */
  readonly onProblem: (armed: ArmedEvent, error: Error) => void;
}

export class ArmedEvents {
  readonly #options: ArmedEventsOptions;
  readonly #byKey = new Map<string, ArmedEvent>();
  /** Of the users that have events, and of those that are about to. */
  readonly #claimants = new Map<EventUser, Claimant>();
  readonly #byIndex: (ArmedEvent | null)[] = new Array(EVENTS_ARMED_MAX).fill(null);
  #kernelMaxHz: number | null = null;
  /** Control steps run one after another: each leaves dispatchers and kernel in agreement. */
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: ArmedEventsOptions) {
    this.#options = options;
  }

  get all(): readonly ArmedEvent[] {
    return [...this.#byKey.values()];
  }

  /**
   * Opens or joins the events of one handler, in order, and prepares the dispatchers; none of them ticks for the handler
   * yet: call `start` when it is ACTIVE. Throws AcquireError, or BrokerError where the PMU's counters do not suffice,
   * with nothing changed.
   */
  acquire(users: readonly EventUser[], claimant: Claimant = NOBODY): Promise<ArmedEvent[]> {
    return this.#inTurn(async () => {
      const wanted = users.map(({ event }) => event);
      checkBudget(this.#options.source, this.#claims(), wanted, claimant);
      const taken: ArmedEvent[] = [];
      for (const user of users) this.#claimants.set(user, claimant);
      try {
        for (const user of users) taken.push(await this.#join(user));
      } catch (error) {
        for (const user of users) this.#claimants.delete(user);
        for (const [i, armed] of taken.entries()) await this.#leave(armed, users[i]);
        throw new AcquireError(taken.length, error);
      }
      return taken;
    });
  }

  /** Makes the kernel tick at the rates the users ask for. */
  start(events: readonly ArmedEvent[]): Promise<void> {
    return this.#inTurn(async () => {
      for (const armed of new Set(events)) {
        if (armed.enabled) await this.#applyRate(armed);
        else {
          armed.open.enable();
          armed.enabled = true;
        }
      }
    });
  }

  /** The kernel ticks no more, for nobody: the daemon is about to stop. */
  pause(): Promise<void> {
    return this.#inTurn(async () => {
      for (const armed of this.all) {
        if (armed.enabled) armed.open.disable();
        armed.enabled = false;
      }
    });
  }

  /** A handler is gone. `events[i]` was acquired for `users[i]`. */
  release(events: readonly ArmedEvent[], users: readonly EventUser[]): Promise<void> {
    return this.#inTurn(async () => {
      for (const [i, armed] of events.entries()) await this.#leave(armed, users[i]);
    });
  }

  /**
   * Lets the kernel tick no faster than `cap`, or as fast as is asked for. Handlers that come later are held back as
   * well; each sample tells its weight, so that sums stay right. Rejects with the rate as it was when the kernel refuses.
   */
  limit(armed: ArmedEvent, cap: Rate | null): Promise<void> {
    return this.#inTurn(async () => {
      // Closed meanwhile.
      if (this.#byIndex[armed.index] !== armed) return;
      const before = armed.cap;
      armed.cap = cap;
      try {
        await this.#adapt(armed);
      } catch (error) {
        armed.cap = before;
        throw error;
      }
    });
  }

  /** Rejects with rate and pace as they were when the kernel refuses. */
  async #adapt(armed: ArmedEvent): Promise<void> {
    const { rate } = armed;
    const due = this.#dueRate(armed);
    if (isFaster(due, rate)) await this.#tellPace(armed, due);
    try {
      await this.#applyRate(armed);
    } catch (error) {
      await this.#tellPace(armed, armed.rate);
      throw error;
    }
    if (isFaster(rate, armed.rate)) await this.#tellPace(armed, armed.rate);
  }

  /** What the kernel says of an event, those it replaced included. */
  read(armed: ArmedEvent): EventReading {
    const now = armed.open.read();
    return {
      lost: now.lost === null ? null : now.lost + armed.before.lost,
      // Whoever counts one opening of an event counts them all.
      produced: now.produced === null ? null : now.produced + armed.before.produced,
      timeEnabledNs: now.timeEnabledNs + armed.before.timeEnabledNs,
      timeRunningNs: now.timeRunningNs + armed.before.timeRunningNs,
    };
  }

  /** The kernel lets nothing sample faster: what is faster is slowed down, until that is over. */
  get kernelMaxHz(): number | null {
    return this.#kernelMaxHz;
  }

  /** Rates that the kernel refuses all the same are told to onProblem, and stay as they were. */
  holdBelow(maxHz: number): Promise<void> {
    return this.#inTurn(async () => {
      const before = this.#kernelMaxHz;
      this.#kernelMaxHz = maxHz;
      if (before === maxHz) return;
      for (const armed of this.all) {
        await this.#adapt(armed).catch((error: Error) => this.#options.onProblem(armed, error));
      }
    });
  }

  /** A step of others', between two of its own: what is armed stays as it is meanwhile. */
  inTurn<T>(step: () => Promise<T>): Promise<T> {
    return this.#inTurn(step);
  }

  /** What the handlers ask for, as far as the kernel goes. */
  allowedRate(armed: ArmedEvent): Rate {
    return heldBelow(askedRate(armed), armed.event, this.#kernelMaxHz);
  }

  /** What the kernel is to tick at. */
  #dueRate(armed: ArmedEvent): Rate {
    return capped(this.allowedRate(armed), armed.cap);
  }

  #claims(): Claim[] {
    return this.all.map(({ event, users }) => ({
      event,
      claimants: [...users].flatMap((user) => this.#claimants.get(user) ?? []),
    }));
  }

  async #join(user: EventUser): Promise<ArmedEvent> {
    const existing = this.#byKey.get(user.event.key);
    if (existing === undefined) return this.#arm(user);
    existing.users.add(user);
    try {
      await this.#reshape(existing);
      await this.#tellPace(existing, this.#dueRate(existing));
      // The kernel may refuse the rate: find out before the handler exists.
      await this.#applyRate(existing);
    } catch (error) {
      await this.#leave(existing, user);
      throw error;
    }
    return existing;
  }

  async #arm(user: EventUser): Promise<ArmedEvent> {
    const index = this.#byIndex.indexOf(null);
    if (index < 0) {
      throw new BrokerError(
        "RESOURCE_EXHAUSTED",
        `${EVENTS_ARMED_MAX} events are armed, the most there can be: deregister handlers, or ask for events that others already use.`,
      );
    }
    const shape = shapeOf([user]);
    // The kernel's maximum may have been lowered since the request was checked.
    const rate = heldBelow(user.event.rate, user.event, this.#kernelMaxHz);
    const open = this.#options.source.open(atRate(user.event, rate), shape);
    const armed: ArmedEvent = {
      index,
      event: user.event,
      users: new Set([user]),
      open,
      shape,
      rate,
      cap: null,
      enabled: false,
      told: null,
      before: { lost: 0, produced: 0, timeEnabledNs: 0, timeRunningNs: 0 },
    };
    this.#byKey.set(user.event.key, armed);
    this.#byIndex[index] = armed;
    this.#options.onArmed(armed);
    await this.#tellPace(armed, armed.rate);
    await this.#options.tellAll({ kind: "add formats", event: index, formats: open.formats });
    if (open.auxRings !== undefined)
      await this.#options.tellAll({ kind: "add aux", event: index, rings: open.auxRings });
    return armed;
  }

  async #leave(armed: ArmedEvent, user: EventUser): Promise<void> {
    armed.users.delete(user);
    this.#claimants.delete(user);
    if (armed.users.size === 0) return this.#disarm(armed);
    // A cap that holds back nobody must not wait for those to come.
    const asked = askedRate(armed);
    if (sameRate(asked, capped(asked, armed.cap))) armed.cap = null;
    try {
      await this.#reshape(armed);
      await this.#applyRate(armed);
    } catch (error) {
      // Those who stay are served as before, if at a greater cost; the one who leaves must be able to.
      this.#options.onProblem(armed, error as Error);
    }
    await this.#tellPace(armed, armed.rate);
  }

  async #disarm(armed: ArmedEvent): Promise<void> {
    armed.open.disable();
    await this.#options.tellAll({ kind: "remove formats", formats: armed.open.formats });
    const { auxRings } = armed.open;
    if (auxRings !== undefined) await this.#options.tellAll({ kind: "remove aux", rings: auxRings });
    this.#options.onRetired(armed);
    armed.open.close();
    this.#byKey.delete(armed.event.key);
    this.#byIndex[armed.index] = null;
  }

  /** sample_type and wake-up cannot be changed on a live event. */
  async #reshape(armed: ArmedEvent): Promise<void> {
    const wanted = shapeOf([...armed.users]);
    const { shape } = armed;
    if (sameShape(wanted, shape)) return;
    await this.#replace(armed, armed.rate, wanted);
  }

  /**
   * Opens the new event first, switches over, closes the old one when its records are drained. The switch takes
   * microseconds, less than one period.
   */
  async #replace(armed: ArmedEvent, rate: Rate, shape: EventShape): Promise<void> {
    const next = this.#options.source.open(atRate(armed.event, rate), shape);
    await this.#options.tellAll({ kind: "add formats", event: armed.index, formats: next.formats });
    const previous = armed.open;
    // In one go: whoever reads the event between finds it neither smaller than before nor counted twice.
    if (armed.enabled) previous.disable();
    const last = previous.read();
    armed.before.lost += last.lost ?? 0;
    armed.before.produced += last.produced ?? 0;
    armed.before.timeEnabledNs += last.timeEnabledNs;
    armed.before.timeRunningNs += last.timeRunningNs;
    armed.open = next;
    armed.rate = rate;
    armed.shape = shape;
    if (armed.enabled) next.enable();
    await this.#options.tellAll({ kind: "remove formats", formats: previous.formats });
    previous.close();
  }

  /** Most handlers come and go without changing the pace: then there is nothing to drain, and nobody to wait for. */
  async #tellPace(armed: ArmedEvent, rate: Rate): Promise<void> {
    const pace = paceOf(this.#options.source, armed.event, rate);
    const { told } = armed;
    if (told !== null && told.frequencyHz === pace.frequencyHz && told.period === pace.period) return;
    armed.told = pace;
    await this.#options.tellAll({ kind: "pace", event: armed.index, pace });
  }

  async #applyRate(armed: ArmedEvent): Promise<void> {
    const rate = this.#dueRate(armed);
    if (sameRate(rate, armed.rate)) return;
    if (armed.open.setRate(rate)) armed.rate = rate;
    else await this.#replace(armed, rate, armed.shape);
  }

  #inTurn<T>(step: () => Promise<T>): Promise<T> {
    const result = this.#last.then(step);
    this.#last = result.catch(() => undefined);
    return result;
  }
}

/** Members that sample do it at their leader's rate, once that is not what was asked for. */
function atRate(event: ResolvedEvent, rate: Rate): ResolvedEvent {
  return sameRate(event.rate, rate) ? event : { ...event, rate, members: event.members.map((m) => ({ ...m, rate })) };
}

function shapeOf(users: readonly EventUser[]): EventShape {
  return {
    sampleType: users.reduce((bits, user) => bits | user.sampleType, 0),
    branchCounters: users.some((user) => user.branchCounters),
    wakeEach: users.some((user) => user.wakeEach),
  };
}

function sameShape(one: EventShape, other: EventShape): boolean {
  return (
    one.sampleType === other.sampleType &&
    one.branchCounters === other.branchCounters &&
    one.wakeEach === other.wakeEach
  );
}

/** What the handlers of an event ask for, all told: users of one key ask for the same kind. */
export function askedRate(armed: ArmedEvent): Rate {
  let best: Rate | null = null;
  for (const { event } of armed.users) best = best === null ? event.rate : faster(best, event.rate);
  return best ?? armed.rate;
}

/** What dispatchers thin against. Software sources tick at a rate of their own, so nobody's rate is known to be reached. */
function paceOf(source: Source, event: ResolvedEvent, rate: Rate): EventPace {
  if (source.kind !== "perf") return { frequencyHz: null, period: null };
  return {
    frequencyHz: rate.kind === "frequency" ? rate.hz : null,
    period: rate.kind === "period" && !samplesEachOccurrence(event) ? rate.period : null,
  };
}
