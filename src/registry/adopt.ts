/**
 * A table that goes on where another one ended: handlers keep their slots and generations, and with them their ids. Done
 * before any dispatcher or registrar knows the table, so nothing here is part of the protocol.
 */
import {
  DISPATCHERS_MAX,
  generationOf,
  HEADER,
  LAYOUT_VERSION,
  MAGIC,
  packState,
  SLOT,
  STATE,
  slotAt,
  type TableLayout,
  tableLayout,
} from "./layout.js";
import type { SlotHandle } from "./table.js";

/**
 * Takes the slots of `held` in a table that formatTable has just laid out: CLAIMED, in the list, for their owners to
 * describe and activate. Slots between them are FREE, and no generation up to `floor` is given out again.
 */
export function adoptSlots(memory: ArrayBuffer, layout: TableLayout, held: readonly SlotHandle[], floor: number): void {
  const view = new DataView(memory);
  const generations = new Map(held.map(({ slot, generation }) => [slot, generation]));
  const slots = Math.max(-1, ...generations.keys()) + 1;
  if (slots > layout.capacity) throw new RangeError(`slot ${slots - 1} of a table of ${layout.capacity}`);
  for (let slot = 0; slot < slots; slot++) {
    const generation = generations.get(slot);
    const word = generation === undefined ? packState(floor, STATE.FREE) : packState(generation, STATE.CLAIMED);
    view.setInt32(slotAt(layout, slot) + SLOT.STATE, word, true);
    // The list runs from the last slot to the first, as if they had been pushed in order.
    view.setUint32(slotAt(layout, slot) + SLOT.NEXT, slot, true);
  }
  view.setUint32(HEADER.LIST_HEAD, slots, true);
  view.setUint32(HEADER.HIGH_WATER, slots, true);
}

/** The highest generation that any slot of the table has had. */
export function highestGeneration(memory: ArrayBuffer, layout: TableLayout): number {
  const view = new DataView(memory);
  const slots = Math.min(layout.capacity, view.getUint32(HEADER.HIGH_WATER, true));
  let highest = 0;
  for (let slot = 0; slot < slots; slot++) {
    highest = Math.max(highest, generationOf(view.getInt32(slotAt(layout, slot) + SLOT.STATE, true)));
  }
  return highest;
}

/**
 * The layout of a table that another daemon has left in `memory`; null when this code cannot read it: of another version,
 * unfinished, cut short, or no table.
 */
export function layoutOfLeftTable(memory: ArrayBuffer): TableLayout | null {
  if (memory.byteLength < HEADER.HIGH_WATER + 4) return null;
  const view = new DataView(memory);
  if (new TextDecoder().decode(new Uint8Array(memory, 0, MAGIC.length)) !== MAGIC) return null;
  if (view.getUint32(HEADER.VERSION, true) !== LAYOUT_VERSION) return null;
  const capacity = view.getUint32(HEADER.CAPACITY, true);
  const dispatchers = view.getUint32(HEADER.DISPATCHERS, true);
  if (dispatchers > DISPATCHERS_MAX) return null;
  let layout: TableLayout;
  try {
    layout = tableLayout(capacity, dispatchers);
  } catch {
    return null;
  }
  const agrees =
    view.getUint32(HEADER.SLOTS_AT, true) === layout.slotsAt &&
    view.getUint32(HEADER.SLOT_STRIDE, true) === layout.slotStride &&
    memory.byteLength >= layout.bytes;
  return agrees ? layout : null;
}
