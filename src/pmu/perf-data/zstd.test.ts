import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { RECORD } from "../abi.js";
import { FIXTURES } from "./collection.test-support.js";
import { USER_RECORD } from "./format.js";
import type { Image } from "./image.js";
import { Bytes, imageOf, record } from "./record-bytes.test-support.js";
import { readRecording } from "./recording.js";
import { type Scan, scanRecords } from "./scan.js";
import { WINDOW_BYTES_MAX, ZstdStream } from "./zstd.js";

const MAGIC = 0xfd2f_b528;

/** A frame that has no end, with a window of 1 KiB << `log`. */
const frame = (log = 10): Bytes => new Bytes().u32(MAGIC).u8(0, log << 3);

/** A block that holds `bytes` as they are. */
function rawBlock(bytes: Uint8Array, isLast = false): number[] {
  const word = (bytes.length << 3) | (isLast ? 1 : 0);
  return [word & 255, (word >> 8) & 255, (word >> 16) & 255, ...bytes];
}

/** A block of `count` times the same byte. */
function repeatBlock(byte: number, count: number): number[] {
  const word = (count << 3) | 2;
  return [word & 255, (word >> 8) & 255, (word >> 16) & 255, byte];
}

function decompress(chunks: readonly Uint8Array[]): Buffer {
  const out: Uint8Array[] = [];
  const stream = new ZstdStream((bytes) => out.push(bytes));
  for (const chunk of chunks) stream.push(chunk);
  return Buffer.concat(out);
}

describe("the zstd stream", () => {
  it("is the same however it is cut", () => {
    const data = new Bytes()
      .raw(frame().toArray())
      .raw(rawBlock(Buffer.from("abc")))
      .raw(repeatBlock(120, 5))
      .raw(rawBlock(Buffer.from("."), true))
      // A frame to skip, and one more.
      .u32(0x184d_2a53, 3)
      .u8(1, 2, 3)
      .raw(frame().toArray())
      .raw(rawBlock(Buffer.from("behind the skipped one"), true))
      .toArray();
    const expected = "abcxxxxx.behind the skipped one";
    assert.equal(decompress([data]).toString(), expected);
    for (const step of [1, 2, 3, 7, 20]) {
      const chunks: Uint8Array[] = [];
      for (let at = 0; at < data.length; at += step) chunks.push(data.subarray(at, at + step));
      assert.equal(decompress(chunks).toString(), expected, `in steps of ${step}`);
    }
  });

  it("refuses what it would have to allocate too much for, and what is none", () => {
    const refused = (bytes: Bytes, message: RegExp): void => {
      assert.throws(() => decompress([bytes.toArray()]), message);
    };
    const over = Math.log2(WINDOW_BYTES_MAX) - 10 + 1;
    refused(frame(over).raw(repeatBlock(1, 100)), /a window of 268435456 bytes, above the limit/);
    assert.equal(
      decompress([
        frame(over - 1)
          .raw(rawBlock(new Uint8Array(100)))
          .toArray(),
      ]).length,
      100,
    );
    // A second frame is looked at as the first is.
    const second = frame()
      .raw(rawBlock(Buffer.from("x"), true))
      .raw(frame(over).raw(repeatBlock(1, 100)).toArray());
    refused(second, /a window of 268435456/);
    refused(
      new Bytes()
        .u32(MAGIC)
        .u8(0xe0)
        .u64(1n << 40n)
        .raw(repeatBlock(1, 1)),
      /a window of 1099511627776/,
    );
    refused(new Bytes().u32(MAGIC).u8(1, 80, 9).raw(repeatBlock(1, 100)), /needs a dictionary/);
    refused(frame().u8(6, 0, 0).pad(32), /reserved type/);
    refused(new Bytes().u64(1, 2, 3, 4), /no zstd frame/);
    // Each block moves the window along.
    const short = frame(over - 1);
    for (let i = 0; i < 100; i++) short.raw(repeatBlock(1, 1));
    refused(short, /blocks too short for a window of 134217728 bytes; record at a lower level/);
  });
});

/** 40,000 LOST records, as zstd -1 packs them. */
const LOST_40000 =
  "KLUv/YBIAKYOAOQAAHACAAAAAAAYAAEACQACAAQA3/87EwCGAcYDQAJMAAAIAQEA/P85EAJMAAAICQEA/P85EAJMAAAIAgEA/P85EAJMAAAIAQEA/P85EAJMAAAICQEA/P85EAJMAAAIAgEA/P85EAJNAAAIAQEA/CUdCAE=";

const lost = (lostCount: number): Uint8Array => record(RECORD.LOST, 0, new Bytes().u64(1, lostCount));

