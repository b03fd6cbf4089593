import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import {
  BUCKET_BOUNDS_SECONDS,
  BUCKET_COUNT,
  HISTOGRAM_WORDS,
  LatencyHistogram,
  snapshotHistograms,
} from "./histogram.js";

/** The bucket by definition: the first whose inclusive upper bound holds the value. */
function bucketByDefinition(ns: number): number {
  for (let i = 0; i < BUCKET_COUNT - 1; i++) if (ns <= 1000 * 2 ** i) return i;
  return BUCKET_COUNT - 1;
}

function bucketOf(ns: number): number {
  const words = new Float64Array(HISTOGRAM_WORDS);
  new LatencyHistogram(words).record(ns);
  const { counts } = snapshotHistograms([words]);
  assert.equal(
    counts.reduce((a, b) => a + b),
    1,
    `${ns} ns is counted once`,
  );
  return counts.indexOf(1);
}

test("bounds double from 1 us to 8.39 s and print without an exponent", () => {
  assert.equal(BUCKET_BOUNDS_SECONDS.length, BUCKET_COUNT - 1);
  assert.equal(BUCKET_BOUNDS_SECONDS[0], 1e-6);
  assert.equal(BUCKET_BOUNDS_SECONDS.at(-1), 8.388608);
  BUCKET_BOUNDS_SECONDS.forEach((bound, i) => {
    assert.match(String(bound), /^\d+(\.\d+)?$/);
    assert.equal(bound, Number(`${2 ** i}e-6`));
  });
  assert.equal(HISTOGRAM_WORDS % 8, 0, "whole cache lines");
});

test("every bucket edge: at the bound, one below, one above", () => {
  for (let i = 0; i < BUCKET_COUNT - 1; i++) {
    const bound = 1000 * 2 ** i;
    assert.equal(bucketOf(bound), i, `${bound} ns is inclusive`);
    assert.equal(bucketOf(bound + 1), i + 1, `${bound + 1} ns`);
    assert.equal(bucketOf(bound - 1), i, `${bound - 1} ns`);
  }
});

test("every nanosecond to 70 us, then every odd step to beyond the last bound, by definition", () => {
  for (let ns = 0; ns <= 70_000; ns++) assert.equal(bucketOf(ns), bucketByDefinition(ns), `${ns} ns`);
  for (let ns = 70_000; ns < 2e10; ns = Math.floor(ns * 1.001) + 1) {
    assert.equal(bucketOf(ns), bucketByDefinition(ns), `${ns} ns`);
  }
});

test("values far beyond 2^32 us stay in the last bucket", () => {
  for (const us of [2 ** 23, 2 ** 31, 2 ** 32, 2 ** 32 + 1, 2 ** 33, 2 ** 43]) {
    assert.equal(bucketOf(us * 1000 + 1000), BUCKET_COUNT - 1, `${us} us`);
  }
  assert.equal(bucketOf(Number.MAX_SAFE_INTEGER), BUCKET_COUNT - 1);
});

test("NaN and negative values count as 0", () => {
  const words = new Float64Array(HISTOGRAM_WORDS);
  const histogram = new LatencyHistogram(words);
  for (const ns of [Number.NaN, -1, -0, -1e18, Number.NEGATIVE_INFINITY]) histogram.record(ns);
  const { counts, sum } = snapshotHistograms([words]);
  assert.equal(counts[0], 5);
  assert.equal(sum, 0);
});

test("count weighs both the bucket and the sum", () => {
  const words = new Float64Array(HISTOGRAM_WORDS);
  const histogram = new LatencyHistogram(words);
  histogram.record(1_500, 7);
  histogram.record(1_500, 0);
  const { counts, sum } = snapshotHistograms([words]);
  assert.equal(counts[1], 7);
  assert.equal(sum, 10_500 / 1e9);
});

test("several writers are merged, one of them another thread over shared memory", async () => {
  const shared = new SharedArrayBuffer(2 * HISTOGRAM_WORDS * 8);
  const mine = new Float64Array(shared, 0, HISTOGRAM_WORDS);
  const theirs = new Float64Array(shared, HISTOGRAM_WORDS * 8, HISTOGRAM_WORDS);
  const code = `
    const { workerData } = require("node:worker_threads");
    import(workerData.module).then(({ LatencyHistogram }) => {
      const histogram = new LatencyHistogram(workerData.words);
      for (let i = 0; i < 1000; i++) histogram.record(3_000);
    });`;
  const module = new URL("./histogram.js", import.meta.url).href;
  const worker = new Worker(code, { eval: true, workerData: { module, words: theirs } });
  const histogram = new LatencyHistogram(mine);
  for (let i = 0; i < 500; i++) histogram.record(900);
  await once(worker, "exit");
  const { counts, sum } = snapshotHistograms([mine, theirs]);
  assert.equal(counts[0], 500);
  assert.equal(counts[2], 1000);
  assert.equal(sum, (500 * 900 + 1000 * 3000) / 1e9);
});

test("no writer gives an empty histogram; a view of the wrong size is refused", () => {
  const empty = snapshotHistograms([]);
  assert.deepEqual(empty.counts, new Array(BUCKET_COUNT).fill(0));
  assert.equal(empty.sum, 0);
  assert.throws(() => new LatencyHistogram(new Float64Array(HISTOGRAM_WORDS - 1)), RangeError);
  assert.throws(() => snapshotHistograms([new Float64Array(HISTOGRAM_WORDS + 1)]), RangeError);
});
