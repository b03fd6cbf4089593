import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import { Watchdog, watchdogIntervalMs } from "./watchdog.js";

const INTERVAL_MS = 100;

/** Two dispatchers that answer when they are told to, and a log of what the watchdog did. */
function setUp(t: TestContext) {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const events: string[] = [];
  const waiting: (() => void)[][] = [[], []];
  const probe = (d: number) => () => new Promise<void>((resolve) => waiting[d].push(resolve));
  const watchdog = new Watchdog({
    intervalMs: INTERVAL_MS,
    probes: [probe(0), probe(1)],
    feed: () => events.push("fed"),
    onLate: (dispatcher) => events.push(`${dispatcher} late`),
    onBack: (dispatcher) => events.push(`${dispatcher} back`),
  });
  const answer = async (d: number): Promise<void> => {
    for (const resolve of waiting[d].splice(0)) resolve();
    await Promise.resolve();
  };
  return { watchdog, events, waiting, answer, interval: () => t.mock.timers.tick(INTERVAL_MS) };
}

describe("Watchdog", () => {
  it("is fed once every dispatcher has answered, and not before", async (t) => {
    const { watchdog, events, answer, interval } = setUp(t);
    watchdog.start();
    await answer(0);
    assert.deepEqual(events, []);
    await answer(1);
    assert.deepEqual(events, ["fed"]);
    await answer(0);
    assert.deepEqual(events, ["fed"], "nobody was asked again");
    interval();
    await answer(1);
    await answer(0);
    assert.deepEqual(events, ["fed", "fed"]);
  });

  it("starves while one hangs, says so once, and asks it no second question", async (t) => {
    const { watchdog, events, waiting, answer, interval } = setUp(t);
    watchdog.start();
    await answer(0);
    for (let i = 0; i < 5; i++) {
      interval();
      await answer(0);
    }
    assert.deepEqual(events, ["1 late"]);
    assert.equal(waiting[1].length, 1);
    await answer(1);
    assert.deepEqual(events, ["1 late", "1 back", "fed"]);
  });

  it("starves when one cannot be asked", async (t) => {
    t.mock.timers.enable({ apis: ["setInterval"] });
    let fed = 0;
    const watchdog = new Watchdog({
      intervalMs: INTERVAL_MS,
      probes: [() => Promise.reject(new Error("gone"))],
      feed: () => fed++,
      onLate: () => {},
      onBack: () => {},
    });
    watchdog.start();
    for (let i = 0; i < 3; i++) {
      await Promise.resolve();
      t.mock.timers.tick(INTERVAL_MS);
    }
    assert.equal(fed, 0);
  });

  it("does nothing any more when it is stopped, whoever answers", async (t) => {
    const { watchdog, events, answer, interval } = setUp(t);
    watchdog.start();
    watchdog.stop();
    await answer(0);
    await answer(1);
    interval();
    assert.deepEqual(events, []);
  });
});

describe("watchdogIntervalMs", () => {
  it("is a quarter of what the manager waits", () => {
    assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "30000000", WATCHDOG_PID: "7" }, 7), 7_500);
    assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "30000000" }, 7), 7_500);
    assert.equal(watchdogIntervalMs({ WATCHDOG_USEC: "1" }, 7), 1);
  });

  it("is none where there is no watchdog, or it is another process's", () => {
    for (const env of [
      {},
      { WATCHDOG_USEC: "0" },
      { WATCHDOG_USEC: "soon" },
      { WATCHDOG_USEC: "9", WATCHDOG_PID: "8" },
    ])
      assert.equal(watchdogIntervalMs(env, 7), null);
  });
});
