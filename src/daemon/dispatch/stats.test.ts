import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { EVENTS_MAX } from "../../pmu/record.js";
import { DISPATCHER_STAT, DispatcherStats, EVENT_STAT } from "./stats.js";

describe("DispatcherStats", () => {
  it("gives every counter a word of its own", () => {
    const stats = new DispatcherStats();
    const words: number[] = Object.values(DISPATCHER_STAT);
    for (let event = 0; event < EVENTS_MAX; event++) {
      for (const stat of Object.values(EVENT_STAT)) words.push(stats.event(event, stat));
    }
    for (let i = 0; i < stats.ringFill.length; i++) words.push(stats.ringFill.byteOffset / 8 + i);
    assert.equal(new Set(words).size, words.length);
    const histogramWord = stats.ringToDispatch.byteOffset / 8;
    assert.ok(words.every((word) => word >= 0 && word < histogramWord));
    assert.equal(stats.ringToDispatch.byteOffset % 64, 0);
    assert.equal(stats.ringToDispatch.byteOffset + stats.ringToDispatch.byteLength, stats.buffer.byteLength);
  });

  it("is the same memory on the other side", () => {
    const here = new DispatcherStats();
    const there = new DispatcherStats(here.buffer);
    there.words[there.event(63, EVENT_STAT.UNTHROTTLED)] = 5;
    there.ringToDispatch[1] = 6;
    there.ringFill[2] = 7;
    assert.equal(here.words[here.event(63, EVENT_STAT.UNTHROTTLED)], 5);
    assert.equal(here.ringToDispatch[1], 6);
    assert.equal(here.ringFill[2], 7);
  });
});
