/**
 * A process outside: maps the table's file and reads it while others write, by the layout that the file itself states.
 * Only the state words are read atomically, which keeps the compiler from remembering them; all else by plain loads.
 *
 * node reader.js FILE, with an IPC channel: ends at the first message.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import { argv } from "node:process";
import { mapShared, unmap, viewMemory } from "../../src/pmu/ffi.js";
import { type Field, generationOf, HEADER, LAYOUT_VERSION, MAGIC, STATE, stateOf } from "../../src/registry/layout.js";
import { identityOf, type ReaderCounts, type TortureMessage, TortureViolation } from "./ledger.js";

/** The layout block of a table file; docs/handler-table.md. */
interface FileLayout {
  readonly slots: { readonly stride: number; readonly fields: readonly Field[] };
  readonly dispatchers: { readonly offset: number; readonly stride: number; readonly fields: readonly Field[] };
}

const TURN_MS = 20;

class OutsideReader {
  reads = 0;
  overtaken = 0;
  readonly #words: Int32Array;
  readonly #plain: Uint32Array;
  readonly #doubles: Float64Array;
  readonly #bytes: Uint8Array;
  readonly #slotsAt: number;
  readonly #layout: FileLayout;
  readonly #capacity: number;
  readonly #dispatchers: number;
  /** By slot: the generation whose counters these are. */
  readonly #generation: Float64Array;
  readonly #counted: Float64Array;
  #listed = 0;

  constructor(memory: ArrayBuffer) {
    this.#words = new Int32Array(memory);
    this.#plain = new Uint32Array(memory);
    this.#doubles = new Float64Array(memory);
    this.#bytes = new Uint8Array(memory);
    const magic = this.#text(0, MAGIC.length);
    const version = this.#plain[HEADER.VERSION / 4];
    if (magic !== MAGIC || version !== LAYOUT_VERSION) throw new TortureViolation(`${magic} version ${version}`);
    this.#slotsAt = this.#plain[HEADER.SLOTS_AT / 4];
    this.#capacity = this.#plain[HEADER.CAPACITY / 4];
    this.#dispatchers = this.#plain[HEADER.DISPATCHERS / 4];
    this.#layout = JSON.parse(this.#text(this.#plain[HEADER.JSON_AT / 4], this.#plain[HEADER.JSON_BYTES / 4]));
    this.#generation = new Float64Array(this.#capacity);
    this.#counted = new Float64Array(this.#capacity * this.#dispatchers);
  }

  #text(at: number, bytes: number): string {
    return Buffer.from(this.#bytes.subarray(at, at + bytes)).toString("latin1");
  }

