/**
 * How old samples are when the client gets them. Buckets are of 1 us below 32 us and then sixteen to each power of two, so
 * that a bound is at most a sixteenth above what it stands for; the last bucket ends at 71 minutes, and beyond.
 */

const NS_PER_US = 1000;
/** Sub-buckets of a power of two, and its logarithm. */
const SUB_BITS = 4;
const SUB_BUCKETS = 2 ** SUB_BITS;
/** Microseconds are counted in 32 bits. */
const US_MAX = 2 ** 32 - 1;
const BUCKETS = (32 - SUB_BITS + 1) * SUB_BUCKETS;

/** Exclusive upper bound of each bucket in nanoseconds; the last one's is infinite. */
const BOUNDS_NS: readonly number[] = Object.freeze(
  Array.from({ length: BUCKETS }, (_, bucket) => {
    if (bucket === BUCKETS - 1) return Number.POSITIVE_INFINITY;
    const octave = Math.max(0, Math.floor(bucket / SUB_BUCKETS) - 1);
    return (bucket + 1 - octave * SUB_BUCKETS) * 2 ** octave * NS_PER_US;
  }),
);

export class LatencyHistogram {
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;

  /** Ages recorded. */
  get count(): number {
    return this.#count;
  }

  /** Ages by bucket; a copy. */
  get counts(): readonly number[] {
    return [...this.#counts];
  }

  /** Exclusive upper bound of each bucket in nanoseconds; the last one's is infinite. */
  get boundsNs(): readonly number[] {
    return BOUNDS_NS;
  }

  /**
   * The age in nanoseconds that `percent` of those recorded are below, too large by a sixteenth or 1 us at most. undefined
   * while there are none. `percent` is above 0 and at most 100.
   */
  percentileNs(percent: number): number | undefined {
    if (!(percent > 0 && percent <= 100)) throw new RangeError(`percentile ${percent}: not above 0 and up to 100`);
    if (this.#count === 0) return undefined;
    const rank = Math.max(1, Math.ceil((this.#count * percent) / 100));
    let seen = 0;
    const bucket = this.#counts.findIndex((count) => {
      seen += count;
      return seen >= rank;
    });
    return BOUNDS_NS[bucket];
  }

  /** A negative age is not counted: the clocks are not the same, and it says nothing. */
  record(ageNs: number): void {
    if (!(ageNs >= 0)) return;
    const us = Math.min(US_MAX, Math.floor(ageNs / NS_PER_US));
    // The leading bit says which power of two, the four behind it which part of that.
    const octave = Math.max(0, 32 - Math.clz32(us) - SUB_BITS - 1);
    this.#counts[octave * SUB_BUCKETS + (us >>> octave)]++;
    this.#count++;
  }
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+$/i;

/** Whether the daemon at `address` reads the same CLOCK_MONOTONIC as this process, unless the connection is forwarded. */
export function isThisHost(address: string): boolean {
  return address.startsWith("unix:") || LOOPBACK.test(address);
}

const NS_PER_SECOND = 1e9;

/** CLOCK_MONOTONIC in nanoseconds, exact for 104 days of uptime and to two nanoseconds beyond. */
export function monotonicNs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * NS_PER_SECOND + nanoseconds;
}
