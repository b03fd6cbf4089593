import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { adoptSlots, highestGeneration, layoutOfLeftTable } from "./adopt.js";
import { HEADER, handlerId, STATE } from "./layout.js";
import { HandlerTable } from "./table.js";
import { addHandler, openTable } from "./table.test-support.js";

const FLOOR = 40;

function adopted(capacity = 8) {
  const fixture = openTable(capacity);
  const held = [
    { slot: 1, generation: 7 },
    { slot: 4, generation: 40 },
  ];
  adoptSlots(fixture.memory, fixture.layout, held, FLOOR);
  const table = new HandlerTable(fixture.memory, fixture.layout, fixture.doorbell, fixture.words, 0, FLOOR);
  return { ...fixture, table, held };
}

describe("adoptSlots", () => {
  it("leaves handlers in their slots, for their owners to activate, and dispatchers find them", () => {
    const { table, held, walker } = adopted();
    for (const handle of held) {
      assert.equal(table.state(handle.slot), STATE.CLAIMED);
      table.setEventMask(handle, 1, 0);
      table.activate(handle);
    }
    const visited: number[] = [];
    walker().walk(1, 0, { dispatch: (slot) => void visited.push(slot) });
    assert.deepEqual(visited, [4, 1]);
  });

  it("gives out no id that may have been given out before", () => {
    const { table, held } = adopted();
    const before = new Set<number>();
    for (let slot = 0; slot < 8; slot++) {
      for (let generation = 1; generation <= FLOOR; generation++) before.add(handlerId(generation, slot));
    }
    // The slot's own last generation was that of the handler that is in it.
    for (let generation = 8; generation <= FLOOR; generation++) before.delete(handlerId(generation, 1));
    table.abandon(held[0]);
    for (let i = 0; i < 7; i++) {
      const handle = table.claim();
      assert.ok(handle !== null);
      assert.ok(!before.has(handlerId(handle.generation, handle.slot)), JSON.stringify(handle));
    }
    assert.equal(table.claim(), null);
  });

  it("refuses slots that the table has not", () => {
    const { memory, layout } = openTable(2);
    assert.throws(() => adoptSlots(memory, layout, [{ slot: 2, generation: 1 }], 1), RangeError);
  });
});

describe("a table that was left", () => {
  it("is known by its header, and tells its highest generation", () => {
    const { memory, table, layout } = adopted();
    addHandler(table);
    assert.deepEqual(layoutOfLeftTable(memory), layout);
    assert.equal(highestGeneration(memory, layout), FLOOR + 1);
  });

  it("is none where anything about it is not as expected", () => {
    for (const [offset, value] of [
      [0, 0],
      [HEADER.VERSION, 0],
      [HEADER.CAPACITY, 9],
      [HEADER.CAPACITY, 0],
      [HEADER.DISPATCHERS, 65],
      [HEADER.SLOT_STRIDE, 64],
    ]) {
      const { memory } = openTable(8);
      new DataView(memory).setUint32(offset, value, true);
      assert.equal(layoutOfLeftTable(memory), null, `${offset}: ${value}`);
    }
    assert.equal(layoutOfLeftTable(openTable(8).memory.slice(0, 8192)), null);
    assert.equal(layoutOfLeftTable(new ArrayBuffer(16)), null);
  });
});
