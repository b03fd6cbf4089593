import assert from "node:assert/strict";
import { test } from "node:test";
import { bestTrial, searchMaximum } from "./maximum.js";

/** Sustains `capacity`; beyond it, what is achieved falls by `collapse` of the excess. */
const system = (capacity: number, collapse: number) => async (offered: number) => ({
  offered,
  achieved: offered <= capacity ? offered : Math.max(capacity / 10, capacity - (offered - capacity) * collapse),
});

test("a few trials come close to the maximum, from below and from above, also where overload costs throughput", async () => {
  for (const collapse of [0, 0.3, 1]) {
    for (const start of [250, 900, 1000, 1500, 4000]) {
      const trials = await searchMaximum(start, 6, system(1000, collapse));
      assert.equal(trials.length, 6);
      const { achieved } = bestTrial(trials);
      assert.ok(achieved > 930 && achieved <= 1000, `start ${start}, collapse ${collapse}: ${achieved}`);
    }
  }
});

test("offers are whole and above nothing, even to what achieves nothing", async () => {
  const trials = await searchMaximum(100.4, 4, async (offered) => ({ offered, achieved: 0 }));
  assert.deepEqual(
    trials.map(({ offered }) => offered),
    [100, 13, 2, 1],
  );
});
