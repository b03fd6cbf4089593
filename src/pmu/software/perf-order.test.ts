import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { perfOrder } from "./perf-order.js";
import { seededRandom } from "./random.js";

const order = (time: readonly number[], rounds: readonly number[] = []): number[] =>
  Array.from(perfOrder(Float64Array.from(time), Uint32Array.from(rounds)));

describe("perf's order", () => {
  it("is that of time, and of the file among equals", () => {
    assert.deepEqual(order([]), []);
    assert.deepEqual(order([5, 1, 5, 1, 3]), [1, 3, 4, 0, 2]);
  });

  it("hands on what has no time at once", () => {
    assert.deepEqual(order([5, Number.NaN, 1, Number.NaN]), [1, 3, 2, 0]);
  });

  it("hands on at the end of a round what was there at the end of the one before", () => {
    // Round 1 holds 1 and 9, round 2 holds 2 and 8; 3 comes after 9 was handed on.
    assert.deepEqual(order([1, 9, 2, 8, 3, 10], [2, 4, 4]), [0, 2, 3, 1, 4, 5]);
    assert.deepEqual(order([4, 2, 1, 3], [2]), [2, 1, 3, 0]);
  });

  it("is the order of time where no record comes a round too late", () => {
    const seed = 3;
    const random = seededRandom(seed);
    for (let trial = 0; trial < 200; trial++) {
      const time: number[] = [];
      const rounds: number[] = [];
      for (let round = 0; round < 5; round++) {
        // Each ring ascends, and a round reaches back no further than the one before began.
        for (let ring = 0; ring < 3; ring++) {
          let own = round * 10;
          for (let i = 0; i < random() * 8; i++) {
            own += Math.floor(random() * 3);
            time.push(own);
          }
        }
        rounds.push(time.length);
      }
      const sorted = time.map((_, i) => i).sort((a, b) => (time[a] as number) - (time[b] as number) || a - b);
      assert.deepEqual(order(time, rounds), sorted, `seed ${seed}, trial ${trial}`);
    }
  });
});
