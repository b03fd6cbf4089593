import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { LOSS_REASONS } from "../../registry/layout.js";
import { finalBooks } from "./carried-books.js";
import { fill, HeldStream, LARGE, openDelivery, PERIOD } from "./delivery.test-support.js";
import { SettledBooks, settledSequence } from "./settled-books.js";

function byReason(lost: readonly number[]): Record<string, number> {
  return Object.fromEntries(lost.flatMap((count, i) => (count > 0 ? [[LOSS_REASONS[i], count]] : [])));
}

describe("HandlerDelivery: restart", () => {
  it("writes what is left, then breaks the stream, and takes nothing along but numbers", async () => {
    const fixture = openDelivery({ flushIntervalMs: 60_000 });
    const stream = fixture.attach();
    stream.releaseAll();
    fixture.dispatchers[0].put(3);
    const suspended = fixture.delivery.suspend();
    stream.releaseAll();
    const { books, carried } = await suspended;
    assert.deepEqual(stream.story, ["started 0", "samples 0+3"]);
    assert.ok(stream.suspended && !stream.ended && !stream.aborted);
    assert.deepEqual([books.matched, books.delivered, books.lost], [3, 3, 0]);
    assert.equal(settledSequence(carried.settled), 3);
    assert.deepEqual([carried.untold, carried.gaps], [[], []]);
  });

  it("goes on with numbers, books and what was not told, and tells of the gap", async () => {
    const before = openDelivery();
    before.dispatchers[0].put(4);
    const { books, carried } = await before.delivery.suspend();
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [4, 0, 4, 4]);
    assert.deepEqual(finalBooks(carried), { ...books, events: finalBooks(carried).events });

    const after = openDelivery({ carried });
    assert.equal(after.counters.dispatched(0).matched, 4);
    assert.deepEqual(byReason(after.counters.losses(0)), { RESTART: 4 });
    after.delivery.restarted(0, 1000, 5000);
    const stream = after.attach();
    stream.releaseAll();
    after.dispatchers[0].put(2);
    after.delivery.wake();
    stream.releaseAll();
    assert.deepEqual(stream.story, ["started 0", "loss RESTART 0", "loss RESTART 4", "samples 4+2"]);
    const [, gap, loss] = stream.messages;
    assert.deepEqual([gap.loss?.event_wide, gap.loss?.first_time, gap.loss?.last_time], [true, 1000, 5000]);
    assert.equal(loss.loss?.event_wide, false);
    const finished = after.delivery.finish("DEREGISTERED", null);
    stream.releaseAll();
    const end = await finished;
    assert.deepEqual([end.matched, end.delivered, end.lost, end.sequence], [6, 2, 4, 6]);
    const [event] = end.events;
    assert.equal(event.periodMatched, 6 * PERIOD);
    assert.equal(event.periodDelivered + event.periodLost, 6 * PERIOD);
    assert.equal(after.counters.dispatched(0).matched, 6);
  });

  it("does not wait for a reader that is stuck: what it was being written is told by the next daemon", async () => {
    const fixture = openDelivery({ writesMax: 2 });
    const stream = fixture.attach();
    stream.releaseAll();
    fixture.dispatchers[0].put(2);
    fixture.delivery.wake();
    fixture.dispatchers[0].put(5);
    const suspended = fixture.delivery.suspend();
    fixture.delivery.discard("RESTART");
    const { books, carried } = await suspended;
    assert.ok(stream.aborted);
    assert.equal(books.matched, books.delivered + books.lost);
    assert.equal(settledSequence(carried.settled), 0, "the numbers of what was on its way are given again");
    assert.deepEqual(
      carried.untold.map(({ reason, count }) => [reason, count]),
      [
        ["STREAM_BROKEN", 2],
        ["STREAM_BROKEN", 5],
      ],
    );
  });

  it("keeps what dispatchers refused apart from what they queued, over a dispatcher's death, too", async () => {
    const before = openDelivery();
    const found = fill(before) * LARGE;
    const { carried } = await before.delivery.suspend();
    const after = openDelivery({ carried });
    assert.deepEqual(byReason(after.counters.losses(0)), { RESTART: found, QUEUE_FULL: LARGE });
    after.dispatchers[0].put(1);
    after.delivery.abandoned(0);
    assert.equal(after.counters.dispatched(0).matched, found + LARGE + 1);
    assert.equal(after.counters.dispatched(0).queueFull, LARGE);
  });

  it("settles what a stream has taken, message by message, and nothing else", () => {
    const settled = new SettledBooks();
    settled.begin(65_536, []);
    const fixture = openDelivery({ settled, writesMax: 2 });
    const stream = fixture.attach(new HeldStream(2));
    stream.releaseAll();
    fixture.dispatchers[0].put(2);
    fixture.delivery.wake();
    assert.equal(settledSequence(settled.events(1)), 0, "on its way");
    stream.releaseAll();
    assert.deepEqual(settled.events(1)[0].delivered, 2);
    assert.equal(settled.events(1)[0].periodDelivered, 2 * PERIOD);
    assert.equal(settled.handlerId, 65_536);
  });
});
