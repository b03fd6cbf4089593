import assert from "node:assert/strict";
import { test } from "node:test";
import { median, quantile } from "./stats.js";

test("a quantile is a value that was measured: the least that enough of them do not exceed", () => {
  const values = Array.from({ length: 1000 }, (_, i) => i + 1);
  assert.equal(quantile(values, 0.5), 500);
  assert.equal(quantile(values, 0.99), 990);
  assert.equal(quantile(values, 0.999), 999);
  assert.equal(quantile(values, 1), 1000);
  assert.equal(quantile(values, 0), 1);
  assert.equal(quantile([7], 0.999), 7);
  assert.ok(Number.isNaN(quantile([], 0.5)));
});

test("the median of an even number lies between the two in the middle", () => {
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([3, 1, 2]), 2);
});
