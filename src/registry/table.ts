/**
 * The writers' side of the handler table: registering and removing, lock-free, on any thread. A removal never blocks a
 * thread: it waits on the doorbell, asynchronously, until no dispatcher is inside the handler.
 *
 * `// step:` above an access to shared memory gives it the name that it has in model/handler-table.pml, as in walk.ts.
 */
import {
  DISPATCHER,
  dispatcherAt,
  EVENT_WORDS,
  GENERATION_MAX,
  generationOf,
  HEADER,
  LAYOUT_VERSION,
  MAGIC,
  packState,
  SLOT,
  STATE,
  slotAt,
  stateOf,
  type TableLayout,
  tableLayout,
} from "./layout.js";
import type { Doorbell, SharedWords } from "./words.js";
import { AtomicWords } from "./words.js";

/** A slot as one registration holds it. Harmless once the slot has gone on to another generation. */
export interface SlotHandle {
  readonly slot: number;
  readonly generation: number;
}

/** What outside readers see of a handler; constant from CLAIMED to FREE. */
export interface SlotIdentity {
  readonly name: string;
  readonly events: string;
  readonly filterFlags: number;
  readonly queueMaxBytes: number;
  /** Seconds since the epoch. */
  readonly registeredAt: number;
}

export type RemovalStart = "draining" | "already draining" | "stale";

/** Lays an empty table out in zeroed memory. The version is published last: until then readers see an unfinished file. */
export function formatTable(
  memory: ArrayBuffer,
  {
    capacity,
    dispatchers,
    daemonPid,
    startedAt,
  }: { capacity: number; dispatchers: number; daemonPid: number; startedAt: number },
): TableLayout {
  const layout = tableLayout(capacity, dispatchers);
  if (memory.byteLength < layout.bytes)
    throw new RangeError(`${memory.byteLength} bytes for a table of ${layout.bytes}`);
  const bytes = new Uint8Array(memory);
  const view = new DataView(memory);
  bytes.set(new TextEncoder().encode(MAGIC), 0);
  view.setUint32(HEADER.SLOTS_AT, layout.slotsAt, true);
  view.setUint32(HEADER.JSON_AT, layout.jsonAt, true);
  view.setUint32(HEADER.JSON_BYTES, layout.json.byteLength, true);
  view.setUint32(HEADER.CAPACITY, capacity, true);
  view.setUint32(HEADER.DISPATCHERS, dispatchers, true);
  view.setUint32(HEADER.SLOT_STRIDE, layout.slotStride, true);
  view.setUint32(HEADER.DAEMON_PID, daemonPid, true);
  view.setFloat64(HEADER.STARTED_AT, startedAt, true);
  bytes.set(layout.json, layout.jsonAt);
  new AtomicWords(memory).store(HEADER.VERSION / 4, LAYOUT_VERSION);
  return layout;
}

/** About 20 us with one dispatcher: some dispatches of a full batch, and less than a thread takes to be woken. */
export const REMOVAL_LOOKS = 1000;

export class HandlerTable {
  readonly layout: TableLayout;
  readonly #words: SharedWords;
  readonly #doorbell: Doorbell;
  /** How often a removal looks again before it sleeps. */
  readonly #looks: number;
  readonly #bytes: Uint8Array;
  readonly #doubles: Float64Array;
  readonly #generationFloor: number;

  /** Generations begin above `generationFloor`: an earlier table of the same file may have given out those up to it. */
  constructor(
    memory: ArrayBuffer,
    layout: TableLayout,
    doorbell: Doorbell,
    words: SharedWords = new AtomicWords(memory),
    looks = 0,
    generationFloor = 0,
  ) {
    this.layout = layout;
    this.#words = words;
    this.#doorbell = doorbell;
    this.#looks = looks;
    this.#generationFloor = generationFloor;
    this.#bytes = new Uint8Array(memory);
    this.#doubles = new Float64Array(memory, 0, Math.floor(memory.byteLength / 8));
  }

  /** Takes a free slot: one that was used before, else a new one. null when the table is full. */
  claim(): SlotHandle | null {
    return this.#reuse() ?? this.#push();
  }

