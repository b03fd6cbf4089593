/** For tests: what must hold at every step of a schedule, under the names that the model has for it. */
import { SlotCounters } from "./counters.js";
import {
  DISPATCHER,
  dispatcherAt,
  generationOf,
  HEADER,
  SLOT,
  STATE,
  slotAt,
  stateOf,
  type TableLayout,
} from "./layout.js";
import type { SlotHandle } from "./table.js";

export type Property =
  | "dispatch_after_removal"
  | "slot_reused_while_inside"
  | "slot_owned_twice"
  | "registration_lost"
  | "list_broken"
  | "lost_wakeup"
  | "wrong_state"
  /** These two are the code's alone: the model has no counters, and its dispatchers never end. */
  | "count_wrong"
  | "running_left";

export class Violation extends Error {
  readonly property: Property;

  constructor(property: Property, message: string) {
    super(`${property}: ${message}`);
    this.property = property;
  }
}

/** Sets of slots and of generations are bits of a number. */
const SET_MAX = 30;

/** Watches one world. Knows memory as it is, never what sits in a store buffer. */
export class Oracle {
  readonly layout: TableLayout;
  readonly #words: Int32Array;
  readonly #counters: SlotCounters;
  /** By dispatcher: slot + 1 of the dispatch that it is inside, and its generation; 0 outside. */
  readonly #insideLink: number[];
  readonly #insideGeneration: number[];
  /** By dispatcher: slots that were ACTIVE when its pass began, are so still, and had no dispatch yet. */
  readonly #owed: number[];
  /** By slot: generations whose removal has returned. */
  readonly #returned: number[];
  /** By slot: who holds it, + 1. */
  readonly #owner: number[];
  /** By slot: dispatches to its present generation that have ended. */
  readonly #dispatches: number[];
  #linked = 0;
  readonly #toleratesReuse: boolean;
  readonly #stateIndex: number[];
  readonly #nextIndex: number[];

  constructor(memory: ArrayBuffer, layout: TableLayout, toleratesReuse = false) {
    if (layout.capacity > SET_MAX) throw new RangeError(`${layout.capacity} slots are too many`);
    this.layout = layout;
    this.#toleratesReuse = toleratesReuse;
    this.#words = new Int32Array(memory);
    this.#counters = new SlotCounters(memory, layout);
    const slots = Array.from({ length: layout.capacity }, (_, slot) => slotAt(layout, slot) / 4);
    this.#stateIndex = slots.map((at) => at + SLOT.STATE / 4);
    this.#nextIndex = slots.map((at) => at + SLOT.NEXT / 4);
    this.#insideLink = new Array(layout.dispatchers).fill(0);
    this.#insideGeneration = new Array(layout.dispatchers).fill(0);
    this.#owed = new Array(layout.dispatchers).fill(0);
    this.#returned = new Array(layout.capacity).fill(0);
    this.#owner = new Array(layout.capacity).fill(0);
    this.#dispatches = new Array(layout.capacity).fill(0);
  }

