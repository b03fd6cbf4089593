import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../../pmu/software/random.js";
import {
  allocateOutbox,
  ENTRY,
  ENTRY_HEADER_BYTES,
  EVENTS_PER_HANDLER_MAX,
  OutboxReader,
  OutboxWriter,
  REGION_BYTES_MIN,
  regionBytes,
} from "./outbox.js";

const DATA_BYTES = 4096;

interface Pair {
  readonly writer: OutboxWriter;
  readonly reader: OutboxReader;
}

function open(buffer = allocateOutbox(1, DATA_BYTES), dispatcher = 0): Pair {
  return {
    writer: new OutboxWriter(buffer, dispatcher, DATA_BYTES),
    reader: new OutboxReader(buffer, dispatcher, DATA_BYTES),
  };
}

/** An entry whose payload is `fill` in every word; false when the outbox is full. */
function put({ writer }: Pair, payloadBytes: number, fill: number): boolean {
  const at = writer.reserve(payloadBytes);
  if (at < 0) return false;
  const payload = at + ENTRY_HEADER_BYTES / 4;
  writer.data.fill(fill, payload, payload + Math.ceil(payloadBytes / 4));
  writer.describe(at, ENTRY.CHUNK, fill % EVENTS_PER_HANDLER_MAX, fill, fill * 3, fill * 5);
  writer.describeTimes(at, fill * 7, fill * 11);
  writer.commit();
  return true;
}

/** Takes the oldest entry and checks all of it; -1 when there is none. */
function take({ reader }: Pair): number {
  if (!reader.peek()) return -1;
  const { entry } = reader;
  const fill = entry.samples;
  const expected = { kind: ENTRY.CHUNK, event: fill % EVENTS_PER_HANDLER_MAX, samples: fill, period: fill * 3 };
  const { payloadAt, payloadBytes } = entry;
  assert.deepEqual(
    { ...entry },
    { ...expected, firstNs: fill * 7, lastNs: fill * 11, dispatchNs: fill * 5, payloadAt, payloadBytes },
  );
  const payload = new DataView(reader.bytes.buffer, reader.bytes.byteOffset + payloadAt, payloadBytes);
  for (let at = 0; at + 4 <= payloadBytes; at += 4) assert.equal(payload.getUint32(at, true), fill);
  reader.consume();
  return fill;
}

/** Where both ends start counting: a handler that lived long. */
function startAt(position: number): SharedArrayBuffer {
  const buffer = allocateOutbox(1, DATA_BYTES);
  const words = new Int32Array(buffer);
  words[0] = position;
  words[16] = position;
  return buffer;
}

describe("regionBytes", () => {
  it("is a power of two within the handler's bound, and never below the minimum", () => {
    for (const [max, dispatchers, bytes] of [
      [REGION_BYTES_MIN, 1, REGION_BYTES_MIN],
      [REGION_BYTES_MIN * 2 - 1, 1, REGION_BYTES_MIN],
      [4 * 2 ** 20, 1, 4 * 2 ** 20],
      [4 * 2 ** 20, 3, 2 ** 20],
      [1, 4, REGION_BYTES_MIN],
    ]) {
      assert.equal(regionBytes(max, dispatchers), bytes);
    }
  });
});

