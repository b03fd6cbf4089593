import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../../pmu/software/random.js";
import { TestArena } from "./delivery.test-support.js";
import {
  allocateOutbox,
  ENTRY,
  EVENTS_PER_HANDLER_MAX,
  type OutboxShape,
  OutboxWriter,
  outboxShape,
  REFUSAL,
  REGION_BYTES_MIN,
} from "./outbox.js";
import { OutboxReader } from "./outbox-reader.js";

const EVENTS = EVENTS_PER_HANDLER_MAX;
const SHAPE: OutboxShape = { events: EVENTS, units: 64, queueBytes: 4096 };
const { QUEUE_FULL, MEMORY } = REFUSAL;

interface Pair {
  readonly arena: TestArena;
  readonly writer: OutboxWriter;
  readonly reader: OutboxReader;
}

function open(shape = SHAPE, buffer = allocateOutbox(1, shape), arena = new TestArena(), dispatcher = 0): Pair {
  return {
    arena,
    writer: new OutboxWriter(buffer, dispatcher, shape),
    reader: new OutboxReader(buffer, dispatcher, shape, arena.reader),
  };
}

/** A segment of `segmentBytes` whose payload is `fill` in every byte; false when the outbox is full. */
function put({ arena, writer }: Pair, segmentBytes: number, fill: number): boolean {
  if (!writer.hasRoom(segmentBytes)) return false;
  const segment = arena.put(new Uint8Array(segmentBytes - 64).fill(fill));
  arena.writer.describe(segment, fill, fill * 3, fill * 7, fill * 11, fill * 5);
  writer.post(fill % EVENTS, segment, segmentBytes);
  arena.writer.publish(segment, 1);
  return true;
}

/** Takes the oldest entry and checks all of it; -1 when there is none. */
function take({ reader }: Pair): number {
  if (!reader.peek()) return -1;
  const { entry, segments } = reader;
  const fill = entry.samples;
  const { segment, segmentBytes } = entry;
  const expected = { kind: ENTRY.CHUNK, event: fill % EVENTS, refusal: 0, samples: fill, period: fill * 3 };
  const times = { firstNs: fill * 7, lastNs: fill * 11, dispatchNs: fill * 5 };
  assert.deepEqual({ ...entry }, { ...expected, ...times, segment, segmentBytes });
  const from = segments.payloadAt(segment);
  const payload = segments.bytes.subarray(from, from + segments.payloadBytes(segment));
  assert.ok(payload.length > 0 && payload.every((byte) => byte === fill % 256));
  reader.drop();
  return fill;
}

/** Where both ends start counting: a handler that lived long. */
function startAt(position: number): SharedArrayBuffer {
  const buffer = allocateOutbox(1, SHAPE);
  const words = new Int32Array(buffer);
  words[0] = position;
  words[16] = position;
  return buffer;
}

describe("outboxShape", () => {
  it("divides the handler's bound among the dispatchers, and has entries for segments of the usual size", () => {
    const MIB = 2 ** 20;
    for (const [max, dispatchers, queueBytes, units] of [
      [REGION_BYTES_MIN, 1, REGION_BYTES_MIN, 512],
      [4 * MIB, 1, 4 * MIB, 2048],
      [4 * MIB + 1, 3, Math.floor((4 * MIB + 1) / 3), 512],
      [2 ** 30, 1, 2 ** 30, 32_768],
    ]) {
      assert.deepEqual(outboxShape(max, dispatchers, 3), { events: 3, queueBytes, units });
    }
  });
});

