import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../../pmu/software/random.js";
import { TestArena } from "./delivery.test-support.js";
import { arenaBytes, SEGMENT_BYTES_MIN, SEGMENT_HEADER_BYTES, SLAB_BYTES, segmentBytesFor } from "./segment-layout.js";
import { RESERVE_LARGE_BYTES, RESERVE_SMALL_BYTES, SegmentReader, SegmentWriter } from "./segments.js";

interface Held {
  readonly segment: number;
  readonly fill: number;
  readonly bytes: number;
  references: number;
}

function contentOf(reader: SegmentReader, segment: number): Uint8Array {
  const at = reader.payloadAt(segment);
  return reader.bytes.subarray(at, at + reader.payloadBytes(segment));
}

/** Segments of so many bytes until there is no more room. */
function takeAll(writer: SegmentWriter, bytes: number, ownLeftBytes = 0): number[] {
  const segments: number[] = [];
  for (;;) {
    const segment = writer.allocate(bytes - SEGMENT_HEADER_BYTES, ownLeftBytes);
    if (segment < 0) return segments;
    segments.push(segment);
  }
}

function giveBack({ writer, reader }: TestArena, segments: readonly number[]): void {
  for (const segment of segments) {
    writer.publish(segment, 1);
    reader.release(segment);
  }
  writer.reclaim();
}

