import assert from "node:assert/strict";
import { describe, it, mock } from "node:test";
import { OutboxWriter } from "../delivery/outbox.js";
import { SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SLAB_BYTES } from "../delivery/segment-layout.js";
import { type DispatcherFixture, format, numbered, openDispatcher, write } from "./dispatcher.test-support.js";
import { chunkBytes } from "./encode.js";

const SLABS = 16;
const QUEUE_BYTES = 2 ** 24;

function open(slabs = SLABS): DispatcherFixture {
  const fixture = openDispatcher([0], 2 ** 20, 0, slabs * SLAB_BYTES);
  fixture.dispatcher.addFormats(0, [format([1])]);
  return fixture;
}

/** As many samples as fill a segment of so many bytes. */
function samplesFor(bytes: number): number {
  const perSample = chunkBytes(1, 0, 0) - chunkBytes(0, 0, 0);
  return Math.floor((bytes - SEGMENT_HEADER_BYTES - chunkBytes(0, 0, 0)) / perSample);
}

describe("Dispatcher: memory", () => {
  it("is there for a handler that reads, whatever segments two others have conspired to keep", () => {
    const fixture = open();
    const keeper = fixture.add({ filter: { pids: [1] }, regionBytes: QUEUE_BYTES });
    const helper = fixture.add({ filter: { pids: [2] }, regionBytes: QUEUE_BYTES });
    const victim = fixture.add({ filter: { pids: [3] } });
    const lost = (slot: number): number => fixture.counters.dispatched(slot).memory;
    for (let bytes = SEGMENT_BYTES_MIN; bytes <= 16 * 1024; bytes *= 2) {
      const perSlab = SLAB_BYTES / bytes;
      const before = lost(helper.handle.slot);
      // The helper fills slab after slab; of each the keeper keeps one segment.
      for (let i = 0; i < SLABS * perSlab && lost(helper.handle.slot) === before; i++) {
        write(fixture, numbered(samplesFor(bytes), { pid: i % perSlab === 0 ? 1 : 2 }));
        fixture.dispatcher.drain();
      }
      helper.takeTimes();
    }
    assert.ok(keeper.reader.usedBytes < fixture.segments.use().capacityBytes / 8);
    let received = 0;
    for (let round = 0; round < 20; round++) {
      write(fixture, numbered(1000, { pid: 3 }));
      fixture.dispatcher.drain();
      received += victim.takeTimes().length;
    }
    assert.equal(received, 20_000);
    assert.equal(lost(victim.handle.slot), 0);
  });

  it("is asked for whenever an outbox has been found to have room, also while its reader makes more", () => {
    const fixture = open();
    const handler = fixture.add({ regionBytes: 20 * 1024 });
    let received = 0;
    // The reader empties the outbox after each look of the dispatcher's.
    const { isFull } = OutboxWriter.prototype;
    const look = mock.method(
      OutboxWriter.prototype,
      "isFull",
      function (this: OutboxWriter, event: number, bytes: number) {
        const answer = isFull.call(this, event, bytes);
        received += handler.takeTimes().length;
        return answer;
      },
    );
    try {
      for (let round = 0; round < 10; round++) {
        write(fixture, numbered(1000));
        fixture.dispatcher.drain();
      }
    } finally {
      look.mock.restore();
    }
    received += handler.takeTimes().length;
    const pending = handler.reader.pendingLosses(0);
    const lost = [...handler.losses, ...pending].reduce((sum, { samples }) => sum + samples, 0);
    assert.ok(lost > 0 && received > 0);
    assert.equal(received + lost, handler.reader.matched(0));
  });

  it("is not spent on lanes that nobody is offered", () => {
    const fixture = open();
    const going = Array.from({ length: 38 }, (_, i) => fixture.add({ filter: { pids: [7, 1000 + i] } }));
    write(fixture, numbered(1, { pid: 7 }));
    fixture.dispatcher.drain();
    for (const handler of going) handler.takeTimes();
    write(fixture, numbered(1, { pid: 8 }));
    fixture.dispatcher.drain();
    const { peakBytes } = fixture.segments.use();
    for (const { handle } of going) fixture.table.beginRemoval(handle);
    write(fixture, numbered(400, { pid: 7 }));
    fixture.dispatcher.drain();
    assert.equal(fixture.segments.use().peakBytes, peakBytes);
  });

  it("is not spent on lanes whose handlers are stuck, so that those who come last find room", () => {
    const fixture = open(8);
    const stuck = Array.from({ length: 38 }, (_, i) => fixture.add({ filter: { pids: [7, 1000 + i] } }));
    const quick = fixture.add({ filter: { pids: [7] } });
    let received = 0;
    for (let round = 0; round < 20; round++) {
      write(fixture, numbered(400, { pid: 7 }));
      fixture.dispatcher.drain();
      received += quick.takeTimes().length;
    }
    assert.equal(received, 8000);
    for (const { handle, reader } of stuck) {
      const { matched, queueFull, memory } = fixture.counters.dispatched(handle.slot);
      assert.equal(matched, 8000);
      assert.ok(queueFull + memory > 0 && reader.usedBytes > 0);
    }
  });

  it("may end for one handler of a lane and not for the next, and the weights are right for both", () => {
    const fixture = open(4);
    const [stuck, quick] = [fixture.add({ regionBytes: QUEUE_BYTES }), fixture.add({ regionBytes: QUEUE_BYTES })];
    let weight = 0;
    let received = 0;
    for (let round = 0; round < 40; round++) {
      write(fixture, numbered(600, { period: 3 }));
      weight += 1800;
      fixture.dispatcher.drain();
      for (const { period } of quick.take()) received += period.reduce((sum, one) => sum + one, 0);
    }
    assert.equal(received, weight);
    const { memory, matched } = fixture.counters.dispatched(stuck.handle.slot);
    assert.ok(memory > 0 && memory < matched);
    const given = stuck.take().flatMap(({ period }) => period);
    const losses = [...stuck.losses, ...stuck.reader.pendingLosses(0)];
    assert.equal(given.length + losses.reduce((sum, { samples }) => sum + samples, 0), matched);
    assert.equal(given.length * 3 + losses.reduce((sum, { period }) => sum + period, 0), weight);
    assert.equal(stuck.reader.periodMatched(0), weight);
  });
});