describe("an outbox", () => {
  it("keeps an entry until it is taken", () => {
    const pair = open();
    assert.equal(pair.reader.peek(), false);
    put(pair, 128, 1);
    put(pair, 256, 2);
    assert.equal(pair.reader.usedBytes, 384);
    assert.equal(pair.writer.usedBytes, 384);
    assert.equal(pair.reader.peek(), true);
    assert.equal(pair.reader.peek(), true);
    assert.deepEqual([take(pair), take(pair), take(pair)], [1, 2, -1]);
    assert.equal(pair.writer.usedBytes, 0);
  });

  it("can be filled to the last byte, and not beyond", () => {
    const pair = open();
    assert.ok(put(pair, 2048, 1));
    assert.ok(put(pair, 2048, 2));
    assert.equal(pair.reader.fill, 1);
    assert.equal(put(pair, 128, 3), false);
    assert.equal(take(pair), 1);
    assert.ok(put(pair, 2048, 3));
    assert.deepEqual([take(pair), take(pair), take(pair)], [2, 3, -1]);
  });

  it("can be filled to the last entry, and not beyond", () => {
    const pair = open({ ...SHAPE, queueBytes: 2 ** 20 });
    for (let i = 1; i <= SHAPE.units; i++) assert.ok(put(pair, 128, i));
    assert.equal(pair.reader.fill, 1);
    assert.equal(put(pair, 128, 99), false);
    pair.writer.addPendingLoss(0, QUEUE_FULL, 1, 1, 1, 1);
    assert.equal(pair.writer.flushPendingLoss(0, 0), false);
    assert.equal(take(pair), 1);
    assert.ok(put(pair, 128, 65));
    for (let i = 2; i <= 65; i++) assert.equal(take(pair), i);
  });

  for (const start of [0, 2 ** 31 - 40, -40, 2 ** 31 - 1, -1]) {
    it(`hands everything over in order, also around position ${start}`, (t) => {
      const seed = 7;
      t.diagnostic(`seed ${seed}`);
      const random = seededRandom(seed);
      const pair = open(SHAPE, startAt(start));
      let written = 0;
      let taken = 0;
      let full = 0;
      let told = 0;
      while (taken < 2000) {
        const dice = random();
        if (dice < 0.5) {
          if (put(pair, 128 << Math.floor(random() * 4), written + 1)) written++;
          else full++;
        } else if (dice < 0.55) {
          pair.writer.addPendingLoss(0, MEMORY, 1, 2, 3, 4);
          pair.writer.flushPendingLoss(0, 5);
        } else if (pair.reader.peek() && pair.reader.entry.kind === ENTRY.LOSS) {
          told += pair.reader.entry.samples;
          pair.reader.drop();
        } else {
          const fill = take(pair);
          if (fill >= 0) assert.equal(fill, ++taken);
          else assert.equal(taken, written);
        }
        assert.ok(pair.reader.usedBytes <= SHAPE.queueBytes);
        assert.equal(pair.writer.usedBytes, pair.reader.usedBytes);
        pair.arena.writer.reclaim();
      }
      assert.ok(full > 0 && told > 0);
      while (pair.reader.peek()) pair.reader.drop();
      pair.arena.writer.reclaim();
      assert.equal(pair.arena.reader.use().usedBytes, 0, "no segment is held any more");
    });
  }

  it("goes on where another reader or writer object left off", () => {
    const buffer = allocateOutbox(1, SHAPE);
    const arena = new TestArena();
    put(open(SHAPE, buffer, arena), 128, 1);
    put(open(SHAPE, buffer, arena), 128, 2);
    assert.equal(take(open(SHAPE, buffer, arena)), 1);
    assert.equal(take(open(SHAPE, buffer, arena)), 2);
  });

  it("keeps the regions of several dispatchers apart", () => {
    const buffer = allocateOutbox(3, SHAPE);
    const pairs = [0, 1, 2].map((d) => open(SHAPE, buffer, new TestArena(), d));
    for (const [d, pair] of pairs.entries()) {
      while (put(pair, 256, d + 1));
      for (let event = 0; event < EVENTS; event++) {
        pair.writer.addMatched(event, d * 100 + event, 0, 0, 0);
        pair.writer.setCarried(event, d * 1000 + event);
        pair.writer.addPendingLoss(event, QUEUE_FULL, d + 1, event, 5, 6);
        pair.writer.addPendingLoss(event, MEMORY, d + 2, event + 1, 7, 8);
      }
    }
    for (const [d, pair] of pairs.entries()) {
      for (let event = 0; event < EVENTS; event++) {
        assert.equal(pair.reader.matched(event), d * 100 + event);
        assert.equal(pair.reader.carried(event), d * 1000 + event);
        assert.deepEqual(pair.reader.pendingLosses(event), [
          { refusal: QUEUE_FULL, samples: d + 1, period: event, firstNs: 5, lastNs: 6 },
          { refusal: MEMORY, samples: d + 2, period: event + 1, firstNs: 7, lastNs: 8 },
        ]);
      }
      let entries = 0;
      for (let fill = take(pair); fill >= 0; fill = take(pair)) {
        assert.equal(fill, d + 1);
        entries++;
      }
      assert.equal(entries, SHAPE.queueBytes / 256);
    }
  });

  it("keeps what different threads write on different cache lines, wherever the buffer begins", () => {
    const buffer = allocateOutbox(2, SHAPE);
    const bytes = new Uint8Array(buffer);
    /** First and last byte that an action changes. */
    const changed = (action: () => void): [number, number] => {
      const before = bytes.slice();
      action();
      const differ = [...bytes.keys()].filter((i) => bytes[i] !== before[i]);
      return [Math.min(...differ), Math.max(...differ)];
    };
    const pairs = [0, 1].map((d) => open({ ...SHAPE, queueBytes: 2 ** 20 }, buffer, new TestArena(), d));
    const written: { readonly who: string; readonly at: readonly [number, number] }[] = [];
    for (const [d, pair] of pairs.entries()) {
      const who = `dispatcher ${d}`;
      written.push({ who, at: changed(() => put(pair, 128, 255)) });
      const books = (): void => {
        while (put(pair, 128, 255));
        for (let event = 0; event < EVENTS; event++) {
          pair.writer.addMatched(event, 2 ** 50, 2 ** 50 + 1, 0, -1);
          pair.writer.addPendingLoss(event, MEMORY, -1, -1, -1, -1);
        }
      };
      const [, last] = changed(books);
      written.push({ who, at: [written[written.length - 1].at[1], last] });
      written.push({ who: "delivery", at: changed(() => take(pair)) });
    }
    const lines = ([from, to]: readonly [number, number], base: number): number[] => {
      const first = Math.floor((from + base) / 64);
      return Array.from({ length: Math.floor((to + base) / 64) - first + 1 }, (_, i) => first + i);
    };
    for (const base of [0, 16, 32, 48]) {
      const owner = new Map<number, string>();
      // The head line is apart from what its dispatcher writes behind the tail line.
      const ranges = written.flatMap(({ who, at: [from, to] }) => {
        const region = from - (from % (buffer.byteLength / 2));
        const head: [number, number] = [region, region + 15];
        return who === "delivery"
          ? [{ who, at: [from, to] as const }]
          : [
              { who, at: head },
              { who, at: [Math.max(from, region + 128), to] as const },
            ];
      });
      for (const { who, at } of ranges) {
        for (const line of lines(at, base)) {
          assert.equal(owner.get(line) ?? who, who, `line ${line} with the buffer at ${base}`);
          owner.set(line, who);
        }
      }
    }
  });

  it("goes on carrying what a writer that died had carried", () => {
    const buffer = allocateOutbox(1, SHAPE);
    open(SHAPE, buffer).writer.setCarried(2, 70);
    const { writer, reader } = open(SHAPE, buffer);
    writer.setCarried(2, 5);
    assert.equal(reader.carried(2), 75);
  });

  it("counts the segments it refers to, without taking them", () => {
    const pair = open();
    for (const fill of [1, 2, 3]) put(pair, 128, fill);
    pair.writer.addPendingLoss(0, QUEUE_FULL, 1, 1, 1, 1);
    pair.writer.flushPendingLoss(0, 1);
    const found: number[] = [];
    pair.reader.countSegments((segment) => found.push(segment));
    assert.equal(new Set(found).size, 3);
    assert.deepEqual([take(pair), take(pair), take(pair)], [1, 2, 3]);
  });
});

