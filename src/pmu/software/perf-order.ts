/**
 * The order in which perf reads records: sorted by time inside flush rounds (perf's util/ordered-events.c). At each
 * FINISHED_ROUND it hands on what is no younger than the youngest record of the round before: whatever a ring still held
 * then has come since. Ties stay in the order of the file; a record without a time is handed on at once.
 */

/**
 * `time` is in the order of the file, NaN where a record has none; `rounds` are indexes of the first record behind each
 * FINISHED_ROUND, ascending. Returns the records' indexes.
 */
export function perfOrder(time: Float64Array, rounds: Uint32Array): Uint32Array {
  const count = time.length;
  const order = new Uint32Array(count);
  const held = new Uint32Array(count);
  const scratch = new Uint32Array(count);
  let used = 0;
  let holding = 0;
  let flushUpTo = Number.NEGATIVE_INFINITY;
  let latest = Number.NEGATIVE_INFINITY;
  let next = 0;
  const take = (end: number): void => {
    for (; next < end; next++) {
      const own = time[next] as number;
      if (Number.isNaN(own)) {
        order[used++] = next;
        continue;
      }
      held[holding++] = next;
      if (own > latest) latest = own;
    }
  };
  const flush = (limit: number): void => {
    const pending = held.subarray(0, holding);
    sortByTime(pending, time, scratch.subarray(0, holding));
    let flushed = 0;
    while (flushed < holding && (time[pending[flushed] as number] as number) <= limit) flushed++;
    order.set(pending.subarray(0, flushed), used);
    used += flushed;
    held.copyWithin(0, flushed, holding);
    holding -= flushed;
  };
  for (const end of rounds) {
    take(end);
    flush(flushUpTo);
    flushUpTo = latest;
  }
  take(count);
  flush(Number.POSITIVE_INFINITY);
  return order;
}

/** Stable. A natural merge sort: each ring's records are in order, so that there are few runs to merge. */
function sortByTime(indexes: Uint32Array, time: Float64Array, scratch: Uint32Array): void {
  const at = (i: number): number => time[indexes[i] as number] as number;
  const count = indexes.length;
  let bounds: number[] = [0];
  for (let i = 1; i < count; i++) if (at(i) < at(i - 1)) bounds.push(i);
  while (bounds.length > 1) {
    const merged: number[] = [];
    for (let run = 0; run < bounds.length; run += 2) {
      const start = bounds[run] as number;
      merged.push(start);
      const middle = bounds[run + 1];
      if (middle !== undefined) mergeRuns(indexes, time, scratch, start, middle, bounds[run + 2] ?? count);
    }
    bounds = merged;
  }
}

function mergeRuns(
  indexes: Uint32Array,
  time: Float64Array,
  scratch: Uint32Array,
  start: number,
  middle: number,
  end: number,
): void {
  let left = start;
  let right = middle;
  for (let to = start; to < end; to++) {
    const takeRight =
      left === middle ||
      (right < end && (time[indexes[right] as number] as number) < (time[indexes[left] as number] as number));
    scratch[to] = indexes[takeRight ? right++ : left++] as number;
  }
  indexes.set(scratch.subarray(start, end), start);
}
