/**
 * How full rings were when a dispatcher came to drain them, in tenths of a ring. Counters that only grow: whoever wants
 * the peak of a time takes the difference of two looks, and needs nobody to reset anything.
 *
 * The kernel wakes a dispatcher when a ring is half full (pmu/perf/source.ts), so up to 0.6 is as it should be.
 */
import type { HistogramSnapshot } from "../observe/snapshot.js";

const TENTHS = 10;
const SUM_AT = TENTHS;
export const RING_FILL_WORDS = TENTHS + 1;

/** Upper bounds of all buckets but the last. */
const BOUNDS = Array.from({ length: TENTHS - 1 }, (_, i) => (i + 1) / TENTHS);

/** `words` is written by the dispatcher alone, once a drained ring. */
export function recordRingFill(words: Float64Array, unreadBytes: number, ringBytes: number): void {
  // A corrupt head may lie anywhere.
  const fill = Math.min(1, Math.max(0, unreadBytes / ringBytes));
  words[Math.max(0, Math.ceil(fill * TENTHS) - 1)] += 1;
  words[SUM_AT] += fill;
}

export function ringFillHistogram(words: Float64Array): HistogramSnapshot {
  return { bounds: BOUNDS, counts: Array.from(words.subarray(0, TENTHS)), sum: words[SUM_AT] };
}

/** The fullest ring between two looks, rounded up to a tenth; 0 when none was drained. */
export function ringFillPeak(before: Float64Array, now: Float64Array): number {
  for (let tenth = TENTHS - 1; tenth >= 0; tenth--) {
    if (now[tenth] > before[tenth]) return (tenth + 1) / TENTHS;
  }
  return 0;
}
