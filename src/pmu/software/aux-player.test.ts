import assert from "node:assert/strict";
import { test } from "node:test";
import { AUX_FLAG, PAGE_BYTES, RECORD } from "../abi.js";
import { AuxAreaReader, type AuxRun, readAuxRecord } from "../aux-area.js";
import { RingReader } from "../ring.js";
import type { AuxRingDescriptor } from "../source.js";
import { type AuxPiece, AuxPlayer, type AuxRecord } from "./aux-player.js";
import { AUX_RECORD_BYTES } from "./aux-writer.js";
import { initializeControlPage } from "./ring-memory.js";

const AREA_BYTES = 64;

/** A recording's image: what areas held, then records that tell of it. */
class Image {
  readonly #parts: Uint8Array[] = [];
  #length = 0;

  data(...bytes: readonly number[]): { readonly start: number; readonly end: number } {
    const start = this.#add(Uint8Array.from(bytes));
    return { start, end: this.#length };
  }

  /** A PERF_RECORD_AUX with a sample_id of TID. */
  record(offset: number, bytes: number, tid: number, flags = 0): { readonly at: number; readonly size: number } {
    const record = new DataView(new ArrayBuffer(40));
    record.setUint32(0, RECORD.AUX, true);
    record.setUint16(6, 40, true);
    record.setBigUint64(8, BigInt(offset), true);
    record.setBigUint64(16, BigInt(bytes), true);
    record.setUint32(24, flags, true);
    record.setUint32(32, 7, true);
    record.setUint32(36, tid, true);
    return { at: this.#add(new Uint8Array(record.buffer)), size: 40 };
  }

  #add(bytes: Uint8Array): number {
    const at = this.#length;
    this.#parts.push(bytes);
    this.#length += bytes.length;
    return at;
  }

  get bytes(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
}

interface Played {
  readonly offset: number;
  /** AUX_FLAG bits. */
  readonly flags?: number;
  readonly tid: number;
  readonly timeNs: bigint;
  readonly data: readonly number[];
}

/** Memory for `areas` areas, and who reads them. */
function openAreas(areas: number): {
  rings: AuxRingDescriptor[];
  view: (address: bigint) => ArrayBuffer;
  take: (area: number) => Played[];
} {
  const memory = Array.from(
    { length: 2 * areas },
    (_, i) => new ArrayBuffer(i % 2 === 0 ? 2 * PAGE_BYTES : AREA_BYTES),
  );
  const readers = Array.from({ length: areas }, (_, area) => {
    const ring = memory[2 * area] as ArrayBuffer;
    initializeControlPage(ring, PAGE_BYTES);
    return {
      ring: new RingReader(ring, PAGE_BYTES),
      area: new AuxAreaReader(ring, memory[2 * area + 1] as ArrayBuffer),
    };
  });
  return {
    rings: readers.map((_, area) => ({
      cpu: area,
      address: BigInt(2 * area),
      dataBytes: PAGE_BYTES,
      pollFd: -1,
      pollKind: "eventfd",
      auxAddress: BigInt(2 * area + 1),
      auxBytes: AREA_BYTES,
      eventFd: null,
      wanted: new Int32Array(new SharedArrayBuffer(4)),
    })),
    view: (address) => memory[Number(address)] as ArrayBuffer,
    take: (i) => {
      const { ring, area } = readers[i] as (typeof readers)[number];
      const played: Played[] = [];
      for (const head = ring.loadHead(); ring.tail !== head; ring.storeTail(ring.tail + AUX_RECORD_BYTES)) {
        const at = (ring.tail / 4) & ring.wordMask;
        const word = (w: number): number => ring.words[(at + w) & ring.wordMask] as number;
        const run: AuxRun = { offset: 0, bytes: 0, flagsLow: 0, flagsHigh: 0 };
        assert.ok(readAuxRecord(ring.words, ring.wordMask, at, AUX_RECORD_BYTES, run));
        assert.ok(area.holds(run, run.offset));
        const data = new Uint8Array(run.bytes);
        area.copy(run.offset, run.bytes, data, 0);
        area.storeTail(run.offset + run.bytes);
        const flags = run.flagsLow === 0 ? {} : { flags: run.flagsLow };
        played.push({ offset: run.offset, ...flags, tid: word(9), timeNs: BigInt(word(10)), data: [...data] });
      }
      return played;
    },
  };
}

const OF_CPU = { cpu: 0, tid: -1 } as const;

function player(image: Image, pieces: readonly AuxPiece[], hasTid = true) {
  const areas = openAreas(new Set(pieces.map(({ area }) => area)).size);
  const { rings, view } = areas;
  const played = new AuxPlayer(image.bytes, { attr: 0, pieces, hasTid, rings }, view, () => {});
  played.begin(0);
  return { ...areas, player: played };
}

test("a pass over the recording goes on at the position that the last one ended at", () => {
  const image = new Image();
  const data = image.data(1, 2, 3);
  const record: AuxRecord = { record: 0, ...image.record(0, 3, 70), timeNs: 5n, cpu: 0 };
  const { player: played, take } = player(image, [{ area: 0, ...OF_CPU, offset: 0, ...data }]);
  assert.ok(played.play(record));
  played.begin(1);
  assert.ok(played.play({ ...record, timeNs: 9n }));
  assert.deepEqual(take(0), [
    { offset: 0, tid: 70, timeNs: 5n, data: [1, 2, 3] },
    { offset: 3, tid: 70, timeNs: 9n, data: [1, 2, 3] },
  ]);
});

test("a run that is larger than the area is played as room is made", () => {
  const image = new Image();
  const bytes = Array.from({ length: 100 }, (_, i) => i);
  const data = image.data(...bytes);
  const record: AuxRecord = { record: 0, ...image.record(0, 100, 70), timeNs: 5n, cpu: 0 };
  const { player: played, take } = player(image, [{ area: 0, ...OF_CPU, offset: 0, ...data }]);
  assert.equal(played.play(record), false);
  const first = take(0);
  assert.deepEqual(first[0]?.data.length, AREA_BYTES);
  assert.equal(played.isDrained(), true);
  assert.ok(played.play(record));
  assert.deepEqual(
    [...first, ...take(0)].flatMap((run) => run.data),
    bytes,
  );
});

test("a thread's run is looked for in that thread's area, whatever CPU it ended on", () => {
  const image = new Image();
  const pieces = [70, 71].map((tid, area) => ({ area, cpu: -1, tid, offset: 0, ...image.data(tid, tid + 1) }));
  const records = [71, 70].map((tid, record) => ({ record, ...image.record(0, 2, tid), timeNs: 1n, cpu: 0 }));
  const { player: played, take } = player(image, pieces);
  for (const record of records) assert.ok(played.play(record));
  assert.deepEqual(take(0)[0]?.data, [70, 71]);
  assert.deepEqual(take(1)[0]?.data, [71, 72]);
});

test("a record of nothing that the recording holds is passed over", () => {
  const image = new Image();
  const piece = { area: 0, ...OF_CPU, offset: 8, ...image.data(1, 2) };
  const before: AuxRecord = { record: 0, ...image.record(0, 2, 70), timeNs: 1n, cpu: 0 };
  const elsewhere: AuxRecord = { record: 1, ...image.record(8, 2, 70), timeNs: 1n, cpu: 3 };
  const { player: played, take } = player(image, [piece], false);
  assert.ok(played.play(before));
  assert.ok(played.play(elsewhere));
  assert.ok(played.play({ ...elsewhere, record: 2, size: 24, cpu: 0 }));
  assert.deepEqual(take(0), []);
  assert.ok(played.play({ ...elsewhere, record: 3, cpu: 0 }));
  assert.deepEqual(take(0), [{ offset: 8, tid: 0, timeNs: 1n, data: [1, 2] }]);
});

test("a run of no bytes tells what it has to tell, also where the recording's bytes end", () => {
  const image = new Image();
  const piece = { area: 0, ...OF_CPU, offset: 0, ...image.data(1, 2) };
  const run = (record: number, offset: number): AuxRecord => {
    const place = image.record(offset, record === 0 ? 2 : 0, 70, record === 0 ? 0 : AUX_FLAG.TRUNCATED);
    return { record, ...place, timeNs: 1n, cpu: 0 };
  };
  const records = [run(0, 0), run(1, 2), run(2, 3)];
  const { player: played, take } = player(image, [piece]);
  for (const record of records) assert.ok(played.play(record));
  const told = { tid: 70, timeNs: 1n };
  assert.deepEqual(take(0), [
    { offset: 0, ...told, data: [1, 2] },
    { offset: 2, flags: AUX_FLAG.TRUNCATED, ...told, data: [] },
  ]);
});

test("a run is put together of the pieces that hold it, in any order, and tells where it is cut", () => {
  const image = new Image();
  const at = (offset: number, ...bytes: number[]) => ({ area: 0, ...OF_CPU, offset, ...image.data(...bytes) });
  // The third is told twice in part, and of what is behind 9 nothing is held.
  const pieces = [at(4, 5, 6), at(0, 1, 2, 3, 4), at(5, 6, 7), at(8, 9)];
  const runs = [
    [0, 5],
    [5, 4],
    [8, 3],
  ] as const;
  const records = runs.map(([offset, bytes], record): AuxRecord => {
    return { record, ...image.record(offset, bytes, 70), timeNs: 1n, cpu: 0 };
  });
  const { player: played, take } = player(image, pieces);
  const told = { tid: 70, timeNs: 1n };
  assert.ok(played.play(records[0] as AuxRecord));
  assert.deepEqual(take(0), [
    { offset: 0, ...told, data: [1, 2, 3, 4] },
    { offset: 4, ...told, data: [5] },
  ]);
  // Where a byte is missing the area has to be drained before it can go on.
  assert.equal(played.play(records[1] as AuxRecord), false);
  assert.deepEqual(take(0), [
    { offset: 5, ...told, data: [6] },
    { offset: 6, ...told, data: [7] },
  ]);
  assert.ok(played.play(records[1] as AuxRecord));
  assert.deepEqual(take(0), [{ offset: 8, ...told, data: [9] }]);
  assert.ok(played.play(records[2] as AuxRecord));
  assert.deepEqual(take(0), [{ offset: 8, flags: AUX_FLAG.TRUNCATED, ...told, data: [9] }]);
});

test("the area of a CPU is found among many, however many pieces it has", () => {
  const image = new Image();
  const pieces = Array.from({ length: 300 }, (_, i) => {
    const area = i % 3;
    return { area, cpu: area, tid: -1, offset: Math.floor(i / 3), ...image.data(i % 256) };
  });
  const record: AuxRecord = { record: 0, ...image.record(90, 4, 70), timeNs: 1n, cpu: 2 };
  const { player: played, take } = player(image, pieces);
  assert.ok(played.play(record));
  assert.deepEqual(
    take(2).map(({ data }) => data),
    [[272 % 256], [275 % 256], [278 % 256], [281 % 256]],
  );
  assert.deepEqual([take(0), take(1)], [[], []]);
});
