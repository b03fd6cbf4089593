import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SAMPLE } from "../../pmu/abi.js";
import { FormatTable } from "../../pmu/format-table.js";
import { BatchIndex, type ScanListener } from "../../pmu/record.js";
import { bytesOf, decodeDelivery, type SampleBatchMessage, TestArena } from "../delivery/delivery.test-support.js";
import { STREAM_BYTES_MIN } from "../delivery/memory.js";
import { SampleMessage } from "../delivery/message.js";
import { SEGMENT_HEADER_BYTES, SLAB_BYTES } from "../delivery/segment-layout.js";
import { CHUNK_PAYLOAD_BYTES_MAX, ChunkList, NO_CHUNK } from "./chunks.js";
import { format, LIVE, sampleRecord, TestRing, type TestSample } from "./dispatcher.test-support.js";
import { filterKey, OwnerCache } from "./filter.js";
import type { Lane } from "./lane.js";
import { LaneTable } from "./lanes.js";

const FILTER = { pids: [], cpus: [], uids: [], cgroupIds: [], excludeUser: false, excludeKernel: false };
const NOTHING_ELSE: ScanListener = {
  throttle: () => assert.fail(),
  corrupt: () => assert.fail(),
  stray: () => assert.fail(),
  lost: () => assert.fail(),
};

class Fixture {
  readonly arena: TestArena;
  readonly batch = new BatchIndex();
  readonly ring = new TestRing(0, 2 ** 20);
  readonly chunks: ChunkList;
  readonly lane: Lane;

  constructor(samples: readonly Partial<TestSample>[], callchain: boolean, slabs = 4) {
    const sampleType = callchain ? LIVE | SAMPLE.CALLCHAIN : LIVE;
    for (const sample of samples) assert.ok(this.ring.write(sampleRecord(sample, sampleType)));
    const formats = new FormatTable();
    formats.add(0, format([1], sampleType));
    this.batch.scan(this.ring.reader, this.ring.reader.loadHead(), formats, NOTHING_ELSE);
    assert.equal(this.batch.count, samples.length);
    const lanes = new LaneTable([this.ring], new OwnerCache());
    const event = { armed: 0, frequencyHz: 0, period: 0 };
    const request = { event, filter: FILTER, filterKey: filterKey(FILTER), columns: callchain ? SAMPLE.CALLCHAIN : 0 };
    this.lane = lanes.join(request, { frequencyHz: null, period: null }, 0);
    lanes.prepare(this.batch, 0, 1, 0);
    this.arena = new TestArena(slabs * SLAB_BYTES);
    this.chunks = new ChunkList(this.arena.writer, lanes);
    this.chunks.plan(this.lane, this.batch, this.ring);
  }

  encode(c: number, ownLeftBytes = 0): boolean {
    return this.chunks.encode(c, this.batch, this.ring, ownLeftBytes, 7);
  }

  /** The lane's chunks and what was cut off them, in order. */
  *each(): Generator<number> {
    for (let planned = this.lane.chunkFrom; planned < this.lane.chunkTo; planned++) {
      for (let c = planned; c !== NO_CHUNK; c = this.chunks.next[c]) yield c;
    }
  }

  decode(c: number): SampleBatchMessage {
    const message = new SampleMessage();
    message.begin();
    message.add(this.arena.reader, this.chunks.segment[c]);
    message.finish(0, 0);
    const { samples } = decodeDelivery(bytesOf(message));
    assert.ok(samples !== undefined);
    return samples;
  }

  /** Takes what room there is, but for holes of `bytes`. */
  leaveHoles(bytes: number, holes: number): void {
    const { writer } = this.arena;
    const taken: number[] = [];
    for (;;) {
      const segment = writer.allocate(bytes - SEGMENT_HEADER_BYTES);
      if (segment < 0) break;
      taken.push(segment);
    }
    for (let hole = 0; hole < holes; hole++) writer.publish(taken[2 * hole], 0);
  }
}

function numbered(count: number, depth = 0): Partial<TestSample>[] {
  const callchain = new Array<bigint>(depth).fill(5n);
  return Array.from({ length: count }, (_, i) => ({ time: i + 1, period: i + 10, callchain }));
}

const PERIODS_OF_600 = numbered(600).reduce((sum, { period = 0 }) => sum + period, 0);

