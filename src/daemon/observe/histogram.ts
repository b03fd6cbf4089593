/**
 * Latency histograms in shared memory: one writer each, merged by the reader.
 *
 * Buckets double from 1 us to 8.39 s, so that a value's bucket is the bit length of its microseconds: no search, no
 * table. Counts are Float64 words, exact to 2^53; aligned 8-byte stores do not tear on x86-64, and a reader that comes
 * between the two stores of one record() sees a sum without its count, which the next scrape puts right.
 *
 * Words: [0] sum in ns, [1 .. BUCKET_COUNT] samples by bucket, then unused up to HISTOGRAM_WORDS.
 */
import type { HistogramSnapshot } from "./snapshot.js";

/** Finite bounds: 1 us, 2 us, 4 us … 2^23 us. */
const FINITE_BUCKETS = 24;
const LARGEST_BOUND_US = 2 ** (FINITE_BUCKETS - 1);

/** One more than there are bounds: the last bucket reaches to +Inf. */
export const BUCKET_COUNT = FINITE_BUCKETS + 1;

/** Inclusive upper bounds of all buckets but the last, in seconds. Divided, not multiplied: 2^i/1e6 rounds correctly. */
export const BUCKET_BOUNDS_SECONDS: readonly number[] = Object.freeze(
  Array.from({ length: FINITE_BUCKETS }, (_, i) => 2 ** i / 1e6),
);

const SUM = 0;
const FIRST_BUCKET = SUM + 1;

/** Size of one histogram in 8-byte words: whole cache lines, since neighbours have different writers. */
export const HISTOGRAM_WORDS = Math.ceil((FIRST_BUCKET + BUCKET_COUNT) / 8) * 8;

function checkLength(words: Float64Array): void {
  if (words.length !== HISTOGRAM_WORDS) {
    throw new RangeError(`a histogram has ${HISTOGRAM_WORDS} words, not ${words.length}`);
  }
}

/** The writer's side. The memory starts zeroed and belongs to this writer alone. */
export class LatencyHistogram {
  readonly #words: Float64Array;

  /** `words` is a view of HISTOGRAM_WORDS words, 64-byte aligned where writers must not share cache lines. */
  constructor(words: Float64Array) {
    checkLength(words);
    this.#words = words;
  }

  /** Counts `count` samples of `ns` nanoseconds each. NaN and negative values (clocks that disagree) count as 0. */
  record(ns: number, count = 1): void {
    let value = 0;
    if (ns > 0) value = ns;
    // Minus one, since bounds are inclusive. clz32 drops the fraction, that of 0's -0.001 as well.
    const us = (value - 1) / 1000;
    const bucket = us < LARGEST_BOUND_US ? 32 - Math.clz32(us) : FINITE_BUCKETS;
    const words = this.#words;
    words[SUM] = (words[SUM] as number) + value * count;
    words[FIRST_BUCKET + bucket] = (words[FIRST_BUCKET + bucket] as number) + count;
  }
}

/** Adds up the histograms of several writers. No views give an empty histogram. */
export function snapshotHistograms(views: readonly Float64Array[]): HistogramSnapshot {
  const counts = new Array<number>(BUCKET_COUNT).fill(0);
  let sumNs = 0;
  for (const words of views) {
    checkLength(words);
    sumNs += words[SUM] as number;
    for (let i = 0; i < BUCKET_COUNT; i++) {
      counts[i] = (counts[i] as number) + (words[FIRST_BUCKET + i] as number);
    }
  }
  return { bounds: BUCKET_BOUNDS_SECONDS, counts, sum: sumNs / 1e9 };
}