  #reuse(): SlotHandle | null {
    const words = this.#words;
    // claim: the list only grows; a slot pushed meanwhile is not missed, since its registrar holds it.
    for (let link = words.load(HEADER.LIST_HEAD / 4); link !== 0; ) {
      const slot = link - 1;
      const base = this.#base(slot);
      // reuse: FREE may be over at once; only the exchange decides.
      const state = words.load(base + SLOT.STATE / 4);
      if (stateOf(state) === STATE.FREE) {
        const generation = nextGeneration(generationOf(state));
        // take: written by other registrars too: whoever's exchange succeeds owns the slot.
        if (words.compareExchange(base + SLOT.STATE / 4, state, packState(generation, STATE.CLAIMED)) === state) {
          this.#clearCounters(slot);
          return { slot, generation };
        }
      }
      // follow: constant once the slot is linked.
      link = words.load(base + SLOT.NEXT / 4);
    }
    return null;
  }

  #push(): SlotHandle | null {
    const words = this.#words;
    const highWater = HEADER.HIGH_WATER / 4;
    // reserve: written by other registrars too; only the exchange decides.
    let slot = words.load(highWater);
    for (;;) {
      if (slot >= this.layout.capacity) return null;
      // reserve_exchange: whoever's exchange succeeds owns the slot.
      const seen = words.compareExchange(highWater, slot, slot + 1);
      if (seen === slot) break;
      slot = seen;
    }
    const base = this.#base(slot);
    const generation = nextGeneration(this.#generationFloor);
    // push: the slot is this registrar's alone until the head points to it.
    words.store(base + SLOT.STATE / 4, packState(generation, STATE.CLAIMED));
    const head = HEADER.LIST_HEAD / 4;
    // link_load_head: written by other registrars too.
    let first = words.load(head);
    for (;;) {
      // link_store_next: before the head points here, since whoever gets here goes on from here.
      words.store(base + SLOT.NEXT / 4, first);
      // link_exchange_head: publishes the slot, its state and its next; pairs with pass and claim.
      const seen = words.compareExchange(head, first, slot + 1);
      if (seen === first) return { slot, generation };
      first = seen;
    }
  }

  /** One of STATE; for show, since it may change at once. */
  state(slot: number): number {
    // show: no part of the protocol.
    return stateOf(this.#words.load(this.#base(slot) + SLOT.STATE / 4));
  }

  /** Fills in what outside readers see. Only in CLAIMED. */
  describe(handle: SlotHandle, identity: SlotIdentity): void {
    const at = slotAt(this.layout, handle.slot);
    this.#text(at + SLOT.NAME, 64, identity.name);
    this.#text(at + SLOT.EVENTS, 128, identity.events);
    // describe: published by activate, for outside readers.
    this.#words.store((at + SLOT.FILTER_FLAGS) / 4, identity.filterFlags);
    this.#doubles[(at + SLOT.QUEUE_MAX_BYTES) / 8] = identity.queueMaxBytes;
    this.#doubles[(at + SLOT.REGISTERED_AT) / 8] = identity.registeredAt;
  }

  /** Which armed events the handler wants. Only in CLAIMED: dispatchers read the mask of ACTIVE handlers. */
  setEventMask(handle: SlotHandle, low: number, high: number): void {
    const base = this.#base(handle.slot);
    // mask: published by activate.
    this.#words.store(base + EVENT_WORDS.LOW, low | 0);
    this.#words.store(base + EVENT_WORDS.HIGH, high | 0);
  }

  /** CLAIMED → ACTIVE: dispatches start. */
  activate(handle: SlotHandle): void {
    this.#move(handle, STATE.CLAIMED, STATE.ACTIVE);
  }

  /** CLAIMED → FREE: the registration failed on the way. */
  abandon(handle: SlotHandle): void {
    this.#move(handle, STATE.CLAIMED, STATE.FREE);
  }

  /** ACTIVE → DRAINING: no dispatch starts after this. */
  beginRemoval(handle: SlotHandle): RemovalStart {
    const active = packState(handle.generation, STATE.ACTIVE);
    const draining = packState(handle.generation, STATE.DRAINING);
    // begin_removal: other removers want it too. Ordered before inspect; pairs with announce and look_again.
    const seen = this.#words.compareExchange(this.#base(handle.slot) + SLOT.STATE / 4, active, draining);
    if (seen === active) return "draining";
    return seen === draining ? "already draining" : "stale";
  }

  /** Whether a dispatcher is inside the handler. Meaningful as an answer only in DRAINING, where it can only fall. */
  inFlight(handle: SlotHandle): boolean {
    for (let d = 0; d < this.layout.dispatchers; d++) {
      // inspect: written by dispatcher d; pairs with its announcement, which is ordered before its second look.
      if (this.#words.load((dispatcherAt(this.layout, handle.slot, d) + DISPATCHER.RUNNING) / 4) !== 0) return true;
    }
    return false;
  }

  /**
   * Retracts for a dispatcher whose thread is gone, and wakes the removals that waited for it. Returns the slots it was
   * inside: their handlers have been given part of a batch at most. Only after the thread has ended, or it might go on.
   */
  bury(dispatcher: number): number[] {
    const inside: number[] = [];
    for (let slot = 0; slot < this.layout.capacity; slot++) {
      const running = (dispatcherAt(this.layout, slot, dispatcher) + DISPATCHER.RUNNING) / 4;
      // supervisor_retract: written by the dead dispatcher alone, and so by nobody any more.
      if (this.#words.load(running) === 0) continue;
      inside.push(slot);
      this.#words.store(running, 0);
    }
    // supervisor_ring: after all retractions.
    this.#doorbell.ring();
    return inside;
  }

  /** Waits until no dispatcher is inside a DRAINING handler; false when `deadlineMs` (of `now`) passes first. */
  async awaitDrained(handle: SlotHandle, deadlineMs: number, now: () => number): Promise<boolean> {
    for (;;) {
      // value: the bell's value first. A dispatcher that leaves between the inspection and the wait has rung past it.
      const value = this.#doorbell.value();
      if (!this.inFlight(handle)) return true;
      const left = deadlineMs - now();
      if (left <= 0) return false;
      // A dispatch is over in microseconds; a sleep takes longer to end than most of them.
      for (let look = 0; look < this.#looks; look++) if (!this.inFlight(handle)) return true;
      // wait: for who retracts, look_after and ring.
      await this.#doorbell.waitPast(value, left);
    }
  }

  /**
   * DRAINING → FREE. Only after awaitDrained said true and the outbox is settled. A dispatcher that looked before
   * DRAINING and announces only now may set `running` again for a moment; its second look turns it away.
   */
  release(handle: SlotHandle): void {
    this.#move(handle, STATE.DRAINING, STATE.FREE);
  }

  #move(handle: SlotHandle, from: number, to: number): void {
    const expected = packState(handle.generation, from);
    const word = this.#base(handle.slot) + SLOT.STATE / 4;
    // activate | abandon | release: what the caller wrote in the slot comes before it. Pairs with look, and with reuse.
    if (this.#words.compareExchange(word, expected, packState(handle.generation, to)) !== expected) {
      throw new Error(`slot ${handle.slot} generation ${handle.generation} is not in the state it must leave`);
    }
  }

  #base(slot: number): number {
    return slotAt(this.layout, slot) / 4;
  }

  /** The counters start at 0 for a new owner. Never `running`: it belongs to the dispatchers. */
  #clearCounters(slot: number): void {
    const { layout } = this;
    const from = slotAt(layout, slot) + SLOT.DELIVERED;
    // clear_counters: plain stores by the slot's only owner, published by activate.
    this.#bytes.fill(0, from, dispatcherAt(layout, slot, 0));
    for (let d = 0; d < layout.dispatchers; d++) {
      const at = dispatcherAt(layout, slot, d);
      this.#bytes.fill(0, at + DISPATCHER.DISPATCHES, dispatcherAt(layout, slot, d + 1));
    }
  }

  #text(at: number, bytes: number, text: string): void {
    // describe: plain stores by the slot's only owner, published by activate.
    this.#bytes.fill(0, at, at + bytes);
    // encodeInto stops before a character that would not fit; the last byte stays NUL.
    new TextEncoder().encodeInto(text, this.#bytes.subarray(at, at + bytes - 1));
  }
}

function nextGeneration(generation: number): number {
  return generation >= GENERATION_MAX ? 1 : generation + 1;
}
