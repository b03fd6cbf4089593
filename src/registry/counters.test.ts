import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { LOSS_REASONS } from "./layout.js";
import { openTable } from "./table.test-support.js";

describe("SlotCounters", () => {
  it("adds dispatchers up, and takes the longest and the last of them", () => {
    const { counters } = openTable(3, 2);
    counters.countDispatch(1, 0, 10, 1, 0, 500, 1000);
    counters.countDispatch(1, 0, 20, 0, 0, 300, 2000);
    counters.countDispatch(1, 1, 5, 2, 0, 400, 1500);
    const { dispatches, matched, queueFull, longestDispatchNs, lastDispatchNs } = counters.dispatched(1);
    assert.deepEqual([dispatches, matched, queueFull, longestDispatchNs, lastDispatchNs], [3, 35, 3, 500, 2000]);
  });

  it("keeps slots, dispatchers and reasons apart", () => {
    const { counters } = openTable(3, 2);
    for (const slot of [0, 1, 2]) {
      for (const d of [0, 1]) counters.countDispatch(slot, d, 10 ** slot, 0, 0, 1, 1);
      counters.countDelivered(slot, 3 * 10 ** slot);
      LOSS_REASONS.forEach((_name, reason) => {
        counters.countLoss(slot, reason, reason * 10 ** slot);
      });
    }
    for (const slot of [0, 1, 2]) {
      assert.equal(counters.dispatched(slot).matched, 2 * 10 ** slot);
      assert.equal(counters.delivered(slot), 3 * 10 ** slot);
      const losses = counters.losses(slot);
      for (const [reason, name] of LOSS_REASONS.entries()) {
        assert.equal(losses[reason], name === "QUEUE_FULL" || name === "MEMORY" ? 0 : reason * 10 ** slot, name);
      }
    }
  });

  it("takes from the dispatchers what they could not queue", () => {
    const { counters } = openTable(1, 2);
    counters.countDispatch(0, 0, 5, 2, 7, 1, 1);
    counters.countDispatch(0, 1, 5, 3, 1, 1, 1);
    assert.equal(counters.losses(0)[LOSS_REASONS.indexOf("QUEUE_FULL")], 5);
    assert.equal(counters.losses(0)[LOSS_REASONS.indexOf("MEMORY")], 8);
    assert.equal(counters.refused(0), 13);
    counters.amend(0, 1, 50, 30, 10);
    assert.equal(counters.refused(0), 49);
    assert.equal(counters.dispatched(0).matched, 55);
  });

  it("counts beyond 32 bits", () => {
    const { counters } = openTable(1);
    counters.countDispatch(0, 0, 2 ** 33, 0, 0, 1, 1);
    counters.countDispatch(0, 0, 1, 0, 0, 1, 1);
    assert.equal(counters.dispatched(0).matched, 2 ** 33 + 1);
  });
});