/** `data` in compressed records of `step` bytes. */
function compressedRecords(data: Uint8Array, step: number, type: number): Uint8Array[] {
  const records: Uint8Array[] = [];
  for (let at = 0; at < data.length; at += step) {
    const piece = data.subarray(at, at + step);
    const body = new Bytes();
    if (type === USER_RECORD.COMPRESSED2) body.u64(piece.length);
    body.raw(piece);
    records.push(record(type, 0, type === USER_RECORD.COMPRESSED2 ? body.pad() : body));
  }
  return records;
}

function scan(...records: readonly Uint8Array[]): { readonly scan: Scan; readonly image: Image; readonly at: number } {
  const { image, at } = imageOf(...records);
  return { scan: scanRecords(image, [{ start: at, end: image.length }], () => {}), image, at };
}

function losses({ scan: { runs }, image }: { readonly scan: Scan; readonly image: Image }): bigint[] {
  return runs.flatMap(({ start, end }) => {
    const found: bigint[] = [];
    for (let at = start; at < end; at += 24) found.push(image.view.getBigUint64(at + 16, true));
    return found;
  });
}

describe("compressed records", () => {
  const inside = Buffer.concat([1, 2, 3, 4, 5].map(lost));
  const stream = frame()
    .raw(rawBlock(inside.subarray(0, 60)))
    .raw(rawBlock(inside.subarray(60)))
    .toArray();

  for (const type of [USER_RECORD.COMPRESSED, USER_RECORD.COMPRESSED2]) {
    it(`hold records that may go on in the next one (type ${type})`, () => {
      for (const step of [5, 13, 64, 1000]) {
        const found = scan(lost(0), ...compressedRecords(stream, step, type), lost(6));
        assert.deepEqual(found.scan.damage, []);
        assert.deepEqual(losses(found), [0n, 1n, 2n, 3n, 4n, 5n, 6n], `in steps of ${step}`);
        assert.equal(found.scan.inflatedBytes, inside.length);
      }
    });
  }

  it("are damaged where the last is cut off", () => {
    const found = scan(
      lost(0),
      ...compressedRecords(
        frame()
          .raw(rawBlock(inside.subarray(0, 60)))
          .toArray(),
        1000,
        81,
      ),
    );
    assert.deepEqual(losses(found), [0n, 1n, 2n]);
    assert.equal(found.scan.damage[0]?.offset, found.at + 24);
    assert.match(
      found.scan.damage[0]?.message ?? "",
      /byte 48 of what is compressed here: the last compressed record is cut off/,
    );
  });

  it("are damaged where they hold no records, and what is before is not", () => {
    const nonsense = frame()
      .raw(rawBlock(Buffer.concat([lost(1), Buffer.alloc(24)])))
      .toArray();
    const found = scan(lost(0), ...compressedRecords(nonsense, 1000, USER_RECORD.COMPRESSED), lost(2));
    assert.deepEqual(losses(found), [0n, 1n]);
    assert.match(found.scan.damage[0]?.message ?? "", /byte 24 of what is compressed here: a record of 0 bytes/);
  });

  it("may not hold more than the file could ever have been", () => {
    const bomb = Buffer.from(LOST_40000, "base64");
    const { image, at } = imageOf(lost(7), ...compressedRecords(bomb, 1000, USER_RECORD.COMPRESSED));
    const {
      damage: [damage],
      inflatedBytes,
      counts,
    } = scanRecords(image, [{ start: at, end: image.length }], () => {});
    assert.equal(damage?.offset, at + 24);
    assert.match(damage?.message ?? "", /what is compressed holds more than \d+ bytes; record without -z/);
    assert.ok(inflatedBytes <= image.fileBytes * 256);
    // Up to there, all that is whole is served.
    assert.equal(counts[RECORD.LOST], 1 + Math.floor(inflatedBytes / 24));
    const padding = record(RECORD.LOST, 0, new Bytes().raw(new Uint8Array(5000)));
    const larger = scan(padding, ...compressedRecords(bomb, 1000, USER_RECORD.COMPRESSED));
    assert.deepEqual(larger.scan.damage, []);
    assert.equal(larger.scan.counts[RECORD.LOST], 40_001);
  });

  it("of real recordings hold what perf says", () => {
    const ratio: Record<string, number> = {};
    for (const name of ["zstd-file-big", "zstd2-pipe"]) {
      const { image, damage } = readRecording(join(FIXTURES, `${name}.perf.data`));
      assert.deepEqual(damage, []);
      const expected = JSON.parse(readFileSync(join(FIXTURES, `${name}.records.json`), "utf8"));
      assert.equal(image.length - image.fileBytes, expected.decompressed_bytes);
      ratio[name] = image.length / image.fileBytes;
    }
    assert.ok((ratio["zstd-file-big"] ?? 0) > 20);
  });
});
