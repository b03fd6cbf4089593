import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import { type DeliveryFixture, fill, type HeldStream, LARGE, openDelivery } from "./delivery.test-support.js";
import { FLUSH_PHASES, FlushPacer, FlushTimes } from "./flush.js";
import { StreamMemory } from "./memory.js";

const NS_PER_MS = 1e6;

interface PacerFixture {
  readonly pacer: FlushPacer;
  /** What dispatchers were told. */
  readonly told: number[];
  /** So many streams in all. */
  grow(streams: number): void;
}

function openPacer(baseMs = 400, maxMs = 2000): PacerFixture {
  const told: number[] = [];
  const pacer = new FlushPacer({ baseMs, maxMs, onChange: (intervalMs) => told.push(intervalMs) });
  const rule = pacer.rule(0);
  return {
    pacer,
    told,
    grow: (streams) => {
      while (pacer.streams < streams) rule.streamOpened();
      while (pacer.streams > streams) rule.streamClosed();
    },
  };
}

describe("FlushPacer", () => {
  it("keeps the base while streams are few, then grows in proportion to them, and shrinks again", () => {
    const { pacer, grow } = openPacer();
    const at = (streams: number): number => {
      grow(streams);
      return pacer.intervalMs;
    };
    assert.deepEqual([0, 1, 8, 9, 12, 16, 40, 41, 5000].map(at), [400, 400, 400, 450, 600, 800, 2000, 2000, 2000]);
    assert.deepEqual([16, 8, 0].map(at), [800, 400, 400]);
  });

  it("says each time what is in force, and nothing when that stays", () => {
    const { told, grow } = openPacer();
    grow(10);
    assert.deepEqual(told, [450, 500]);
    grow(5000);
    assert.equal(told.length, 32, "not for each stream");
    grow(7);
    assert.equal(told.at(-1), 400);
  });

  it("leaves a base of 0 alone, and never goes beyond the maximum", () => {
    const immediate = openPacer(0, 2000);
    immediate.grow(1000);
    assert.equal(immediate.pacer.intervalMs, 0);
    const fixed = openPacer(300, 300);
    fixed.grow(1000);
    assert.equal(fixed.pacer.intervalMs, 300);
    assert.deepEqual([...immediate.told, ...fixed.told], []);
  });

  it("has streams of many due at few times, an interval after they were written at the latest", () => {
    const { pacer, grow } = openPacer();
    grow(1000);
    for (const nowNs of [0, 1, 123_456_789, 2 ** 50 + 1]) {
      const due = Array.from({ length: 1000 }, (_, slot) => pacer.rule(slot).dueNs(nowNs));
      assert.equal(new Set(due).size, FLUSH_PHASES);
      for (const dueNs of due) assert.ok(dueNs > nowNs && dueNs <= nowNs + 2000 * NS_PER_MS);
    }
    const rule = pacer.rule(3);
    const first = rule.dueNs(5e9);
    assert.equal(rule.dueNs(first), first + 2000 * NS_PER_MS, "whole intervals from then on");
  });
});

interface Crowd {
  readonly streams: readonly { readonly fixture: DeliveryFixture; readonly stream: HeldStream }[];
  readonly times: FlushTimes;
  /** Lets time pass, and what is due happen. */
  pass(ms: number): void;
  readonly clock: { nowNs: number };
}

/** Streams that leave their interval to the daemon, on a clock of the test's. Each has been sent its first sample. */
function openCrowd(t: TestContext, count: number): Crowd {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const clock = { nowNs: 1e9 };
  const now = (): number => clock.nowNs;
  const { pacer } = openPacer();
  const times = new FlushTimes(now);
  const memory = new StreamMemory(2 ** 26, count);
  const streams = Array.from({ length: count }, (_, slot) => {
    const fixture = openDelivery({ now, flush: pacer.rule(slot), flushTimes: times, memory, arenaBytes: 2 ** 20 });
    const stream = fixture.attach();
    stream.releaseAll();
    return { fixture, stream };
  });
  return {
    streams,
    times,
    clock,
    pass: (ms) => {
      for (let i = 0; i < ms; i++) {
        clock.nowNs += NS_PER_MS;
        t.mock.timers.tick(1);
        for (const { stream } of streams) stream.releaseAll();
      }
    },
  };
}

function put({ fixture, stream }: Crowd["streams"][number], samples = 1): boolean {
  const found = fixture.dispatchers[0].put(samples);
  fixture.delivery.wake();
  stream.releaseAll();
  return found;
}

describe("HandlerDelivery: an interval that the daemon decides", () => {
  it("wakes the daemon a few times an interval for hundreds of streams, and none waits longer", (t) => {
    const crowd = openCrowd(t, 200);
    const { streams, times } = crowd;
    for (const each of streams) put(each);
    const before = times.wakeUps;
    const sent = (): number => streams.reduce((sum, { stream }) => sum + stream.messages.length, 0);
    const sentBefore = sent();
    // Five intervals of two seconds; a dispatcher drains twice in each.
    for (let second = 0; second < 10; second++) {
      for (const each of streams) put(each);
      crowd.pass(1000);
    }
    assert.ok(times.wakeUps - before <= 6 * FLUSH_PHASES, `${times.wakeUps - before} wake-ups`);
    assert.ok(sent() - sentBefore <= 200 * 7, "some one message a stream and interval");
    crowd.pass(2000);
    for (const { fixture } of streams) assert.equal(fixture.delivery.books().delivered, 11);
    assert.equal(times.waiting, 0);
  });

  it("does not let a full message wait, nor an outbox that is half full", (t) => {
    const crowd = openCrowd(t, 50);
    const [each] = crowd.streams;
    put(each);
    // The smallest outbox there is: four of these fill more than half of it.
    for (let i = 0; i < 100; i++) assert.ok(put(each, LARGE), "nothing is lost, without a timer");
    const { fixture, stream } = crowd.streams[1];
    put(crowd.streams[1]);
    const entries = fill(fixture);
    fixture.delivery.wake();
    stream.releaseAll();
    assert.ok(entries > 0);
    assert.equal(fixture.delivery.queuedBytes, 0);
  });

  it("goes back to the base when streams have gone, and forgets whom nobody has to wake", async (t) => {
    const crowd = openCrowd(t, 50);
    const [first, ...others] = crowd.streams;
    for (const each of crowd.streams) {
      put(each);
      put(each);
    }
    assert.equal(first.fixture.delivery.flushIntervalMs, 2000);
    for (const { fixture } of others) {
      fixture.delivery.broken();
      await fixture.delivery.finish("DEREGISTERED", null);
    }
    assert.equal(first.fixture.delivery.flushIntervalMs, 400);
    assert.equal(crowd.times.waiting, 1, "the one that is left");
    crowd.pass(2000);
    put(first);
    put(first);
    const before = first.fixture.delivery.books().delivered;
    crowd.pass(400 - 1);
    assert.ok(first.fixture.delivery.books().delivered > before);
  });
});

describe("FlushTimes", () => {
  it("wakes all that wait for the same time at once, but for those that do not any more", (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const times = new FlushTimes(() => 0);
    const woken: string[] = [];
    const [a, b, c] = ["a", "b", "c"].map((name) => () => void woken.push(name));
    times.at(5e6, a);
    times.at(5e6, b);
    times.at(5e6, c);
    times.at(7e6, c);
    times.cancel(5e6, b);
    times.cancel(7e6, c);
    times.cancel(9e6, c);
    assert.equal(times.waiting, 1);
    t.mock.timers.tick(10);
    assert.deepEqual(woken, ["a", "c"]);
    assert.equal(times.wakeUps, 1);
  });
});
