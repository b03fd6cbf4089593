/**
 * For tests: dispatchers, owners and a supervisor on one table, moved on one access at a time by whoever holds the
 * schedule. A world starts over and is led down another schedule as often as one likes.
 */
import {
  DISPATCHER,
  dispatcherAt,
  EVENT_WORDS,
  HEADER,
  SLOT,
  slotAt,
  type TableLayout,
  tableLayout,
} from "./layout.js";
import { Oracle, Violation } from "./schedule-oracle.test-support.js";
import {
  ACTION,
  PARTICIPANTS_MAX,
  type Participant,
  Past,
  participantOf,
  type Scenario,
} from "./schedule-scenario.test-support.js";
import {
  type Access,
  accesses,
  type SteppedCode,
  type SteppedTarget,
  type Steps,
} from "./schedule-source.test-support.js";
import { formatTable } from "./table.js";

export class World {
  readonly scenario: Scenario;
  readonly layout: TableLayout;
  readonly #words: Int32Array;
  readonly #empty: Int32Array;
  readonly #oracle: Oracle;
  readonly #participants: Participant[];
  readonly #rootPast = new Past({ pasts: 0 });
  /** Words that tell states apart. */
  readonly #shared: number[];
  readonly #names = new Map<number, string>();
  #bell = 0;
  #deaths = 0;
  #deadlines = 0;
  /** Dispatchers to bury. */
  #dead: number[] = [];
  /** What has happened, for people; null while nobody wants to know. */
  #story: string[] | null = null;

