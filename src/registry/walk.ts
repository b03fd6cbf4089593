/**
 * The dispatcher's side of the handler table: wait-free. One pass costs a bounded number of steps per slot that was ever
 * used; there is no lock, no retry, no allocation and no log line.
 *
 * `// step:` above an access to shared memory gives it the name that it has in model/handler-table.pml, and in what the
 * deterministic scheduler prints (schedule.test.ts), which wants one for each.
 */
import {
  DISPATCHER,
  dispatcherAt,
  EVENT_WORDS,
  generationOf,
  HEADER,
  SLOT,
  STATE,
  STATE_MASK,
  slotAt,
  type TableLayout,
} from "./layout.js";
import type { Doorbell, SharedWords } from "./words.js";

/** Called between announcement and retraction. `slot` is the index; `generation` names whose turn it is. */
export interface DispatchTarget {
  dispatch(slot: number, generation: number): void;
}

export class TableWalker {
  readonly #words: SharedWords;
  readonly #doorbell: Doorbell;
  readonly #head: number;
  /** Word index of each slot's first word, of its running word for this dispatcher. */
  readonly #slotWord: Int32Array;
  readonly #runningWord: Int32Array;

  constructor(words: SharedWords, layout: TableLayout, dispatcher: number, doorbell: Doorbell) {
    this.#words = words;
    this.#doorbell = doorbell;
    this.#head = HEADER.LIST_HEAD / 4;
    this.#slotWord = Int32Array.from({ length: layout.capacity }, (_, i) => slotAt(layout, i) / 4);
    this.#runningWord = Int32Array.from(
      { length: layout.capacity },
      (_, i) => (dispatcherAt(layout, i, dispatcher) + DISPATCHER.RUNNING) / 4,
    );
  }

  /**
   * Offers one batch to every ACTIVE handler that wants one of its events. Every handler is asked: a claimer never ends
   * the walk, since one interrupt can belong to several.
   */
  walk(eventMaskLow: number, eventMaskHigh: number, target: DispatchTarget): void {
    const words = this.#words;
    // pass: registrars push at the head; the list only grows, so what is reached once stays reachable.
    for (let link = words.load(this.#head); link !== 0; ) {
      const slot = link - 1;
      const base = this.#slotWord[slot];
      // look: written by registrars and removers. Only a hint: what it says may be over at once.
      const state = words.peek(base + SLOT.STATE / 4);
      if ((state & STATE_MASK) === STATE.ACTIVE) {
        // mask: constant while ACTIVE. Should it be the next owner's by now, so is the state, and look_again sees that.
        // A word that the batch has no event in is not worth its load.
        const low = eventMaskLow === 0 ? 0 : words.peek(base + EVENT_WORDS.LOW) & eventMaskLow;
        const high = eventMaskHigh === 0 ? 0 : words.peek(base + EVENT_WORDS.HIGH) & eventMaskHigh;
        const wanted = low | high;
        if (wanted !== 0) this.#offer(slot, base, state, target);
      }
      // follow: constant once the slot is linked.
      link = words.peek(base + SLOT.NEXT / 4);
    }
  }

  #offer(slot: number, base: number, state: number, target: DispatchTarget): void {
    const words = this.#words;
    const running = this.#runningWord[slot];
    // announce: written by this dispatcher alone, read by removers. Ordered before the second look, so that either the
    // remover sees the announcement or the dispatcher sees DRAINING; the seed looked first and could miss both.
    words.store(running, 1);
    // look_again: same state and same generation as before, else the slot is somebody else's by now.
    if (words.load(base + SLOT.STATE / 4) === state) target.dispatch(slot, generationOf(state));
    // retract: ordered after everything the dispatch did, and before the look that follows: were it still on its way, a
    // remover could see 1 and sleep while this dispatcher sees no removal to wake (model/README.md, plain-retract).
    words.store(running, 0);
    // look_after, ring: ordered after the retraction, so that either the remover's inspection sees 0 or this sees
    // DRAINING; and a remover woken by the bell finds 0.
    if ((words.load(base + SLOT.STATE / 4) & STATE_MASK) === STATE.DRAINING) this.#doorbell.ring();
  }
}
