import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MMAP_PAGE, RECORD, SAMPLE } from "../../pmu/abi.js";
import { BATCH_SAMPLES_MAX } from "../../pmu/record.js";
import { seededRandom } from "../../pmu/software/random.js";
import { REGION_BYTES_MIN } from "../delivery/outbox.js";
import {
  format,
  LIVE,
  numbered,
  openDispatcher,
  record,
  sampleRecord,
  type TestSample,
  write,
} from "./dispatcher.test-support.js";
import { ringFillHistogram } from "./ring-fill.js";
import { DISPATCHER_STAT } from "./stats.js";

describe("Dispatcher: a full outbox", () => {
  it("loses that handler's samples alone, counts every one, and tells them once there is room", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const [stuck, fast] = [fixture.add(), fixture.add()];
    let written = 0;
    let received = 0;
    while (fixture.counters.dispatched(stuck.handle.slot).queueFull === 0) {
      write(fixture, numbered(400, { period: 3 }));
      written += 400;
      fixture.dispatcher.drain();
      received += fast.takeTimes().length;
    }
    const before = stuck.takeTimes().length;
    const { matched, queueFull } = fixture.counters.dispatched(stuck.handle.slot);
    assert.equal(matched, written);
    assert.equal(before + queueFull, written);
    assert.equal(received, written);
    write(fixture, numbered(1));
    fixture.dispatcher.drain();
    assert.equal(stuck.takeTimes().length, 1);
    assert.deepEqual(stuck.losses, [{ event: 0, samples: queueFull, period: queueFull * 3 }]);
    assert.deepEqual(stuck.reader.pendingLosses(0), []);
  });

  it("takes chunks of a quarter of it at most, callchains included", () => {
    const fixture = openDispatcher([0], 2 ** 20);
    fixture.dispatcher.addFormats(0, [format([1], LIVE | SAMPLE.CALLCHAIN)]);
    const handler = fixture.add({ callchain: true });
    const plain = fixture.add();
    const random = seededRandom(3);
    write(
      fixture,
      numbered(60).map((sample) => ({ ...sample, callchain: new Array<bigint>(Math.floor(random() * 127)).fill(5n) })),
      LIVE | SAMPLE.CALLCHAIN,
    );
    fixture.dispatcher.drain();
    let chunks = 0;
    for (const { reader } of [handler, plain]) {
      while (reader.peek()) {
        assert.ok(reader.entry.segmentBytes <= REGION_BYTES_MIN / 4);
        reader.drop();
        chunks++;
      }
    }
    assert.ok(chunks > 2);
    assert.equal(fixture.counters.dispatched(handler.handle.slot).queueFull, 0);
  });

  it("loses a callchain that no outbox of its size can hold, and goes on", () => {
    const fixture = openDispatcher([0], 2 ** 20);
    fixture.dispatcher.addFormats(0, [format([1], LIVE | SAMPLE.CALLCHAIN)]);
    const handler = fixture.add({ callchain: true });
    const callchain = new Array<bigint>(8180).fill(5n);
    write(fixture, [{ time: 1, callchain }, { time: 2 }], LIVE | SAMPLE.CALLCHAIN);
    fixture.dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), [2]);
    assert.deepEqual(handler.losses, [{ event: 0, samples: 1, period: 1 }]);
  });
});

