import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { BusyClock, BusyReader } from "./busy-clock.js";

function setUp() {
  const words = new Float64Array(2);
  const clock = { ns: 1000 };
  const open = () => new BusyClock(words, 1, () => clock.ns);
  const reader = new BusyReader(words, 1);
  return { words, clock, open, reader, read: () => reader.read(clock.ns) };
}

describe("BusyClock", () => {
  it("counts what lies between begin and end, also while it lasts", () => {
    const { words, clock, open, read } = setUp();
    const busy = open();
    assert.equal(read(), 0);
    busy.begin();
    assert.equal(read(), 0);
    clock.ns = 1300;
    assert.equal(read(), 300);
    busy.end();
    clock.ns = 5000;
    assert.equal(read(), 300);
    busy.begin();
    clock.ns = 5050;
    assert.equal(read(), 350);
    busy.end();
    assert.deepEqual([...words], [0, 350]);
  });

  it("never goes back, though the reader's clock is ahead", () => {
    const { clock, open, reader, read } = setUp();
    const busy = open();
    busy.begin();
    clock.ns = 1100;
    assert.equal(reader.read(clock.ns + 7), 107);
    busy.end();
    assert.equal(read(), 107);
    busy.begin();
    assert.equal(reader.read(clock.ns - 9), 107);
    clock.ns = 1200;
    busy.end();
    assert.equal(read(), 200);
  });

  it("goes on where one that died left it, at work or asleep", () => {
    const { clock, open, read } = setUp();
    open().begin();
    clock.ns = 1200;
    const second = open();
    second.begin();
    clock.ns = 1500;
    assert.equal(read(), 500);
    second.end();
    open().begin();
    clock.ns = 1600;
    assert.equal(read(), 600);
  });
});
