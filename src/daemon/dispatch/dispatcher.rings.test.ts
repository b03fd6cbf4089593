/** Rings that come and go while others are drained. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { format, numbered, openDispatcher, TestRing, write } from "./dispatcher.test-support.js";

const RING_BYTES = 65_536;

describe("Dispatcher: rings at run time", () => {
  it("drains a ring that is added, in lanes that were there before, and leaves the others alone", () => {
    const fixture = openDispatcher();
    const { dispatcher, rings } = fixture;
    dispatcher.addFormats(0, [format([1, 2])]);
    const handler = fixture.add({ events: [{ period: 10 }] });
    write(fixture, numbered(1, { period: 4 }));
    dispatcher.drain();
    const added = new TestRing(7, RING_BYTES);
    dispatcher.addRing(3, added);
    (rings as TestRing[]).push(added);
    write(fixture, numbered(2, { id: 2, period: 4, cpu: 7 }), undefined, 1);
    dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), [], "no ring has counted ten");
    assert.equal(handler.reader.carried(0), 12);
    write(fixture, numbered(1, { id: 2, period: 4, cpu: 7 }), undefined, 1);
    dispatcher.drain();
    const [batch] = handler.take();
    assert.deepEqual(batch.cpu, [7]);
    assert.equal(handler.reader.periodMatched(0) + handler.reader.carried(0), 16);
    assert.equal(handler.reader.carried(0), 4, "what the other ring carries");
  });

  it("looks at a removed ring no more, and carries its weight on until its CPU is back", () => {
    const fixture = openDispatcher([0, 1]);
    const { dispatcher, rings } = fixture;
    dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add({ events: [{ period: 10 }] });
    const sum = (): number => handler.reader.periodMatched(0) + handler.reader.carried(0);
    write(fixture, numbered(1, { period: 7, cpu: 1 }), undefined, 1);
    dispatcher.drain();
    dispatcher.removeRing(1);
    write(fixture, numbered(1, { period: 5, cpu: 1 }), undefined, 1);
    write(fixture, numbered(1, { period: 1 }));
    dispatcher.drain();
    assert.equal(rings[1].reader.tail < rings[1].reader.loadHead(), true, "not drained");
    assert.equal(sum(), 8);
    dispatcher.addRing(1, new TestRing(1, RING_BYTES));
    dispatcher.removeRing(1);
    dispatcher.addRing(1, rings[1]);
    dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), [1]);
    assert.equal(sum(), 13);
    assert.equal(handler.reader.carried(0), 1);
  });
});
