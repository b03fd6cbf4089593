import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate } from "node:timers/promises";
import { type DeliveryFixture, type FixtureOptions, openDelivery } from "./delivery.test-support.js";
import type { WireMessage } from "./message.js";

/** Delivery { tasks { snapshot, snapshot_complete } } */
function snapshotMessage(isComplete: boolean): Buffer {
  return Buffer.from(isComplete ? [0x1a, 4, 0x08, 1, 0x10, 1] : [0x1a, 2, 0x08, 1]);
}

/** Tasks { records { pid } }, as dispatchers put them into segments. */
const ROW = Uint8Array.from([0x1a, 2, 0x10, 7]);

/** A snapshot that gives its messages when it is told to. */
class HeldSnapshot implements AsyncIterator<WireMessage> {
  made = 0;
  returned = false;
  #give: ((result: IteratorResult<WireMessage>) => void) | null = null;

  next(): Promise<IteratorResult<WireMessage>> {
    return new Promise((resolve) => {
      this.#give = resolve;
    });
  }

  async give(isComplete: boolean): Promise<void> {
    this.#give?.({ done: false, value: snapshotMessage(isComplete) });
    await setImmediate();
    if (!isComplete) return;
    this.#give?.({ done: true, value: undefined });
    await setImmediate();
  }

  async return(): Promise<IteratorResult<WireMessage>> {
    this.returned = true;
    return { done: true, value: undefined };
  }
}

function setUp(options: FixtureOptions = {}): DeliveryFixture & { readonly snapshots: HeldSnapshot[] } {
  const snapshots: HeldSnapshot[] = [];
  const snapshot = (): HeldSnapshot => {
    snapshots.push(new HeldSnapshot());
    return snapshots[snapshots.length - 1];
  };
  return { ...openDelivery({ writesMax: 8, ...options, snapshot }), snapshots };
}

describe("HandlerDelivery: tasks", () => {
  it("writes a snapshot before anything that waits, and what waits in its order behind it", async () => {
    const { delivery, dispatchers, snapshots, attach } = setUp();
    const [dispatcher] = dispatchers;
    dispatcher.postTasks(ROW, 1);
    dispatcher.put(2);
    dispatcher.postTasks(ROW, 1);
    dispatcher.put(1);
    const stream = attach();
    await snapshots[0].give(false);
    delivery.wake();
    assert.deepEqual(
      stream.messages.map((message) => message.delivery),
      ["started", "tasks"],
    );
    await snapshots[0].give(true);
    assert.deepEqual(
      stream.messages.map(({ delivery: kind, tasks }) => [kind, tasks?.snapshot, tasks?.snapshot_complete]),
      [
        ["started", undefined, undefined],
        ["tasks", true, false],
        ["tasks", true, true],
      ],
    );
    stream.releaseAll();
    assert.deepEqual(
      stream.messages.slice(3).map((message) => message.delivery),
      ["tasks", "samples", "tasks", "samples"],
    );
    const { snapshot, records } = stream.messages[3].tasks ?? { records: [] };
    assert.deepEqual([snapshot, records.map(({ pid }) => pid)], [false, [7]]);
    assert.equal(delivery.books().matched, 3);
  });

  it("makes another snapshot for another stream, and gives up that of one that broke", async () => {
    const { delivery, snapshots, attach } = setUp();
    attach();
    delivery.broken();
    assert.ok(snapshots[0].returned);
    const stream = attach();
    await snapshots[1].give(true);
    assert.deepEqual(stream.messages.at(-1)?.tasks?.snapshot_complete, true);
  });

  it("tells of lost task records, and makes up for them, but not all the time", async () => {
    const { delivery, dispatchers, snapshots, clock, attach } = setUp();
    const stream = attach();
    await snapshots[0].give(true);
    delivery.tasksLost(3);
    dispatchers[0].loseTasks(2);
    delivery.wake();
    stream.releaseAll();
    const losses = stream.messages.flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
    assert.deepEqual(
      losses.map(({ tasks, reason, count, event_wide }) => [tasks, reason, count, event_wide]),
      [
        [3, "KERNEL", 0, true],
        [2, "QUEUE_FULL", 0, true],
      ],
    );
    assert.equal(snapshots.length, 1);
    clock.nowNs += 5e9;
    delivery.wake();
    assert.equal(snapshots.length, 2);
    await snapshots[1].give(true);
    assert.equal(stream.messages.at(-1)?.tasks?.snapshot_complete, true);
    assert.equal(delivery.books().lost, 0, "in no books");
  });

  it("counts task records that make room for newer ones as lost, and drops none of the books' samples for them", async () => {
    const { delivery, dispatchers, snapshots, attach } = setUp({ overflow: "DROP_OLDEST" });
    const large = new Uint8Array(8000).fill(0);
    for (let i = 0; i < 7; i++) dispatchers[0].postTasks(large, 5);
    delivery.wake();
    const stream = attach();
    await snapshots[0].give(true);
    const [loss] = stream.messages.flatMap((message) => message.loss ?? []);
    assert.ok(loss.tasks > 0 && loss.tasks % 5 === 0);
    assert.equal(loss.reason, "QUEUE_DROPPED_OLDEST");
  });

  it("ends a stream in the middle of a snapshot only when that is done, or the rest is discarded", async () => {
    const patient = setUp();
    const stream = patient.attach();
    const finished = patient.delivery.finish("DEREGISTERED", null);
    await patient.snapshots[0].give(true);
    stream.releaseAll();
    assert.equal((await finished).matched, 0);
    assert.equal(stream.messages.at(-1)?.delivery, "end");
    const cut = setUp();
    const other = cut.attach();
    other.releaseAll();
    const done = cut.delivery.finish("DEREGISTERED", "DISCARDED");
    other.releaseAll();
    await done;
    assert.ok(cut.snapshots[0].returned);
  });
});
