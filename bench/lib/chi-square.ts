/**
 * Pearson's chi-square tests of counts. The distribution's tail is the regularized upper incomplete gamma function
 * Q(df / 2, x / 2): Abramowitz and Stegun, Handbook of Mathematical Functions, 26.4.19 with 6.5.29 (series) and 6.5.31
 * (continued fraction).
 */

export interface ChiSquareTest {
  readonly statistic: number;
  readonly degreesOfFreedom: number;
  /** How probable so great a statistic is if what is tested is true. */
  readonly p: number;
}

/** With fewer expected in a cell the statistic has another distribution (Cochran's rule). */
const EXPECTED_MIN = 5;
const TERMS_MAX = 10_000;
const EPSILON = 1e-15;

/** Whether counts have the shares that are given; those need not add up to 1. Throws RangeError where counts are too few. */
export function goodnessOfFit(counts: readonly number[], shares: readonly number[]): ChiSquareTest {
  if (counts.length !== shares.length) throw new RangeError(`${counts.length} counts, ${shares.length} shares`);
  const [total, whole] = [add(counts), add(shares)];
  let statistic = 0;
  for (const [i, count] of counts.entries()) {
    statistic += term(count, (total * (shares[i] as number)) / whole);
  }
  return tested(statistic, counts.length - 1);
}

/** Whether rows of counts are of the same distribution, whatever that is. Throws RangeError where counts are too few. */
export function homogeneity(...rows: readonly (readonly number[])[]): ChiSquareTest {
  const cells = rows[0]?.length ?? 0;
  if (rows.some((row) => row.length !== cells)) throw new RangeError("rows of different numbers of counts");
  const columns = Array.from({ length: cells }, (_, i) => add(rows.map((row) => row[i] as number)));
  const total = add(columns);
  let statistic = 0;
  for (const row of rows) {
    const share = add(row) / total;
    for (const [i, count] of row.entries()) statistic += term(count, share * (columns[i] as number));
  }
  return tested(statistic, (rows.length - 1) * (cells - 1));
}

/** Independent tests of one thing, as one. */
export function pooled(tests: readonly ChiSquareTest[]): ChiSquareTest {
  return tested(add(tests.map(({ statistic }) => statistic)), add(tests.map((test) => test.degreesOfFreedom)));
}

function term(count: number, expected: number): number {
  if (!(expected >= EXPECTED_MIN))
    throw new RangeError(`${expected} expected in a cell, at least ${EXPECTED_MIN} needed`);
  return (count - expected) ** 2 / expected;
}

function tested(statistic: number, degreesOfFreedom: number): ChiSquareTest {
  return { statistic, degreesOfFreedom, p: chiSquareTail(statistic, degreesOfFreedom) };
}

function add(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** The probability of at least `x`. */
export function chiSquareTail(x: number, degreesOfFreedom: number): number {
  if (!(degreesOfFreedom > 0)) throw new RangeError(`${degreesOfFreedom} degrees of freedom`);
  if (!(x >= 0)) throw new RangeError(`a chi-square of ${x}`);
  if (x === 0) return 1;
  const a = degreesOfFreedom / 2;
  const half = x / 2;
  const front = Math.exp(a * Math.log(half) - half - lnGammaOfHalves(degreesOfFreedom));
  return half < a + 1 ? 1 - front * lowerSeries(a, half) : front * upperFraction(a, half);
}

/** What is exceeded with probability `p`. */
export function chiSquareCritical(p: number, degreesOfFreedom: number): number {
  if (!(p > 0 && p < 1)) throw new RangeError(`a probability of ${p}`);
  let [low, high] = [0, degreesOfFreedom];
  while (chiSquareTail(high, degreesOfFreedom) > p) [low, high] = [high, high * 2];
  // The tail falls: halved until doubles hold no more.
  for (let middle = (low + high) / 2; middle > low && middle < high; middle = (low + high) / 2) {
    if (chiSquareTail(middle, degreesOfFreedom) > p) low = middle;
    else high = middle;
  }
  return high;
}

/** ln of the gamma function of n / 2, from that of 1 or 1/2 upwards. */
function lnGammaOfHalves(n: number): number {
  let sum = n % 2 === 0 ? 0 : Math.log(Math.PI) / 2;
  for (let k = n % 2 === 0 ? 1 : 0.5; k < n / 2; k++) sum += Math.log(k);
  return sum;
}

/** gamma(a, x) of e^-x x^a / Gamma(a): the sum of x^k / (a (a + 1) … (a + k)). */
function lowerSeries(a: number, x: number): number {
  let part = 1 / a;
  let sum = part;
  for (let k = 1; k < TERMS_MAX && part > sum * EPSILON; k++) {
    part *= x / (a + k);
    sum += part;
  }
  return sum;
}

/** Gamma(a, x) of the same, a continued fraction from the front: numerators k (a - k), denominators x + 2k + 1 - a. */
function upperFraction(a: number, x: number): number {
  let denominator = x + 1 - a;
  let c = Number.POSITIVE_INFINITY;
  let d = 1 / denominator;
  let fraction = d;
  for (let k = 1; k < TERMS_MAX; k++) {
    const numerator = k * (a - k);
    denominator += 2;
    d = 1 / (denominator + numerator * d);
    c = denominator + numerator / c;
    fraction *= c * d;
    if (Math.abs(c * d - 1) < EPSILON) break;
  }
  return fraction;
}
