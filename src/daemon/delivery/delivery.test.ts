import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { LOSS_REASONS } from "../../registry/layout.js";
import { fill, LARGE, openDelivery, PERIOD, range, times } from "./delivery.test-support.js";

describe("HandlerDelivery", () => {
  it("says started first, then samples in order, numbered from 0, one write at a time", () => {
    const fixture = openDelivery();
    const { delivery, dispatchers } = fixture;
    dispatchers[0].put(3);
    const stream = fixture.attach();
    assert.deepEqual(stream.story, ["started 0"]);
    dispatchers[0].put(2);
    delivery.wake();
    assert.equal(stream.messages.length, 1, "the transport has not taken the first message");
    stream.releaseAll();
    dispatchers[0].put(4);
    delivery.wake();
    assert.deepEqual(stream.story, ["started 0", "samples 0+5", "samples 5+4"]);
    stream.release();
    assert.deepEqual(times(stream), range(0, 9));
    assert.equal(delivery.books().delivered, 9);
  });

  it("keeps a stream busy with as many messages as it takes, while there is much, and gathers what is little", () => {
    const fixture = openDelivery({ dataBytes: 2 ** 22, writesMax: 3 });
    const { delivery, dispatchers } = fixture;
    const stream = fixture.attach();
    stream.releaseAll();
    const found = fill(fixture);
    delivery.wake();
    assert.equal(stream.messages.length, 1 + 3);
    stream.release();
    assert.equal(stream.messages.length, 1 + 4);
    assert.equal(delivery.books().delivered, stream.messages[1].samples?.time.length);
    stream.releaseAll();
    assert.deepEqual(times(stream), range(0, found * LARGE));
    dispatchers[0].put(1);
    delivery.wake();
    dispatchers[0].put(1);
    delivery.wake();
    const told = found * LARGE + LARGE;
    assert.equal(stream.story.at(-1), `loss QUEUE_FULL ${LARGE}`, "a few samples wait for what is on its way");
    stream.releaseAll();
    assert.equal(stream.story.at(-1), `samples ${told}+2`);
  });

  it("tells what was on its way when the stream broke under the numbers it had, in order", () => {
    const fixture = openDelivery({ dataBytes: 2 ** 22, writesMax: 4 });
    const first = fixture.attach();
    first.releaseAll();
    fill(fixture);
    fixture.delivery.wake();
    first.release();
    const taken =
      times(first).length - first.messages.slice(2).reduce((sum, { samples }) => sum + (samples?.time.length ?? 0), 0);
    const lost = first.messages.slice(2).map(({ samples }) => samples?.time.length);
    assert.equal(lost.length, 4);
    fixture.delivery.broken();
    assert.equal(fixture.memory.usedBytes, 0);
    const second = fixture.attach();
    second.releaseAll();
    assert.deepEqual(second.story.slice(0, 5), [
      `started ${taken}`,
      ...lost.map((count) => `loss STREAM_BROKEN ${count}`),
    ]);
    const { matched, delivered, lost: booked } = fixture.delivery.books();
    assert.equal(matched, delivered + booked + LARGE, "one loss waits in the full outbox");
  });

  it("counts as delivered only what the transport has taken", () => {
    const fixture = openDelivery();
    fixture.dispatchers[0].put(3);
    const stream = fixture.attach();
    stream.release();
    assert.equal(fixture.delivery.books().delivered, 0);
    stream.release();
    assert.equal(fixture.delivery.books().delivered, 3);
    assert.equal(fixture.counters.delivered(0), 3);
  });

  it("puts one event's samples of all dispatchers into one message, and never two events", () => {
    const fixture = openDelivery({ dispatchers: 2, events: 2 });
    const [a, b] = fixture.dispatchers;
    a.put(1, 0);
    b.put(2, 0);
    b.put(4, 1);
    a.put(8, 1);
    const stream = fixture.attach();
    stream.releaseAll();
    assert.deepEqual(
      stream.messages.map(({ samples }) => samples && [samples.event_index, samples.time.length]),
      [undefined, [0, 3], [1, 12]],
    );
  });

  it("bounds a message, however much waits", () => {
    const fixture = openDelivery({ dataBytes: 2 ** 20 });
    const entries = fill(fixture);
    const stream = fixture.attach();
    stream.releaseAll();
    assert.ok(stream.messages.length >= 3);
    for (const { samples } of stream.messages) assert.ok((samples?.time.length ?? 0) * 8 < 540 * 1024);
    assert.deepEqual(times(stream), range(0, entries * LARGE));
  });

  it("does not let one dispatcher's full outbox starve another's", () => {
    const fixture = openDelivery({ dispatchers: 2, dataBytes: 2 ** 22 });
    const [busy, quiet] = fixture.dispatchers;
    const stream = fixture.attach();
    while (busy.put(LARGE));
    quiet.put(1);
    for (let messages = 0; messages < 4; messages++) {
      stream.release();
      while (busy.put(LARGE));
    }
    assert.ok(stream.messages.some(({ samples }) => samples && samples.time.length % LARGE === 1));
  });

  it("tells losses at their place in the sequence, joined, with their times and weight", () => {
    const fixture = openDelivery();
    const [dispatcher] = fixture.dispatchers;
    const found = fill(fixture) * LARGE;
    dispatcher.put(LARGE);
    dispatcher.put(LARGE);
    const stream = fixture.attach();
    stream.releaseAll();
    dispatcher.put(2);
    fixture.delivery.wake();
    stream.releaseAll();
    assert.deepEqual(stream.story, [
      "started 0",
      `samples 0+${found}`,
      `loss QUEUE_FULL ${3 * LARGE}`,
      `samples ${found + 3 * LARGE}+2`,
    ]);
    const loss = stream.messages[2].loss;
    assert.deepEqual(
      [loss?.first_time, loss?.last_time, loss?.period],
      [found, found + 3 * LARGE - 1, 3 * LARGE * PERIOD],
    );
    assert.deepEqual(fixture.delivery.books().losses, [{ reason: "QUEUE_FULL", count: 3 * LARGE }]);
  });

  it("passes the kernel's losses on without booking them", () => {
    const fixture = openDelivery();
    fixture.delivery.eventWideLoss(0, "KERNEL", 7);
    const stream = fixture.attach();
    fixture.delivery.eventWideLoss(0, "KERNEL", 9);
    fixture.dispatchers[0].put(1);
    stream.releaseAll();
    // What came while nobody listened is told too.
    assert.deepEqual(stream.story, ["started 0", "loss KERNEL 16", "samples 0+1"]);
    assert.equal(fixture.delivery.books().lost, 0);
  });
});

