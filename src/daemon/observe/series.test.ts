import assert from "node:assert/strict";
import { test } from "node:test";
import { OTHERS } from "./cardinality.js";
import { EVENT_NAMES_MAX, EventSeries, HANDLER_NAMES_MAX, type HandlerRow, HandlerSeries } from "./series.js";
import type { EventSnapshot, HandlerSnapshot } from "./snapshot.js";
import { eventWith, handlerWith } from "./snapshot.test-support.js";

const HOUR_NS = 3_600e9;

function handler(handlerId: number, name = `handler-${handlerId}`, change: Partial<HandlerSnapshot> = {}) {
  const dispatchTime = { bounds: [1e-6, 2e-6], counts: [1, 1, 0], sum: 2.5 };
  return handlerWith(handlerId, { name, dispatchTime, ...change });
}

function event(name: string, samples = 100, change: Partial<EventSnapshot> = {}): EventSnapshot {
  return eventWith(name, { samples, ...change });
}

function many(count: number, from = 1): HandlerSnapshot[] {
  return Array.from({ length: count }, (_, i) => handler(from + i));
}

function othersOf(rows: readonly HandlerRow[]): HandlerRow {
  const found = rows.filter(({ labels }) => labels.name === OTHERS);
  assert.equal(found.length, 1);
  return found[0];
}

test("handlers beyond the bound are summed, and those first seen keep their series", () => {
  const series = new HandlerSeries(() => 0);
  const first = many(HANDLER_NAMES_MAX);
  assert.equal(series.rows(first).length, HANDLER_NAMES_MAX);
  const late = [
    handler(1001, "late", { losses: [{ reason: "SHUTDOWN", count: 1 }], longestDispatchNs: 9_000 }),
    handler(1002),
    handler(1003),
  ];
  const rows = series.rows([...late, ...first]);
  assert.equal(rows.length, HANDLER_NAMES_MAX + 1);
  const others = othersOf(rows);
  assert.deepEqual([others.matched, others.delivered, others.subscribed, others.queueBytes], [30, 21, 3, 300]);
  assert.deepEqual(others.losses, [
    { reason: "SHUTDOWN", count: 1 },
    { reason: "QUEUE_FULL", count: 6 },
  ]);
  assert.equal(others.longestDispatchNs, 9_000);
  assert.deepEqual(others.dispatchTime, { bounds: [1e-6, 2e-6], counts: [3, 3, 0], sum: 7.5 });
});

test("the sum's counters do not fall when one of the others is gone; its gauges do", () => {
  const series = new HandlerSeries(() => 0);
  const first = many(HANDLER_NAMES_MAX);
  const counted = (rest: readonly HandlerSnapshot[]) => {
    const { matched, queueBytes, subscribed, dispatchTime } = othersOf(series.rows([...first, ...rest]));
    return [matched, queueBytes, subscribed, dispatchTime.counts[0]];
  };
  series.rows(first);
  assert.deepEqual(counted(many(3, 1001)), [30, 300, 3, 3]);
  assert.deepEqual(counted(many(2, 1001)), [30, 200, 2, 3]);
  assert.deepEqual(counted([]), [30, 0, 0, 3]);
  assert.deepEqual(counted(many(1, 2001)), [40, 100, 1, 4]);
});

test("who comes back under its name goes on in its series", () => {
  const series = new HandlerSeries(() => 0);
  series.rows([handler(1, "profiler")]);
  series.rows([]);
  const [row] = series.rows([handler(2, "profiler")]);
  assert.deepEqual(row.labels, { name: "profiler" });
});

test("a handler cannot pose as the others, nor have a series that is theirs", () => {
  const series = new HandlerSeries(() => 0);
  const rows = series.rows([handler(1, OTHERS), handler(2)]);
  assert.deepEqual(
    rows.map(({ labels }) => labels.name),
    ["handler-2", OTHERS],
  );
});

test("thousands of names: so many series within an hour, and the next hour's names have a chance", () => {
  let nowNs = 0;
  const series = new HandlerSeries(() => nowNs);
  const seen = new Set<string>();
  let matched = 0;
  for (let i = 0; i < 5000; i++) {
    nowNs += 1e6;
    const rows = series.rows([handler(i, `churn-${i}`)]);
    for (const { labels } of rows) seen.add(labels.name);
    const others = rows.find(({ labels }) => labels.name === OTHERS);
    if (others !== undefined) {
      assert.ok(others.matched >= matched, "never falls");
      matched = others.matched;
    }
  }
  assert.equal(seen.size, HANDLER_NAMES_MAX + 1);
  assert.equal(matched, (5000 - HANDLER_NAMES_MAX) * 10, "nothing is missing from the sum");
  nowNs += 2 * HOUR_NS;
  assert.ok(series.rows([handler(9999, "next")]).some(({ labels }) => labels.name === "next"));
});

test("events of one name: kinds of rate are told apart, and equal ones are merged", () => {
  const rows = new EventSeries(() => 0).rows([
    event("cycles"),
    event("cycles", 1, { frequencyHz: 0, period: 100_000 }),
    event("cycles", 2, { frequencyHz: 0, period: 50_000, timeEnabledSeconds: 0, timeRunningSeconds: 0 }),
    event("dummy", 3, { frequencyHz: 0, period: 0 }),
  ]);
  assert.deepEqual(
    rows.map(({ labels, samples, period }) => [labels.event, labels.sampling, samples, period]),
    [
      ["cycles", "frequency", 100, 0],
      ["cycles", "period", 3, 50_000],
      ["dummy", "all", 3, 0],
    ],
  );
});

test("thousands of events' names: so many series, the rest is summed and never falls", () => {
  const series = new EventSeries(() => 0);
  const seen = new Set<string>();
  let samples = 0;
  for (let i = 0; i < 5000; i++) {
    for (const row of series.rows([event(`cpu/event=${i}/`)])) {
      seen.add(`${row.labels.sampling} ${row.labels.event}`);
      if (row.labels.event !== OTHERS) continue;
      assert.ok(row.samples > samples);
      samples = row.samples;
    }
  }
  assert.equal(seen.size, EVENT_NAMES_MAX + 1);
  assert.equal(samples, (5000 - EVENT_NAMES_MAX) * 100);
});

test("an event among the others that begins anew adds to their sum", () => {
  const series = new EventSeries(() => 0);
  series.rows(Array.from({ length: EVENT_NAMES_MAX }, (_, i) => event(`e${i}`)));
  const sum = (samples: number) => series.rows([event("late", samples)])[0].samples;
  assert.deepEqual([sum(100), sum(150), sum(20), sum(30)], [100, 150, 170, 180]);
});

test("labels hold no addresses of the kernel, and are not as long as a specification may be", () => {
  const rows = new EventSeries(() => 0).rows([
    event("mem:0xffffffff81000000/8:x"),
    event("mem:0xffffffff82000000/8:x"),
    event(`cpu/name=${"x".repeat(1000)}/`),
  ]);
  assert.equal(rows.length, 2, "what looks the same is merged");
  assert.equal(rows[0].labels.event, "mem:(kernel address)/8:x");
  assert.equal(rows[1].labels.event.length, 128);
});