describe("a batch's chunks", () => {
  it("are planned with their samples, weight and times, and take no memory until they are asked for", () => {
    const { lane, chunks, arena } = new Fixture(numbered(600), false);
    assert.equal(lane.weight, PERIODS_OF_600);
    assert.equal(lane.chunkTo - lane.chunkFrom, 2);
    const [a, b] = [lane.chunkFrom, lane.chunkFrom + 1];
    assert.equal(chunks.samples[a] + chunks.samples[b], 600);
    assert.equal(chunks.weight[a] + chunks.weight[b], PERIODS_OF_600);
    assert.deepEqual([chunks.firstNs[a], chunks.lastNs[b]], [1, 600]);
    assert.equal(chunks.firstNs[b], chunks.lastNs[a] + 1);
    assert.deepEqual(arena.reader.use().usedBytes, 0);
  });

  for (const { what, depth, hole } of [
    { what: "without callchains", depth: -1, hole: 1024 },
    { what: "without callchains, one sample each", depth: -1, hole: 128 },
    { what: "with callchains", depth: 20, hole: 2048 },
  ]) {
    it(`are cut to the room there is, and lose nothing: ${what}`, () => {
      const fixture = new Fixture(numbered(200, Math.max(0, depth)), depth >= 0);
      const { chunks, lane } = fixture;
      fixture.leaveHoles(hole, 50);
      const got: SampleBatchMessage[] = [];
      const lost: number[] = [];
      for (const c of fixture.each()) {
        if (!fixture.encode(c)) {
          lost.push(c);
          continue;
        }
        assert.ok(chunks.segmentBytes[c] <= hole);
        const batch = fixture.decode(c);
        assert.deepEqual([batch.time[0], batch.time.at(-1)], [chunks.firstNs[c], chunks.lastNs[c]]);
        assert.equal(
          batch.period.reduce((sum, period) => sum + period, 0),
          chunks.weight[c],
        );
        got.push(batch);
      }
      assert.ok(got.length > 1);
      const all = [...fixture.each()];
      assert.equal(
        all.reduce((sum, c) => sum + chunks.weight[c], 0),
        lane.weight,
      );
      assert.equal(
        all.reduce((sum, c) => sum + chunks.samples[c], 0),
        200,
      );
      const times = got.flatMap(({ time }) => time);
      const samplesLost = lost.reduce((sum, c) => sum + chunks.samples[c], 0);
      assert.equal(times.length + samplesLost, 200);
      assert.deepEqual(
        times,
        Array.from({ length: times.length }, (_, i) => i + 1),
      );
      assert.equal(samplesLost > 0, hole === 128, "fifty holes for one sample each, and two hundred samples");
    });
  }

  it("are given out of a reserve where the outbox has a part of its own, and tried again for the next where not", () => {
    const fixture = new Fixture(numbered(2), false);
    const { chunks, lane } = fixture;
    fixture.leaveHoles(128, 0);
    assert.equal(fixture.encode(lane.chunkFrom, 100), false);
    assert.equal(chunks.segment[lane.chunkFrom], -1);
    assert.equal(fixture.encode(lane.chunkFrom, 2048), true);
    assert.equal(chunks.segmentBytes[lane.chunkFrom], 2048);
    assert.deepEqual(fixture.decode(lane.chunkFrom).time, [1, 2]);
  });

  it("hold one sample at least, and only such a one may be larger than a chunk is", () => {
    const fixture = new Fixture([...numbered(3, 10), ...numbered(1, 4000), ...numbered(3, 10)], true);
    const { chunks } = fixture;
    assert.deepEqual(
      [...fixture.each()].map((c) => chunks.samples[c]),
      [3, 1, 3],
    );
    for (const c of fixture.each()) {
      assert.ok(fixture.encode(c));
      const payload = fixture.arena.reader.payloadBytes(chunks.segment[c]);
      assert.equal(payload > CHUNK_PAYLOAD_BYTES_MAX, chunks.samples[c] === 1);
    }
  });

  it("fit the smallest message up to 2,000 addresses, and a slab with as many as a record can hold", () => {
    const recordBytesMax = 65_528;
    const depth = (recordBytesMax - sampleRecord({}, LIVE | SAMPLE.CALLCHAIN).length) / 8;
    const usual = new Fixture(numbered(1, 2000), true);
    assert.ok(usual.encode(usual.lane.chunkFrom));
    assert.ok(usual.chunks.segmentBytes[usual.lane.chunkFrom] <= STREAM_BYTES_MIN);
    const deepest = new Fixture(numbered(1, depth), true);
    assert.ok(deepest.encode(deepest.lane.chunkFrom));
    const batch = deepest.decode(deepest.lane.chunkFrom);
    assert.deepEqual([batch.callchain.length, batch.callchain_length], [depth, [depth]]);
  });
});
