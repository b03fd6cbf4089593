/**
 * What torture knows beside the table, in memory of its own: who owns which slot, and what dispatchers saw. Checks compare
 * the table with it.
 */
import { GENERATION_MAX } from "../../src/registry/layout.js";
import type { SlotIdentity } from "../../src/registry/table.js";

export interface TortureSetup {
  readonly seed: number;
  readonly capacity: number;
  readonly dispatchers: number;
  readonly registrars: number;
  /** Of the mapped table, in this process. */
  readonly tableAddress: bigint;
  readonly bell: SharedArrayBuffer;
  readonly ledger: SharedArrayBuffer;
  /** Where the code under test is: another place when a fault is planted. */
  readonly walkModule: string;
  readonly tableModule: string;
  /** Plants a fault: handlers are described when they are live already. */
  readonly describesLate: boolean;
}

/** For one dispatcher or registrar. */
export interface TortureWorkerSetup extends TortureSetup {
  readonly index: number;
}

export interface DispatcherCounts {
  readonly dispatches: number;
  readonly walks: number;
}

export interface RegistrarCounts {
  readonly registrations: number;
  readonly refused: number;
  readonly abandoned: number;
  readonly removals: number;
  readonly deadlines: number;
  /** Nanoseconds from the beginning of a removal to the moment when nobody is inside any more; the latest ones. */
  readonly waitsNs: Float64Array;
}

export interface ReaderCounts {
  /** Handlers that were read whole. */
  readonly reads: number;
  /** Reads given up because the slot went on to another owner meanwhile. */
  readonly overtaken: number;
}

/** A thread or process tells one of these, at its end or when it has seen what must not be. */
export type TortureMessage =
  | { readonly type: "violation"; readonly text: string }
  | { readonly type: "dispatcher"; readonly counts: DispatcherCounts }
  | { readonly type: "registrar"; readonly counts: RegistrarCounts }
  | { readonly type: "reader"; readonly counts: ReaderCounts };

export class TortureViolation extends Error {
  override readonly name = "TortureViolation";
}

export const EVENTS = 4;

/** Words shared by all threads. Each is on a cache line of its own, so that the ledger orders as little as possible. */
export class Ledger {
  static readonly LINE_WORDS = 16;
  readonly #words: Int32Array;
  readonly #cells: BigInt64Array;
  readonly #dispatchers: number;
  /** Where handlers change hands: whoever puts one in removes the one that was there. As many as slots, to fill them. */
  readonly cells: number;

  constructor(buffer: SharedArrayBuffer, { capacity, dispatchers }: { capacity: number; dispatchers: number }) {
    this.cells = capacity;
    this.#dispatchers = dispatchers;
    this.#cells = new BigInt64Array(buffer, 0, this.cells);
    this.#words = new Int32Array(buffer, this.cells * 8);
  }

  static bytes({ capacity, dispatchers }: { capacity: number; dispatchers: number }): number {
    const lines = 2 + capacity * (2 + dispatchers);
    return capacity * 8 + lines * Ledger.LINE_WORDS * 4;
  }

  #line(line: number): number {
    return line * Ledger.LINE_WORDS;
  }

  #slotLine(slot: number): number {
    return 2 + slot * (2 + this.#dispatchers);
  }

  stop(): void {
    Atomics.store(this.#words, this.#line(0), 1);
  }

  get stopped(): boolean {
    return Atomics.load(this.#words, this.#line(0)) !== 0;
  }

  /** Threads that are ready. */
  arrive(): void {
    Atomics.add(this.#words, this.#line(1), 1);
  }

  get arrived(): number {
    return Atomics.load(this.#words, this.#line(1));
  }

  /** Who may be dispatched to: from before a handler is ACTIVE until its removal has returned. 0: nobody. */
  setOwner(slot: number, generation: number): void {
    Atomics.store(this.#words, this.#line(this.#slotLine(slot)), generation);
  }

  owner(slot: number): number {
    return Atomics.load(this.#words, this.#line(this.#slotLine(slot)));
  }

  /** Events that the slot's owner wants. */
  setWanted(slot: number, mask: number): void {
    Atomics.store(this.#words, this.#line(this.#slotLine(slot) + 1), mask);
  }

  wanted(slot: number): number {
    return Atomics.load(this.#words, this.#line(this.#slotLine(slot) + 1));
  }

  /** A dispatcher has dispatched to the slot's owner. */
  saw(slot: number, dispatcher: number): void {
    Atomics.add(this.#words, this.#line(this.#slotLine(slot) + 2 + dispatcher), 1);
  }

  /** What it saw since this was last asked. */
  takeSeen(slot: number, dispatcher: number): number {
    return Atomics.exchange(this.#words, this.#line(this.#slotLine(slot) + 2 + dispatcher), 0);
  }

  /** Puts a handler id into a cell; answers the one that was there, which is the caller's from now on. 0: none. */
  swap(cell: number, id: number): number {
    return Number(Atomics.exchange(this.#cells, cell, BigInt(id)));
  }
}

const NAME_BYTES = 63;
const EVENTS_BYTES = 127;

/** What the handler's fields must say, everywhere in each of them. */
export function identityOf(slot: number, generation: number): SlotIdentity {
  const mark = `${slot}.${generation}/`;
  return {
    name: mark.repeat(NAME_BYTES).slice(0, NAME_BYTES),
    events: mark.repeat(EVENTS_BYTES).slice(0, EVENTS_BYTES),
    filterFlags: (generation * 64 + (slot % 64)) & 0x7fff_ffff,
    // Both halves of the doubles change with every generation.
    queueMaxBytes: generation * (GENERATION_MAX / 8) + slot,
    registeredAt: generation / 3 + slot,
  };
}