  constructor(code: SteppedCode, scenario: Scenario) {
    const { slots, dispatchers, owners } = scenario;
    this.scenario = scenario;
    const memory = new ArrayBuffer(tableLayout(slots, dispatchers).bytes);
    this.layout = formatTable(memory, { capacity: slots, dispatchers, daemonPid: 1, startedAt: 0 });
    this.#words = new Int32Array(memory);
    this.#empty = this.#words.slice();
    this.#oracle = new Oracle(memory, this.layout, scenario.toleratesReuse);
    this.#shared = this.#nameWords();
    const table = new code.HandlerTable(memory, this.layout, accesses, accesses);
    const walkers = Array.from(
      { length: dispatchers },
      (_, d) => new code.TableWalker(accesses, this.layout, d, accesses),
    );
    const drivers: [string, () => Steps<void>][] = [
      ...walkers.map((walker, d): [string, () => Steps<void>] => [
        `dispatcher ${d}`,
        () => this.#dispatcher(d, walker),
      ]),
      ...Array.from({ length: owners }, (_, o): [string, () => Steps<void>] => [
        `owner ${o}`,
        () => this.#owner(o, table),
      ]),
      ["supervisor", () => this.#supervisor(table)],
    ];
    if (drivers.length > PARTICIPANTS_MAX) throw new RangeError(`${drivers.length} participants are too many`);
    this.#participants = drivers.map(([name, start]) => ({
      name,
      start,
      steps: start(),
      pending: null,
      past: this.#rootPast,
      buffer: [],
      fencing: false,
      nowMs: 0,
      born: 0,
    }));
    this.reset();
  }

  #nameWords(): number[] {
    this.#names.set(HEADER.LIST_HEAD / 4, "head").set(HEADER.HIGH_WATER / 4, "high_water");
    for (let slot = 0; slot < this.layout.capacity; slot++) {
      const base = slotAt(this.layout, slot) / 4;
      this.#names
        .set(base + SLOT.STATE / 4, `state[${slot}]`)
        .set(base + SLOT.NEXT / 4, `next[${slot}]`)
        .set(base + EVENT_WORDS.LOW, `mask[${slot}].low`)
        .set(base + EVENT_WORDS.HIGH, `mask[${slot}].high`);
      for (let d = 0; d < this.layout.dispatchers; d++) {
        const at = dispatcherAt(this.layout, slot, d) / 4;
        this.#names.set(at + DISPATCHER.RUNNING / 4, `running[${slot}][${d}]`);
        // The high word of a double that counts from 0 tells small counts apart.
        this.#names.set(at + DISPATCHER.DISPATCHES / 4 + 1, `dispatches[${slot}][${d}]`);
      }
    }
    return [...this.#names.keys()];
  }

  /** Starts over. `tell`: keeps a story of what happens. */
  reset(tell = false): void {
    this.#words.set(this.#empty);
    this.#oracle.reset();
    this.#bell = 0;
    this.#deaths = 0;
    this.#deadlines = 0;
    this.#dead = [];
    this.#story = tell ? [] : null;
    for (const participant of this.#participants) {
      participant.buffer.length = 0;
      participant.fencing = false;
      participant.nowMs = 0;
      participant.born = 0;
      this.#begin(participant);
    }
  }

  #begin(participant: Participant): void {
    participant.steps = participant.start();
    participant.past = this.#rootPast.followedBy(`${participant.name} ${participant.born}`);
    this.#advance(participant, 0);
  }

  /** Runs the participant's own code up to its next access. */
  #advance(participant: Participant, result: number): void {
    let next: IteratorResult<Access, void>;
    try {
      next = participant.steps.next(result);
      while (!next.done && next.value.kind === "checkpoint") {
        participant.past = this.#rootPast.followedBy(`${participant.name} ${participant.born} ${next.value.step}`);
        next = participant.steps.next(0);
      }
    } catch (error) {
      if (error instanceof Violation) throw error;
      throw new Violation("wrong_state", `${participant.name}: ${(error as Error).message}`);
    }
    participant.pending = next.done ? null : next.value;
  }

  #resume(participant: Participant, result: number): void {
    participant.past = participant.past.followedBy(result);
    this.#advance(participant, result);
  }

  *#dispatcher(d: number, walker: InstanceType<SteppedCode["TableWalker"]>): Steps<void> {
    const oracle = this.#oracle;
    const target: SteppedTarget = {
      *dispatch(slot, generation) {
        oracle.enter(d, slot, generation);
        yield { kind: "local", step: "dispatch" };
        oracle.leave(d);
      },
    };
    for (let pass = 0; pass < this.scenario.passes; pass++) {
      yield { kind: "checkpoint", step: `pass ${pass}` };
      yield* walker.walk(1, 0, target);
      oracle.passEnds(d);
    }
  }

  *#owner(o: number, table: InstanceType<SteppedCode["HandlerTable"]>): Steps<void> {
    const { lives, keepers = 0, quitters = 0, dispatchers } = this.scenario;
    const self = this.#participants[dispatchers + o];
    for (let life = 0; life < lives; life++) {
      yield { kind: "checkpoint", step: `life ${life}` };
      const handle = yield* table.claim();
      // The table was full for a moment, and the registration is refused.
      if (handle === null) continue;
      yield { kind: "checkpoint", step: `life ${life} has ${handle.slot} ${handle.generation}` };
      yield* table.setEventMask(handle, 1, 0);
      if (life === 0 && o < quitters) {
        yield* table.abandon(handle);
        continue;
      }
      yield* table.activate(handle);
      if (life === lives - 1 && o < keepers) return;
      if ((yield* table.beginRemoval(handle)) !== "draining") throw new Error("somebody else removes it");
      // A deadline that passes is reported; another call finds the handler DRAINING and waits on.
      while (!(yield* table.awaitDrained(handle, self.nowMs + 1, () => self.nowMs))) {
        if ((yield* table.beginRemoval(handle)) !== "already draining") throw new Error("somebody else removed it");
      }
      this.#oracle.removalReturns(handle);
      yield* table.release(handle);
    }
  }

  *#supervisor(table: InstanceType<SteppedCode["HandlerTable"]>): Steps<void> {
    for (;;) {
      yield { kind: "checkpoint", step: "" };
      const d = yield { kind: "death", step: "death" };
      yield* table.bury(d);
      if (this.scenario.buriesTheLiving) continue;
      const participant = this.#participants[d];
      participant.born++;
      this.#begin(participant);
    }
  }

  /** All that may happen next. */
  choices(): number[] {
    const { deaths = 0, deadlines = 0, dispatchers } = this.scenario;
    const choices: number[] = [];
    for (const [p, participant] of this.#participants.entries()) {
      const { pending, buffer } = participant;
      if (buffer.length > 0) choices.push(ACTION.FLUSH * PARTICIPANTS_MAX + p);
      if (pending === null) continue;
      if (this.#isReady(participant, pending)) choices.push(ACTION.STEP * PARTICIPANTS_MAX + p);
      if (pending.kind === "waitPast" && this.#deadlines < deadlines) {
        choices.push(ACTION.TIMEOUT * PARTICIPANTS_MAX + p);
      }
      if (p < dispatchers && this.#deaths < deaths) choices.push(ACTION.KILL * PARTICIPANTS_MAX + p);
    }
    return choices;
  }

  #isReady({ fencing, buffer }: Participant, pending: Access): boolean {
    if (fencing || pending.kind === "compareExchange" || pending.kind === "ring") return buffer.length === 0;
    if (pending.kind === "waitPast") return this.#bell !== pending.value;
    return pending.kind !== "death" || this.#dead.length > 0;
  }

  /** Lets one choice happen. Throws a Violation. */
  step(choice: number): void {
    const p = participantOf(choice);
    const participant = this.#participants[p];
    switch (Math.floor(choice / PARTICIPANTS_MAX)) {
      case ACTION.FLUSH: {
        const [index = 0, value = 0] = participant.buffer.splice(0, 2);
        this.#tell(participant, `memory takes ${this.#names.get(index)} = ${value}`);
        this.#store(index, value, p);
        return;
      }
      case ACTION.TIMEOUT:
        this.#deadlines++;
        participant.nowMs++;
        this.#tell(participant, "wait: the deadline passes");
        participant.past = participant.past.followedBy("timeout");
        this.#advance(participant, 0);
        return;
      case ACTION.KILL:
        this.#kill(participant, p);
        return;
      default:
        do {
          if (participant.pending !== null) this.#perform(participant, participant.pending, p);
        } while (this.scenario.merged?.includes(participant.pending?.step ?? ""));
    }
  }

  #kill(participant: Participant, d: number): void {
    this.#deaths++;
    this.#dead.push(d);
    this.#tell(participant, this.scenario.buriesTheLiving ? "is taken for dead" : "dies");
    if (this.scenario.buriesTheLiving) return;
    this.#oracle.died(d);
    participant.pending = null;
    participant.past = participant.past.followedBy("died");
  }

  #perform(participant: Participant, access: Access, p: number): void {
    switch (access.kind) {
      case "load": {
        const value = this.#load(participant, access.index);
        if (access.step === "pass") this.#oracle.passBegins(p);
        this.#tell(participant, `${access.step}: ${this.#names.get(access.index)} is ${value}`);
        this.#resume(participant, value);
        return;
      }
      case "store":
        this.#performStore(participant, access, p);
        return;
      case "compareExchange": {
        const { index, expected, replacement, step } = access;
        const seen = this.#words[index];
        this.#tell(participant, `${step}: ${this.#names.get(index)} is ${seen}, ${expected} -> ${replacement}`);
        if (seen === expected) this.#store(index, replacement, p);
        this.#resume(participant, seen);
        return;
      }
      case "value":
        this.#tell(participant, `${access.step}: ${this.#bell}`);
        this.#resume(participant, this.#bell);
        return;
      case "death": {
        const dead = this.#dead.shift() ?? 0;
        this.#tell(participant, `buries dispatcher ${dead}`);
        this.#resume(participant, dead);
        return;
      }
      case "ring":
      case "waitPast":
      case "local":
      case "checkpoint":
        if (access.kind === "ring") this.#bell++;
        this.#tell(participant, access.step);
        this.#resume(participant, 0);
        return;
    }
  }

  #performStore(participant: Participant, access: Access & { kind: "store" }, p: number): void {
    const { index, value, plain, step } = access;
    if (!participant.fencing) this.#tell(participant, `${step}: ${this.#names.get(index)} = ${value}`);
    if (!this.scenario.tso) this.#store(index, value, p);
    else if (!participant.fencing) {
      participant.buffer.push(index, value);
      if (!plain) {
        participant.fencing = true;
        participant.past = participant.past.followedBy("fence");
        return;
      }
    }
    participant.fencing = false;
    this.#resume(participant, 0);
  }

  #load({ buffer }: Participant, index: number): number {
    for (let i = buffer.length - 2; i >= 0; i -= 2) if (buffer[i] === index) return buffer[i + 1];
    return this.#words[index];
  }

  #store(index: number, value: number, p: number): void {
    const before = this.#words[index];
    this.#words[index] = value;
    this.#oracle.stored(index, before, p);
  }

  /** Nothing can happen any more. */
  checkEnd(): void {
    const { dispatchers, owners, keepers = 0 } = this.scenario;
    for (const { name, pending } of this.#participants.slice(0, dispatchers + owners)) {
      if (pending !== null) throw new Violation("lost_wakeup", `${name} is left waiting in \`${pending.step}\``);
    }
    this.#oracle.checkEnd(Array.from({ length: keepers }, (_, o) => dispatchers + o + 1));
  }

  /** The same for the same state: memory, everybody's past, and what the oracle knows. */
  fingerprint(): string {
    const numbers = [this.#bell, this.#deaths, this.#deadlines, ...this.#dead];
    for (const { past, buffer, nowMs } of this.#participants) numbers.push(past.id, nowMs, buffer.length, ...buffer);
    for (const index of this.#shared) numbers.push(this.#words[index]);
    this.#oracle.fingerprint(numbers);
    return Buffer.from(Int32Array.from(numbers).buffer).toString("latin1");
  }

  #tell({ name }: Participant, event: string): void {
    this.#story?.push(`${name}: ${event}`);
  }

  get story(): readonly string[] {
    return this.#story ?? [];
  }
}