describe("an outbox's pending losses", () => {
  it("add up, remember their times, and become one entry a reason at its place", () => {
    const pair = open();
    const { writer, reader } = pair;
    put(pair, 128, 1);
    writer.addPendingLoss(3, QUEUE_FULL, 5, 50, 1000, 1100);
    writer.addPendingLoss(3, MEMORY, 1, 10, 1110, 1120);
    writer.addPendingLoss(3, QUEUE_FULL, 7, 70, 1200, 1300);
    assert.equal(writer.flushPendingLoss(2, 1400), true);
    assert.equal(writer.flushPendingLoss(3, 1400), true);
    assert.deepEqual(reader.pendingLosses(3), []);
    put(pair, 128, 2);
    assert.equal(take(pair), 1);
    for (const [refusal, samples, period, firstNs, lastNs] of [
      [QUEUE_FULL, 12, 120, 1000, 1300],
      [MEMORY, 1, 10, 1110, 1120],
    ]) {
      assert.equal(reader.peek(), true);
      const { segment, ...entry } = reader.entry;
      const expected = { kind: ENTRY.LOSS, event: 3, segmentBytes: 0, dispatchNs: 1400 };
      assert.deepEqual(entry, { ...expected, refusal, samples, period, firstNs, lastNs });
      reader.drop();
    }
    assert.equal(take(pair), 2);
    writer.addPendingLoss(3, QUEUE_FULL, 1, 1, 2000, 2100);
    assert.equal(reader.pendingLosses(3)[0].firstNs, 2000, "the next loss has times of its own");
  });

  it("survive a flush that finds no room", () => {
    const pair = open({ ...SHAPE, queueBytes: 2 ** 20 });
    while (put(pair, 128, 1));
    pair.writer.addPendingLoss(0, QUEUE_FULL, 5, 50, 1, 2);
    assert.equal(pair.writer.flushPendingLoss(0, 3), false);
    assert.deepEqual(pair.reader.pendingLosses(0), [
      { refusal: QUEUE_FULL, samples: 5, period: 50, firstNs: 1, lastNs: 2 },
    ]);
  });

  it("count beyond 32 bits: a reader may be stuck for days", () => {
    const { writer, reader } = open();
    writer.addPendingLoss(0, QUEUE_FULL, 3e9, 1, 1, 2);
    writer.addPendingLoss(0, QUEUE_FULL, 3e9, 1, 1, 2);
    writer.flushPendingLoss(0, 3);
    assert.equal(reader.peek(), true);
    assert.equal(reader.entry.samples, 6e9);
  });
});
