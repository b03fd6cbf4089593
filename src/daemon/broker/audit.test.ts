import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { Books, EventBooks } from "../delivery/books.js";
import { BooksAudit, type EventAccount } from "./audit.js";

function setUp(): { audit: BooksAudit; reports: { message: string; fields: Record<string, unknown> }[] } {
  const reports: { message: string; fields: Record<string, unknown> }[] = [];
  return { audit: new BooksAudit((message, fields) => reports.push({ message, fields })), reports };
}

const EVENT: EventAccount = { name: "cycles", produced: 10, drained: 7, lost: 3 };

const EVENT_BOOKS: EventBooks = {
  matched: 10,
  delivered: 7,
  lost: 3,
  periodMatched: 1000,
  periodDelivered: 700,
  periodLost: 300,
  periodCarried: 50,
};

function books(change: Partial<Books> = {}, event: Partial<EventBooks> = {}): Books {
  return {
    matched: 10,
    delivered: 7,
    lost: 3,
    losses: [
      { reason: "QUEUE_FULL", count: 2 },
      { reason: "DISCARDED", count: 1 },
    ],
    events: [{ ...EVENT_BOOKS, ...event }],
    sequence: 10,
    ...change,
  };
}

describe("BooksAudit", () => {
  it("is content with books that balance", () => {
    const { audit, reports } = setUp();
    audit.checkEvent(EVENT);
    audit.checkEvent({ ...EVENT, produced: 7, lost: 0 });
    audit.checkHandler(1, "a", books());
    assert.deepEqual([audit.total, reports], [0, []]);
  });

  it("finds an event's sample that was dropped, or counted twice, on the way through the rings", () => {
    const { audit, reports } = setUp();
    audit.checkEvent({ ...EVENT, drained: 6 });
    audit.checkEvent({ ...EVENT, drained: 8 });
    audit.checkEvent({ ...EVENT, lost: null });
    assert.deepEqual(audit.unbalanced, { event: 3, handler: 0 });
    assert.deepEqual(reports[0], {
      message: "books of an event do not balance",
      fields: { event: "cycles", produced: 10, drained: 6, lost: 3 },
    });
  });

  it("has nothing to compare with where nobody counts what is made", () => {
    const { audit } = setUp();
    audit.checkEvent({ ...EVENT, produced: null });
    assert.equal(audit.total, 0);
  });

  const wrong: readonly [string, Books, RegExp][] = [
    ["delivered less", books({ delivered: 6 }), /^matched = delivered \+ lost: 10 != 9$/],
    ["numbered more", books({ sequence: 11 }), /^last sequence number = matched: 11 != 10$/],
    ["a loss without a reason", books({ losses: [] }), /^losses by reason = lost: 0 != 3$/],
    ["an event's own", books({}, { lost: 2 }), /^event 0: matched = delivered \+ lost: 10 != 9$/],
    ["weight", books({}, { periodLost: 299 }), /^event 0: period matched = delivered \+ lost: 1000 != 999$/],
  ];
  for (const [what, unbalanced, problem] of wrong) {
    it(`finds a handler's books that do not balance: ${what}`, () => {
      const { audit, reports } = setUp();
      audit.checkHandler(7, "a", unbalanced);
      audit.checkHandler(8, "b", books());
      assert.deepEqual(audit.unbalanced, { event: 0, handler: 1 });
      const [{ message, fields }] = reports;
      assert.equal(message, "books of a handler do not balance");
      assert.deepEqual([fields.handler, fields.name], [7, "a"]);
      const [only, ...more] = fields.problems as string[];
      assert.match(only, problem);
      assert.deepEqual(more, []);
    });
  }

  it("does not take the rounding of very large weights for a mistake", () => {
    const { audit } = setUp();
    audit.checkHandler(1, "a", books({}, { periodMatched: 2 ** 53 + 2, periodDelivered: 2 ** 53, periodLost: 0 }));
    assert.equal(audit.total, 0);
  });
});