describe("Dispatcher: batches", () => {
  it("are bounded, and everything is dispatched in order all the same", () => {
    const fixture = openDispatcher([0], 2 ** 20);
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add({ regionBytes: 2 ** 20 });
    const count = 5 * BATCH_SAMPLES_MAX + 3;
    write(fixture, numbered(count));
    fixture.dispatcher.drain();
    const { dispatches, matched } = fixture.counters.dispatched(handler.handle.slot);
    assert.ok(dispatches >= 6);
    assert.equal(matched, count);
    assert.deepEqual(
      handler.takeTimes(),
      numbered(count).map(({ time }) => time),
    );
    assert.equal(fixture.rings[0].reader.tail, fixture.rings[0].reader.loadHead());
  });

  it("come from every ring, each with its own CPU and state", () => {
    const fixture = openDispatcher([2, 9]);
    fixture.dispatcher.addFormats(0, [format([1, 2], LIVE & ~SAMPLE.CPU)]);
    const handler = fixture.add();
    write(fixture, [{ id: 1, time: 1 }], LIVE & ~SAMPLE.CPU, 0);
    write(fixture, [{ id: 2, time: 2 }], LIVE & ~SAMPLE.CPU, 1);
    fixture.dispatcher.drain();
    assert.deepEqual(
      handler.take().map(({ cpu, time }) => [cpu, time]),
      [
        [[2], [1]],
        [[9], [2]],
      ],
    );
    assert.equal(fixture.stats.words[DISPATCHER_STAT.DRAINS], 2);
    assert.equal(fixture.dispatcher.drain(), false);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.DRAINS], 2, "an empty ring costs nothing");
  });

  it("tell how full their ring was when its drain began, once a drain", () => {
    const fixture = openDispatcher([0], 4096);
    const { dispatcher, rings, stats } = fixture;
    const { length } = sampleRecord({});
    write(fixture, numbered(Math.ceil((4096 * 0.55) / length)));
    dispatcher.drain();
    while (rings[0].write(sampleRecord({})));
    dispatcher.drain();
    dispatcher.drain();
    assert.deepEqual(ringFillHistogram(stats.ringFill).counts, [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
  });
});

describe("Dispatcher: a corrupt ring", () => {
  for (const [what, bytes] of [
    ["a record of size 0", record(RECORD.SAMPLE, 0, []).fill(0, 6, 8)],
    ["a record beyond the head", new Uint8Array(new Uint16Array([9, 0, 0, 4096]).buffer)],
    ["a size that is no multiple of 8", new Uint8Array(new Uint16Array([9, 0, 0, 12, 0, 0, 0, 0]).buffer)],
  ] as const) {
    it(`resynchronizes behind ${what}`, () => {
      const fixture = openDispatcher();
      fixture.dispatcher.addFormats(0, [format([1])]);
      const handler = fixture.add();
      write(fixture, [{ time: 1 }]);
      assert.ok(fixture.rings[0].write(bytes));
      write(fixture, [{ time: 2 }]);
      fixture.dispatcher.drain();
      const lost = bytes.length + sampleRecord({}).length;
      assert.equal(fixture.stats.words[DISPATCHER_STAT.CORRUPT_BYTES], lost);
      write(fixture, [{ time: 3 }]);
      fixture.dispatcher.drain();
      assert.deepEqual(handler.takeTimes(), [1, 3]);
    });
  }

  it("skips a sample that is too short for its format, or whose callchain runs past it", () => {
    const fixture = openDispatcher();
    const sampleType = LIVE | SAMPLE.CALLCHAIN;
    fixture.dispatcher.addFormats(0, [format([1], sampleType)]);
    const handler = fixture.add({ callchain: true });
    const short = record(RECORD.SAMPLE, 2, [1n, 2n]);
    const long = sampleRecord({ callchain: [1n, 2n] }, sampleType);
    new DataView(long.buffer).setBigUint64(56, 3n, true);
    const huge = sampleRecord({ callchain: [1n, 2n] }, sampleType);
    new DataView(huge.buffer).setBigUint64(56, 2n ** 61n + 2n, true);
    for (const bytes of [short, long, huge]) assert.ok(fixture.rings[0].write(bytes));
    write(fixture, [{ time: 9, callchain: [4n] }], sampleType);
    fixture.dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), [9]);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.CORRUPT_BYTES], short.length + long.length + huge.length);
  });

  it("resynchronizes when the head ran away", () => {
    const fixture = openDispatcher([0], 4096);
    const control = new BigUint64Array(fixture.rings[0].memory, 0, 512);
    control[MMAP_PAGE.DATA_HEAD / 8] = 10_000n;
    fixture.dispatcher.drain();
    assert.equal(fixture.stats.words[DISPATCHER_STAT.CORRUPT_BYTES], 10_000);
    assert.equal(fixture.rings[0].reader.tail, 10_000);
  });
});