describe("an outbox", () => {
  it("is empty at first, and shows nothing before the commit", () => {
    const pair = open();
    assert.equal(pair.reader.peek(), false);
    const at = pair.writer.reserve(16);
    pair.writer.describe(at, ENTRY.CHUNK, 0, 1, 1, 1);
    assert.equal(pair.reader.peek(), false);
    assert.equal(pair.reader.usedBytes, 0);
    pair.writer.commit();
    assert.equal(pair.reader.peek(), true);
    assert.equal(pair.reader.usedBytes, ENTRY_HEADER_BYTES + 16);
    assert.equal(pair.writer.usedBytes, ENTRY_HEADER_BYTES + 16);
  });

  it("keeps an entry until it is consumed", () => {
    const pair = open();
    put(pair, 8, 1);
    put(pair, 8, 2);
    assert.equal(pair.reader.peek(), true);
    assert.equal(pair.reader.peek(), true);
    assert.deepEqual([take(pair), take(pair), take(pair)], [1, 2, -1]);
  });

  it("can be filled to the last byte, and not beyond", () => {
    const pair = open();
    const half = DATA_BYTES / 2 - ENTRY_HEADER_BYTES;
    assert.ok(put(pair, half, 1));
    assert.ok(put(pair, half, 2));
    assert.equal(pair.reader.usedBytes, DATA_BYTES);
    assert.equal(put(pair, 0, 3), false);
    assert.equal(pair.writer.flushPendingLoss(0, 0), false);
    assert.equal(take(pair), 1);
    assert.ok(put(pair, half, 3));
    assert.deepEqual([take(pair), take(pair), take(pair)], [2, 3, -1]);
  });

  it("skips the end where an entry would wrap, even when only 8 bytes are left there", () => {
    for (const left of [8, 16, 64, 72, 512]) {
      const pair = open();
      assert.ok(put(pair, DATA_BYTES - left - ENTRY_HEADER_BYTES, 1));
      assert.equal(take(pair), 1);
      assert.ok(put(pair, 512, 2), `${left} bytes before the end`);
      assert.deepEqual([take(pair), take(pair)], [2, -1]);
      assert.equal(pair.reader.usedBytes, 0);
    }
  });

  it("counts the skipped end as taken", () => {
    const pair = open();
    assert.ok(put(pair, DATA_BYTES - 512 - ENTRY_HEADER_BYTES, 1));
    assert.ok(put(pair, 0, 2));
    assert.equal(take(pair), 1);
    // 448 bytes to the end, 3,584 from the start to the entry that waits: this one does not fit behind a skip.
    assert.equal(put(pair, DATA_BYTES - 512 - ENTRY_HEADER_BYTES + 8, 3), false);
    assert.ok(put(pair, DATA_BYTES - 512 - ENTRY_HEADER_BYTES, 4));
    assert.deepEqual([take(pair), take(pair), take(pair)], [2, 4, -1]);
  });

  for (const start of [0, 2 ** 31 - 4096, -4096, 2 ** 31 - 8, -8]) {
    it(`hands everything over in order, also around position ${start}`, (t) => {
      const seed = 7;
      t.diagnostic(`seed ${seed}`);
      const random = seededRandom(seed);
      const pair = open(startAt(start));
      let written = 0;
      let taken = 0;
      let full = 0;
      while (taken < 2000) {
        if (random() < 0.6) {
          if (put(pair, Math.floor(random() * 250) * 4, written + 1)) written++;
          else full++;
        } else {
          const fill = take(pair);
          if (fill >= 0) assert.equal(fill, ++taken);
          else assert.equal(taken, written);
        }
        assert.ok(pair.reader.usedBytes <= DATA_BYTES);
        assert.equal(pair.writer.usedBytes, pair.reader.usedBytes);
      }
      assert.ok(full > 0);
    });
  }

  it("goes on where another reader or writer object left off", () => {
    const buffer = allocateOutbox(1, DATA_BYTES);
    put(open(buffer), 100, 1);
    put(open(buffer), 100, 2);
    assert.equal(take(open(buffer)), 1);
    assert.equal(take(open(buffer)), 2);
  });

  it("keeps the regions of several dispatchers apart", () => {
    const buffer = allocateOutbox(3, DATA_BYTES);
    const pairs = [0, 1, 2].map((d) => open(buffer, d));
    for (const [d, pair] of pairs.entries()) {
      while (put(pair, 300, d + 1));
      for (let event = 0; event < EVENTS_PER_HANDLER_MAX; event++) {
        pair.writer.addMatched(event, d * 100 + event, 0, 0);
        pair.writer.addCarried(event, d * 1000 + event);
        pair.writer.addPendingLoss(event, d + 1, event, 5, 6);
      }
    }
    for (const [d, pair] of pairs.entries()) {
      for (let event = 0; event < EVENTS_PER_HANDLER_MAX; event++) {
        assert.equal(pair.reader.matched(event), d * 100 + event);
        assert.equal(pair.reader.carried(event), d * 1000 + event);
        assert.deepEqual(pair.reader.pendingLoss(event), { samples: d + 1, period: event, firstNs: 5, lastNs: 6 });
      }
      let entries = 0;
      for (let fill = take(pair); fill >= 0; fill = take(pair)) {
        assert.equal(fill, d + 1);
        entries++;
      }
      assert.equal(entries, Math.floor(DATA_BYTES / 368));
    }
  });
});

describe("an outbox's pending losses", () => {
  it("add up, remember their times, and become one entry at its place", () => {
    const pair = open();
    const { writer, reader } = pair;
    assert.equal(writer.hasPendingLoss(3), false);
    put(pair, 8, 1);
    writer.addPendingLoss(3, 5, 50, 1000, 1100);
    writer.addPendingLoss(3, 7, 70, 1200, 1300);
    assert.equal(writer.hasPendingLoss(3), true);
    assert.equal(writer.hasPendingLoss(2), false);
    assert.equal(writer.flushPendingLoss(3, 1400), true);
    assert.equal(writer.hasPendingLoss(3), false);
    assert.deepEqual(reader.pendingLoss(3), { samples: 0, period: 0, firstNs: 0, lastNs: 0 });
    put(pair, 8, 2);
    assert.equal(take(pair), 1);
    assert.equal(reader.peek(), true);
    const { kind, event, samples, period, firstNs, lastNs, payloadBytes } = reader.entry;
    assert.deepEqual([kind, event, samples, period], [ENTRY.LOSS, 3, 12, 120]);
    assert.deepEqual([firstNs, lastNs, payloadBytes], [1000, 1300, 0]);
    reader.consume();
    assert.equal(take(pair), 2);
    writer.addPendingLoss(3, 1, 1, 2000, 2100);
    assert.equal(reader.pendingLoss(3).firstNs, 2000, "the next loss has times of its own");
  });

  it("survive a flush that finds no room", () => {
    const pair = open();
    while (put(pair, 64, 1));
    pair.writer.addPendingLoss(0, 5, 50, 1, 2);
    assert.equal(pair.writer.flushPendingLoss(0, 3), false);
    assert.deepEqual(pair.reader.pendingLoss(0), { samples: 5, period: 50, firstNs: 1, lastNs: 2 });
  });

  it("count beyond 32 bits: a reader may be stuck for days", () => {
    const { writer, reader } = open();
    writer.addPendingLoss(0, 3e9, 1, 1, 2);
    writer.addPendingLoss(0, 3e9, 1, 1, 2);
    writer.flushPendingLoss(0, 3);
    assert.equal(reader.peek(), true);
    assert.equal(reader.entry.samples, 6e9);
  });
});
