import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { fill, LARGE, openDelivery, PERIOD } from "./delivery.test-support.js";

describe("HandlerDelivery: finish", () => {
  it("writes what is left, then the end with the final books, then ends the stream", async () => {
    const fixture = openDelivery({ flushIntervalMs: 60_000 });
    const stream = fixture.attach();
    stream.releaseAll();
    fixture.dispatchers[0].put(1);
    fixture.delivery.wake();
    stream.releaseAll();
    fixture.dispatchers[0].put(2);
    const finished = fixture.delivery.finish("SOURCE_ENDED", null);
    stream.releaseAll();
    assert.equal(stream.ended, true);
    assert.deepEqual(stream.story, ["started 0", "samples 0+1", "samples 1+2", "end SOURCE_ENDED 3=3+0"]);
    const books = await finished;
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [3, 3, 0, 3]);
    assert.equal(fixture.delivery.subscribed, false);
  });

  it("tells losses that never found room in the outbox before the end", async () => {
    const fixture = openDelivery();
    const found = fill(fixture) * LARGE;
    const stream = fixture.attach();
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    stream.releaseAll();
    assert.deepEqual(stream.story, [
      "started 0",
      `samples 0+${found}`,
      `loss QUEUE_FULL ${LARGE}`,
      `end DEREGISTERED ${found + LARGE}=${found}+${LARGE}`,
    ]);
    const books = await finished;
    assert.equal(books.sequence, found + LARGE);
    assert.deepEqual(books.events, [
      {
        matched: found + LARGE,
        delivered: found,
        lost: LARGE,
        periodMatched: (found + LARGE) * PERIOD,
        periodDelivered: found * PERIOD,
        periodLost: LARGE * PERIOD,
        periodCarried: 0,
      },
    ]);
  });

  it("without a stream loses the rest for the reason given", async () => {
    for (const [reason, expected] of [
      [null, "DISCARDED"],
      ["LEASE_EXPIRED", "LEASE_EXPIRED"],
    ] as const) {
      const fixture = openDelivery();
      fill(fixture);
      const books = await fixture.delivery.finish("DEREGISTERED", reason);
      assert.equal(books.delivered, 0);
      assert.equal(books.matched, books.lost);
      assert.equal(books.sequence, books.matched);
      assert.deepEqual(
        books.losses.map((loss) => loss.reason),
        ["QUEUE_FULL", expected],
      );
    }
  });

  it("with a discard tells the loss instead of the samples", async () => {
    const fixture = openDelivery();
    const stream = fixture.attach();
    stream.release();
    fixture.dispatchers[0].put(5);
    const finished = fixture.delivery.finish("DEREGISTERED", "DISCARDED");
    stream.releaseAll();
    assert.deepEqual(stream.story, ["started 0", "loss DISCARDED 5", "end DEREGISTERED 5=0+5"]);
    assert.equal((await finished).sequence, 5);
  });

  it("waits for a stuck reader until a discard gives it up", async () => {
    const fixture = openDelivery();
    fixture.dispatchers[0].put(3);
    const stream = fixture.attach();
    stream.release();
    fixture.dispatchers[0].put(4);
    let done = false;
    const finished = fixture.delivery.finish("DEREGISTERED", null).then((books) => {
      done = true;
      return books;
    });
    await new Promise(setImmediate);
    assert.equal(done, false);
    fixture.delivery.discard("SHUTDOWN");
    const books = await finished;
    assert.equal(stream.aborted, true);
    assert.equal(stream.ended, false);
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [7, 0, 7, 7]);
    assert.deepEqual(books.losses, [
      { reason: "STREAM_BROKEN", count: 3 },
      { reason: "SHUTDOWN", count: 4 },
    ]);
  });

  it("may be cut short before it begins", async () => {
    const fixture = openDelivery();
    fixture.dispatchers[0].put(3);
    fixture.attach();
    fixture.delivery.discard("DISCARDED");
    fixture.dispatchers[0].put(2);
    const books = await fixture.delivery.finish("DEREGISTERED", null);
    assert.deepEqual([books.matched, books.delivered, books.lost, books.sequence], [5, 0, 5, 5]);
  });
});
