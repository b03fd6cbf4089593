import assert from "node:assert/strict";
import { test } from "node:test";
import { parsePerfStats } from "./perf-stats.js";

/** As perf 6.1 prints them. */
const LOSSY = `
Aggregated stats:
           TOTAL events:      21495
            MMAP events:          1  ( 0.0%)
            LOST events:          3  ( 0.0%)
          SAMPLE events:      20421  (95.0%)
    LOST_SAMPLES events:          1  ( 0.0%)
cpu-clock stats:
          SAMPLE events:      20421
    LOST_SAMPLES events:         10
`;

test("lost samples are those of the events' own sections, not the records that told of them", () => {
  assert.deepEqual(parsePerfStats(LOSSY), { samples: 20_421, lost: 10 });
});

test("a recording that lost nothing says nothing of losses", () => {
  const clean = LOSSY.split("\n")
    .filter((line) => !line.includes("LOST"))
    .join("\n");
  assert.deepEqual(parsePerfStats(clean), { samples: 20_421, lost: 0 });
});

test("where losses are told without a number there is none", () => {
  const older = LOSSY.split("\n")
    .filter((line) => !line.includes("LOST_SAMPLES"))
    .join("\n");
  assert.deepEqual(parsePerfStats(older), { samples: 20_421, lost: undefined });
  assert.equal(parsePerfStats("Error: no trace data\n"), undefined);
});
