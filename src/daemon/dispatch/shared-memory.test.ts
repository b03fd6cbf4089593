import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CAPACITY_MAX, DISPATCHERS_MAX, LINE_BYTES } from "../../registry/layout.js";
import { SharedMemory, type SharedPart, sharedLayout } from "./shared-memory.js";
import { DISPATCHER_STAT } from "./stats.js";

function parts(capacity: number, dispatchers: number): SharedPart[] {
  const { removalBell, sleeper, dispatchers: each } = sharedLayout(capacity, dispatchers);
  return [removalBell, sleeper, ...each.flatMap(({ signal, stats }) => [signal, stats])];
}

const SIZES = [
  [1, 1],
  [31, 2],
  [32, 3],
  [33, 7],
  [256, DISPATCHERS_MAX],
  [CAPACITY_MAX, 5],
] as const;

describe("sharedLayout", () => {
  test("no cache line holds two parts, nor a part and what is beside the buffer, wherever lines begin in it", () => {
    for (const [capacity, dispatchers] of SIZES) {
      const { bytes } = sharedLayout(capacity, dispatchers);
      for (let lineBegins = 0; lineBegins < LINE_BYTES; lineBegins += 4) {
        const lineOf = (at: number) => Math.floor((at - lineBegins) / LINE_BYTES);
        const owners = new Map([
          [lineOf(-1), "what is before"],
          [lineOf(bytes), "what is behind"],
        ]);
        for (const { name, at, bytes: size } of parts(capacity, dispatchers)) {
          for (let line = lineOf(at); line <= lineOf(at + size - 1); line++) {
            assert.equal(owners.get(line), undefined, `${name} shares a line of ${capacity} by ${dispatchers}`);
            owners.set(line, name);
          }
        }
      }
    }
  });

  test("parts are in the buffer, aligned for doubles, and as large as what they hold", () => {
    for (const [capacity, dispatchers] of SIZES) {
      const layout = sharedLayout(capacity, dispatchers);
      for (const { at, bytes } of parts(capacity, dispatchers)) assert.ok(at % 8 === 0 && at + bytes <= layout.bytes);
      assert.equal(layout.dispatchers.length, dispatchers);
      for (const { signal } of layout.dispatchers) assert.ok((signal.bytes - 4) * 8 >= capacity);
    }
  });
});

describe("SharedMemory", () => {
  test("what one view writes another reads, in the part it belongs to and in no other", () => {
    const here = new SharedMemory(40, 2);
    const there = new SharedMemory(40, 2, here.buffer);
    here.dirty(1)[1] = 5;
    here.stats(0).words[DISPATCHER_STAT.WAKEUPS] = 7;
    here.removalBell().ring();
    here.deliveryBell().ring(1);
    assert.deepEqual([...there.dirty(1)], [0, 5]);
    assert.deepEqual([...there.dirty(0)], [0, 0]);
    assert.equal(there.stats(0).words[DISPATCHER_STAT.WAKEUPS], 7);
    assert.equal(
      there.stats(1).words.some((word) => word !== 0),
      false,
    );
    assert.equal(there.removalBell().value(), 1);
    const bell = there.deliveryBell();
    assert.deepEqual([bell.take(0), bell.take(1), bell.take(1)], [false, true, false]);
  });
});
