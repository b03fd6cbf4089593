import assert from "node:assert/strict";
import { test } from "node:test";
import { seededRandom } from "../../src/pmu/software/random.js";
import { chiSquareCritical, chiSquareTail, goodnessOfFit, homogeneity, pooled } from "./chi-square.js";

/** Abramowitz and Stegun, table 26.8: degrees of freedom, probability, value. */
const TABLE = [
  [1, 0.05, 3.84146],
  [1, 0.001, 10.828],
  [2, 0.01, 9.21034],
  [5, 0.95, 1.145476],
  [7, 0.05, 14.0671],
  [7, 0.001, 24.322],
  [10, 0.5, 9.34182],
  [21, 0.01, 38.9321],
  [30, 0.995, 13.7867],
  [100, 0.05, 124.342],
] as const;

test("critical values and tails are those of the tables", () => {
  for (const [df, p, value] of TABLE) {
    assert.ok(Math.abs(chiSquareTail(value, df) / p - 1) < 3e-4, `tail of ${value}, ${df} degrees of freedom`);
    assert.ok(Math.abs(chiSquareCritical(p, df) / value - 1) < 5e-5, `${p}, ${df} degrees of freedom`);
  }
});

test("two degrees of freedom are an exponential distribution, in both halves of the calculation", () => {
  for (const x of [1e-6, 0.1, 1, 3.999, 4.001, 20, 200, 1400]) {
    assert.ok(Math.abs(chiSquareTail(x, 2) / Math.exp(-x / 2) - 1) < 1e-12, `${x}`);
  }
  assert.equal(chiSquareTail(0, 3), 1);
  assert.throws(() => chiSquareTail(1, 0), RangeError);
  assert.throws(() => chiSquareTail(Number.NaN, 1), RangeError);
});

test("statistics are those of worked examples", () => {
  // Mendel's peas, 315 : 101 : 108 : 32 where 9 : 3 : 3 : 1 was expected.
  const peas = goodnessOfFit([315, 101, 108, 32], [9, 3, 3, 1]);
  assert.ok(Math.abs(peas.statistic - 0.470024) < 1e-6);
  assert.equal(peas.degreesOfFreedom, 3);
  assert.ok(Math.abs(peas.p - 0.925426) < 1e-6);
  // Of two rows of two, n (ad - bc)² / (row and column sums).
  const rows = homogeneity([10, 20], [30, 15]);
  assert.ok(Math.abs(rows.statistic - (75 * (10 * 15 - 20 * 30) ** 2) / (30 * 45 * 40 * 35)) < 1e-12);
  assert.equal(rows.degreesOfFreedom, 1);
  const both = pooled([peas, rows]);
  assert.equal(both.degreesOfFreedom, 4);
  assert.ok(Math.abs(both.statistic - peas.statistic - rows.statistic) < 1e-12);
});

test("counts that say too little, or do not belong together, are refused", () => {
  assert.throws(() => goodnessOfFit([4, 5], [1, 1]), /4.5 expected in a cell/);
  assert.throws(() => homogeneity([0, 0], [0, 0]), RangeError);
  assert.throws(() => goodnessOfFit([10, 10], [1]), RangeError);
  assert.throws(() => homogeneity([10, 10], [10]), RangeError);
});

test("the same shares are rejected as often as the level says, and others nearly always", () => {
  const seed = 5;
  const random = seededRandom(seed);
  const draw = (shares: readonly number[], count: number) => {
    const counts = shares.map(() => 0);
    const bounds = shares.map((_, i) => shares.slice(0, i + 1).reduce((sum, share) => sum + share, 0));
    for (let i = 0; i < count; i++) {
      const at = random();
      const cell = bounds.findIndex((bound) => at < bound);
      counts[cell < 0 ? shares.length - 1 : cell]++;
    }
    return counts;
  };
  const shares = [0.5, 0.25, 0.15, 0.1];
  const shifted = [0.44, 0.25, 0.15, 0.16];
  let [same, other] = [0, 0];
  const trials = 400;
  for (let i = 0; i < trials; i++) {
    const counts = draw(shares, 2000);
    if (homogeneity(counts, draw(shares, 1000)).p < 0.05) same++;
    if (homogeneity(counts, draw(shifted, 1000)).p < 0.05) other++;
  }
  // 20 are expected; five standard deviations are 22.
  assert.ok(same > 2 && same < 42, `${same} of ${trials} rejected, seed ${seed}`);
  assert.ok(other > 0.9 * trials, `${other} of ${trials} rejected, seed ${seed}`);
});
