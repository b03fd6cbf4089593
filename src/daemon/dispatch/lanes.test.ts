import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../../pmu/software/random.js";
import {
  type DispatcherFixture,
  eventStat,
  format,
  LIVE,
  numbered,
  openDispatcher,
  type TestHandler,
  type TestSample,
  write,
} from "./dispatcher.test-support.js";
import { EVENT_STAT } from "./stats.js";

const ARENA_BYTES = 2 ** 26;

function open(cpus: readonly number[] = [0]): DispatcherFixture {
  const fixture = openDispatcher(cpus, 2 ** 20, 0, ARENA_BYTES);
  fixture.dispatcher.addFormats(0, [format([1])]);
  return fixture;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Samples and weight that the handler has been given and not yet taken. */
function given(handler: TestHandler): { times: number[]; weight: number } {
  const batches = handler.take();
  return { times: batches.flatMap(({ time }) => time), weight: sum(batches.flatMap(({ period }) => period)) };
}

describe("lanes", () => {
  it("encode once for all who want the same, and let go when the last has read it", () => {
    const fixture = open();
    const handlers = Array.from({ length: 30 }, () => fixture.add());
    write(fixture, numbered(400));
    fixture.dispatcher.drain();
    const { usedBytes } = fixture.segments.use();
    assert.equal(usedBytes, 16 * 1024, "one segment for thirty handlers");
    for (const handler of handlers) assert.equal(handler.takeTimes().length, 400);
    write(fixture, numbered(1));
    fixture.dispatcher.drain();
    assert.equal(fixture.segments.use().usedBytes, 128);
  });

  it("are told apart by event, rate, filter and fields, and by nothing else", () => {
    const fixture = open();
    fixture.dispatcher.addFormats(1, [format([2])]);
    const wants = [
      {},
      { filter: { pids: [1, 2] } },
      { filter: { pids: [2, 1, 1] } },
      { callchain: true },
      { events: [{ frequencyHz: 100 }] },
      { events: [{ armed: 1 }] },
    ];
    for (const want of wants) fixture.add({ ...want, regionBytes: 2 ** 20 });
    for (const want of wants) fixture.add({ ...want, flushIntervalMs: 7, regionBytes: 2 ** 17 });
    write(fixture, [{ pid: 1, period: 1 }, { pid: 2 }, { id: 2 }]);
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 5);
  });

  it("that come to take every sample share one encoding, whatever rate they asked for", () => {
    const fixture = open();
    fixture.dispatcher.setPace(0, { frequencyHz: 100, period: null });
    const handlers = [100, 200, 300].map((frequencyHz) => fixture.add({ events: [{ frequencyHz }] }));
    write(fixture, numbered(400, { period: 3 }));
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 3);
    assert.equal(fixture.segments.use().usedBytes, 16 * 1024);
    write(fixture, numbered(10));
    fixture.dispatcher.drain();
    for (const handler of handlers) {
      assert.equal(handler.reader.matched(0), 410);
      assert.equal(handler.takeTimes().length, 410);
    }
  });

  it("of handlers that come later begin with nothing carried, and are joined once they carry the same", () => {
    const fixture = open([0, 1]);
    fixture.dispatcher.setPace(0, { frequencyHz: 1000, period: null });
    const ask = { events: [{ frequencyHz: 100 }], regionBytes: 2 ** 20 };
    const first = fixture.add(ask);
    const put = (time: number, ring: number): void => write(fixture, [{ time: time * 1e6, period: 1e6 }], LIVE, ring);
    put(0, 0);
    put(3, 0);
    put(0, 1);
    put(4, 1);
    fixture.dispatcher.drain();
    const second = fixture.add(ask);
    put(6, 0);
    put(7, 1);
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 2);
    assert.deepEqual([first.reader.carried(0), second.reader.carried(0)], [4e6, 2e6]);
    put(10, 0);
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 2, "the other CPU has not ticked yet");
    put(10, 1);
    fixture.dispatcher.drain();
    put(11, 0);
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 1);
    const [one, two] = [given(first), given(second)];
    assert.deepEqual(one.times, [0, 0, 10e6, 10e6]);
    assert.deepEqual(two.times, [10e6, 10e6], "they tick together");
    assert.equal(one.weight + first.reader.carried(0), 9e6);
    assert.equal(two.weight + second.reader.carried(0), 5e6, "and none is given what came before it");
  });

  it("go with their last handler", () => {
    const fixture = open();
    const handlers = [fixture.add(), fixture.add(), fixture.add({ filter: { pids: [100] } })];
    write(fixture, numbered(1));
    fixture.dispatcher.drain();
    assert.equal(fixture.dispatcher.lanes, 2);
    for (const { handle } of handlers) fixture.dispatcher.detach(handle.slot, handle.generation);
    assert.equal(fixture.dispatcher.lanes, 0);
  });

  it("do not claim samples for handlers that are not offered them any more", () => {
    const fixture = open();
    const handler = fixture.add();
    write(fixture, numbered(3));
    fixture.dispatcher.drain();
    fixture.table.beginRemoval(handler.handle);
    write(fixture, numbered(5));
    fixture.dispatcher.drain();
    assert.equal(eventStat(fixture, 0, EVENT_STAT.UNCLAIMED), 5);
    assert.equal(handler.takeTimes().length, 3);
    write(fixture, numbered(1));
    fixture.dispatcher.drain();
    assert.equal(fixture.segments.use().usedBytes, 0, "nobody keeps what nobody was given");
  });

  it("lose with the reason MEMORY when the arena has no room, and only those whose queues are long", () => {
    const fixture = openDispatcher([0], 2 ** 20, 0, 2 ** 20);
    fixture.dispatcher.addFormats(0, [format([1])]);
    const stuck = Array.from({ length: 4 }, (_, i) => fixture.add({ filter: { pids: [i] }, regionBytes: 2 ** 24 }));
    const quick = fixture.add({ filter: { pids: [0, 1, 2, 3] }, regionBytes: 2 ** 24 });
    let received = 0;
    for (let round = 0; round < 100; round++) {
      for (let pid = 0; pid < 4; pid++) write(fixture, numbered(100, { pid }));
      fixture.dispatcher.drain();
      received += quick.takeTimes().length;
    }
    assert.equal(received, 100 * 400, "who reads loses nothing");
    const { capacityBytes, peakBytes, exhausted } = fixture.segments.use();
    assert.ok(peakBytes < capacityBytes && exhausted === 0);
    for (const handler of stuck) {
      const { matched, queueFull, memory } = fixture.counters.dispatched(handler.handle.slot);
      assert.equal(matched, 100 * 100);
      assert.equal(queueFull, 0);
      assert.equal(handler.takeTimes().length + memory, matched);
      assert.ok(memory > 0 && memory < matched);
    }
  });
});