describe("Dispatcher: thinning", () => {
  it("keeps every weight: delivered, lost and carried periods add up to what matched the filter", () => {
    for (let seed = 0; seed < 20; seed++) {
      const random = seededRandom(seed);
      const below = (n: number): number => Math.floor(random() * n);
      const fixture = openDispatcher([0, 1], 65_536);
      fixture.dispatcher.addFormats(0, [format([1])]);
      const pids = [1, 2, 3].filter(() => random() < 0.6);
      const asks = [{}, { frequencyHz: 1 + below(400) }, { period: 1 + below(5000) }];
      const handlers = asks.map((ask) => fixture.add({ events: [ask], filter: { pids } }));
      let matched = 0;
      let timeNs = 0;
      const periods = [0, 0, 0];
      for (let round = 0; round < 200; round++) {
        for (let i = below(60); i > 0; i--) {
          timeNs += below(3e6);
          const sample = { time: timeNs, pid: 1 + below(3), period: below(1000) };
          if (pids.length === 0 || pids.includes(sample.pid)) matched += sample.period;
          write(fixture, [sample], LIVE, below(2));
        }
        if (below(10) === 0) {
          fixture.dispatcher.drain();
          // What the kernel ticks at changes as handlers come and go.
          fixture.dispatcher.setPace(0, { frequencyHz: below(2) ? 100 : null, period: below(2) ? 1000 : null });
        }
        fixture.dispatcher.drain();
        for (const [h, handler] of handlers.entries()) {
          if (below(8) !== 0) continue;
          for (const batch of handler.take()) periods[h] += batch.period.reduce((sum, period) => sum + period, 0);
        }
      }
      for (const [h, handler] of handlers.entries()) {
        for (const batch of handler.take()) periods[h] += batch.period.reduce((sum, period) => sum + period, 0);
        const lost = [...handler.losses, ...handler.reader.pendingLosses(0)].reduce(
          (sum, { period }) => sum + period,
          0,
        );
        assert.equal(periods[h] + lost + handler.reader.carried(0), matched, `seed ${seed}, handler ${h}`);
      }
    }
  });

  it("gives slower handlers a thinned stream and the fastest one everything", () => {
    const fixture = openDispatcher([0], 2 ** 20);
    fixture.dispatcher.addFormats(0, [format([1])]);
    fixture.dispatcher.setPace(0, { frequencyHz: 1000, period: null });
    const fast = fixture.add({ events: [{ frequencyHz: 1000 }], regionBytes: 2 ** 20 });
    const slow = fixture.add({ events: [{ frequencyHz: 100 }], regionBytes: 2 ** 20 });
    const second = (from: number): Partial<TestSample>[] =>
      Array.from({ length: 1000 }, (_, i) => ({ time: from + i * 1e6, period: 1e6 }));
    write(fixture, second(0));
    fixture.dispatcher.drain();
    assert.equal(fast.takeTimes().length, 1000);
    const thinned = slow.take();
    assert.equal(thinned.flatMap(({ time }) => time).length, 100);
    assert.equal(thinned.flatMap(({ period }) => period).reduce((a, b) => a + b) + slow.reader.carried(0), 1e9);
    // Now the slow one is the fastest that is left.
    fixture.dispatcher.setPace(0, { frequencyHz: 100, period: null });
    write(fixture, [{ time: 2e9 }, { time: 2e9 + 1 }]);
    fixture.dispatcher.drain();
    assert.equal(slow.takeTimes().length, 2);
    assert.equal(slow.reader.carried(0), 0);
  });

  it("carries only what matched the filter", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add({ events: [{ period: 100 }], filter: { pids: [1] } });
    write(fixture, [
      { pid: 1, period: 40, time: 1 },
      { pid: 2, period: 50, time: 2 },
      { pid: 1, period: 20, time: 3 },
      { pid: 1, period: 7, time: 4 },
    ]);
    fixture.dispatcher.drain();
    const [batch] = handler.take();
    assert.deepEqual([batch.time, batch.period], [[3], [60]]);
    assert.equal(handler.reader.carried(0), 7);
    assert.equal(handler.reader.matched(0), 1);
  });
});
