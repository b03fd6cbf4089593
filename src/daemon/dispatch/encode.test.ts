import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SAMPLE } from "../../pmu/abi.js";
import { FormatTable } from "../../pmu/format-table.js";
import { BATCH_BYTES_MAX, BATCH_SAMPLES_MAX, BatchIndex } from "../../pmu/record.js";
import { bytesOf, type DeliveryMessage, decodeDelivery, TestArena } from "../delivery/delivery.test-support.js";
import { SampleMessage } from "../delivery/message.js";
import { packageDefinition } from "../grpc/proto.js";
import { COLUMN_BYTES_MAX, SAMPLE_BATCH_FIELD } from "./column-header.js";
import { raggedWords } from "./columns.js";
import { format, LIVE, sampleRecord, TestRing } from "./dispatcher.test-support.js";
import { chunkBytes, encodeChunk, type Selection } from "./encode.js";

const QUIET = {
  throttle: () => {},
  corrupt: () => assert.fail("corrupt"),
  stray: () => assert.fail("stray"),
  lost: () => {},
};
const WITH_CHAIN = LIVE | SAMPLE.CALLCHAIN;

function selectionOf(samples: readonly number[], weight: (sample: number) => number): Selection {
  return { sample: Uint32Array.from(samples), period: Float64Array.from(samples, weight) };
}

function decodeChunk(payload: Uint8Array): DeliveryMessage {
  const arena = new TestArena();
  const message = new SampleMessage();
  message.begin();
  message.add(arena.reader, arena.put(payload));
  message.finish(0, 0);
  return decodeDelivery(bytesOf(message));
}

interface Descriptor {
  readonly type: { readonly field: readonly { readonly name: string; readonly number: number }[] };
}

describe("SAMPLE_BATCH_FIELD", () => {
  it("has the field numbers of nmi.proto", () => {
    const { type } = packageDefinition["nmi.v1.SampleBatch"] as unknown as Descriptor;
    assert.deepEqual(Object.fromEntries(type.field.map(({ name, number }) => [name.toUpperCase(), number])), {
      ...SAMPLE_BATCH_FIELD,
    });
  });
});

describe("encodeChunk", () => {
  it("writes exactly the bytes that chunkBytes says, and the selection alone", () => {
    for (const [sampleType, callchain] of [
      [LIVE, false],
      [WITH_CHAIN, false],
      [WITH_CHAIN, true],
      [LIVE, true],
    ] as const) {
      const ring = new TestRing(0, 65_536);
      for (let i = 0; i < 10; i++) {
        ring.write(sampleRecord({ time: i, pid: i * 2, callchain: new Array<bigint>(i).fill(BigInt(i)) }, sampleType));
      }
      const formats = new FormatTable();
      formats.add(0, format([1], sampleType));
      const batch = new BatchIndex();
      batch.scan(ring.reader, ring.reader.loadHead(), formats, QUIET);
      const selection = selectionOf([9, 0, 3, 7, 8], (sample) => sample * 1000);
      const columns = callchain ? SAMPLE.CALLCHAIN : 0;
      const ragged = [0, 3, 7].reduce((sum, i) => sum + raggedWords(columns, batch, ring.reader, i), 0);
      const bytes = chunkBytes(3, columns, ragged);
      const out = new Uint32Array(4096).fill(0xdeadbeef);
      encodeChunk(out, 10, batch, ring.reader, selection, 1, 4, columns, 6);
      assert.equal(out[9], 0xdeadbeef);
      assert.equal(out[10 + bytes / 4], 0xdeadbeef);
      const { samples } = decodeChunk(new Uint8Array(out.buffer, 40, bytes));
      assert.deepEqual(samples?.time, [0, 3, 7]);
      assert.deepEqual(samples?.pid, [0, 6, 14]);
      assert.deepEqual(samples?.period, [0, 3000, 7000]);
      const chained = callchain && sampleType === WITH_CHAIN;
      assert.deepEqual(samples?.callchain_length, chained ? [0, 3, 7] : callchain ? [0, 0, 0] : []);
      assert.deepEqual(samples?.callchain, chained ? [3, 3, 3, 7, 7, 7, 7, 7, 7, 7] : []);
    }
  });

  it("can encode lengths of up to three varint bytes, more than any batch needs", () => {
    const ring = new TestRing(0, 65_536);
    const formats = new FormatTable();
    formats.add(0, format([1]));
    const batch = new BatchIndex();
    for (let i = 0; i < BATCH_SAMPLES_MAX; i++) ring.write(sampleRecord({ time: i }));
    batch.scan(ring.reader, ring.reader.loadHead(), formats, QUIET);
    assert.equal(batch.count, BATCH_SAMPLES_MAX);
    const all = selectionOf(
      Array.from({ length: BATCH_SAMPLES_MAX }, (_, i) => i),
      () => 2 ** 52,
    );
    for (const samples of [1, 15, 16, 31, 32, BATCH_SAMPLES_MAX]) {
      const out = new Uint32Array(65_536);
      encodeChunk(out, 0, batch, ring.reader, all, 0, samples, 0, 0);
      const decoded = decodeChunk(new Uint8Array(out.buffer, 0, chunkBytes(samples, 0, 0))).samples;
      assert.equal(decoded?.cpu.length, samples);
      assert.deepEqual(decoded?.period, new Array(samples).fill(2 ** 52));
    }
    // The longest column: callchains of a batch, whose last record may be 64 KiB itself.
    assert.ok(BATCH_BYTES_MAX + 2 ** 16 < COLUMN_BYTES_MAX);
  });
});
