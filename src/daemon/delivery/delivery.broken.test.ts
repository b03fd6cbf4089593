import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { LOSS_REASONS } from "../../registry/layout.js";
import { fill, LARGE, openDelivery, PERIOD, times } from "./delivery.test-support.js";

describe("HandlerDelivery: a stream that breaks", () => {
  it("loses what was being written, tells the next stream under the same numbers, and resumes", () => {
    const fixture = openDelivery();
    const [dispatcher] = fixture.dispatchers;
    dispatcher.put(3);
    const first = fixture.attach();
    first.release();
    assert.deepEqual(first.story, ["started 0", "samples 0+3"]);
    dispatcher.put(2);
    fixture.delivery.broken();
    fixture.delivery.broken();
    assert.equal(fixture.delivery.subscribed, false);
    first.release();
    assert.equal(fixture.delivery.books().delivered, 0, "a late callback of a broken stream changes nothing");
    dispatcher.put(1);
    fixture.delivery.wake();
    assert.equal(first.messages.length, 2, "nothing goes to the broken stream");
    const second = fixture.attach();
    second.releaseAll();
    assert.deepEqual(second.story, ["started 0", "loss STREAM_BROKEN 3", "samples 3+3"]);
    assert.equal(second.messages[0].started?.resumed, true);
    assert.deepEqual(times(second), [3, 4, 5]);
    const books = fixture.delivery.books();
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [6, 3, 3, 6]);
    assert.equal(fixture.counters.losses(0)[LOSS_REASONS.indexOf("STREAM_BROKEN")], 3);
  });

  it("tells a loss again when the stream broke while it was told", () => {
    const fixture = openDelivery();
    const found = fill(fixture) * LARGE;
    const first = fixture.attach();
    first.release();
    first.release();
    fixture.dispatchers[0].put(1);
    fixture.delivery.wake();
    assert.equal(first.story.at(-1), `loss QUEUE_FULL ${LARGE}`);
    fixture.delivery.broken();
    const second = fixture.attach();
    second.releaseAll();
    assert.deepEqual(second.story, [`started ${found}`, `loss QUEUE_FULL ${LARGE}`, `samples ${found + LARGE}+1`]);
    assert.equal(fixture.delivery.books().lost, LARGE, "told twice, booked once");
  });

  it("loses nothing when it breaks between writes", () => {
    const fixture = openDelivery();
    fixture.attach().releaseAll();
    fixture.delivery.broken();
    fixture.dispatchers[0].put(4);
    const second = fixture.attach();
    second.releaseAll();
    assert.deepEqual(second.story, ["started 0", "samples 0+4"]);
  });

  it("ends the story when it breaks while the handler is being finished", async () => {
    const fixture = openDelivery();
    fixture.dispatchers[0].put(4);
    const stream = fixture.attach();
    stream.release();
    fixture.dispatchers[0].put(2);
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    fixture.delivery.broken();
    const books = await finished;
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [6, 0, 6, 6]);
    assert.deepEqual(books.losses, [
      { reason: "STREAM_BROKEN", count: 4 },
      { reason: "DISCARDED", count: 2 },
    ]);
  });

  it("has final books also when the end itself could not be written", async () => {
    const fixture = openDelivery();
    const stream = fixture.attach();
    stream.release();
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    assert.equal(stream.story.at(-1), "end DEREGISTERED 0=0+0");
    fixture.delivery.broken();
    assert.equal((await finished).matched, 0);
    assert.equal(stream.ended, false);
  });
});

describe("HandlerDelivery: a dispatcher that dies", () => {
  it("loses what it had matched and not encoded, and nothing that it had", async () => {
    const fixture = openDelivery({ dispatchers: 2 });
    const [dead, other] = fixture.dispatchers;
    dead.put(3);
    other.put(2);
    dead.die(4);
    fixture.delivery.abandoned(0);
    fixture.delivery.abandoned(0);
    dead.put(5);
    const stream = fixture.attach();
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    stream.releaseAll();
    const books = await finished;
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [14, 10, 4, 14]);
    assert.deepEqual(books.losses, [{ reason: "DISPATCHER_DIED", count: 4 }]);
    assert.equal(books.events[0].periodLost, 4 * PERIOD);
    assert.equal(fixture.counters.dispatched(0).matched, 14);
  });

  it("does not count what found the outbox full twice", async () => {
    const fixture = openDelivery();
    const found = fill(fixture) * LARGE;
    fixture.dispatchers[0].put(LARGE);
    fixture.dispatchers[0].die(7);
    fixture.delivery.abandoned(0);
    const stream = fixture.attach();
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    stream.releaseAll();
    const books = await finished;
    assert.deepEqual([books.matched, books.delivered], [found + 2 * LARGE + 7, found]);
    assert.deepEqual(books.losses, [
      { reason: "QUEUE_FULL", count: 2 * LARGE },
      { reason: "DISPATCHER_DIED", count: 7 },
    ]);
    assert.equal(fixture.counters.losses(0)[LOSS_REASONS.indexOf("QUEUE_FULL")], 2 * LARGE);
  });

  it("tells of samples that nobody looked at, outside the books and without numbers", () => {
    const fixture = openDelivery();
    fixture.dispatchers[0].gap(9);
    fixture.dispatchers[0].put(1);
    const stream = fixture.attach();
    stream.releaseAll();
    assert.deepEqual(stream.story, ["started 0", "loss DISPATCHER_DIED 9", "samples 0+1"]);
    assert.equal(stream.messages[1].loss?.event_wide, true);
    assert.equal(fixture.delivery.books().lost, 0);
  });
});
