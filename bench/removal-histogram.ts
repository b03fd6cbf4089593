/**
 * Durations by the million in shared memory: exact below 32 ns, then 32 buckets for each doubling, so that a quantile is
 * true to 3 %. One writer.
 */
const SUB_BITS = 5;
const SUB = 1 << SUB_BITS;
const BUCKETS = (31 - SUB_BITS + 1) * SUB;
const NS_MAX = 2 ** 31 - 1;

export interface Durations {
  readonly count: number;
  readonly p50Ns: number;
  readonly p99Ns: number;
  readonly p999Ns: number;
  readonly maxNs: number;
}

export class DurationHistogram {
  /** Doubles: the longest duration, then a count a bucket. */
  readonly buffer: SharedArrayBuffer;
  readonly #doubles: Float64Array;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer((1 + BUCKETS) * 8)) {
    this.buffer = buffer;
    this.#doubles = new Float64Array(buffer);
  }

  record(ns: number): void {
    const doubles = this.#doubles;
    if (ns > doubles[0]) doubles[0] = ns;
    doubles[1 + bucketOf(Math.min(NS_MAX, ns))] += 1;
  }

  summary(): Durations {
    const counts = this.#doubles.subarray(1);
    const count = counts.reduce((total, n) => total + n, 0);
    const quantile = (share: number): number => {
      let below = 0;
      for (let bucket = 0; bucket < BUCKETS; bucket++) {
        below += counts[bucket];
        if (below > 0 && below >= count * share) return Math.min(upperBound(bucket), this.#doubles[0]);
      }
      return Number.NaN;
    };
    return { count, p50Ns: quantile(0.5), p99Ns: quantile(0.99), p999Ns: quantile(0.999), maxNs: this.#doubles[0] };
  }
}

function bucketOf(ns: number): number {
  const whole = ns | 0;
  if (whole < SUB) return Math.max(0, whole);
  const shift = 31 - Math.clz32(whole) - SUB_BITS;
  return shift * SUB + (whole >>> shift);
}

function upperBound(bucket: number): number {
  if (bucket < SUB) return bucket;
  const shift = Math.floor(bucket / SUB) - 1;
  return ((bucket - shift * SUB + 1) << shift) - 1;
}
