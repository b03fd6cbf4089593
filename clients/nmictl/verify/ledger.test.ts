import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { End, Loss, SampleBatch, Started } from "../../typescript/index.js";
import { lossMessage, resolvedEvent, sampleBatch, startedMessage } from "../../typescript/messages.test-support.js";
import { type DaemonBooks, StreamLedger, sumOf } from "./ledger.js";

const PERIOD = 2n ** 33n + 7n;

function started(nextSequence = 0): Started {
  return startedMessage({
    events: [
      resolvedEvent({ name: "cycles", type: 0, periodUnit: "events" }),
      resolvedEvent({ name: "cpu-clock", leaderIndex: 1 }),
    ],
    nextSequence,
    resumed: nextSequence > 0,
    source: "synthetic",
  });
}

function samples(sequence: number, length: number, eventIndex = 0): SampleBatch {
  const wide = new BigUint64Array(length).fill(PERIOD);
  const narrow = new Uint32Array(length);
  const columns = { time: wide, ip: wide, pid: narrow, tid: narrow, cpu: narrow, period: wide };
  return sampleBatch({ eventIndex, sequence, ...columns });
}

function loss(count: number, change: Partial<Loss> = {}): Loss {
  return lossMessage({ count, period: count * Number(PERIOD), ...change });
}

/** Of the first event: so many delivered and lost; the second one has nothing. */
function end(delivered: number, lost: number, change: Partial<End> = {}): End {
  const none = { matched: 0, delivered: 0, lost: 0, periodDelivered: 0n, periodLost: 0n, periodCarried: 0n };
  return {
    kind: "end",
    matched: delivered + lost,
    delivered,
    lost,
    reason: "DEREGISTERED",
    message: "",
    events: [
      {
        eventIndex: 0,
        matched: delivered + lost,
        delivered,
        lost,
        periodDelivered: BigInt(delivered) * PERIOD,
        periodLost: BigInt(lost) * PERIOD,
        periodCarried: 5n,
      },
      { eventIndex: 1, ...none },
    ],
    ...change,
  };
}

/** Everything that is wrong with these streams and this end. */
function problemsOf(streams: readonly (readonly (Started | SampleBatch | Loss | End)[])[], ...books: DaemonBooks[]) {
  const ledger = new StreamLedger();
  for (const stream of streams) {
    ledger.begin();
    for (const delivery of stream) ledger.take(delivery);
  }
  ledger.settle([...(ledger.end === null ? [] : [{ source: "end", ...ledger.end }]), ...books]);
  return ledger.problems;
}

