import assert from "node:assert/strict";
import { test } from "node:test";
import { AUX_FLAG, MMAP_PAGE, PAGE_BYTES } from "./abi.js";
import { AuxAreaReader, type AuxRun, readAuxRecord } from "./aux-area.js";
import { RingReader } from "./ring.js";
import { AUX_RECORD_BYTES, AuxWriter } from "./software/aux-writer.js";
import { RingWriter } from "./software/ring-writer.js";

const AREA_BYTES = 64;
const ORIGIN = { pid: 7, tid: 8, timeNs: 9n, cpu: 1, id: 5n };

function setUp() {
  const memory = new ArrayBuffer(2 * PAGE_BYTES);
  const area = new ArrayBuffer(AREA_BYTES);
  const writer = new RingWriter(memory, PAGE_BYTES, 1, () => {});
  return {
    control: new BigUint64Array(memory, 0, PAGE_BYTES / 8),
    ring: new RingReader(memory, PAGE_BYTES),
    area: new AuxAreaReader(memory, area),
    writer,
    aux: new AuxWriter(memory, area, writer),
  };
}

const emptyRun = (): AuxRun => ({ offset: 0, bytes: 0, flagsLow: 0, flagsHigh: 0 });
const numbered = (from: number, count: number) => Uint8Array.from({ length: count }, (_, i) => from + i);

function read(area: AuxAreaReader, from: number, bytes: number): number[] {
  const target = new Uint8Array(bytes);
  area.copy(from, bytes, target, 0);
  return [...target];
}

test("a run is read whole where it wraps in the area", () => {
  const { ring, area, writer, aux } = setUp();
  aux.write(numbered(0, 50), 0, 50, 0n, ORIGIN);
  area.storeTail(50);
  aux.write(numbered(100, 30), 0, 30, BigInt(AUX_FLAG.PARTIAL), ORIGIN);
  writer.publish(false);
  const run = emptyRun();
  assert.ok(readAuxRecord(ring.words, ring.wordMask, AUX_RECORD_BYTES / 4, AUX_RECORD_BYTES, run));
  assert.deepEqual(run, { offset: 50, bytes: 30, flagsLow: AUX_FLAG.PARTIAL, flagsHigh: 0 });
  assert.ok(area.holds(run, 50));
  assert.deepEqual(read(area, 50, 30), [...numbered(100, 30)]);
  assert.deepEqual(read(area, 60, 10), [...numbered(110, 10)], "a piece of it, across the end of the area");
});

test("a record that is too short is none", () => {
  const { ring } = setUp();
  assert.equal(readAuxRecord(ring.words, ring.wordMask, 0, 24, emptyRun()), false);
});

test("the writer has no more room than the reader has given back", () => {
  const { area, aux } = setUp();
  assert.equal(aux.room(), AREA_BYTES);
  aux.write(numbered(0, 60), 0, 60, 0n, ORIGIN);
  assert.equal(aux.room(), 4);
  area.storeTail(10);
  assert.equal(aux.room(), 14);
  assert.equal(aux.isDrained(), false);
});

test("a ring without room for the record leaves the area no room", () => {
  const { aux, writer } = setUp();
  while (writer.room() >= AUX_RECORD_BYTES) aux.tell(0, 0, 0n, ORIGIN);
  assert.equal(aux.room(), 0);
});

test("what lies outside the area, above its head, below its tail or is overwritten is not held", () => {
  const { control, area, aux } = setUp();
  aux.write(numbered(0, 40), 0, 40, 0n, ORIGIN);
  const run = (offset: number, bytes: number): AuxRun => ({ ...emptyRun(), offset, bytes });
  assert.ok(area.holds(run(0, 40), 0));
  assert.equal(area.holds(run(0, AREA_BYTES + 1), 0), false, "larger than the area");
  assert.equal(area.holds(run(0, 41), 0), false, "above the head");
  assert.equal(area.holds(run(2 ** 60, 8), 2 ** 60), false, "far above");
  area.storeTail(16);
  assert.equal(area.holds(run(0, 40), 0), false, "given back");
  assert.ok(area.holds(run(0, 40), 16), "the rest of a run that is read in pieces");
  Atomics.store(control, MMAP_PAGE.AUX_HEAD / 8, BigInt(16 + AREA_BYTES + 1));
  assert.equal(area.holds(run(16, 24), 16), false, "overwritten");
});

test("the area is a power of two", () => {
  assert.throws(() => new AuxAreaReader(new ArrayBuffer(PAGE_BYTES), new ArrayBuffer(96)), /power of two/);
});

test("a successor goes on where its predecessor had come to", () => {
  const memory = new ArrayBuffer(2 * PAGE_BYTES);
  const area = new ArrayBuffer(AREA_BYTES);
  new AuxAreaReader(memory, area).storeTail(33);
  assert.equal(new AuxAreaReader(memory, area).tail, 33);
});

test("a run whose aux_head has not come may come, unless there is no place for it", () => {
  const { area, aux } = setUp();
  aux.write(numbered(0, 40), 0, 40, 0n, ORIGIN);
  area.storeTail(16);
  const run = (offset: number, bytes: number): AuxRun => ({ ...emptyRun(), offset, bytes });
  assert.ok(area.expects(run(40, 40)));
  assert.ok(area.expects(run(16, 24)), "aux_head came between two looks");
  assert.equal(area.expects(run(40, 41)), false, "more than there is room for");
  assert.equal(area.expects(run(8, 8)), false, "given back");
  assert.equal(area.expects(run(2 ** 50, 8)), false, "far above");
});
