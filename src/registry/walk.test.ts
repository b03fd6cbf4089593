import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DISPATCHER, dispatcherAt, STATE } from "./layout.js";
import { HandlerTable, type SlotHandle } from "./table.js";
import { addHandler, InterruptedWords, openTable, type TableFixture } from "./table.test-support.js";
import type { DispatchTarget } from "./walk.js";

function visits(fixture: TableFixture, low: number, high = 0): number[] {
  const slots: number[] = [];
  fixture.walker().walk(low, high, { dispatch: (slot) => slots.push(slot) });
  return slots.sort();
}

function running({ words, layout }: TableFixture, slot: number, dispatcher = 0): number {
  return words.load((dispatcherAt(layout, slot, dispatcher) + DISPATCHER.RUNNING) / 4);
}

describe("TableWalker", () => {
  it("offers a batch to every active handler that wants one of its events, and to no other", () => {
    const fixture = openTable(6);
    const { table } = fixture;
    addHandler(table, 0b001);
    addHandler(table, 0b011);
    addHandler(table, 0b100);
    table.beginRemoval(addHandler(table, 0b111));
    table.setEventMask(table.claim() as SlotHandle, 0b111, 0);
    assert.deepEqual(visits(fixture, 0b001), [0, 1]);
    assert.deepEqual(visits(fixture, 0b010), [1]);
    assert.deepEqual(visits(fixture, 0b111), [0, 1, 2]);
    assert.deepEqual(visits(fixture, 0b1000), []);
  });

  it("knows events 31, 32 and 63 apart", () => {
    const fixture = openTable(3);
    for (const [low, high] of [
      [1 << 31, 0],
      [0, 1],
      [0, 1 << 31],
    ]) {
      const handle = fixture.table.claim() as SlotHandle;
      fixture.table.setEventMask(handle, low, high);
      fixture.table.activate(handle);
    }
    assert.deepEqual(visits(fixture, 1 << 31, 0), [0]);
    assert.deepEqual(visits(fixture, 0, 1), [1]);
    assert.deepEqual(visits(fixture, 0, 1 << 31), [2]);
    assert.deepEqual(visits(fixture, 1, 0), []);
  });

  it("is announced inside a dispatch, as itself alone, and nowhere else", () => {
    const fixture = openTable(2, 3);
    const [first, second] = [addHandler(fixture.table), addHandler(fixture.table)];
    let dispatches = 0;
    fixture.walker(1).walk(1, 0, {
      dispatch: (slot, generation) => {
        dispatches++;
        assert.equal(generation, 1);
        for (const handle of [first, second]) {
          for (const d of [0, 1, 2]) {
            assert.equal(running(fixture, handle.slot, d), d === 1 && handle.slot === slot ? 1 : 0);
          }
        }
      },
    });
    assert.equal(dispatches, 2);
    assert.equal(running(fixture, first.slot, 1) + running(fixture, second.slot, 1), 0);
  });

  it("rings the bell when it leaves a handler that is being removed, and only then", () => {
    const fixture = openTable(2);
    const { table, doorbell } = fixture;
    const handle = addHandler(table);
    addHandler(table);
    const before = doorbell.value();
    visits(fixture, 1);
    assert.equal(doorbell.value(), before);
    fixture.walker().walk(1, 0, {
      dispatch: (slot) => {
        if (slot === handle.slot) table.beginRemoval(handle);
        if (slot === handle.slot) assert.equal(table.inFlight(handle), true);
      },
    });
    assert.equal(doorbell.value(), before + 1);
    assert.equal(table.inFlight(handle), false);
  });

  it("takes a bounded number of steps for each slot", () => {
    const accesses = (handlers: number): number => {
      const fixture = openTable(64);
      for (let i = 0; i < handlers; i++) addHandler(fixture.table);
      const counted = new InterruptedWords(fixture.words, -1, () => {});
      fixture.walker(0, counted).walk(1, 0, { dispatch: () => {} });
      return counted.accesses;
    };
    const perSlot = accesses(1) - accesses(0);
    assert.ok(perSlot <= 8, `${perSlot} accesses a slot`);
    assert.equal(accesses(64), accesses(0) + 64 * perSlot);
  });
});

/** A removal as the broker makes one: it goes as far as it can without waiting, and says whether it was final. */
class Remover {
  /** The handler was removed for good before the interrupted walk went on. */
  final = false;
  readonly #table: HandlerTable;
  readonly #handle: SlotHandle;

  constructor(table: HandlerTable, handle: SlotHandle) {
    this.#table = table;
    this.#handle = handle;
  }

  run(): void {
    this.#table.beginRemoval(this.#handle);
    this.finish();
  }

  finish(): void {
    if (this.#table.inFlight(this.#handle)) return;
    this.#table.release(this.#handle);
    this.final = true;
  }
}

describe("final removal", () => {
  /** `reuse`: the slot goes to another handler at once. */
  for (const reuse of [false, true]) {
    const then = reuse ? "removed and its slot given away" : "removed";
    it(`no dispatch starts after it, wherever in a walk the handler is ${then}`, () => {
      let finals = 0;
      let waits = 0;
      for (let at = 0; ; at++) {
        const fixture = openTable(1);
        const { table, words, doorbell } = fixture;
        const handle = addHandler(table);
        const remover = new Remover(table, handle);
        let owner: SlotHandle | null = null;
        const interrupted = new InterruptedWords(words, at, () => {
          remover.run();
          if (remover.final && reuse) owner = addHandler(table);
        });
        const bell = doorbell.value();
        const target: DispatchTarget = {
          dispatch: (_slot, generation) => {
            if (generation === handle.generation) assert.equal(remover.final, false, `access ${at}: after the removal`);
            else assert.equal(generation, owner?.generation);
          },
        };
        fixture.walker(0, interrupted).walk(1, 0, target);
        if (!interrupted.intruded) break;
        if (remover.final) finals++;
        else {
          waits++;
          assert.notEqual(doorbell.value(), bell, `access ${at}: the remover waits and nobody rings`);
          remover.finish();
          assert.equal(remover.final, true, `access ${at}: rang while still inside`);
        }
        assert.equal(table.state(0), reuse && owner !== null ? STATE.ACTIVE : STATE.FREE);
        assert.equal(running(fixture, 0), 0);
      }
      assert.ok(finals >= 4 && waits >= 1, `${finals} final, ${waits} waited`);
    });
  }

  it("lets a walk that comes anywhere into it dispatch only before DRAINING", () => {
    let dispatched = 0;
    for (let at = 0; ; at++) {
      const fixture = openTable(1);
      const { table, memory, layout, doorbell, words } = fixture;
      const handle = addHandler(table);
      const walker = fixture.walker();
      const interrupted = new InterruptedWords(words, at, () => {
        walker.walk(1, 0, {
          dispatch: () => {
            dispatched++;
            assert.equal(table.state(0), STATE.ACTIVE);
          },
        });
      });
      const remover = new Remover(new HandlerTable(memory, layout, doorbell, interrupted), handle);
      remover.run();
      assert.equal(remover.final, true);
      if (!interrupted.intruded) break;
    }
    assert.equal(dispatched, 1);
  });
});