describe("HandlerDelivery: flush interval", () => {
  it("sends the first samples at once, and lets the next ones wait for company", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const fixture = openDelivery({ flushIntervalMs: 100 });
    const { delivery, dispatchers, clock } = fixture;
    const stream = fixture.attach();
    stream.release();
    dispatchers[0].put(1);
    delivery.wake();
    stream.release();
    dispatchers[0].put(2);
    delivery.wake();
    clock.nowNs += 20e6;
    dispatchers[0].put(3);
    delivery.wake();
    assert.deepEqual(stream.story, ["started 0", "samples 0+1"]);
    clock.nowNs += 80e6;
    t.mock.timers.tick(100);
    assert.deepEqual(stream.story, ["started 0", "samples 0+1", "samples 1+5"]);
  });

  it("does not wait when much is there, nor when the outbox would overflow meanwhile", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    for (const dispatchers of [1, 4]) {
      const fixture = openDelivery({ flushIntervalMs: 60_000, dispatchers });
      const stream = fixture.attach();
      stream.release();
      fixture.dispatchers[0].put(1);
      fixture.delivery.wake();
      stream.release();
      for (let i = 0; i < 100; i++) {
        assert.ok(
          fixture.dispatchers[0].put(LARGE),
          `lost with ${dispatchers} dispatchers, though the reader is quick`,
        );
        fixture.delivery.wake();
        stream.releaseAll();
      }
      stream.releaseAll();
      assert.equal(fixture.delivery.books().lost, 0);
    }
  });
});