  reset(): void {
    this.#linked = 0;
    for (const numbers of this.#books) numbers.fill(0);
  }

  get #books(): number[][] {
    return [this.#insideLink, this.#insideGeneration, this.#owed, this.#returned, this.#owner, this.#dispatches];
  }

  /** Appends all that the oracle knows. */
  fingerprint(into: number[]): void {
    into.push(this.#linked);
    for (const numbers of this.#books) into.push(...numbers);
  }

  #state(slot: number): number {
    return this.#words[this.#stateIndex[slot]];
  }

  /** A store to memory has happened, by participant `who`. */
  stored(index: number, before: number, who: number): void {
    const slot = this.#stateIndex.indexOf(index);
    if (slot >= 0) this.#moved(slot, before, who);
    if (index === HEADER.LIST_HEAD / 4) this.#linked |= 1 << (this.#words[index] - 1);
    if (index === HEADER.LIST_HEAD / 4 || this.#nextIndex.includes(index)) this.checkList();
  }

  #moved(slot: number, before: number, who: number): void {
    const state = stateOf(this.#state(slot));
    if (state === STATE.CLAIMED) {
      const inside = this.#insideLink.indexOf(slot + 1);
      if (inside >= 0 && !this.#toleratesReuse)
        throw new Violation("slot_reused_while_inside", `slot ${slot}, by dispatcher ${inside}`);
      if (this.#owner[slot] !== 0) throw new Violation("slot_owned_twice", `slot ${slot}`);
      this.#owner[slot] = who + 1;
      this.#dispatches[slot] = 0;
    }
    if (state === STATE.FREE) this.#owner[slot] = 0;
    if (stateOf(before) === STATE.ACTIVE) {
      for (let d = 0; d < this.#owed.length; d++) this.#owed[d] &= ~(1 << slot);
    }
  }

  /** Dispatcher `d` looks at the head: from here on it may pass over no handler that stays ACTIVE. */
  passBegins(d: number): void {
    let active = 0;
    for (let slot = 0; slot < this.layout.capacity; slot++) {
      if (stateOf(this.#state(slot)) === STATE.ACTIVE) active |= 1 << slot;
    }
    this.#owed[d] = active;
  }

  passEnds(d: number): void {
    if (this.#owed[d] !== 0) {
      throw new Violation("registration_lost", `dispatcher ${d} passed over slots 0b${this.#owed[d].toString(2)}`);
    }
  }

  enter(d: number, slot: number, generation: number): void {
    this.#insideLink[d] = slot + 1;
    this.#insideGeneration[d] = generation;
    this.#owed[d] &= ~(1 << slot);
    this.#checkDispatch(d);
  }

  leave(d: number): void {
    this.#checkDispatch(d);
    const slot = this.#insideLink[d] - 1;
    this.#counters.countDispatch(slot, d, 1, 0, 0, 1, 1);
    this.#dispatches[slot]++;
    this.#insideLink[d] = 0;
    this.#insideGeneration[d] = 0;
  }

  /** Its thread is gone. */
  died(d: number): void {
    this.#insideLink[d] = 0;
    this.#insideGeneration[d] = 0;
    this.#owed[d] = 0;
  }

  #checkDispatch(d: number): void {
    const slot = this.#insideLink[d] - 1;
    const generation = this.#insideGeneration[d];
    const handler = `slot ${slot} generation ${generation}`;
    if ((this.#returned[slot] & (1 << generation)) !== 0) {
      throw new Violation("dispatch_after_removal", `dispatcher ${d} is inside ${handler}`);
    }
    if (generationOf(this.#state(slot)) !== generation && !this.#toleratesReuse) {
      throw new Violation("slot_reused_while_inside", `dispatcher ${d} is inside ${handler}`);
    }
  }

  /** A removal returns: nobody may be inside, now or ever after, and the counters are final. */
  removalReturns({ slot, generation }: SlotHandle): void {
    if (generation > SET_MAX) throw new RangeError(`generation ${generation} is too high for the oracle`);
    this.#returned[slot] |= 1 << generation;
    const inside = this.#insideLink.indexOf(slot + 1);
    if (inside >= 0 && this.#insideGeneration[inside] === generation) {
      throw new Violation(
        "dispatch_after_removal",
        `the removal of slot ${slot} generation ${generation} returns with dispatcher ${inside} inside`,
      );
    }
    const { dispatches } = this.#counters.dispatched(slot);
    if (dispatches !== this.#dispatches[slot] && !this.#toleratesReuse) {
      throw new Violation("count_wrong", `slot ${slot} counted ${dispatches} of ${this.#dispatches[slot]} dispatches`);
    }
  }

  /** From the head every slot ever linked is reached, once. */
  checkList(): void {
    let found = 0;
    for (let link = this.#words[HEADER.LIST_HEAD / 4]; link !== 0; link = this.#words[this.#nextIndex[link - 1]]) {
      if ((found & (1 << (link - 1))) !== 0) throw new Violation("list_broken", "it has a cycle");
      found |= 1 << (link - 1);
    }
    if (found !== this.#linked) {
      throw new Violation("list_broken", `slots 0b${found.toString(2)} of 0b${this.#linked.toString(2)} are listed`);
    }
  }

  /** Everybody is done, but for handlers that `keepers` (participants, + 1) still hold. */
  checkEnd(keepers: readonly number[]): void {
    this.checkList();
    const used = this.#words[HEADER.HIGH_WATER / 4];
    if (this.#linked !== (1 << used) - 1) {
      throw new Violation("list_broken", `${used} slots are in use, 0b${this.#linked.toString(2)} are listed`);
    }
    for (let slot = 0; slot < used; slot++) {
      const owner = this.#owner[slot];
      const kept = keepers.includes(owner);
      if (stateOf(this.#state(slot)) !== (kept ? STATE.ACTIVE : STATE.FREE) || (owner !== 0 && !kept)) {
        throw new Violation("registration_lost", `slot ${slot} ends in state ${stateOf(this.#state(slot))}`);
      }
      for (let d = 0; d < this.layout.dispatchers; d++) {
        if (this.#words[(dispatcherAt(this.layout, slot, d) + DISPATCHER.RUNNING) / 4] !== 0) {
          throw new Violation("running_left", `dispatcher ${d} is announced in slot ${slot} for ever`);
        }
      }
    }
  }
}
