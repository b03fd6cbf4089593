import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { decodeDelivery } from "./delivery.test-support.js";
import { SampleMessage } from "./message.js";

/** SampleBatch.pid, one value repeated: tag 5, length-delimited, with a plain varint. */
function pidColumn(count: number, pid: number): Uint8Array {
  const bytes = count * 4;
  const column = new Uint8Array(4 + bytes);
  column.set([0x2a, (bytes & 0x7f) | 0x80, ((bytes >>> 7) & 0x7f) | 0x80, bytes >>> 14]);
  new Uint32Array(column.buffer, 4).fill(pid);
  return column;
}

describe("SampleMessage", () => {
  it("is a Delivery whose runs of a column are joined", () => {
    const message = new SampleMessage();
    message.begin();
    message.append(pidColumn(2, 7), 0, 12);
    const second = pidColumn(3, 9);
    message.append(Uint8Array.from([1, 2, 3, ...second, 4]), 3, second.length);
    const { delivery, samples } = decodeDelivery(message.finish(0, 5));
    assert.equal(delivery, "samples");
    assert.deepEqual(samples?.pid, [7, 7, 9, 9, 9]);
    assert.deepEqual([samples?.event_index, samples?.sequence], [0, 5]);
  });

  it("carries any event index, and sequences beyond 32 bits", () => {
    const message = new SampleMessage();
    for (const [event, sequence] of [
      [0, 0],
      [1, 2 ** 32 - 1],
      [15, 2 ** 32],
      [127, 2 ** 53 - 1],
      [128, 1],
      [2 ** 21, 2],
    ]) {
      message.begin();
      const column = pidColumn(1, 3);
      message.append(column, 0, column.length);
      const { samples } = decodeDelivery(message.finish(event, sequence));
      assert.deepEqual([samples?.event_index, samples?.sequence, samples?.pid], [event, sequence, [3]]);
    }
  });

  it("grows as needed, and forgets what it held", () => {
    const message = new SampleMessage();
    message.begin();
    const column = pidColumn(50_000, 4);
    for (let i = 0; i < 5; i++) message.append(column, 0, column.length);
    assert.equal(message.bodyBytes, 5 * column.length);
    assert.equal(decodeDelivery(message.finish(3, 1)).samples?.pid.length, 250_000);
    message.begin();
    assert.equal(message.bodyBytes, 0);
    message.append(pidColumn(1, 8), 0, 8);
    assert.deepEqual(decodeDelivery(message.finish(3, 1)).samples?.pid, [8]);
  });
});
