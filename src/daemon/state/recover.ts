/**
 * What the daemon before this one has left: of one that was stopped, its handlers with their books; of one that was killed,
 * what was kept at each registration, the books of what streams had taken, and the handler table with what was matched.
 */
import { highestGeneration, layoutOfLeftTable } from "../../registry/adopt.js";
import { SlotCounters } from "../../registry/counters.js";
import { GENERATION_MAX, generationOf, handlerId, SLOT, STATE, slotAt, stateOf } from "../../registry/layout.js";
import { type CarriedBooks, nothingCarried } from "../delivery/carried-books.js";
import { type SettledEvent, settledSequence } from "../delivery/settled-books.js";
import { BooksFile } from "./books-file.js";
import { type LeftHandler, savedLeft } from "./records.js";
import type { SavedHandler } from "./saved-handler.js";
import type { Report, StateFiles } from "./state-files.js";

export interface RecoveredHandler {
  readonly saved: SavedHandler;
  readonly left: LeftHandler;
}

export interface Recovery {
  readonly handlers: readonly RecoveredHandler[];
  /** No id was given out with a generation above. */
  readonly generationFloor: number;
  /** The daemon before this one did not stop by itself. */
  readonly wasKilled: boolean;
}

export interface LeftMemory {
  readonly table: ArrayBuffer | null;
  readonly books: ArrayBuffer | null;
}

const NS_PER_MS = 1e6;
/** Rings are drained this often at least, while anybody wants samples (limits.flush_interval_default_max_ms). */
const RINGS_DRAINED_NS = 2e9;
/** Given out since the last that is known of, at most. */
const UNKNOWN_GENERATIONS = 2 ** 20;

/** Reads the state directory, and empties it of what is of no use any more. */
export function recover(files: StateFiles, memory: LeftMemory, bootId: string, report: Report): Recovery {
  const daemon = files.readDaemon();
  const saved = files.readHandlers();
  const fresh = saved.filter((handler) => handler.bootId === bootId);
  for (const { slot } of saved.filter((handler) => handler.bootId !== bootId)) files.removeHandler(slot);
  if (fresh.length < saved.length) {
    report("handlers of before the last boot are forgotten", { handlers: saved.length - fresh.length });
  }
  const wasKilled = memory.table !== null;
  const table = LeftTable.open(memory.table);
  const books = memory.books === null ? null : BooksFile.open(memory.books);
  const known = Math.max(
    daemon?.generationFloor ?? 0,
    table?.highestGeneration ?? 0,
    ...saved.map(({ generation }) => generation),
  );
  const handlers = fresh.flatMap((handler) => {
    if (handler.left !== null) return [{ saved: handler, left: handler.left }];
    const left = leftByKilled(handler, table, books);
    if (left === null) {
      files.removeHandler(handler.slot);
      return [];
    }
    // Table and books are about to be replaced: should this daemon be killed before it has taken the handler up, it is here.
    files.writeHandler({ ...handler, left: savedLeft(left) });
    return [{ saved: handler, left }];
  });
  const generationFloor = Math.min(GENERATION_MAX, wasKilled && table === null ? known + UNKNOWN_GENERATIONS : known);
  return { handlers, generationFloor, wasKilled };
}

/** null: it had been removed, and only its file was left. */
function leftByKilled(saved: SavedHandler, table: LeftTable | null, books: BooksFile | null): LeftHandler | null {
  const { slot, events, leaseMs, activeNs } = saved;
  const seen = table?.handler(saved) ?? null;
  if (table !== null && seen === null) return null;
  const row = books !== null && slot < books.capacity ? books.row(slot) : null;
  const own = row?.handlerId === handlerId(saved.generation, slot) ? row : null;
  const carried = carriedByKilled(own?.events(events) ?? [], seen?.matched ?? 0, events);
  const aliveNs = books === null ? 0 : sound(books.aliveNs);
  const lastNs = seen?.lastDispatchNs ?? 0;
  const leaseEndsNs = own === null ? 0 : sound(own.leaseEndsNs);
  return {
    everSubscribed: own?.everSubscribed ?? true,
    leaseEndsNs: leaseEndsNs || Math.max(activeNs, lastNs, aliveNs) + leaseMs * NS_PER_MS,
    stoppedNs: Math.max(activeNs, lastNs, aliveNs - RINGS_DRAINED_NS),
    carried,
  };
}

/** What was matched and no stream had taken was in the daemon's memory. Of which event is known where there is but one. */
function carriedByKilled(told: readonly SettledEvent[], matched: number, events: number): CarriedBooks {
  // The books are of another version: what is lost cannot be told from what was delivered, and they begin anew.
  if (told.length === 0) return nothingCarried(events);
  const settled = told.map((event) => ({
    delivered: sound(event.delivered),
    periodDelivered: sound(event.periodDelivered),
    periodLost: sound(event.periodLost),
    lost: event.lost.map(sound),
  }));
  // A dispatcher that was killed in a dispatch had not counted yet what may have been delivered already.
  return { settled, untold: lostWithDaemon(matched - settledSequence(settled)), gaps: [] };
}

function lostWithDaemon(count: number): CarriedBooks["untold"] {
  return count > 0 ? [{ event: 0, reason: "RESTART", count, period: 0, firstNs: 0, lastNs: 0 }] : [];
}

/** Counters are whole numbers; in a file that was tampered with they may be anything. */
function sound(count: number): number {
  return Number.isFinite(count) && count > 0 ? Math.round(count) : 0;
}

/** The handler table of a daemon that is gone. */
class LeftTable {
  readonly #view: DataView;
  readonly #counters: SlotCounters;
  readonly #layout: NonNullable<ReturnType<typeof layoutOfLeftTable>>;
  readonly highestGeneration: number;

  private constructor(memory: ArrayBuffer, layout: NonNullable<ReturnType<typeof layoutOfLeftTable>>) {
    this.#view = new DataView(memory);
    this.#counters = new SlotCounters(memory, layout);
    this.#layout = layout;
    this.highestGeneration = highestGeneration(memory, layout);
  }

  static open(memory: ArrayBuffer | null): LeftTable | null {
    const layout = memory === null ? null : layoutOfLeftTable(memory);
    return memory === null || layout === null ? null : new LeftTable(memory, layout);
  }

  /** null where the handler was not there any more. */
  handler({ slot, generation }: SavedHandler): { matched: number; lastDispatchNs: number } | null {
    if (slot >= this.#layout.capacity) return null;
    const word = this.#view.getInt32(slotAt(this.#layout, slot) + SLOT.STATE, true);
    const state = stateOf(word);
    if (generationOf(word) !== generation || (state !== STATE.ACTIVE && state !== STATE.DRAINING)) return null;
    const { matched, lastDispatchNs } = this.#counters.dispatched(slot);
    return { matched: sound(matched), lastDispatchNs: sound(lastDispatchNs) };
  }
}