describe("segments", () => {
  it("are the next power of two that holds header and payload", () => {
    for (const [payload, bytes] of [
      [0, SEGMENT_BYTES_MIN],
      [SEGMENT_BYTES_MIN - SEGMENT_HEADER_BYTES, SEGMENT_BYTES_MIN],
      [SEGMENT_BYTES_MIN - SEGMENT_HEADER_BYTES + 1, 2 * SEGMENT_BYTES_MIN],
      [16 * 1024 - SEGMENT_HEADER_BYTES, 16 * 1024],
      [65_536 + 100, SLAB_BYTES],
    ]) {
      assert.equal(segmentBytesFor(payload), bytes);
      const { writer, reader } = new TestArena();
      const segment = writer.allocate(payload);
      assert.equal(writer.segmentBytes, bytes);
      assert.equal(reader.segmentBytes(segment), bytes);
      assert.equal(reader.payloadBytes(segment), payload);
      assert.equal(writer.payloadWord(segment) * 4, reader.payloadAt(segment));
      assert.equal(reader.payloadAt(segment) % 8, 0);
    }
  });

  it("say what is in them", () => {
    const { writer, reader } = new TestArena();
    const segment = writer.allocate(100);
    writer.describe(segment, 1, 2 ** 40, 3, 4, 5);
    const facts = { samples: 0, period: 0, firstNs: 0, lastNs: 0, dispatchNs: 0 };
    reader.readFacts(segment, facts);
    assert.deepEqual(facts, { samples: 1, period: 2 ** 40, firstNs: 3, lastNs: 4, dispatchNs: 5 });
  });

  it("are taken until the shared half is full, whichever their size, and larger ones than a slab never", () => {
    for (let bytes = SEGMENT_BYTES_MIN; bytes <= SLAB_BYTES; bytes *= 2) {
      const { writer, reader } = new TestArena(4 * SLAB_BYTES);
      const segments = takeAll(writer, bytes);
      assert.equal(segments.length, (2 * SLAB_BYTES) / bytes);
      assert.equal(new Set(segments).size, segments.length);
      assert.ok(!segments.some((segment) => writer.isReserved(segment)));
      const usedBytes = 2 * SLAB_BYTES;
      assert.deepEqual(reader.use(), { usedBytes, peakBytes: usedBytes, capacityBytes: 4 * SLAB_BYTES, exhausted: 1 });
      assert.equal(writer.payloadRoomBytes, -1);
    }
    assert.equal(new TestArena().writer.allocate(SLAB_BYTES), -1);
  });

  it("are free when nobody was given them", () => {
    const { writer, reader } = new TestArena();
    const segment = writer.allocate(100);
    writer.publish(segment, 0);
    assert.equal(reader.use().usedBytes, 0);
    assert.equal(writer.allocate(100), segment);
  });

  it("stay while one reference is left, whether it is dropped before they are published or after", () => {
    const { writer, reader } = new TestArena();
    const segment = writer.allocate(100);
    reader.release(segment);
    writer.publish(segment, 3);
    reader.release(segment);
    writer.reclaim();
    assert.ok(reader.use().usedBytes > 0);
    reader.release(segment);
    writer.reclaim();
    assert.equal(reader.use().usedBytes, 0);
    const early = writer.allocate(100);
    reader.release(early);
    writer.publish(early, 1);
    assert.equal(reader.use().usedBytes, 0, "the last reference was dropped before: the dispatcher frees it");
  });

  it("leave whole slabs behind, which any size may take", () => {
    const { writer, reader } = new TestArena(2 * SLAB_BYTES);
    for (const bytes of [128, 16 * 1024, SLAB_BYTES, 1024]) {
      const held: number[] = [];
      for (let segment = writer.allocate(bytes - 64); segment >= 0; segment = writer.allocate(bytes - 64))
        held.push(segment);
      assert.equal(held.length, (2 * SLAB_BYTES) / bytes);
      for (const segment of held) {
        writer.publish(segment, 1);
        reader.release(segment);
      }
      writer.reclaim();
    }
    assert.equal(reader.use().usedBytes, 0);
  });

  it("of long life gather in few slabs", () => {
    const { writer, reader } = new TestArena(256 * SLAB_BYTES);
    const random = seededRandom(11);
    const kept: number[] = [];
    let passing: number[] = [];
    // One in fifty is kept for good, as a stuck reader keeps what it was given.
    for (let i = 0; i < 200_000; i++) {
      const segment = writer.allocate(1000);
      assert.ok(segment >= 0);
      writer.publish(segment, 1);
      if (random() < 0.02) kept.push(segment);
      else passing.push(segment);
      if (passing.length < 500) continue;
      for (const segment of passing) reader.release(segment);
      passing = [];
      writer.reclaim();
    }
    const slabs = new Set(kept.map((segment) => Math.floor((segment * SEGMENT_BYTES_MIN) / SLAB_BYTES)));
    const least = Math.ceil((kept.length * 2048) / SLAB_BYTES);
    // At the front edge what is kept still lies among what passes.
    assert.ok(slabs.size <= least * 2 + 8, `${slabs.size} slabs for what fits ${least}`);
  });

  for (const seed of [1, 2, 3]) {
    it(`are never given out twice, and keep what is in them: random life, seed ${seed}`, () => {
      const random = seededRandom(seed);
      const below = (n: number): number => Math.floor(random() * n);
      const buffer = new SharedArrayBuffer(arenaBytes(16 * SLAB_BYTES));
      let writer = new SegmentWriter(buffer);
      const reader = new SegmentReader(buffer);
      const held: Held[] = [];
      let exhausted = 0;
      for (let step = 0; step < 30_000; step++) {
        if (below(2) === 0) {
          const payload = 1 + below(2 ** (4 + below(12)));
          const segment = writer.allocate(payload, below(2) * SLAB_BYTES);
          if (segment < 0) exhausted++;
          else {
            const fill = below(256);
            new Uint8Array(buffer, writer.payloadWord(segment) * 4, payload).fill(fill);
            const references = below(4);
            writer.publish(segment, references);
            if (references > 0) held.push({ segment, fill, bytes: writer.segmentBytes, references });
          }
        } else if (held.length > 0) {
          const index = below(held.length);
          const one = held[index];
          assert.ok(contentOf(reader, one.segment).every((byte) => byte === one.fill));
          reader.release(one.segment);
          if (--one.references === 0) held.splice(index, 1);
        }
        if (below(20) === 0) writer.reclaim();
        if (below(3000) === 0) {
          // The dispatcher dies with a segment half filled, and another takes over.
          writer.allocate(1 + below(1000));
          reader.recount((count) => {
            for (const { segment, references } of held) for (let i = 0; i < references; i++) count(segment);
          });
          // The delivering thread does not wait for the next dispatcher.
          const returned = held.splice(0, below(5));
          for (const { segment, references } of returned) {
            for (let i = 0; i < references; i++) reader.release(segment);
          }
          writer = new SegmentWriter(buffer);
          writer.reclaim();
          assert.equal(
            reader.use().usedBytes,
            held.reduce((sum, { bytes }) => sum + bytes, 0),
          );
        }
      }
      assert.ok(exhausted > 0);
      for (const { segment, references } of held) for (let i = 0; i < references; i++) reader.release(segment);
      writer.reclaim();
      assert.equal(reader.use().usedBytes, 0);
    });
  }
});

