import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { LOSS_REASONS } from "../../registry/layout.js";
import { type DeliveryFixture, type HeldStream, openDelivery, PERIOD } from "./delivery.test-support.js";

const LARGE = 1500; // samples of 8 bytes: four of these chunks fill more than half of the smallest region

/** The times of all samples that were written, in order. */
function times(stream: HeldStream): number[] {
  return stream.messages.flatMap(({ samples }) => samples?.time ?? []);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

function fill({ dispatchers }: DeliveryFixture, samples = LARGE): number {
  let entries = 0;
  while (dispatchers[0].put(samples)) entries++;
  return entries;
}

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
    // Two entries tell of losses by now, and one loss has found no room for an entry.
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
      `loss QUEUE_FULL ${2 * LARGE}`,
      `loss QUEUE_FULL ${LARGE}`,
      `samples ${found + 3 * LARGE}+2`,
    ]);
    const loss = stream.messages[2].loss;
    assert.deepEqual(
      [loss?.first_time, loss?.last_time, loss?.period],
      [found, found + 2 * LARGE - 1, 2 * LARGE * PERIOD],
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
