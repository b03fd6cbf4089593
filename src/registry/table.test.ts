import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import {
  DISPATCHER,
  dispatcherAt,
  GENERATION_MAX,
  HEADER,
  LAYOUT_VERSION,
  MAGIC,
  packState,
  SLOT,
  STATE,
  slotAt,
  tableLayout,
} from "./layout.js";
import { formatTable, HandlerTable, type SlotHandle } from "./table.js";
import { addHandler, InterruptedWords, openTable, stateWord, type TableFixture } from "./table.test-support.js";
import type { SharedWords } from "./words.js";

const DEADLINE_MS = 1000;

/** Slots in the order of the list; fails on a cycle. */
function listed({ words, layout }: TableFixture): number[] {
  const slots: number[] = [];
  for (let link = words.load(HEADER.LIST_HEAD / 4); link !== 0; ) {
    slots.push(link - 1);
    assert.ok(slots.length <= layout.capacity, `the list has a cycle: ${slots.slice(0, 10)}`);
    link = words.load((slotAt(layout, link - 1) + SLOT.NEXT) / 4);
  }
  return slots;
}

function setRunning({ words, layout }: TableFixture, slot: number, dispatcher: number, value: number): void {
  words.store((dispatcherAt(layout, slot, dispatcher) + DISPATCHER.RUNNING) / 4, value);
}

function remove(table: HandlerTable, handle: SlotHandle): void {
  table.beginRemoval(handle);
  assert.equal(table.inFlight(handle), false);
  table.release(handle);
}

// Atomics.waitAsync does not keep the event loop alive; in the daemon its servers do.
let alive: NodeJS.Timeout;
before(() => {
  alive = setInterval(() => {}, 60_000);
});
after(() => clearInterval(alive));

describe("formatTable", () => {
  it("writes a header that says where everything is", () => {
    const { memory, layout } = openTable(5, 2);
    const view = new DataView(memory);
    const u32 = (at: number): number => view.getUint32(at, true);
    assert.equal(new TextDecoder().decode(new Uint8Array(memory, 0, 8)), MAGIC);
    assert.equal(u32(HEADER.VERSION), LAYOUT_VERSION);
    assert.equal(u32(HEADER.SLOTS_AT), layout.slotsAt);
    assert.equal(u32(HEADER.CAPACITY), 5);
    assert.equal(u32(HEADER.DISPATCHERS), 2);
    assert.equal(u32(HEADER.SLOT_STRIDE), layout.slotStride);
    assert.equal(u32(HEADER.DAEMON_PID), 4242);
    assert.equal(view.getFloat64(HEADER.STARTED_AT, true), 1.5e9);
    assert.equal(u32(HEADER.LIST_HEAD), 0);
    const json = new Uint8Array(memory, u32(HEADER.JSON_AT), u32(HEADER.JSON_BYTES));
    assert.deepEqual(JSON.parse(new TextDecoder().decode(json)).slots.stride, layout.slotStride);
  });

  it("refuses memory that is too small", () => {
    const memory = new ArrayBuffer(tableLayout(5, 2).bytes - 1);
    assert.throws(() => formatTable(memory, { capacity: 5, dispatchers: 2, daemonPid: 1, startedAt: 0 }), RangeError);
  });
});

