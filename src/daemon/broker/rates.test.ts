import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseEventSpec } from "../../pmu/event-spec.js";
import type { Rate, ResolvedEvent } from "../../pmu/source.js";
import { capped, isFaster, lowered, raised, shareInForce } from "./rates.js";

const hz = (value: number): Rate => ({ kind: "frequency", hz: value });
const each = (period: number): Rate => ({ kind: "period", period });
const ALL: Rate = { kind: "all" };

function event(name: string): ResolvedEvent {
  return { ...parseEventSpec(name), rate: ALL, key: name };
}

describe("rates", () => {
  it("are faster at more hertz, and at shorter periods", () => {
    assert.ok(isFaster(hz(2), hz(1)) && !isFaster(hz(1), hz(2)) && !isFaster(hz(1), hz(1)));
    assert.ok(isFaster(each(1), each(2)) && !isFaster(each(2), each(1)) && !isFaster(each(1), each(1)));
    assert.ok(!isFaster(ALL, ALL));
  });

  it("are held by a cap of their own kind", () => {
    assert.deepEqual(capped(hz(1000), hz(100)), hz(100));
    assert.deepEqual(capped(hz(50), hz(100)), hz(50));
    assert.deepEqual(capped(each(10), each(40)), each(40));
    assert.deepEqual(capped(hz(1000), null), hz(1000));
    assert.deepEqual(capped(ALL, hz(100)), ALL);
  });

  it("are halved down to the floor and no further", () => {
    const steps = (of: ResolvedEvent, asked: Rate, floorHz: number): Rate[] => {
      const all: Rate[] = [];
      for (let rate = lowered(of, asked, asked, floorHz); rate !== null; rate = lowered(of, asked, rate, floorHz))
        all.push(rate);
      return all;
    };
    assert.deepEqual(steps(event("cycles"), hz(997), 100), [hz(499), hz(250), hz(125), hz(100)]);
    assert.deepEqual(steps(event("cycles"), hz(99), 100), []);
    assert.deepEqual(steps(event("cpu-clock"), each(3_000_000), 100), [each(6_000_000), each(10_000_000)]);
    assert.deepEqual(steps(event("cpu-clock"), each(20_000_000), 100), []);
    assert.deepEqual(steps(event("cycles"), each(5), 100).at(-1), each(5 * 1024), "no clock, no hertz");
    assert.deepEqual(steps(event("cycles"), ALL, 100), []);
  });

  it("are doubled until there is nothing to hold back", () => {
    assert.deepEqual(raised(hz(997), hz(125)), hz(250));
    assert.equal(raised(hz(997), hz(499)), null);
    assert.equal(raised(hz(1000), hz(500)), null);
    assert.deepEqual(raised(each(3), each(13)), each(6));
    assert.equal(raised(each(3), each(6)), null);
    assert.equal(raised(ALL, ALL), null);
  });

  it("have a share of what was asked for", () => {
    assert.equal(shareInForce(hz(1000), hz(250)), 0.25);
    assert.equal(shareInForce(each(10), each(40)), 0.25);
    assert.equal(shareInForce(ALL, ALL), 1);
  });
});
