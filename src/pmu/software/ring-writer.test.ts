import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MMAP_PAGE, RECORD } from "../abi.js";
import { seededRandom } from "./random.js";
import { RingWriter } from "./ring-writer.js";
import { plainRing, TestConsumer } from "./test-consumer.js";

const DATA_BYTES = 4096;
const ID = 7n;

function setUp(): { memory: ArrayBuffer; writer: RingWriter; consumer: TestConsumer; wakes: () => number } {
  const memory = plainRing(DATA_BYTES);
  let woken = 0;
  const writer = new RingWriter(memory, DATA_BYTES, 3, () => woken++);
  return { memory, writer, consumer: TestConsumer.ofMemory(memory, DATA_BYTES), wakes: () => woken };
}

/** A record whose payload is `fill`, over and over. */
function record(bytes: number, fill: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(bytes));
  for (let at = 8; at < bytes; at += 4) view.setUint32(at, fill, true);
  view.setUint32(0, RECORD.SAMPLE, true);
  view.setUint16(6, bytes, true);
  return new Uint8Array(view.buffer);
}

function tryWrite(writer: RingWriter, bytes: Uint8Array): boolean {
  if (!writer.settleLost(ID, 1000, bytes.length)) {
    writer.countLost(1);
    return false;
  }
  writer.append(bytes, 0, bytes.length);
  writer.publish(false);
  return true;
}

describe("RingWriter", () => {
  it("copies words as it copies bytes, and knows room as the reader makes it", () => {
    const { writer, consumer } = setUp();
    const source = record(64, 9);
    const words = new Uint32Array(source.buffer);
    const fitting = Math.floor(writer.recordBytesMax / source.length);
    for (let pass = 0; pass < 3; pass++) {
      for (let i = 0; i < fitting; i++) {
        assert.ok(writer.hasRoom(source.length));
        writer.appendWords(words, 0, words.length);
      }
      assert.ok(!writer.hasRoom(source.length));
      writer.publish(false);
      const taken = consumer.take();
      assert.equal(taken.length, fitting);
      for (const { view } of taken) assert.deepEqual(new Uint8Array(view.buffer), source);
    }
  });

  it("fills in the control page as the kernel does", () => {
    const control = new BigUint64Array(setUp().memory, 0, 512);
    assert.equal(control[MMAP_PAGE.DATA_OFFSET / 8], 4096n);
    assert.equal(control[MMAP_PAGE.DATA_SIZE / 8], BigInt(DATA_BYTES));
  });

  it("shows nothing before it publishes", () => {
    const { writer, consumer } = setUp();
    writer.append(record(64, 1), 0, 64);
    assert.equal(consumer.take().length, 0);
    writer.publish(false);
    assert.equal(consumer.take().length, 1);
  });

  it("hands over records of all sizes, wrapped or not, in order and unharmed", () => {
    const seed = 20;
    const random = seededRandom(seed);
    const { writer, consumer } = setUp();
    let written = 0;
    let taken = 0;
    while (written < 5000) {
      const bytes = 16 + 8 * Math.floor(random() * 60);
      if (tryWrite(writer, record(bytes, written))) written++;
      else writer.countLost(-1);
      if (random() < 0.3) {
        for (const { type, view } of consumer.take(4)) {
          assert.equal(type, RECORD.SAMPLE, `seed ${seed}`);
          for (let at = 8; at < view.byteLength; at += 4) assert.equal(view.getUint32(at, true), taken, `seed ${seed}`);
          taken++;
        }
      }
    }
    assert.equal(taken + consumer.take().length, written, `seed ${seed}`);
  });

  it("never fills the last bytes, as CIRC_SPACE has it", () => {
    const { writer } = setUp();
    assert.equal(writer.recordBytesMax, DATA_BYTES - 8);
    assert.ok(!tryWrite(writer, record(DATA_BYTES, 1)));
    writer.countLost(-1);
    assert.ok(tryWrite(writer, record(DATA_BYTES - 8, 1)));
    assert.equal(writer.room(), 0);
  });

  it("counts what does not fit, and tells it before the next record that does", () => {
    const { writer, consumer } = setUp();
    let fitted = 0;
    for (let i = 0; i < 100; i++) if (tryWrite(writer, record(64, i))) fitted++;
    assert.equal(fitted, 63);
    assert.equal(consumer.take(1).length, 1);
    // Room for the record, but not for the news before it.
    assert.ok(!tryWrite(writer, record(72, 100)));
    consumer.take(1);
    assert.ok(tryWrite(writer, record(64, 101)));
    const [lost, next] = consumer.take().slice(-2);
    assert.ok(lost && next);
    assert.equal(lost.type, RECORD.LOST);
    assert.equal(lost.view.byteLength, 56);
    assert.equal(lost.view.getBigUint64(8, true), ID);
    assert.equal(lost.view.getBigUint64(16, true), 38n);
    assert.equal(lost.view.getBigUint64(32, true), 1000n);
    assert.equal(lost.view.getUint32(40, true), 3);
    assert.equal(lost.view.getBigUint64(48, true), ID);
    assert.equal(next.view.getUint32(8, true), 101);
    assert.ok(tryWrite(writer, record(64, 102)));
    assert.deepEqual(
      consumer.take().map(({ type }) => type),
      [RECORD.SAMPLE],
    );
  });

  it("wakes at the watermark, once for each watermark's worth, and at once when asked", () => {
    const { writer, consumer, wakes } = setUp();
    for (let i = 0; i < 15; i++) tryWrite(writer, record(64, i));
    assert.equal(wakes(), 0);
    tryWrite(writer, record(64, 15));
    assert.equal(wakes(), 1);
    for (let i = 0; i < 15; i++) tryWrite(writer, record(64, i));
    assert.equal(wakes(), 1);
    consumer.take();
    for (let i = 0; i < 15; i++) tryWrite(writer, record(64, i));
    assert.equal(wakes(), 1);
    writer.append(record(64, 0), 0, 64);
    writer.publish(true);
    assert.equal(wakes(), 2);
    writer.publish(true);
    assert.equal(wakes(), 2);
  });

  it("goes on beyond 4 GiB", () => {
    const { memory } = setUp();
    const control = new BigUint64Array(memory, 0, 512);
    const start = 2n ** 32n * 5n - 64n;
    control[MMAP_PAGE.DATA_HEAD / 8] = start;
    control[MMAP_PAGE.DATA_TAIL / 8] = start;
    const writer = new RingWriter(memory, DATA_BYTES, 0, () => {});
    const consumer = TestConsumer.ofMemory(memory, DATA_BYTES);
    for (let i = 0; i < 3; i++) assert.ok(tryWrite(writer, record(48, i)));
    assert.deepEqual(
      consumer.take().map(({ view }) => view.getUint32(8, true)),
      [0, 1, 2],
    );
    assert.equal(control[MMAP_PAGE.DATA_HEAD / 8], start + 144n);
    assert.ok(writer.isDrained());
  });
});
