import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { AtomicDoorbell, AtomicWords } from "./words.js";

// Atomics.waitAsync does not keep the event loop alive; in the daemon its servers do.
let alive: NodeJS.Timeout;
before(() => {
  alive = setInterval(() => {}, 60_000);
});
after(() => clearInterval(alive));

describe("AtomicWords", () => {
  it("exchanges only what it expects, and says what was there", () => {
    const words = new AtomicWords(new ArrayBuffer(16));
    words.store(2, -5);
    assert.equal(words.compareExchange(2, 7, 8), -5);
    assert.equal(words.load(2), -5);
    assert.equal(words.compareExchange(2, -5, 8), -5);
    assert.equal(words.load(2), 8);
  });
});

describe("AtomicDoorbell", () => {
  it("resolves at once when it has rung since the value", async () => {
    const bell = new AtomicDoorbell(new SharedArrayBuffer(4));
    const value = bell.value();
    bell.ring();
    await bell.waitPast(value, Number.POSITIVE_INFINITY);
  });

  it("wakes everybody who waits", async () => {
    const bell = new AtomicDoorbell(new SharedArrayBuffer(8), 1);
    const value = bell.value();
    const waiting = [0, 1, 2].map(() => bell.waitPast(value, Number.POSITIVE_INFINITY));
    bell.ring();
    await Promise.all(waiting);
  });

  it("gives up when the time is over", async () => {
    const bell = new AtomicDoorbell(new SharedArrayBuffer(4));
    await bell.waitPast(bell.value(), 1);
  });
});
