/**
 * What is written, byte by byte, against the layouts of include/uapi/linux/perf_event.h and
 * tools/perf/Documentation/perf.data-file-format.txt. test/record-reader.test.ts reads it with the project's reader.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { resolvedEvent, sampleBatch } from "../../typescript/messages.test-support.js";
import { EventIds } from "./event-ids.js";
import { RecordBuffer } from "./record-buffer.js";
import { SampleEncoder } from "./sample-records.js";
import { EVENTS, SAMPLE, TASKS, writeAll } from "./writer.test-support.js";

const { pipe, file, at } = writeAll();
const ID = { event0: { cpu0: 1n, cpu1: 2n }, event1: { cpu0: 3n, cpu1: 4n } };
const ATTR_BYTES = 128;

const view = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
const u16 = (bytes: Uint8Array, offset: number) => view(bytes).getUint16(offset, true);
const u32 = (bytes: Uint8Array, offset: number) => view(bytes).getUint32(offset, true);
const u64 = (bytes: Uint8Array, offset: number) => view(bytes).getBigUint64(offset, true);

/** A record that the head is no part of, and where it lies. */
function recordOf(index: number): Uint8Array {
  return pipe.subarray(at[index], at[index] + u16(pipe, at[index] + 6));
}

/** All words of 8 bytes. */
function wordsOf(bytes: Uint8Array): bigint[] {
  return Array.from({ length: bytes.length / 8 }, (_, i) => u64(bytes, i * 8));
}

describe("the pipe format", () => {
  test("begins with its head, and every record is as long as it says", () => {
    assert.equal(Buffer.from(pipe.subarray(0, 8)).toString(), "PERFILE2");
    assert.equal(u64(pipe, 8), 16n);
    const types: number[] = [];
    let offset = 16;
    for (; offset < pipe.length; offset += u16(pipe, offset + 6)) {
      assert.equal(u16(pipe, offset + 6) % 8, 0);
      assert.ok(u16(pipe, offset + 6) >= 8);
      types.push(u32(pipe, offset));
    }
    assert.equal(offset, pipe.length);
    // ATTR, EVENT_UPDATE, FEATURE (event descriptions, version), then the records in the order in which they were written.
    const tasks = [3, 10, 10, 1, 7, 4, 17, 18, 19, 16, 14, 15, 20, 12, 21];
    assert.deepEqual(types, [64, 64, 78, 78, 80, 80, ...tasks, 9, 9, 2, 68]);
  });

  test("its attrs are followed by the ids", () => {
    assert.equal(u16(pipe, 16 + 6), 8 + ATTR_BYTES + 2 * 8);
    assert.deepEqual(wordsOf(pipe.subarray(24 + ATTR_BYTES, 24 + ATTR_BYTES + 16)), [1n, 2n]);
  });
});

describe("an attr", () => {
  const attrs = [24, 24 + ATTR_BYTES + 24].map((offset) => pipe.subarray(offset, offset + ATTR_BYTES));

  test("says type, size, config and rate", () => {
    for (const [i, attr] of attrs.entries()) {
      assert.equal(u32(attr, 0), EVENTS[i].type);
      assert.equal(u32(attr, 4), ATTR_BYTES);
      assert.equal(u64(attr, 8), EVENTS[i].config);
    }
    assert.deepEqual([u64(attrs[0], 16), u64(attrs[1], 16)], [99n, 3n]);
    const bits = (attr: Uint8Array) => [10n, 5n, 18n, 25n].map((bit) => (u64(attr, 40) >> bit) & 1n);
    // freq, exclude_kernel, sample_id_all, use_clockid
    assert.deepEqual(bits(attrs[0]), [1n, 1n, 1n, 1n]);
    assert.deepEqual(bits(attrs[1]), [0n, 0n, 1n, 1n]);
    assert.equal((u64(attrs[0], 40) >> 15n) & 3n, 2n);
    assert.equal(u32(attrs[0], 92), 1);
  });

  test("only the first tracks tasks", () => {
    // mmap, comm, task, mmap2, context_switch
    const tracking = (attr: Uint8Array) => [8n, 9n, 13n, 23n, 26n].map((bit) => (u64(attr, 40) >> bit) & 1n);
    assert.deepEqual(tracking(attrs[0]), [1n, 1n, 1n, 1n, 1n]);
    assert.deepEqual(tracking(attrs[1]), [0n, 0n, 0n, 0n, 0n]);
  });

  test("has the kind of weight that the event has, and a breakpoint's type", () => {
    const weights = (attr: Uint8Array) => [14n, 24n].map((bit) => (u64(attr, 24) >> bit) & 1n);
    assert.deepEqual(weights(attrs[0]), [0n, 1n]);
    assert.deepEqual(weights(attrs[1]), [1n, 0n]);
    assert.equal(u32(attrs[0], 52), 0);
    assert.equal(u32(attrs[1], 52), 2);
    assert.deepEqual([u64(attrs[1], 56), u64(attrs[1], 64)], [0x1000n, 4n]);
  });
});