interface Model {
  readonly handler: TestHandler;
  readonly pids: readonly number[];
  readonly cpus: readonly number[];
  readonly excludeUser: boolean;
  readonly joined: number;
  readonly times: number[];
  weight: number;
  matchedWeight: number;
  expected: number[] | null;
  gone: boolean;
}

/** What a filter lets pass, said again in the plainest way. */
function passes(model: Model, sample: TestSample): boolean {
  return (
    (model.pids.length === 0 || model.pids.includes(sample.pid)) &&
    (model.cpus.length === 0 || model.cpus.includes(sample.cpu)) &&
    !(model.excludeUser && sample.cpumode === 2)
  );
}

describe("lanes against a model of each handler alone", () => {
  for (let seed = 0; seed < 25; seed++) {
    it(`give every handler exactly its own, whoever comes and goes: seed ${seed}`, () => {
      const random = seededRandom(seed);
      const below = (n: number): number => Math.floor(random() * n);
      const fixture = open([0, 1]);
      const models: Model[] = [];
      let timeNs = 0;
      const collect = (model: Model): void => {
        const { times, weight } = given(model.handler);
        model.times.push(...times);
        model.weight += weight;
      };
      const register = (): void => {
        if (models.filter(({ gone }) => !gone).length === 30) return;
        const pids = [1, 2, 3, 4].filter(() => below(4) === 0);
        const cpus = below(4) === 0 ? [below(2)] : [];
        const excludeUser = below(5) === 0;
        const ask = [{}, {}, { frequencyHz: 1000 }, { period: 3000 }][below(4)];
        const handler = fixture.add({ events: [ask], filter: { pids, cpus, excludeUser }, regionBytes: 2 ** 24 });
        const expected = Object.keys(ask).length === 0 ? [] : null;
        models.push({
          ...{ handler, pids, cpus, excludeUser, expected, joined: timeNs, times: [], gone: false },
          ...{ weight: 0, matchedWeight: 0 },
        });
      };
      for (let step = 0; step < 300; step++) {
        if (below(4) === 0) register();
        const model = models[below(models.length)];
        if (below(12) === 0 && model !== undefined && !model.gone) {
          const { handle } = model.handler;
          fixture.table.beginRemoval(handle);
          collect(model);
          fixture.dispatcher.detach(handle.slot, handle.generation);
          fixture.table.release(handle);
          model.gone = true;
        }
        for (let i = below(80); i > 0; i--) {
          timeNs += 1 + below(4e5);
          const cpu = below(2);
          const sample: TestSample = {
            ...{ id: 1, ip: 1n, pid: 1 + below(5), tid: 1, time: timeNs, cpu, period: 1 + below(1000) },
            ...{ cpumode: 1 + below(2), callchain: [], cgroup: 0 },
          };
          write(fixture, [sample], LIVE, cpu);
          for (const other of models) {
            if (other.gone || !passes(other, sample)) continue;
            other.matchedWeight += sample.period;
            other.expected?.push(timeNs);
          }
        }
        fixture.dispatcher.drain();
        if (below(3) === 0 && model !== undefined && !model.gone) collect(model);
      }
      for (const model of models) {
        if (!model.gone) collect(model);
        const { reader } = model.handler;
        assert.equal(model.weight + reader.carried(0), model.matchedWeight, "weights survive");
        assert.equal(reader.matched(0), model.times.length);
        if (model.expected !== null)
          assert.deepEqual(
            model.times.sort((a, b) => a - b),
            model.expected,
          );
      }
      for (const { handler, gone } of models)
        if (!gone) fixture.dispatcher.detach(handler.handle.slot, handler.handle.generation);
      assert.equal(fixture.dispatcher.lanes, 0);
      write(fixture, numbered(1));
      fixture.dispatcher.drain();
      assert.equal(fixture.segments.use().usedBytes, 0);
    });
  }
});