describe("HandlerDelivery: overflow", () => {
  it("DROP_OLDEST makes room for what comes, and says so", () => {
    const fixture = openDelivery({ overflow: "DROP_OLDEST" });
    const stream = fixture.attach();
    for (let i = 0; i < 40; i++) {
      assert.ok(fixture.dispatchers[0].put(LARGE));
      fixture.delivery.wake();
    }
    stream.releaseAll();
    const arrived = times(stream);
    assert.equal(arrived.at(-1), 40 * LARGE - 1, "the newest arrived");
    const { loss } = stream.messages[1];
    assert.equal(loss?.reason, "QUEUE_DROPPED_OLDEST");
    assert.deepEqual([loss?.first_time, loss?.last_time], [0, arrived[0] - 1]);
    assert.deepEqual(arrived, range(arrived[0], 40 * LARGE));
    assert.equal(stream.messages.filter((message) => message.loss).length, 1, "one message for all that was dropped");
    assert.equal(fixture.counters.losses(0)[LOSS_REASONS.indexOf("QUEUE_DROPPED_OLDEST")], arrived[0]);
  });

  it("DROP_OLDEST tells of samples that nobody looked at, also where it drops", () => {
    const fixture = openDelivery({ overflow: "DROP_OLDEST" });
    const [dispatcher] = fixture.dispatchers;
    const stream = fixture.attach();
    dispatcher.gap(9);
    while (dispatcher.put(LARGE));
    fixture.delivery.wake();
    stream.releaseAll();
    assert.ok(stream.story.includes("loss DISPATCHER_DIED 9"), stream.story.join());
  });

  it("tells of samples that nobody looked at once there is room, or at the end", async () => {
    const fixture = openDelivery();
    const [dispatcher] = fixture.dispatchers;
    while (dispatcher.put(1));
    dispatcher.gap(9);
    const stream = fixture.attach();
    stream.releaseAll();
    dispatcher.put(1);
    fixture.delivery.wake();
    stream.releaseAll();
    assert.ok(stream.story.includes("loss DISPATCHER_DIED 9"), stream.story.join());
    while (dispatcher.put(1));
    dispatcher.gap(7);
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    stream.releaseAll();
    assert.ok(stream.story.includes("loss DISPATCHER_DIED 7"), stream.story.join());
    await finished;
  });

  it("keeps the reason true however long there is no memory, and tells the loss in its place", () => {
    const fixture = openDelivery();
    const [dispatcher] = fixture.dispatchers;
    const stream = fixture.attach();
    stream.releaseAll();
    dispatcher.put(1);
    dispatcher.isShort = true;
    // More often than the outbox has entries, while the reader has not caught up.
    for (let i = 0; i < 1000; i++) assert.equal(dispatcher.put(2), false);
    dispatcher.isShort = false;
    dispatcher.put(3);
    fixture.delivery.wake();
    stream.releaseAll();
    assert.deepEqual(stream.story, ["started 0", "samples 0+1", "loss MEMORY 2000", "samples 2001+3"]);
    assert.deepEqual(fixture.delivery.books().losses, [{ reason: "MEMORY", count: 2000 }]);
  });

  it("tells a reader that has caught up of what it loses for want of memory meanwhile", () => {
    const fixture = openDelivery();
    const [dispatcher] = fixture.dispatchers;
    const stream = fixture.attach();
    stream.releaseAll();
    dispatcher.isShort = true;
    for (let i = 0; i < 3; i++) {
      dispatcher.put(2);
      fixture.delivery.wake();
      stream.releaseAll();
    }
    assert.deepEqual(stream.story, ["started 0", "loss MEMORY 2", "loss MEMORY 2"], "the last one waits");
  });

  it("DISCONNECT asks once to be removed, DROP_NEWEST never", () => {
    for (const overflow of ["DISCONNECT", "DROP_NEWEST"] as const) {
      const fixture = openDelivery({ overflow });
      fixture.attach();
      fill(fixture, 100);
      fixture.delivery.wake();
      fixture.delivery.wake();
      assert.equal(fixture.overflows(), overflow === "DISCONNECT" ? 1 : 0);
    }
  });
});