describe("segments that are kept on purpose", () => {
  it("keep no free byte out of reach: one of each size in each slab", () => {
    const arena = new TestArena(64 * SLAB_BYTES);
    const { writer, reader } = arena;
    let keptBytes = 0;
    for (let bytes = SEGMENT_BYTES_MIN; bytes < RESERVE_LARGE_BYTES; bytes *= 2) {
      const slabs = new Set<number>();
      const isFirst = (segment: number): boolean => {
        const slab = Math.floor((segment * SEGMENT_BYTES_MIN) / SLAB_BYTES);
        return !slabs.has(slab) && slabs.add(slab).size > 0;
      };
      const taken = takeAll(writer, bytes);
      const kept = taken.filter(isFirst);
      giveBack(
        arena,
        taken.filter((segment) => !kept.includes(segment)),
      );
      keptBytes += kept.length * bytes;
      if (bytes === SEGMENT_BYTES_MIN) {
        const chunks = takeAll(writer, RESERVE_LARGE_BYTES);
        assert.equal(chunks.length, (32 * 7 * SLAB_BYTES) / 8 / RESERVE_LARGE_BYTES, "all but the one that it lies in");
        giveBack(arena, chunks);
      }
    }
    assert.equal(reader.use().usedBytes, keptBytes);
    let roomBytes = 0;
    for (let room = writer.payloadRoomBytes; room >= 0; room = writer.payloadRoomBytes) {
      writer.allocate(room);
      roomBytes += writer.segmentBytes;
    }
    assert.equal(keptBytes + roomBytes, 32 * SLAB_BYTES);
  });

  it("keep from nobody what is its own, whatever holes they leave", () => {
    const arena = new TestArena(64 * SLAB_BYTES);
    const { writer } = arena;
    const outboxes = 32;
    const taken = takeAll(writer, SEGMENT_BYTES_MIN);
    giveBack(
      arena,
      taken.filter((segment) => segment % 2 === 0),
    );
    writer.findShare(outboxes);
    assert.equal(writer.ownBytes, (16 * SLAB_BYTES) / outboxes);
    for (const bytes of [RESERVE_SMALL_BYTES, RESERVE_LARGE_BYTES]) {
      const payload = bytes / 2 + 1;
      for (let outbox = 0; outbox < outboxes; outbox++) {
        for (let left = writer.ownBytes; left >= bytes; left -= writer.segmentBytes) {
          assert.ok(writer.isReserved(writer.allocate(payload, left)));
          assert.equal(writer.segmentBytes, bytes);
        }
      }
      assert.equal(writer.allocate(payload, writer.ownBytes), -1, "and there is no more of it");
    }
    assert.equal(writer.allocate(RESERVE_LARGE_BYTES, writer.ownBytes), -1, "the deepest callchains have none");
  });

  it("come back in the middle of a batch, when there is nothing else", () => {
    const { writer, reader } = new TestArena(SLAB_BYTES);
    const segment = writer.allocate(SLAB_BYTES - SEGMENT_HEADER_BYTES);
    writer.publish(segment, 1);
    assert.equal(writer.allocate(100), -1);
    reader.release(segment);
    assert.ok(writer.allocate(100) >= 0);
  });
});

describe("an outbox's share of the segments", () => {
  /** As a stuck reader's outbox does: until it has its share. */
  const takeShare = (writer: SegmentWriter, outboxes: number): number => {
    let used = 0;
    for (; used + RESERVE_LARGE_BYTES <= writer.findShare(outboxes); used += RESERVE_LARGE_BYTES) {
      const segment = writer.allocate(RESERVE_LARGE_BYTES - SEGMENT_HEADER_BYTES, writer.ownBytes - used);
      assert.ok(segment >= 0);
      assert.ok(!writer.isReserved(segment) || used + RESERVE_LARGE_BYTES <= writer.ownBytes);
    }
    return used;
  };

  it("shrinks as they are used, to no less than a part of its own", () => {
    const { writer, reader } = new TestArena(64 * SLAB_BYTES);
    assert.equal(writer.findShare(8), 32 * SLAB_BYTES);
    assert.equal(takeShare(writer, 8), 16 * SLAB_BYTES);
    assert.equal(takeShare(writer, 8), 8 * SLAB_BYTES);
    assert.equal(reader.shareBytes, 8 * SLAB_BYTES);
    for (let stuck = 2; stuck < 8; stuck++) takeShare(writer, 8);
    assert.equal(writer.findShare(8), 2 * SLAB_BYTES);
    assert.equal(writer.findShare(4000), 32 * 1024, "and a chunk or two fit, as long as there is any memory");
  });

  for (const outboxes of [2, 10, 64]) {
    it(`is there for who reads, beside others that got stuck one after the other: ${outboxes} in all`, () => {
      const { writer, reader } = new TestArena(256 * SLAB_BYTES);
      for (let stuck = 1; stuck < outboxes; stuck++) takeShare(writer, outboxes);
      assert.ok(takeShare(writer, outboxes) >= (64 * SLAB_BYTES) / outboxes - RESERVE_LARGE_BYTES);
      const { usedBytes, capacityBytes } = reader.use();
      assert.ok(usedBytes <= capacityBytes * 0.75 + SLAB_BYTES, `${usedBytes} of ${capacityBytes}`);
    });
  }
});
