import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RING_FILL_WORDS, recordRingFill, ringFillHistogram, ringFillPeak } from "./ring-fill.js";

const RING = 1000;

describe("ring fill", () => {
  it("counts by tenths, upper bounds included, and a corrupt head as what is nearest", () => {
    const words = new Float64Array(RING_FILL_WORDS);
    for (const bytes of [1, 100, 101, 500, 900, 901, 1000, 5000, -8]) recordRingFill(words, bytes, RING);
    const { bounds, counts, sum } = ringFillHistogram(words);
    assert.deepEqual(bounds, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]);
    assert.deepEqual(counts, [3, 1, 0, 0, 1, 0, 0, 0, 1, 3]);
    assert.ok(Math.abs(sum - 4.503) < 1e-9, String(sum));
  });

  it("has a peak since any look, and none where nothing was drained", () => {
    const words = new Float64Array(RING_FILL_WORDS);
    recordRingFill(words, 950, RING);
    const before = words.slice();
    assert.equal(ringFillPeak(before, words), 0);
    recordRingFill(words, 550, RING);
    recordRingFill(words, 20, RING);
    assert.equal(ringFillPeak(before, words), 0.6);
    assert.equal(ringFillPeak(new Float64Array(RING_FILL_WORDS), words), 1);
  });
});
