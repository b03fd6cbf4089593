/** A dispatcher's thread: walks the table over and over, and checks at every dispatch that it may be there. */
import { parentPort, workerData } from "node:worker_threads";
import { viewMemory } from "../../src/pmu/ffi.js";
import { seededRandom } from "../../src/pmu/software/random.js";
import { SlotCounters } from "../../src/registry/counters.js";
import { DISPATCHER, dispatcherAt, SLOT, STATE, slotAt, stateOf, tableLayout } from "../../src/registry/layout.js";
import { HandlerTable } from "../../src/registry/table.js";
import type { DispatchTarget, TableWalker } from "../../src/registry/walk.js";
import { AtomicDoorbell, AtomicWords } from "../../src/registry/words.js";
import { EVENTS, Ledger, type TortureMessage, TortureViolation, type TortureWorkerSetup } from "./ledger.js";

/** Looks at the ledger during a dispatch: mostly a few, now and then so many that a removal has to wait. */
const LOOKS = 8;
const LOOKS_LONG = 2_000;
const LONG_CHANCE = 1 / 64;

class CheckedDispatcher implements DispatchTarget {
  dispatches = 0;
  /** What this walk is about. */
  eventMask = 0;
  readonly #ledger: Ledger;
  readonly #counters: SlotCounters;
  readonly #words: AtomicWords;
  readonly #doubles: Float64Array;
  readonly #setup: TortureWorkerSetup;
  readonly #random: () => number;
  readonly #layout;
  /** By slot: dispatches of this thread to the generation it last dispatched to. */
  readonly #generation: Float64Array;
  readonly #count: Float64Array;

  constructor(setup: TortureWorkerSetup, memory: ArrayBuffer, ledger: Ledger) {
    this.#setup = setup;
    this.#layout = tableLayout(setup.capacity, setup.dispatchers);
    this.#ledger = ledger;
    this.#words = new AtomicWords(memory);
    this.#counters = new SlotCounters(memory, this.#layout);
    this.#doubles = new Float64Array(memory, 0, Math.floor(memory.byteLength / 8));
    this.#random = seededRandom(setup.seed * 1000 + setup.index);
    this.#generation = new Float64Array(setup.capacity);
    this.#count = new Float64Array(setup.capacity);
  }

  dispatch(slot: number, generation: number): void {
    const { index } = this.#setup;
    const looks = this.#random() < LONG_CHANCE ? LOOKS_LONG : LOOKS;
    const durationNs = Math.ceil(this.#random() * 1e6);
    this.#check(slot, generation);
    if ((this.#ledger.wanted(slot) & this.eventMask) === 0) this.#complain(slot, generation, "did not want the event");
    for (let look = 0; look < looks; look++) this.#check(slot, generation);
    if (this.#generation[slot] !== generation) {
      this.#generation[slot] = generation;
      this.#count[slot] = 0;
    }
    this.#counters.countDispatch(slot, index, 1, 0, 0, durationNs, this.dispatches);
    this.#ledger.saw(slot, index);
    this.#count[slot]++;
    this.dispatches++;
    const counted = this.#doubles[(dispatcherAt(this.#layout, slot, index) + DISPATCHER.DISPATCHES) / 8];
    if (counted !== this.#count[slot]) {
      this.#complain(slot, generation, `counts ${counted} dispatches and had ${this.#count[slot]}`);
    }
    this.#check(slot, generation);
  }

  #check(slot: number, generation: number): void {
    const owner = this.#ledger.owner(slot);
    if (owner !== generation) this.#complain(slot, generation, owner === 0 ? "was removed" : `gave way to ${owner}`);
    const state = stateOf(this.#words.load((slotAt(this.#layout, slot) + SLOT.STATE) / 4));
    if (state !== STATE.ACTIVE && state !== STATE.DRAINING) this.#complain(slot, generation, `is in state ${state}`);
  }

  #complain(slot: number, generation: number, what: string): never {
    throw new TortureViolation(
      `dispatcher ${this.#setup.index} is inside slot ${slot} generation ${generation}, which ${what}`,
    );
  }
}

async function run(setup: TortureWorkerSetup, tell: (message: TortureMessage) => void): Promise<void> {
  const layout = tableLayout(setup.capacity, setup.dispatchers);
  const memory = viewMemory(setup.tableAddress, layout.bytes);
  const ledger = new Ledger(setup.ledger, setup);
  const code: { TableWalker: typeof TableWalker } = await import(setup.walkModule);
  const doorbell = new AtomicDoorbell(setup.bell);
  const walker = new code.TableWalker(new AtomicWords(memory), layout, setup.index, doorbell);
  const target = new CheckedDispatcher(setup, memory, ledger);
  ledger.arrive();
  let walks = 0;
  try {
    for (; !ledger.stopped; walks++) {
      target.eventMask = 1 << (walks % EVENTS);
      walker.walk(target.eventMask, 0, target);
    }
  } catch (error) {
    if (!(error instanceof TortureViolation)) throw error;
    ledger.stop();
    // Out of the walk, so as good as dead: removals need not wait for it.
    new HandlerTable(memory, layout, doorbell).bury(setup.index);
    tell({ type: "violation", text: error.message });
  }
  tell({ type: "dispatcher", counts: { dispatches: target.dispatches, walks } });
}

const port = parentPort;
if (port !== null) await run(workerData as TortureWorkerSetup, (message) => port.postMessage(message));
