import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SlotCounters } from "../../registry/counters.js";
import { tableLayout } from "../../registry/layout.js";
import { formatTable } from "../../registry/table.js";
import type { Handler } from "../broker/handler.js";
import { type SlowDispatchReport, SlowDispatchWatch } from "./slow-dispatch.js";

const SECOND_NS = 1e9;

function setUp(thresholdUs = 1000) {
  const size = { capacity: 2, dispatchers: 2 };
  const memory = new ArrayBuffer(tableLayout(size.capacity, size.dispatchers).bytes);
  const counters = new SlotCounters(memory, formatTable(memory, { ...size, daemonPid: 1, startedAt: 0 }));
  const reports: SlowDispatchReport[] = [];
  const clock = { ns: 0 };
  const watch = new SlowDispatchWatch(
    thresholdUs,
    counters,
    () => clock.ns,
    (report) => reports.push(report),
  );
  // The watch looks at these alone.
  const handler = (slot: number) => ({ id: slot + 100, handle: { slot }, spec: { name: `h${slot}` } }) as Handler;
  const dispatch = (slot: number, us: number, d = 0): void => counters.countDispatch(slot, d, 1, 0, 0, us * 1000, 1);
  return { watch, reports, clock, handler, dispatch };
}

describe("SlowDispatchWatch", () => {
  it("reports dispatches above the threshold, of all dispatchers, and no others", () => {
    const { watch, reports, handler, dispatch } = setUp();
    const handlers = [handler(0), handler(1)];
    for (const us of [1, 100, 512]) dispatch(0, us);
    watch.poll(handlers);
    assert.deepEqual(reports, []);
    dispatch(1, 1500);
    dispatch(1, 5000, 1);
    watch.poll(handlers);
    assert.deepEqual(reports, [{ handler: 101, name: "h1", dispatches: 2, longest_ns: 5_000_000 }]);
    assert.equal(watch.total, 2);
  });

  it("says it once in ten seconds for each handler, and then how often it was", () => {
    const { watch, reports, clock, handler, dispatch } = setUp();
    const handlers = [handler(0), handler(1)];
    dispatch(0, 2000);
    watch.poll(handlers);
    for (let second = 1; second < 10; second++) {
      clock.ns = second * SECOND_NS;
      dispatch(0, 2000);
      watch.poll(handlers);
    }
    assert.equal(reports.length, 1);
    // Another handler's first is not held back.
    dispatch(1, 3000);
    watch.poll(handlers);
    assert.equal(reports.length, 2);
    clock.ns = 10 * SECOND_NS;
    watch.poll(handlers);
    assert.deepEqual(
      reports.map(({ handler: id, dispatches }) => [id, dispatches]),
      [
        [100, 1],
        [101, 1],
        [100, 9],
      ],
    );
    assert.equal(watch.total, 11);
  });

  it("counts a handler that takes a slot over from nothing", () => {
    const { watch, reports, handler, dispatch } = setUp();
    dispatch(0, 2000);
    watch.poll([handler(0)]);
    watch.poll([]);
    watch.poll([handler(1)]);
    assert.equal(reports.length, 1);
    assert.equal(watch.total, 1);
  });
});