describe("StreamLedger", () => {
  it("is content with a stream that adds up", () => {
    const eventWide = loss(1000, { reason: "KERNEL", eventWide: true, period: 0 });
    const stream = [started(), samples(0, 3), loss(4), eventWide, samples(7, 2), end(5, 4)];
    const table = {
      source: "the table",
      matched: 9,
      delivered: 5,
      lost: 4,
      losses: [{ reason: "QUEUE_FULL", count: 4 }],
    };
    assert.deepEqual(problemsOf([stream], table as DaemonBooks), []);
  });

  const wrong: readonly [string, Parameters<typeof problemsOf>[0], RegExp][] = [
    [
      "a sample that did not come",
      [[started(), samples(0, 3), samples(4, 2), end(6, 0)]],
      /starts? with number 4, 3 comes/,
    ],
    ["the last sample that did not come", [[started(), samples(0, 3), end(4, 0)]], /delivered, and received: 4 and 3/],
    ["a loss that was not told", [[started(), samples(0, 3), end(3, 2)]], /lost, and told as lost: 2 and 0/],
    [
      "a weight that is not the sum",
      [[started(), { ...samples(0, 1), period: new BigUint64Array(1) }, end(1, 0)]],
      /period_delivered/,
    ],
    ["lost weight that is not the sum", [[started(), loss(1, { period: 1 }), end(0, 1)]], /period_lost/],
    [
      "a column that is too short",
      [[started(), { ...samples(0, 2), cpu: new Uint32Array(1) }, end(2, 0)]],
      /column cpu holds 1 of 2/,
    ],
    [
      "matched that is not the sum",
      [[started(), samples(0, 2), end(2, 0, { matched: 3 })]],
      /matched, and delivered \+ lost: 3 and 2/,
    ],
    ["no started", [[samples(0, 1), end(1, 0)]], /started comes once, and first/],
    ["started twice", [[started(), started(), end(0, 0)]], /started comes once, and first/],
    ["something after the end", [[started(), end(0, 0), samples(0, 1)]], /samples after end/],
    ["an event that nobody asked for", [[started(), samples(0, 1, 2), end(1, 0)]], /event_index 2, of 2/],
    ["a loss of nothing", [[started(), loss(0), end(0, 0)]], /a loss of 0/],
    [
      "a first stream that begins in the middle",
      [[{ ...started(), nextSequence: 3 }, end(3, 0)]],
      /starts with number 3/,
    ],
  ];
  for (const [what, streams, problem] of wrong) {
    it(`finds ${what}`, () => {
      const problems = problemsOf(streams);
      assert.ok(
        problems.some((text) => problem.test(text)),
        problems.join("\n"),
      );
    });
  }

  it("finds the daemon's own books at odds with each other", () => {
    const stream = [started(), samples(0, 2), end(2, 0)];
    const own = { source: "Deregister", matched: 2, delivered: 2, lost: 0, lastSequence: 2 };
    assert.deepEqual(problemsOf([stream], own), []);
    assert.match(
      problemsOf([stream], { ...own, lastSequence: 3 }).join(),
      /Deregister: last_sequence, and matched: 3 and 2/,
    );
    assert.match(
      problemsOf([stream], { ...own, matched: 3, delivered: 3, lastSequence: 3 }).join(),
      /by end and by Deregister: 2 and 3/,
    );
    const events = end(2, 0).events.map((event) => ({ ...event, periodDelivered: event.periodDelivered + 1n }));
    assert.match(problemsOf([stream], { ...own, events }).join(), /events, by end and by Deregister/);
    const losses = [{ reason: "QUEUE_FULL" as const, count: 1 }];
    assert.match(problemsOf([stream], { ...own, losses }).join(), /losses by reason, and lost: 1 and 0/);
    assert.deepEqual(problemsOf([[]]), ["the daemon told no books"]);
  });

  describe("over a stream that broke", () => {
    it("knows what went by unread from the numbers", () => {
      const resumed = [started(5), samples(5, 2), end(7, 0)];
      assert.deepEqual(problemsOf([[started(), samples(0, 3)], resumed]), []);
      // Two went by; that only one of them was delivered, and none lost, does not add up.
      const short = problemsOf([
        [started(), samples(0, 3)],
        [started(5), samples(5, 2), end(6, 0)],
      ]);
      assert.match(short.join(), /matched, and the number after the last sample: 6 and 7/);
    });

    it("takes back what arrived and had to be taken for lost", () => {
      const broken = loss(2, { reason: "STREAM_BROKEN" });
      const resumed = [{ ...started(3), resumed: true }, broken, samples(5, 1), end(4, 2)];
      assert.deepEqual(problemsOf([[started(), samples(0, 3), samples(3, 2)], resumed]), []);
      // The same with a loss that is told again.
      const again = [{ ...started(3), resumed: true }, loss(2), end(3, 2)];
      assert.deepEqual(problemsOf([[started(), samples(0, 3), loss(2)], again]), []);
    });

    it("takes back all that was on its way, samples and losses", () => {
      const first = [started(), samples(0, 3), samples(3, 2), loss(4), samples(9, 1, 1), samples(10, 5)];
      const broken = (count: number, eventIndex: number): Loss => loss(count, { reason: "STREAM_BROKEN", eventIndex });
      const again = [{ ...started(3), resumed: true }, broken(2, 0), loss(4), broken(1, 1), broken(5, 0), end(3, 12)];
      const [own, other] = end(3, 11).events;
      const lostOther = { ...other, matched: 1, lost: 1, periodLost: PERIOD };
      again[again.length - 1] = end(3, 12, { events: [own, lostOther] });
      assert.deepEqual(problemsOf([first, again]), []);
      // The daemon may have learnt of the first two that they were taken.
      const later = [{ ...started(9), resumed: true }, broken(1, 1), broken(5, 0), end(5, 10)];
      const [fewer] = end(5, 9).events;
      later[later.length - 1] = end(5, 10, { events: [fewer, lostOther] });
      assert.deepEqual(problemsOf([first, later]), []);
    });

    it("takes back no more than may have been on its way, and only whole messages", () => {
      const first = [started(), samples(0, 3), samples(3, 2), loss(1), samples(6, 2), samples(8, 2)];
      for (const nextSequence of [0, 2, 4, 7, 9]) {
        const resumed = { ...started(nextSequence), resumed: true };
        const problems = problemsOf([first, [resumed, end(9, 1)]]);
        assert.match(problems.join(), new RegExp(`resumes with number ${nextSequence}, behind 10`));
      }
    });

    it("takes back nothing that a later stream has begun after", () => {
      const resumed = (nextSequence: number): Started => ({ ...started(nextSequence), resumed: true });
      const problems = problemsOf([[started(), samples(0, 3), samples(3, 2)], [resumed(5)], [resumed(3), end(5, 0)]]);
      assert.match(problems.join(), /resumes with number 3, behind 5/);
    });

    describe("that nobody resumed", () => {
      const table = (delivered: number, lost: number): DaemonBooks => ({
        source: "the table",
        matched: delivered + lost,
        delivered,
        lost,
      });

      it("cannot have brought more than was delivered, but for the last messages", () => {
        const stream = [started(), samples(0, 3), ...[3, 5, 7, 9].map((sequence) => samples(sequence, 2))];
        assert.deepEqual(problemsOf([stream], table(12, 1)), []);
        for (const delivered of [9, 7, 5, 3]) assert.deepEqual(problemsOf([stream], table(delivered, 12)), []);
        assert.match(problemsOf([stream], table(2, 9)).join(), /delivered, and received: 3 came, of 2/);
      });

      it("nor of one event, whatever an earlier stream had not been read of another", () => {
        const { events } = end(3, 2);
        const [own, other] = events;
        const unread = { ...other, matched: 9, delivered: 9, periodDelivered: 9n * PERIOD };
        const books = { ...table(12, 2), events: [own, unread] };
        const streams = [[started()], [{ ...started(9), resumed: true }, samples(9, 3), samples(12, 2)]];
        assert.deepEqual(problemsOf(streams, books), []);
      });
    });
  });
});

it("sums a column as its 64-bit elements, wherever it lies", () => {
  const column = BigUint64Array.from([2n ** 40n + 1n, 2n ** 32n - 1n, 0n, 3n]);
  assert.equal(sumOf(column), 2n ** 40n + 2n ** 32n + 3n);
  assert.equal(sumOf(column.subarray(1, 3)), 2n ** 32n - 1n);
  assert.equal(sumOf(column.subarray(0, 0)), 0n);
  // More than fits a double's 53 bits, in low words and in high ones.
  const many = new BigUint64Array(2 ** 21 + 3).fill(2n ** 63n + 2n ** 32n - 1n);
  assert.equal(sumOf(many), BigInt(many.length) * (2n ** 63n + 2n ** 32n - 1n));
});