describe("a sample", () => {
  test("has every field in the kernel's order", () => {
    for (const [event, id] of [
      [0, ID.event0.cpu1],
      [1, ID.event1.cpu1],
    ] as const) {
      const record = recordOf(TASKS.length + event);
      assert.deepEqual([u32(record, 0), u16(record, 4)], [9, 2]);
      assert.deepEqual(wordsOf(record.subarray(8)), [
        ...[id, SAMPLE.ip, (11n << 32n) | 10n, SAMPLE.time, SAMPLE.addr, 1n, SAMPLE.period],
        // READ, with the recording's id
        ...[100n, 200n, 300n, id],
        ...[2n, ...SAMPLE.callchain],
        // RAW: u32 size, then 2 words and one of padding
        ...[(1n << 32n) | 12n, 2n],
        // nr, hw_idx, then from, to and flags
        ...[1n, SAMPLE.hwIndex, ...SAMPLE.branch],
        ...[2n, ...SAMPLE.regsUser],
        ...[16n, ...SAMPLE.stack, 12n],
        ...[SAMPLE.weight, SAMPLE.dataSrc, SAMPLE.transaction],
        ...[2n, ...SAMPLE.regsIntr],
        ...[SAMPLE.physAddr, SAMPLE.cgroup, SAMPLE.dataPageSize, SAMPLE.codePageSize],
        ...[8n, ...SAMPLE.aux],
      ]);
    }
  });

  test("has all ones for its time where its event carries none", () => {
    const time = (sampleType: bigint) => {
      const out = new RecordBuffer();
      const bits = (1 << 16) | (1 << 2);
      const encoder = new SampleEncoder([resolvedEvent({ sampleType })], 0, bits, new EventIds([0]), true);
      encoder.encode(sampleBatch({ time: BigUint64Array.of(7n) }), out);
      return wordsOf(out.written)[4];
    };
    // PERF_SAMPLE_TIME among others, none of it, and a daemon that does not say.
    assert.deepEqual([time((1n << 2n) | 1n), time(1n), time(0n)], [7n, 0xffff_ffff_ffff_ffffn, 7n]);
  });

  test("what is empty has its count alone, and what no record can hold is left out", () => {
    const bits = (1 << 16) | (1 << 5) | (1 << 10) | (1 << 13);
    const encoder = new SampleEncoder([resolvedEvent()], 0, bits, new EventIds([0]), true);
    const out = new RecordBuffer();
    const huge = 9000;
    const batch = sampleBatch({
      time: BigUint64Array.of(1n, 2n),
      callchain: new BigUint64Array(huge),
      callchainLength: Uint32Array.of(0, huge),
    });
    assert.equal(encoder.encode(batch, out), 1);
    // callchain's nr, raw's size and a word of padding, the stack's size
    assert.deepEqual(wordsOf(out.written).slice(7), [0n, 4n, 0n]);
    assert.equal(u16(out.written, 6), out.length);
  });
});

describe("other records", () => {
  test("end with the sample id of the CPU that they come from", () => {
    for (const index of TASKS.keys()) {
      const record = recordOf(index);
      assert.deepEqual(wordsOf(record.subarray(record.length - 32)), [(11n << 32n) | 10n, 50n, 0n, ID.event0.cpu0]);
    }
  });

  test("names end with a NUL and fill whole words", () => {
    const comm = recordOf(0);
    assert.equal(u16(comm, 4), 1 << 13);
    assert.equal(Buffer.from(comm.subarray(16, 24)).toString(), "four\0\0\0\0");
    assert.equal(comm.length, 24 + 32);
    // Eight letters, whose NUL takes a word more.
    const ksymbol = recordOf(6);
    assert.equal(Buffer.from(ksymbol.subarray(24, 40)).toString(), "bpf_prog".padEnd(16, "\0"));
  });

  test("LOST tells the event, how many, and when", () => {
    const lost = recordOf(TASKS.length + 2);
    assert.deepEqual(wordsOf(lost.subarray(8)), [ID.event1.cpu0, 9n, 0n, 70n, 0n, ID.event1.cpu0]);
  });
});

describe("the file format", () => {
  test("its head says where attrs and data are", () => {
    assert.equal(u64(file, 8), 104n);
    const attrEach = u64(file, 16);
    assert.equal(attrEach, BigInt(ATTR_BYTES + 16));
    assert.equal(u64(file, 32), attrEach * 2n);
    assert.equal(u64(file, 40), BigInt(at[0]));
    assert.equal(u64(file, 48), BigInt(pipe.length - at[0]));
    const attrsAt = Number(u64(file, 24));
    for (const [i, ids] of [
      [1n, 2n],
      [3n, 4n],
    ].entries()) {
      const attr = attrsAt + i * Number(attrEach);
      assert.deepEqual(
        file.slice(attr, attr + ATTR_BYTES),
        pipe.slice(24 + i * (ATTR_BYTES + 24), 24 + i * (ATTR_BYTES + 24) + ATTR_BYTES),
      );
      const [idsAt, bytes] = [Number(u64(file, attr + ATTR_BYTES)), u64(file, attr + ATTR_BYTES + 8)];
      assert.equal(bytes, 16n);
      assert.deepEqual(wordsOf(file.subarray(idsAt, idsAt + 16)), ids);
    }
  });

  test("its features follow the data, in the order of their bits", () => {
    // BUILD_ID, VERSION, EVENT_DESC, SAMPLE_TIME
    const bits = [2, 5, 12, 21];
    assert.equal(
      u64(file, 72),
      bits.reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n),
    );
    const sections = bits.map((_, i) => {
      const [offset, bytes] = wordsOf(file.subarray(pipe.length + i * 16, pipe.length + i * 16 + 16)).map(Number);
      return file.slice(offset, offset + bytes);
    });
    const [buildId, version, description, times] = sections;
    assert.deepEqual([u32(buildId, 0), u16(buildId, 4)], [67, 2 | (1 << 15)]);
    assert.deepEqual([...buildId.subarray(12, 16), buildId[32]], [1, 2, 3, 4, 4]);
    assert.equal(Buffer.from(buildId.subarray(36, 43)).toString(), "/bin/x\0");
    assert.equal(u32(version, 0), 64);
    assert.equal(Buffer.from(version.subarray(4, 9)).toString(), "test\0");
    assert.deepEqual([u32(description, 0), u32(description, 4)], [2, ATTR_BYTES]);
    assert.deepEqual(wordsOf(times), [SAMPLE.time, SAMPLE.time]);
  });
});
