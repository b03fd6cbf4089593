import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type DispatcherLook, OverloadWatch, type Verdict } from "./overload-watch.js";

const SECOND_NS = 1e9;

const FINE: DispatcherLook = { ringFillPeak: 0.6, busyRatio: 0.3 };
const LATE: DispatcherLook = { ringFillPeak: 1, busyRatio: 0.5 };
const RESTLESS: DispatcherLook = { ringFillPeak: 0.6, busyRatio: 0.97 };

function setUp(dispatchers = 1) {
  const watch = new OverloadWatch(dispatchers);
  let second = 0;
  /** One look; dispatchers that are not given are fine. */
  const look = (given: readonly DispatcherLook[] = [], kernelLost = 0): Verdict => {
    second++;
    const all = Array.from({ length: dispatchers }, (_, d) => given[d] ?? FINE);
    return watch.look({ nowNs: second * SECOND_NS, kernelLost, dispatchers: all });
  };
  return { watch, look, nowNs: () => second * SECOND_NS };
}

function changes(verdicts: readonly Verdict[]): (string | null)[] {
  return verdicts.map(({ change }) => change);
}

describe("OverloadWatch: the beginning", () => {
  it("is at once when the kernel dropped samples", () => {
    const { watch, look } = setUp(2);
    assert.deepEqual(look(), { condition: "fine", change: null });
    assert.deepEqual(look([FINE, LATE], 7), { condition: "bad", change: "began" });
    assert.equal(watch.overloaded, true);
    assert.equal(watch.episodes, 1);
    assert.deepEqual(watch.dispatchers, [1]);
    assert.equal(
      watch.reason,
      "rings were full and the kernel dropped 7 samples; dispatcher 1 was at work 50 % of the time and found a ring 100 % full",
    );
    assert.deepEqual(look([FINE, LATE], 3), { condition: "bad", change: null });
    assert.equal(watch.kernelLost, 10);
  });

  it("is blamed on the fullest ring where no dispatcher stands out", () => {
    const { watch, look } = setUp(3);
    look([FINE, { ...FINE, ringFillPeak: 0.8 }], 1);
    assert.deepEqual(watch.dispatchers, [1]);
  });

  it("takes three looks at rings that are nearly full, in a row and of one dispatcher", () => {
    const { watch, look } = setUp(2);
    const verdicts = [
      look([LATE]),
      look([LATE]),
      look(),
      look([LATE]),
      look([LATE]),
      look([FINE, LATE]),
      look([FINE, LATE]),
    ];
    assert.ok(changes(verdicts).every((change) => change === null));
    assert.equal(look([FINE, LATE]).change, "began");
    assert.deepEqual(watch.dispatchers, [1]);
    assert.match(watch.reason, /^dispatcher 1 was at work 50 % of the time and found a ring 100 % full$/);
  });

  it("takes five looks at a dispatcher that never sleeps and finds each ring past its mark", () => {
    const { watch, look } = setUp();
    assert.deepEqual(changes([1, 2, 3, 4, 5].map(() => look([RESTLESS]))), [null, null, null, null, "began"]);
    assert.deepEqual(watch.dispatchers, [0]);
    assert.match(watch.reason, /97 %/);
  });

  it("is neither what a healthy dispatcher shows nor one that is woken for every sample", () => {
    const { watch, look } = setUp();
    for (let i = 0; i < 100; i++) {
      look([{ ringFillPeak: 0.9, busyRatio: 0.9 }]);
      look([{ ringFillPeak: 0.5, busyRatio: 1 }]);
    }
    for (let i = 0; i < 100; i++) look([{ ringFillPeak: 0.1, busyRatio: 1 }]);
    assert.equal(watch.episodes, 0);
  });
});

describe("OverloadWatch: the end", () => {
  it("takes five calm looks in a row", () => {
    const { watch, look, nowNs } = setUp();
    look([], 5);
    for (let i = 0; i < 4; i++) assert.deepEqual(look(), { condition: "uncertain", change: null });
    look([], 1);
    for (let i = 0; i < 4; i++) assert.equal(look().change, null);
    assert.equal(watch.lastedNs(nowNs()), 9 * SECOND_NS);
    assert.deepEqual(look(), { condition: "fine", change: "ended" });
    assert.equal(watch.lastedNs(nowNs()), 0);
    assert.equal(watch.kernelLost, 6, "still known to who tells of the end");
    assert.deepEqual([watch.overloaded, watch.reason, watch.dispatchers], [false, "", []]);
    look([], 2);
    assert.deepEqual([watch.episodes, watch.kernelLost], [2, 2]);
  });

  it("is not yet where it is just not bad enough to begin", () => {
    for (const middling of [
      { ringFillPeak: 0.9, busyRatio: 0.5 },
      { ringFillPeak: 0.6, busyRatio: 0.92 },
    ]) {
      const { watch, look } = setUp();
      look([], 1);
      for (let i = 0; i < 50; i++) assert.deepEqual(look([middling]), { condition: "uncertain", change: null });
      assert.equal(watch.overloaded, true);
    }
  });

  it("comes with the end of all sampling, which also forgets what had begun to add up", () => {
    const { watch, look } = setUp();
    assert.equal(watch.idle(0), false);
    look([], 1);
    assert.equal(watch.idle(4), true);
    assert.deepEqual([watch.overloaded, watch.kernelLost], [false, 5]);
    look([LATE]);
    look([LATE]);
    watch.idle(0);
    assert.deepEqual(changes([look([LATE]), look([LATE]), look([LATE])]), [null, null, "began"]);
  });
});
