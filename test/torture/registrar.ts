/** A thread that registers handlers and removes those of others: what one puts into a cell, another takes out. */
import { parentPort, workerData } from "node:worker_threads";
import { viewMemory } from "../../src/pmu/ffi.js";
import { seededRandom } from "../../src/pmu/software/random.js";
import {
  DISPATCHER,
  dispatcherAt,
  generationOfId,
  handlerId,
  slotOfId,
  type TableLayout,
  tableLayout,
} from "../../src/registry/layout.js";
import type { HandlerTable, SlotHandle } from "../../src/registry/table.js";
import { AtomicDoorbell } from "../../src/registry/words.js";
import {
  EVENTS,
  identityOf,
  Ledger,
  type TortureMessage,
  TortureViolation,
  type TortureWorkerSetup,
} from "./ledger.js";

const ABANDON_CHANCE = 1 / 16;
/** Removals whose first deadline is so near that it may pass. */
const HASTY_CHANCE = 1 / 8;
const HASTY_MS = 0.002;
/** Dispatches take microseconds: whoever waits that long was forgotten. */
const FORGOTTEN_MS = 20_000;
const WAITS_KEPT = 1 << 16;

export class Registrar {
  registrations = 0;
  refused = 0;
  abandoned = 0;
  removals = 0;
  deadlines = 0;
  readonly waitsNs = new Float64Array(WAITS_KEPT);
  readonly #table: HandlerTable;
  readonly #ledger: Ledger;
  readonly #setup: TortureWorkerSetup;
  readonly #layout: TableLayout;
  readonly #doubles: Float64Array;
  readonly #random: () => number;

  constructor(setup: TortureWorkerSetup, table: HandlerTable, memory: ArrayBuffer, ledger: Ledger) {
    this.#setup = setup;
    this.#table = table;
    this.#layout = table.layout;
    this.#ledger = ledger;
    this.#doubles = new Float64Array(memory, 0, Math.floor(memory.byteLength / 8));
    this.#random = seededRandom(setup.seed * 1000 + 500 + setup.index);
  }

  #below(bound: number): number {
    return Math.floor(this.#random() * bound);
  }

  /** One registration at most, and the removals that it leads to. */
  async churn(): Promise<void> {
    const id = this.#register();
    // A full table makes room, a registration puts somebody else's handler out.
    const old = this.#ledger.swap(this.#below(this.#ledger.cells), id);
    if (old !== 0) await this.remove(old);
  }

  /** All that is left in the cells. */
  async clear(): Promise<void> {
    for (let cell = 0; cell < this.#ledger.cells; cell++) {
      const old = this.#ledger.swap(cell, 0);
      if (old !== 0) await this.remove(old);
    }
  }

  #register(): number {
    const table = this.#table;
    const handle = table.claim();
    if (handle === null) {
      this.refused++;
      return 0;
    }
    const { slot, generation } = handle;
    if (this.#ledger.owner(slot) !== 0) throw new TortureViolation(`slot ${slot} is owned twice`);
    const mask = 1 + this.#below(2 ** EVENTS - 1);
    if (!this.#setup.describesLate) table.describe(handle, identityOf(slot, generation));
    table.setEventMask(handle, mask, 0);
    if (this.#random() < ABANDON_CHANCE) {
      this.abandoned++;
      table.abandon(handle);
      return 0;
    }
    this.#ledger.setWanted(slot, mask);
    this.#ledger.setOwner(slot, generation);
    table.activate(handle);
    if (this.#setup.describesLate) table.describe(handle, identityOf(slot, generation));
    this.registrations++;
    return handlerId(generation, slot);
  }

  async remove(id: number): Promise<void> {
    const table = this.#table;
    const handle: SlotHandle = { slot: slotOfId(id), generation: generationOfId(id) };
    const startNs = process.hrtime.bigint();
    const start = table.beginRemoval(handle);
    if (start !== "draining") throw new TortureViolation(`the removal of ${id} found it ${start}`);
    if (this.#random() < HASTY_CHANCE && !(await this.#drained(handle, HASTY_MS))) {
      this.deadlines++;
      const again = table.beginRemoval(handle);
      if (again !== "already draining") throw new TortureViolation(`a retried removal of ${id} found it ${again}`);
    }
    if (!(await this.#drained(handle, FORGOTTEN_MS))) {
      throw new TortureViolation(`the removal of ${id} was not woken in ${FORGOTTEN_MS} ms`);
    }
    this.waitsNs[this.removals % WAITS_KEPT] = Number(process.hrtime.bigint() - startNs);
    // The removal has returned: a dispatch from here on is one too many, and the counters are final.
    this.#ledger.setOwner(handle.slot, 0);
    this.#compareCounts(handle);
    table.release(handle);
    this.removals++;
  }

  #drained(handle: SlotHandle, timeoutMs: number): Promise<boolean> {
    return this.#table.awaitDrained(handle, performance.now() + timeoutMs, () => performance.now());
  }

  #compareCounts({ slot, generation }: SlotHandle): void {
    for (let d = 0; d < this.#layout.dispatchers; d++) {
      const counted = this.#doubles[(dispatcherAt(this.#layout, slot, d) + DISPATCHER.DISPATCHES) / 8];
      const seen = this.#ledger.takeSeen(slot, d);
      if (counted === seen) continue;
      throw new TortureViolation(
        `slot ${slot} generation ${generation} counts ${counted} dispatches by dispatcher ${d}, which saw ${seen}`,
      );
    }
  }
}

async function run(setup: TortureWorkerSetup, tell: (message: TortureMessage) => void): Promise<void> {
  const memory = viewMemory(setup.tableAddress, tableLayout(setup.capacity, setup.dispatchers).bytes);
  const layout = tableLayout(setup.capacity, setup.dispatchers);
  const ledger = new Ledger(setup.ledger, setup);
  const code: { HandlerTable: typeof HandlerTable } = await import(setup.tableModule);
  const table = new code.HandlerTable(memory, layout, new AtomicDoorbell(setup.bell));
  const registrar = new Registrar(setup, table, memory, ledger);
  // Atomics.waitAsync does not keep the event loop alive.
  const alive = setInterval(() => {}, 60_000);
  ledger.arrive();
  try {
    while (!ledger.stopped) await registrar.churn();
  } catch (error) {
    // The table's own complaints are violations, too: nobody else may move a handler of mine.
    ledger.stop();
    tell({ type: "violation", text: `registrar ${setup.index}: ${(error as Error).message}` });
  } finally {
    clearInterval(alive);
  }
  const { registrations, refused, abandoned, removals, deadlines, waitsNs } = registrar;
  tell({
    type: "registrar",
    counts: { registrations, refused, abandoned, removals, deadlines, waitsNs: waitsNs.slice(0, removals) },
  });
}

const port = parentPort;
if (port !== null) await run(workerData as TortureWorkerSetup, (message) => port.postMessage(message));
