import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { planMemory } from "../delivery/memory.js";
import { Arena, arenaBytes, SLAB_BYTES } from "../delivery/segment-layout.js";
import { OWN_BYTES_MIN, SegmentWriter } from "../delivery/segments.js";
import { memoryDefault, memoryForShares, memoryShortfall, RANGES } from "./limits.js";
import { print, problem, run } from "./load.test-support.js";

const MIB = 1024 * 1024;
const RANGE = RANGES["limits.memory_max_bytes"];

/** Of one dispatcher's segments, what there is for each handler when stuck readers have taken what is shared. */
function ownBytes(memoryMaxBytes: number, capacity: number, dispatchers: number): number {
  const buffer = new SharedArrayBuffer(arenaBytes(planMemory(memoryMaxBytes).segmentBytes / dispatchers));
  return (new Arena(buffer).reserveSlabs * SLAB_BYTES) / capacity;
}

describe("memory for each handler", () => {
  it("is there for sure from 256 KiB for each handler and dispatcher on, as the segments divide it", () => {
    for (const [capacity, dispatchers] of [
      [256, 1],
      [256, 8],
      [64, 16],
      [1000, 3],
    ]) {
      const wanted = memoryForShares({ capacity, dispatchers });
      assert.equal(wanted, 256 * 1024 * capacity * dispatchers);
      // Arenas are rounded down to whole slabs.
      assert.ok(ownBytes(wanted, capacity, dispatchers) > OWN_BYTES_MIN * 0.99);
      assert.ok(ownBytes(wanted * 0.9, capacity, dispatchers) < OWN_BYTES_MIN);
      const writer = new SegmentWriter(
        new SharedArrayBuffer(arenaBytes(planMemory(wanted).segmentBytes / dispatchers)),
      );
      assert.ok(writer.findShare(capacity) >= OWN_BYTES_MIN);
    }
  });

  it("is what the default limit is derived from, as far as a limit may go", () => {
    assert.equal(memoryDefault({ capacity: 256, dispatchers: 1 }), RANGE.default);
    assert.equal(memoryDefault({ capacity: 256, dispatchers: 8 }), 512 * MIB);
    assert.equal(memoryDefault({ capacity: 256, dispatchers: 16 }), 1024 * MIB);
    assert.equal(memoryDefault({ capacity: 4096, dispatchers: 64 }), RANGE.max);
  });

  it("is said to be void where the limit is set lower, with the number to raise", () => {
    const handlers = { capacity: 256, dispatchers: 16 };
    assert.equal(memoryShortfall(handlers, 1024 * MIB), null);
    const text = memoryShortfall(handlers, 512 * MIB);
    assert.match(String(text), /^limits\.memory_max_bytes \(536870912\) is below 262144 for each of 256 handlers/);
    assert.match(
      String(text),
      /not guaranteed.* raise limits\.memory_max_bytes to 1073741824, or lower capacity or disp/,
    );
    assert.match(
      String(memoryShortfall({ capacity: 4096, dispatchers: 64 }, RANGE.max)),
      /guarantee lower capacity or/,
    );
  });
});

describe("limits.memory_max_bytes", () => {
  it("grows with handlers and dispatchers unless it is set", () => {
    assert.equal(run({ argv: ["--dispatchers", "16"] }).limits.memoryMaxBytes, 1024 * MIB);
    assert.equal(run({ argv: ["--capacity", "8192"] }).limits.memoryMaxBytes, 2048 * MIB);
    const file = `limits: {memory_max_bytes: ${128 * MIB}}`;
    assert.equal(run({ argv: ["--dispatchers", "16"], file }).limits.memoryMaxBytes, 128 * MIB);
    const text = print({ argv: ["--dispatchers", "16", "--check-config"] });
    assert.match(text, /memory_max_bytes: 1073741824 # default for 256 handlers and 16 dispatchers/);
  });

  it("is refused where streams would have no memory at all", () => {
    const file = `limits: {memory_max_bytes: ${32 * MIB}}`;
    assert.match(
      problem({ argv: ["--capacity", "257"], file }),
      /capacity \(257\), times 131072, is above limits\.memory_/,
    );
  });
});