  #slotField(name: string): number {
    const field = this.#layout.slots.fields.find((candidate) => candidate.name === name);
    if (field === undefined) throw new TortureViolation(`the layout has no slot field ${name}`);
    return field.offset;
  }

  #dispatcherField(name: string): number {
    const field = this.#layout.dispatchers.fields.find((candidate) => candidate.name === name);
    if (field === undefined) throw new TortureViolation(`the layout has no dispatcher field ${name}`);
    return field.offset;
  }

  readAll(): void {
    for (let slot = 0; slot < this.#capacity; slot++) this.#readSlot(slot);
    this.#readList();
  }

  #readSlot(slot: number): void {
    const base = this.#slotsAt + slot * this.#layout.slots.stride;
    const stateAt = (base + this.#slotField("state_generation")) / 4;
    const before = Atomics.load(this.#words, stateAt);
    if (!isLive(before)) return;
    const name = this.#text(base + this.#slotField("name"), 64);
    const events = this.#text(base + this.#slotField("events"), 128);
    const filterFlags = this.#plain[(base + this.#slotField("filter_flags")) / 4];
    const queueMaxBytes = this.#doubles[(base + this.#slotField("queue_max_bytes")) / 8];
    const registeredAt = this.#doubles[(base + this.#slotField("registered_at")) / 8];
    const counts = this.#readCounts(base);
    const after = Atomics.load(this.#words, stateAt);
    // What was read between two looks at the same owner is that owner's.
    if (!isLive(after) || generationOf(after) !== generationOf(before)) {
      this.overtaken++;
      return;
    }
    this.reads++;
    const generation = generationOf(before);
    const wanted = identityOf(slot, generation);
    const complain = (what: string, found: unknown): never => {
      throw new TortureViolation(`slot ${slot} generation ${generation}: ${what} reads ${JSON.stringify(found)}`);
    };
    if (name !== `${wanted.name}\0`) complain("name", name);
    if (events !== `${wanted.events}\0`) complain("events", events);
    if (filterFlags !== wanted.filterFlags) complain("filter_flags", filterFlags);
    if (queueMaxBytes !== wanted.queueMaxBytes) complain("queue_max_bytes", queueMaxBytes);
    if (registeredAt !== wanted.registeredAt) complain("registered_at", registeredAt);
    this.#checkCounts(slot, generation, counts, complain);
  }

  /** matched and dispatches of each dispatcher. Each dispatch adds 1 to both, and to `dispatches` first. */
  #readCounts(base: number): number[] {
    const { offset, stride } = this.#layout.dispatchers;
    const counts: number[] = [];
    for (let d = 0; d < this.#dispatchers; d++) {
      const at = base + offset + d * stride;
      counts.push(this.#doubles[(at + this.#dispatcherField("matched")) / 8]);
      counts.push(this.#doubles[(at + this.#dispatcherField("dispatches")) / 8]);
    }
    return counts;
  }

  #checkCounts(slot: number, generation: number, counts: number[], complain: (what: string, found: unknown) => void) {
    const isSame = this.#generation[slot] === generation;
    this.#generation[slot] = generation;
    for (let d = 0; d < this.#dispatchers; d++) {
      const [matched, dispatches] = [counts[2 * d], counts[2 * d + 1]];
      const last = slot * this.#dispatchers + d;
      if (!Number.isSafeInteger(dispatches) || !Number.isSafeInteger(matched) || matched > dispatches) {
        complain(`dispatches of dispatcher ${d}`, { matched, dispatches });
      }
      if (isSame && dispatches < this.#counted[last]) complain("dispatches, which fell,", dispatches);
      this.#counted[last] = dispatches;
    }
  }

  /** The list only grows, and has each slot once. */
  #readList(): void {
    const next = this.#slotField("next");
    const slots = new Set<number>();
    for (let link = Atomics.load(this.#words, HEADER.LIST_HEAD / 4); link !== 0; ) {
      if (link < 0 || link > this.#capacity || slots.has(link)) throw new TortureViolation(`the list leads to ${link}`);
      slots.add(link);
      link = this.#plain[(this.#slotsAt + (link - 1) * this.#layout.slots.stride + next) / 4];
    }
    if (slots.size < this.#listed) throw new TortureViolation(`of ${this.#listed} slots ${slots.size} are listed`);
    this.#listed = slots.size;
  }
}

function isLive(word: number): boolean {
  const state = stateOf(word);
  return state === STATE.ACTIVE || state === STATE.DRAINING;
}

function tell(message: TortureMessage): void {
  process.send?.(message);
}

async function run(path: string): Promise<void> {
  let stopped = false;
  process.once("message", () => {
    stopped = true;
  });
  process.once("disconnect", () => process.exit());
  const fd = openSync(path, "r+");
  const bytes = fstatSync(fd).size;
  const address = mapShared(fd, bytes);
  closeSync(fd);
  const counts = (reader: OutsideReader | null): ReaderCounts => ({
    reads: reader?.reads ?? 0,
    overtaken: reader?.overtaken ?? 0,
  });
  let reader: OutsideReader | null = null;
  try {
    reader = new OutsideReader(viewMemory(address, bytes));
    while (!stopped) {
      const until = performance.now() + TURN_MS;
      do reader.readAll();
      while (performance.now() < until);
      await new Promise(setImmediate);
    }
  } catch (error) {
    tell({ type: "violation", text: `outside reader: ${(error as Error).message}` });
  }
  tell({ type: "reader", counts: counts(reader) });
  process.disconnect();
  unmap(address, bytes);
}

await run(argv[2]);
