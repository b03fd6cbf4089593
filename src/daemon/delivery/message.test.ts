import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { bytesOf, type DeliveryMessage, decodeDelivery, TestArena } from "./delivery.test-support.js";
import { SampleMessage } from "./message.js";

/** SampleBatch.pid, one value repeated: tag 5, length-delimited, with a plain varint. */
function pidColumn(count: number, pid: number): Uint8Array {
  const bytes = count * 4;
  const column = new Uint8Array(4 + bytes);
  column.set([0x2a, (bytes & 0x7f) | 0x80, ((bytes >>> 7) & 0x7f) | 0x80, bytes >>> 14]);
  new Uint32Array(column.buffer, 4).fill(pid);
  return column;
}

function finish(message: SampleMessage, event: number, sequence: number): DeliveryMessage {
  message.finish(event, sequence);
  return decodeDelivery(bytesOf(message));
}

describe("SampleMessage", () => {
  it("is a Delivery whose runs of a column are joined, from any dispatcher's segments", () => {
    const message = new SampleMessage();
    const [a, b] = [new TestArena(), new TestArena()];
    message.begin();
    message.add(a.reader, a.put(pidColumn(2, 7)));
    message.add(b.reader, b.put(pidColumn(3, 9)));
    const { delivery, samples } = finish(message, 0, 5);
    assert.equal(delivery, "samples");
    assert.deepEqual(samples?.pid, [7, 7, 9, 9, 9]);
    assert.deepEqual([samples?.event_index, samples?.sequence], [0, 5]);
  });

  it("carries any event index, and sequences beyond 32 bits", () => {
    const message = new SampleMessage();
    const arena = new TestArena();
    for (const [event, sequence] of [
      [0, 0],
      [1, 2 ** 32 - 1],
      [15, 2 ** 32],
      [127, 2 ** 53 - 1],
      [128, 1],
      [2 ** 21, 2],
    ]) {
      message.begin();
      message.add(arena.reader, arena.put(pidColumn(1, 3)));
      const { samples } = finish(message, event, sequence);
      assert.deepEqual([samples?.event_index, samples?.sequence, samples?.pid], [event, sequence, [3]]);
    }
  });

  it("writes behind what is in the frame already, and nothing but its own bytes", () => {
    const message = new SampleMessage();
    const arena = new TestArena();
    message.begin();
    message.add(arena.reader, arena.put(pidColumn(3, 4)));
    message.finish(0, 1);
    const frame = Buffer.alloc(message.byteLength + 10, 0xaa);
    message.copy(frame, 5);
    assert.ok(frame.subarray(0, 5).every((byte) => byte === 0xaa));
    assert.ok(frame.subarray(5 + message.byteLength).every((byte) => byte === 0xaa));
    assert.deepEqual(frame.subarray(5, 5 + message.byteLength), bytesOf(message));
  });

  it("forgets what it held, and lets go of every segment once", () => {
    const message = new SampleMessage();
    const arena = new TestArena();
    message.begin();
    const column = pidColumn(1000, 4);
    for (let i = 0; i < 5; i++) {
      const segment = arena.put(column);
      arena.writer.publish(segment, 1);
      message.add(arena.reader, segment);
    }
    assert.equal(message.bodyBytes, 5 * column.length);
    assert.equal(finish(message, 3, 1).samples?.pid.length, 5000);
    message.release();
    message.release();
    assert.equal(message.bodyBytes, 0);
    arena.writer.reclaim();
    assert.equal(arena.reader.use().usedBytes, 0);
    message.add(arena.reader, arena.put(pidColumn(1, 8)));
    assert.deepEqual(finish(message, 3, 1).samples?.pid, [8]);
  });
});
