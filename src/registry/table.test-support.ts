/** For tests: a table in plain memory, and words that call back before every access. */
import { SlotCounters } from "./counters.js";
import { SLOT, slotAt, type TableLayout, tableLayout } from "./layout.js";
import { formatTable, HandlerTable, type SlotHandle } from "./table.js";
import { TableWalker } from "./walk.js";
import { AtomicDoorbell, AtomicWords, type Doorbell, type SharedWords } from "./words.js";

export interface TableFixture {
  readonly memory: ArrayBuffer;
  readonly layout: TableLayout;
  readonly words: AtomicWords;
  readonly doorbell: Doorbell;
  readonly table: HandlerTable;
  readonly counters: SlotCounters;
  walker(dispatcher?: number, words?: SharedWords): TableWalker;
}

export function openTable(capacity: number, dispatchers = 1): TableFixture {
  const memory = new ArrayBuffer(tableLayout(capacity, dispatchers).bytes);
  const layout = formatTable(memory, { capacity, dispatchers, daemonPid: 4242, startedAt: 1.5e9 });
  const words = new AtomicWords(memory);
  const doorbell = new AtomicDoorbell(new SharedArrayBuffer(4));
  return {
    memory,
    layout,
    words,
    doorbell,
    table: new HandlerTable(memory, layout, doorbell),
    counters: new SlotCounters(memory, layout),
    walker: (dispatcher = 0, seen = words) => new TableWalker(seen, layout, dispatcher, doorbell),
  };
}

/** Claims, asks for `eventMask` and activates; the table must have room. */
export function addHandler(table: HandlerTable, eventMask = 1): SlotHandle {
  const handle = table.claim();
  if (handle === null) throw new Error("the table is full");
  table.setEventMask(handle, eventMask, 0);
  table.activate(handle);
  return handle;
}

export function stateWord(layout: TableLayout, slot: number): number {
  return (slotAt(layout, slot) + SLOT.STATE) / 4;
}

/** Runs `intrude` once, before access number `at` (from 0): one context switch between any two accesses. */
export class InterruptedWords implements SharedWords {
  accesses = 0;
  /** False when there were not that many accesses: the last place to intrude has been tried. */
  intruded = false;
  readonly #words: SharedWords;
  readonly #at: number;
  readonly #intrude: () => void;

  constructor(words: SharedWords, at: number, intrude: () => void) {
    this.#words = words;
    this.#at = at;
    this.#intrude = intrude;
  }

  #step(): void {
    if (this.accesses++ !== this.#at) return;
    this.intruded = true;
    this.#intrude();
  }

  load(index: number): number {
    this.#step();
    return this.#words.load(index);
  }

  peek(index: number): number {
    this.#step();
    return this.#words.peek(index);
  }

  store(index: number, value: number): void {
    this.#step();
    this.#words.store(index, value);
  }

  compareExchange(index: number, expected: number, replacement: number): number {
    this.#step();
    return this.#words.compareExchange(index, expected, replacement);
  }
}
