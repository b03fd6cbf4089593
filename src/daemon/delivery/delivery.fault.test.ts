/** A stream that throws: whichever way delivery is entered, it is that stream's fault alone. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type DeliveryFixture, FaultyStream, openDelivery } from "./delivery.test-support.js";

interface Entered {
  readonly fixture: DeliveryFixture;
  readonly stream: FaultyStream;
}

/** A stream that has taken `started`, and three samples that are on their way when `onItsWay`. */
function open(options: { readonly flushIntervalMs?: number; readonly onItsWay?: boolean } = {}): Entered {
  const fixture = openDelivery({ flushIntervalMs: options.flushIntervalMs });
  const stream = fixture.attach(new FaultyStream());
  stream.release();
  if (options.onItsWay) {
    fixture.dispatchers[0].put(3);
    fixture.delivery.wake();
  }
  return { fixture, stream };
}

/** The stream is broken and has been reported once; the handler has all its books, and serves the next stream. */
async function checkBroken({ fixture, stream }: Entered, matched: number): Promise<void> {
  const { delivery, faults, memory } = fixture;
  assert.deepEqual(
    faults.map(({ message }) => message),
    ["write has failed"],
  );
  assert.equal(delivery.subscribed, false);
  assert.equal(stream.aborted, true);
  assert.equal(memory.usedBytes, 0);
  stream.releaseAll();
  const next = fixture.attach();
  next.releaseAll();
  fixture.dispatchers[0].put(2);
  const finished = delivery.finish("DEREGISTERED", null);
  next.releaseAll();
  assert.equal(next.ended, true);
  const books = await finished;
  assert.equal(books.matched, matched + 2);
  assert.equal(books.matched, books.delivered + books.lost);
  assert.equal(books.sequence, books.matched);
  for (const { reason } of books.losses) assert.ok(["STREAM_BROKEN", "DISPATCHER_DIED"].includes(reason), reason);
}

describe("HandlerDelivery: a stream that throws", () => {
  it("as it is attached", async () => {
    const fixture = openDelivery();
    const stream = new FaultyStream();
    stream.failing = "write";
    fixture.attach(stream);
    await checkBroken({ fixture, stream }, 0);
  });

  it("when a dispatcher has left something: what was to be written is lost as STREAM_BROKEN", async () => {
    const entered = open();
    entered.stream.failing = "write";
    entered.fixture.dispatchers[0].put(3);
    entered.fixture.delivery.wake();
    assert.deepEqual(entered.fixture.delivery.books().losses, [{ reason: "STREAM_BROKEN", count: 3 }]);
    await checkBroken(entered, 3);
  });

  it("in the callback of a write: what that one took is delivered", async () => {
    const entered = open({ onItsWay: true });
    const { fixture, stream } = entered;
    fixture.dispatchers[0].put(4);
    stream.failing = "write";
    stream.release();
    const { delivered, losses } = fixture.delivery.books();
    assert.equal(delivered, 3);
    assert.deepEqual(losses, [{ reason: "STREAM_BROKEN", count: 4 }]);
    await checkBroken(entered, 7);
  });

  it("when its samples have waited long enough", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const entered = open({ flushIntervalMs: 100, onItsWay: true });
    const { fixture, stream } = entered;
    stream.release();
    fixture.dispatchers[0].put(4);
    fixture.delivery.wake();
    stream.failing = "write";
    fixture.clock.nowNs += 100e6;
    t.mock.timers.tick(100);
    await checkBroken(entered, 7);
  });

  it("when the kernel has lost samples: the next stream is told", async () => {
    const entered = open();
    entered.stream.failing = "write";
    entered.fixture.delivery.eventWideLoss(0, "KERNEL", 9);
    entered.stream.failing = null;
    const next = entered.fixture.attach();
    next.releaseAll();
    assert.deepEqual(next.story, ["started 0", "loss KERNEL 9"]);
    entered.fixture.delivery.broken();
    await checkBroken(entered, 0);
  });

  it("when a dispatcher has died", async () => {
    const entered = open();
    entered.stream.failing = "write";
    entered.fixture.dispatchers[0].die(5);
    entered.fixture.delivery.abandoned(0);
    await checkBroken(entered, 5);
  });

  it("when the handler is finished: the books are final all the same", async () => {
    const { fixture, stream } = open();
    fixture.dispatchers[0].put(5);
    stream.failing = "write";
    const books = await fixture.delivery.finish("DEREGISTERED", null);
    assert.deepEqual(books.losses, [{ reason: "STREAM_BROKEN", count: 5 }]);
    assert.equal(fixture.faults.length, 1);
  });

  it("when it is ended: the books are final, and everything was delivered", async () => {
    const { fixture, stream } = open({ onItsWay: true });
    stream.failing = "end";
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    stream.releaseAll();
    const books = await finished;
    assert.deepEqual([books.matched, books.delivered, books.lost], [3, 3, 0]);
    assert.deepEqual(
      fixture.faults.map(({ message }) => message),
      ["end has failed"],
    );
  });

  it("when it is cut off: the books are final", async () => {
    const { fixture, stream } = open({ onItsWay: true });
    stream.failsAbort = true;
    const finished = fixture.delivery.finish("DEREGISTERED", null);
    fixture.delivery.discard("SHUTDOWN");
    const books = await finished;
    assert.deepEqual(books.losses, [{ reason: "STREAM_BROKEN", count: 3 }]);
    assert.equal(fixture.faults.length, 1);
  });

  it("and fails to be cut off too: the first reason is told", async () => {
    const entered = open();
    entered.stream.failing = "write";
    entered.stream.failsAbort = true;
    entered.fixture.dispatchers[0].put(3);
    entered.fixture.delivery.wake();
    await checkBroken(entered, 3);
  });
});