describe("HandlerTable", () => {
  it("takes every slot once, then says that it is full, and lists each slot once", () => {
    const fixture = openTable(8);
    const handles = Array.from({ length: 8 }, () => fixture.table.claim());
    assert.deepEqual(handles.map((handle) => handle?.slot).sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert.equal(fixture.table.claim(), null);
    assert.equal(fixture.words.load(HEADER.HIGH_WATER / 4), 8);
    assert.deepEqual(listed(fixture).sort(), [0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it("goes through its states, and takes no forbidden move", () => {
    const { table } = openTable(1);
    const handle = table.claim() as SlotHandle;
    assert.equal(table.state(0), STATE.CLAIMED);
    assert.throws(() => table.release(handle));
    assert.equal(table.beginRemoval(handle), "stale", "only an ACTIVE handler can be removed");
    table.activate(handle);
    assert.equal(table.state(0), STATE.ACTIVE);
    assert.throws(() => table.activate(handle));
    assert.throws(() => table.abandon(handle));
    assert.throws(() => table.release(handle));
    assert.equal(table.beginRemoval(handle), "draining");
    assert.equal(table.state(0), STATE.DRAINING);
    assert.equal(table.beginRemoval(handle), "already draining");
    table.release(handle);
    assert.equal(table.state(0), STATE.FREE);
    assert.throws(() => table.release(handle));
  });

  it("reuses a slot under a new generation, with the list unchanged and the counters at 0", () => {
    const fixture = openTable(3, 2);
    const { table, counters } = fixture;
    const handles = [0, 1, 2].map(() => addHandler(table));
    const before = listed(fixture);
    counters.countDispatch(handles[1].slot, 1, 5, 2, 0, 70, 90);
    counters.countDelivered(handles[1].slot, 3);
    counters.countLoss(handles[1].slot, 4, 1);
    counters.setQueueBytes(handles[1].slot, 99);
    // A dispatcher that is late may announce itself in a slot that is free; nobody else may take that word from it.
    setRunning(fixture, handles[1].slot, 1, 1);
    table.beginRemoval(handles[1]);
    table.release(handles[1]);
    const reused = table.claim() as SlotHandle;
    assert.deepEqual(reused, { slot: handles[1].slot, generation: handles[1].generation + 1 });
    assert.deepEqual(listed(fixture), before);
    assert.equal(counters.delivered(reused.slot), 0);
    assert.deepEqual(new Set(counters.losses(reused.slot)), new Set([0]));
    assert.deepEqual(new Set(Object.values(counters.dispatched(reused.slot)).flat()), new Set([0]));
    assert.equal(table.inFlight(reused), true, "running was left alone");
  });

  it("clears only the slot that it reuses", () => {
    const { table, counters } = openTable(3, 2);
    const handles = [0, 1, 2].map(() => addHandler(table));
    for (const { slot } of handles) {
      for (const d of [0, 1]) counters.countDispatch(slot, d, 5, 2, 0, 70, 90);
      counters.countDelivered(slot, 3);
    }
    remove(table, handles[1]);
    table.claim();
    for (const { slot } of [handles[0], handles[2]]) {
      assert.equal(counters.dispatched(slot).matched, 10);
      assert.equal(counters.delivered(slot), 3);
    }
  });

  it("lets a given-up registration go", () => {
    const { table } = openTable(1);
    const first = table.claim() as SlotHandle;
    table.abandon(first);
    assert.equal(table.state(0), STATE.FREE);
    assert.deepEqual(table.claim(), { slot: 0, generation: first.generation + 1 });
  });

  it("does not let a stale handle touch the slot's next owner", () => {
    const { table } = openTable(1);
    const stale = addHandler(table);
    remove(table, stale);
    assert.equal(table.beginRemoval(stale), "stale");
    const owner = addHandler(table);
    assert.equal(table.beginRemoval(stale), "stale");
    assert.throws(() => table.release(stale));
    assert.throws(() => table.abandon(stale));
    assert.throws(() => table.activate(stale));
    assert.equal(table.state(owner.slot), STATE.ACTIVE);
    table.beginRemoval(owner);
    assert.throws(() => table.release(stale));
    assert.equal(table.state(owner.slot), STATE.DRAINING);
  });

  it("wraps generations to 1, never to 0", () => {
    const { table, words, layout } = openTable(1);
    remove(table, addHandler(table));
    words.store(stateWord(layout, 0), packState(GENERATION_MAX - 1, STATE.FREE));
    const last = addHandler(table);
    assert.equal(last.generation, GENERATION_MAX);
    assert.equal(table.beginRemoval(last), "draining");
    table.release(last);
    const wrapped = addHandler(table);
    assert.equal(wrapped.generation, 1);
    assert.equal(table.beginRemoval(last), "stale");
    assert.equal(table.beginRemoval(wrapped), "draining");
  });

  it("shows its identity, cut at whole characters", () => {
    const { table, memory, layout } = openTable(2);
    const handle = table.claim() as SlotHandle;
    const text = (at: number, bytes: number): string =>
      new TextDecoder("utf-8", { fatal: true })
        .decode(new Uint8Array(memory, slotAt(layout, handle.slot) + at, bytes))
        .replace(/\0+$/, "");
    const identity = { filterFlags: 0x21, queueMaxBytes: 2 ** 20, registeredAt: 1.7e9 };
    table.describe(handle, { ...identity, name: "a".repeat(200), events: "cycles" });
    table.describe(handle, { ...identity, name: `${"a".repeat(61)}é`, events: `${"b".repeat(126)}é` });
    assert.equal(text(SLOT.NAME, 64), `${"a".repeat(61)}é`);
    assert.equal(text(SLOT.EVENTS, 128), "b".repeat(126), "the last byte stays NUL");
    const view = new DataView(memory, slotAt(layout, handle.slot));
    assert.equal(view.getUint32(SLOT.FILTER_FLAGS, true), 0x21);
    assert.equal(view.getFloat64(SLOT.QUEUE_MAX_BYTES, true), 2 ** 20);
    assert.equal(view.getFloat64(SLOT.REGISTERED_AT, true), 1.7e9);
  });

  it("keeps the event mask's 64 bits apart", () => {
    const { table, memory, layout } = openTable(1);
    const handle = table.claim() as SlotHandle;
    table.setEventMask(handle, 2 ** 31, 1);
    const view = new DataView(memory, slotAt(layout, 0) + SLOT.EVENT_MASK);
    assert.deepEqual([view.getUint32(0, true), view.getUint32(4, true)], [2 ** 31, 1]);
  });
});

describe("HandlerTable: registrars that come between one another", () => {
  it("never share a slot, lose one or break the list, wherever the second one comes in", () => {
    for (const used of [0, 1, 3]) {
      for (let at = 0; ; at++) {
        const fixture = openTable(4);
        const { table, memory, layout, doorbell, words } = fixture;
        const taken = Array.from({ length: used }, () => addHandler(table));
        if (taken.length > 0) remove(table, taken.pop() as SlotHandle);
        const kept = taken.length;
        let other: SlotHandle | null = null;
        const interrupted = new InterruptedWords(words, at, () => {
          other = table.claim();
        });
        const mine = new HandlerTable(memory, layout, doorbell, interrupted).claim();
        if (!interrupted.intruded) {
          assert.ok(at >= 3);
          break;
        }
        const claimed = [mine, other, ...taken].filter((handle) => handle !== null);
        assert.equal(new Set(claimed.map(({ slot }) => slot)).size, kept + 2, `access ${at} of ${used} used`);
        const slots = listed(fixture);
        assert.equal(new Set(slots).size, slots.length);
        assert.ok(claimed.every(({ slot }) => slots.includes(slot)));
        // What is left can still be claimed.
        while (table.claim() !== null);
        assert.equal(listed(fixture).length, 4);
      }
    }
  });
});

describe("removal", () => {
  it("waits until every dispatcher has left, and resolves when the last one rings", async () => {
    const fixture = openTable(2, 3);
    const { table, doorbell } = fixture;
    const handle = addHandler(table);
    setRunning(fixture, handle.slot, 0, 1);
    setRunning(fixture, handle.slot, 2, 1);
    assert.equal(table.beginRemoval(handle), "draining");
    let drained = false;
    const waiting = table
      .awaitDrained(handle, Number.POSITIVE_INFINITY, () => 0)
      .then((answer) => {
        drained = true;
        return answer;
      });
    setRunning(fixture, handle.slot, 0, 0);
    doorbell.ring();
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(drained, false, "dispatcher 2 is still inside");
    setRunning(fixture, handle.slot, 2, 0);
    doorbell.ring();
    assert.equal(await waiting, true);
  });

  it("does not wait for dispatchers that are inside other handlers", async () => {
    const fixture = openTable(2);
    const [handle, other] = [addHandler(fixture.table), addHandler(fixture.table)];
    setRunning(fixture, other.slot, 0, 1);
    fixture.table.beginRemoval(handle);
    assert.equal(await fixture.table.awaitDrained(handle, DEADLINE_MS, () => 0), true);
  });

  it("says when the deadline passes first, and can be taken up again", async () => {
    const fixture = openTable(1);
    const handle = addHandler(fixture.table);
    setRunning(fixture, handle.slot, 0, 1);
    fixture.table.beginRemoval(handle);
    let nowMs = 0;
    const clock = (): number => {
      nowMs += 4;
      return nowMs;
    };
    assert.equal(await fixture.table.awaitDrained(handle, 10, clock), false);
    assert.equal(fixture.table.state(handle.slot), STATE.DRAINING);
    setRunning(fixture, handle.slot, 0, 0);
    assert.equal(await fixture.table.awaitDrained(handle, 0, clock), true, "looks before it gives up");
  });

  it("does not miss a bell that rings right behind its look", { timeout: 10_000 }, async () => {
    const fixture = openTable(1);
    const { table, memory, layout, words, doorbell } = fixture;
    const handle = addHandler(table);
    setRunning(fixture, handle.slot, 0, 1);
    table.beginRemoval(handle);
    const leaving: SharedWords = {
      load: (index) => {
        const seen = words.load(index);
        if (index === (dispatcherAt(layout, handle.slot, 0) + DISPATCHER.RUNNING) / 4 && seen === 1) {
          // The look has seen the dispatcher inside, and now it leaves.
          setRunning(fixture, handle.slot, 0, 0);
          doorbell.ring();
        }
        return seen;
      },
      peek: (index) => words.peek(index),
      store: (index, value) => words.store(index, value),
      compareExchange: (...exchange) => words.compareExchange(...exchange),
    };
    const waiter = new HandlerTable(memory, layout, doorbell, leaving);
    assert.equal(await waiter.awaitDrained(handle, Number.POSITIVE_INFINITY, () => 0), true);
  });

  it("wakes when a dispatcher that died is buried, which says where it was", async () => {
    const fixture = openTable(4, 2);
    const { table, words, layout } = fixture;
    const handles = [0, 1, 2].map(() => addHandler(table));
    setRunning(fixture, handles[0].slot, 1, 1);
    setRunning(fixture, handles[1].slot, 0, 1);
    setRunning(fixture, handles[2].slot, 1, 1);
    table.beginRemoval(handles[0]);
    const waiting = table.awaitDrained(handles[0], Number.POSITIVE_INFINITY, () => 0);
    assert.deepEqual(table.bury(1).sort(), [handles[0].slot, handles[2].slot].sort());
    assert.equal(await waiting, true);
    assert.equal(
      words.load((dispatcherAt(layout, handles[1].slot, 0) + DISPATCHER.RUNNING) / 4),
      1,
      "the other one lives",
    );
    assert.deepEqual(table.bury(1), []);
  });
});
