import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import { setImmediate } from "node:timers/promises";
import { type AskedThread, LivenessWatch } from "../observe/liveness.js";
import { Watchdog, watchdogIntervalMs } from "./watchdog.js";

const INTERVAL_MS = 100;
const NS_PER_MS = 1e6;

/** Answers when it is told to; asked again meanwhile it still owes the one answer. */
class Thread implements AskedThread {
  asked = 0;
  #askedNs = 0;
  #open: { readonly promise: Promise<void>; readonly resolve: () => void } | null = null;
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  ask(): Promise<void> {
    if (this.#open !== null) return this.#open.promise;
    this.asked++;
    this.#askedNs = this.#now();
    let resolve = (): void => {};
    const promise = new Promise<void>((done) => {
      resolve = done;
    });
    this.#open = { promise, resolve };
    return promise;
  }

  answer(): void {
    this.#open?.resolve();
    this.#open = null;
  }

  get unansweredNs(): number {
    return this.#open === null ? 0 : this.#now() - this.#askedNs;
  }
}

/** Two dispatchers that answer when they are told to, and a log of what the watchdog did and liveness said. */
function setUp(t: TestContext) {
  t.mock.timers.enable({ apis: ["setInterval"] });
  const events: string[] = [];
  let nowNs = 0;
  const now = (): number => nowNs;
  const threads = [new Thread(now), new Thread(now)];
  const liveness = new LivenessWatch(threads, now, (_level, { dispatcher }, message) =>
    events.push(`${dispatcher} ${message.includes("again") ? "back" : "late"}`),
  );
  const watchdog = new Watchdog({ intervalMs: INTERVAL_MS, liveness, feed: () => events.push("fed") });
  const answer = async (d: number): Promise<void> => {
    threads[d].answer();
    await setImmediate();
  };
  const interval = (): void => {
    nowNs += INTERVAL_MS * NS_PER_MS;
    t.mock.timers.tick(INTERVAL_MS);
  };
  return { watchdog, events, threads, answer, interval };
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
    const { watchdog, events, threads, answer, interval } = setUp(t);
    watchdog.start();
    await answer(0);
    for (let i = 0; i < 5; i++) {
      interval();
      await answer(0);
    }
    assert.deepEqual(events, ["1 late"]);
    assert.equal(threads[1].asked, 1);
    await answer(1);
    assert.deepEqual(events, ["1 late", "fed"]);
    interval();
    assert.deepEqual(events, ["1 late", "fed", "1 back"]);
  });

  it("has who hangs named when half of the manager's time has passed", async (t) => {
    const { watchdog, events, answer, interval } = setUp(t);
    watchdog.start();
    await answer(0);
    interval();
    assert.deepEqual(events, []);
    interval();
    assert.deepEqual(events, ["1 late"]);
  });

  it("starves when one cannot be asked", async (t) => {
    t.mock.timers.enable({ apis: ["setInterval"] });
    let fed = 0;
    const liveness = {
      answered: () => Promise.reject(new Error("gone")),
      expectWithin: () => {},
      look: () => ({ unansweredSeconds: [], stalled: [] }),
    };
    const watchdog = new Watchdog({ intervalMs: INTERVAL_MS, liveness, feed: () => fed++ });
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
