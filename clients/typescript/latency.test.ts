import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isThisHost, LatencyHistogram, monotonicNs } from "./latency.js";

const US = 1000;

function histogram(...agesNs: number[]): LatencyHistogram {
  const ages = new LatencyHistogram();
  for (const age of agesNs) ages.record(age);
  return ages;
}

describe("LatencyHistogram", () => {
  test("every age is in the bucket whose bounds hold it, a sixteenth or 1 us wide", () => {
    const { boundsNs } = new LatencyHistogram();
    const [first, ...rest] = boundsNs;
    assert.equal(first, US);
    for (const [i, bound] of rest.entries()) assert.ok(bound > boundsNs[i], `bound ${i + 1}`);
    assert.equal(boundsNs.at(-1), Number.POSITIVE_INFINITY);
    const last = boundsNs.length - 1;
    for (let bucket = 0; bucket <= last; bucket++) {
      const low = bucket === 0 ? 0 : boundsNs[bucket - 1];
      const high = bucket === last ? 1e18 : boundsNs[bucket] - 1;
      for (const age of [low, low + 0.5, high]) {
        const { counts } = histogram(age);
        assert.equal(counts[bucket], 1, `${age} ns belongs into bucket ${bucket}`);
      }
      if (bucket < last) assert.ok(boundsNs[bucket] - low <= Math.max(US, low / 16), `width of bucket ${bucket}`);
    }
  });

  test("percentiles are bounds, never too small and at most a sixteenth too large", () => {
    const ages = Array.from({ length: 1000 }, (_, i) => 50 * US * 1.01 ** i);
    const measured = histogram(...ages.toReversed());
    assert.equal(measured.count, 1000);
    for (const [percent, rank] of [
      [0.1, 1],
      [50, 500],
      [99, 990],
      [99.9, 999],
      [100, 1000],
    ]) {
      const exact = ages[rank - 1];
      const told = measured.percentileNs(percent) as number;
      assert.ok(told > exact && told <= exact * (1 + 1 / 16) + US, `${percent} %: ${told} of ${exact}`);
    }
  });

  test("without ages there is no percentile, and none above 100 or of 0", () => {
    assert.equal(new LatencyHistogram().percentileNs(50), undefined);
    for (const percent of [0, -1, 100.1, Number.NaN]) {
      assert.throws(() => histogram(1).percentileNs(percent), RangeError);
    }
  });

  test("ages below nothing, and none at all, are not counted", () => {
    const { count, counts } = histogram(-1, Number.NaN, Number.NEGATIVE_INFINITY);
    assert.equal(count, 0);
    assert.ok(counts.every((each) => each === 0));
  });

  test("counts handed out do not change any more", () => {
    const ages = histogram(1);
    const { counts } = ages;
    ages.record(1);
    assert.deepEqual([counts[0], ages.counts[0]], [1, 2]);
  });
});

test("the same host is a Unix socket or loopback", () => {
  for (const address of ["unix:/a", "unix:a", "localhost:1", "LOCALHOST:1", "127.0.0.1:9", "127.9.8.7:9", "[::1]:9"]) {
    assert.ok(isThisHost(address), address);
  }
  for (const address of ["10.0.0.1:9", "example.org:9", "localhost.example.org:9", "127.example.org:9", "[::2]:9"]) {
    assert.ok(!isThisHost(address), address);
  }
});

test("the clock is the kernel's CLOCK_MONOTONIC", () => {
  const before = Number(process.hrtime.bigint());
  const between = monotonicNs();
  assert.ok(before <= between && between <= Number(process.hrtime.bigint()));
});
