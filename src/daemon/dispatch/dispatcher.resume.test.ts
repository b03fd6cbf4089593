import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { ENTRY } from "../delivery/outbox.js";
import type { Dispatcher } from "./dispatcher.js";
import {
  type DispatcherFixture,
  eventStat,
  format,
  numbered,
  openDispatcher,
  type TestHandler,
  write,
} from "./dispatcher.test-support.js";
import type { FaultPoint } from "./messages.js";
import { DISPATCHER_STAT, EVENT_STAT } from "./stats.js";

class Death extends Error {}

/** What the handler is told was never looked at for it. */
function takeGaps({ reader }: TestHandler): number {
  let samples = 0;
  while (reader.peek()) {
    if (reader.entry.kind === ENTRY.GAP) samples += reader.entry.samples;
    reader.drop();
  }
  return samples;
}

/** Dies at `at` in the walk's dispatch number `nth` (from 0); the slots it was inside. */
function die(fixture: DispatcherFixture, at: FaultPoint, nth: number): number[] {
  let dispatches = 0;
  fixture.dispatcher.failAt(at, () => {
    if (dispatches++ < nth) return undefined as never;
    throw new Death();
  });
  assert.throws(() => fixture.dispatcher.drain(), Death);
  return fixture.table.bury(0);
}

describe("Dispatcher: after the death of another", () => {
  for (const at of ["entered", "matched"] as const) {
    for (const nth of [0, 1, 2]) {
      it(`offers its last batch to those it had not come to: ${at}, dispatch ${nth}`, () => {
        const fixture = openDispatcher();
        fixture.dispatcher.addFormats(0, [format([1])]);
        const handlers = [0, 1, 2].map(() => fixture.add());
        write(fixture, numbered(5));
        fixture.dispatcher.drain();
        write(fixture, numbered(7));
        const inside = die(fixture, at, nth);
        assert.equal(inside.length, 1);
        fixture.replace(inside, (dispatcher) => dispatcher.addFormats(0, [format([1])]));
        assert.equal(fixture.rings[0].reader.tail, fixture.rings[0].reader.loadHead());
        assert.equal(fixture.stats.words[DISPATCHER_STAT.OFFERING_RING], 0);
        write(fixture, numbered(1));
        fixture.dispatcher.drain();
        for (const handler of handlers) {
          const victim = inside.includes(handler.handle.slot);
          const { unaccounted } = handler.reader.abandon();
          assert.equal(unaccounted[0].samples, victim && at === "matched" ? 7 : 0);
          assert.equal(handler.reader.matched(0), victim && at === "entered" ? 6 : 13);
          const gaps = takeGaps(handler);
          assert.equal(gaps, victim && at === "entered" ? 7 : 0, "no sample is left out without a word");
        }
      });
    }
  }

  it("encodes anew for those who were not offered the batch, and nobody is given a sample twice", () => {
    const fixture = openDispatcher([0], 2 ** 20);
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handlers = [0, 1, 2, 3].map(() => fixture.add());
    write(fixture, numbered(1));
    fixture.dispatcher.drain();
    for (const handler of handlers) handler.takeTimes();
    const batch = numbered(1000);
    write(fixture, batch);
    const inside = die(fixture, "matched", 2);
    fixture.replace(inside, (dispatcher) => dispatcher.addFormats(0, [format([1])]));
    for (const handler of handlers.filter(({ handle }) => !inside.includes(handle.slot))) {
      const chunks = handler.take();
      assert.ok(chunks.length > 1);
      assert.deepEqual(
        chunks.flatMap(({ time }) => time),
        batch.map(({ time }) => time),
      );
    }
    write(fixture, numbered(1));
    fixture.dispatcher.drain();
    assert.equal(fixture.segments.use().usedBytes, 128, "and the dead one's segments are free");
  });

  it("counts a batch once that its predecessor had counted, and what its scan tells", () => {
    const fixture = openDispatcher();
    const prepare = (dispatcher: Dispatcher): void => dispatcher.addFormats(0, [format([1])]);
    prepare(fixture.dispatcher);
    const handler = fixture.add();
    const { writer } = fixture.rings[0];
    writer.countLost(3);
    assert.ok(writer.settleLost(1n, 1, 0));
    write(fixture, [...numbered(5), { id: 77 }]);
    fixture.dispatcher.failAt("counted", () => {
      throw new Death();
    });
    assert.throws(() => fixture.dispatcher.drain(), Death);
    fixture.replace(fixture.table.bury(0), prepare);
    const { words } = fixture.stats;
    assert.deepEqual([words[DISPATCHER_STAT.SAMPLES], words[DISPATCHER_STAT.STRAY_SAMPLES]], [5, 1]);
    assert.equal(words[DISPATCHER_STAT.LOST_RECORDS], 3);
    assert.equal(eventStat(fixture, 0, EVENT_STAT.SAMPLES), 5);
    assert.equal(handler.takeTimes().length, 5);
    write(fixture, numbered(2));
    fixture.dispatcher.drain();
    assert.equal(words[DISPATCHER_STAT.SAMPLES], 7);
  });

  it("has nothing to go on from when that one died between batches", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add();
    write(fixture, numbered(5));
    fixture.dispatcher.drain();
    fixture.replace(fixture.table.bury(0), (dispatcher) => dispatcher.addFormats(0, [format([1])]));
    write(fixture, numbered(2));
    fixture.dispatcher.drain();
    assert.equal(handler.takeTimes().length, 7);
  });

  it("carries nothing that its predecessor had matched", () => {
    const fixture = openDispatcher();
    const prepare = (): void => fixture.dispatcher.addFormats(0, [format([1])]);
    prepare();
    const handler = fixture.add({ events: [{ period: 10 }] });
    const periods = (): number =>
      [handler.reader.periodMatched(0), handler.reader.carried(0)].reduce((sum, period) => sum + period, 0);
    write(fixture, numbered(2, { period: 3 }));
    fixture.dispatcher.drain();
    assert.deepEqual([handler.reader.periodMatched(0), handler.reader.carried(0)], [0, 6]);
    write(fixture, numbered(3, { period: 3 }));
    const inside = die(fixture, "matched", 0);
    handler.reader.abandon();
    fixture.replace(inside, (dispatcher) => dispatcher.addFormats(0, [format([1])]));
    assert.equal(periods(), 15, "the sum of what was sampled");
    write(fixture, numbered(1, { period: 3 }));
    fixture.dispatcher.drain();
    assert.equal(periods(), 18);
  });
});
