import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { liveness } from "./table.js";
import { readTable, TableFileError } from "./table-file.js";

const directory = mkdtempSync(join(tmpdir(), "nmi-table-"));
const path = join(directory, "handlers.table");
after(() => rmSync(directory, { recursive: true, force: true }));

const HEADER_OFFSET = 64;
const SLOT_ZERO = 8192;
const STRIDE = 1024;
const CAPACITY = 4;
const DISPATCHERS = { offset: 512, stride: 128 };
const description = () => ({
  version: 3,
  states: ["FREE", "CLAIMED", "ACTIVE", "DRAINING"],
  header: ["capacity", "dispatchers", "list_head", "high_water", "daemon_pid"]
    .map((name, i) => ({ name, offset: HEADER_OFFSET + 4 * i, type: "u32" }))
    .concat([{ name: "started_at", offset: HEADER_OFFSET + 24, type: "f64" }]),
  slots: {
    stride: STRIDE,
    fields: [
      { name: "state_generation", offset: 0, type: "u32" },
      { name: "next", offset: 4, type: "u32" },
      { name: "event_mask", offset: 8, type: "u32", count: 2 },
      { name: "delivered", offset: 16, type: "f64", count: 1 },
      { name: "losses", offset: 24, type: "f64", count: 3 },
      { name: "name", offset: 64, type: "text", bytes: 16 },
      { name: "events", offset: 128, type: "text", count: 64 },
      { name: "from_the_future", offset: 256, type: "f64" },
    ],
  },
  dispatchers: {
    ...DISPATCHERS,
    fields: [
      { name: "running", offset: 0, type: "u32" },
      ...["dispatches", "matched", "queue_full", "longest_dispatch_ns", "last_dispatch_ns"].map((name, i) => ({
        name,
        offset: 64 + 8 * i,
        type: "f64",
      })),
    ],
  },
  lossReasons: ["QUEUE_FULL", "DISCARDED", "KERNEL"],
});

interface SlotContent {
  readonly state: number;
  readonly generation: number;
  readonly next: number;
  readonly name: string;
}

function image(slots: readonly SlotContent[], listHead: number, about: unknown = description()): Buffer {
  const bytes = Buffer.alloc(SLOT_ZERO + CAPACITY * STRIDE);
  const text = Buffer.from(JSON.stringify(about));
  bytes.write("NMIDHTBL");
  for (const [offset, value] of [
    [8, 3],
    [12, SLOT_ZERO],
    [16, 256],
    [20, text.length],
    [HEADER_OFFSET, CAPACITY],
    [HEADER_OFFSET + 4, 2],
    [HEADER_OFFSET + 8, listHead],
    [HEADER_OFFSET + 12, slots.length],
    [HEADER_OFFSET + 16, process.pid],
  ]) {
    bytes.writeUInt32LE(value, offset);
  }
  bytes.writeDoubleLE(1_700_000_000, HEADER_OFFSET + 24);
  text.copy(bytes, 256);
  slots.forEach((slot, i) => {
    const at = SLOT_ZERO + i * STRIDE;
    bytes.writeUInt32LE(slot.generation * 8 + slot.state, at);
    bytes.writeUInt32LE(slot.next, at + 4);
    bytes.writeDoubleLE(1000 + i, at + 16);
    [1, 2, 4].forEach((count, reason) => {
      bytes.writeDoubleLE(count, at + 24 + 8 * reason);
    });
    bytes.write(slot.name, at + 64);
    bytes.write("cpu-clock", at + 128);
    for (const d of [0, 1]) {
      const block = at + DISPATCHERS.offset + d * DISPATCHERS.stride;
      bytes.writeUInt32LE(d, block);
      [10, 20, 30, 40_000, 50].forEach((value, field) => {
        bytes.writeDoubleLE(value * (d + 1), block + 64 + 8 * field);
      });
    }
  });
  return bytes;
}

const SLOTS: readonly SlotContent[] = [
  { state: 2, generation: 1, next: 0, name: "first" },
  { state: 0, generation: 9, next: 1, name: "gone" },
  { state: 3, generation: 0x1fff_ffff, next: 2, name: "sixteen bytes ok" },
];

function failure(bytes: Buffer): TableFileError {
  writeFileSync(path, bytes);
  try {
    readTable(path);
  } catch (error) {
    assert.ok(error instanceof TableFileError, String(error));
    return error;
  }
  throw new assert.AssertionError({ message: "the table was read" });
}

function runTable(...args: string[]) {
  const main = join(import.meta.dirname, "main.js");
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, "table", "--runtime-dir", directory, ...args], {
    encoding: "utf8",
    timeout: 60_000,
  });
  return { status, stdout, stderr };
}

test("slots in the order of the list, with what the description names", () => {
  writeFileSync(path, image(SLOTS, 3));
  const table = readTable(path);
  assert.deepEqual(table.problems, []);
  assert.equal(table.header.capacity, CAPACITY);
  assert.equal(table.header.started_at, 1_700_000_000);
  assert.deepEqual(
    table.slots.map(({ index, handlerId, state, fields }) => [index, handlerId, state, fields.name]),
    [
      [2, 0x1fff_ffff * 65_536 + 2, "DRAINING", "sixteen bytes ok"],
      [1, 9 * 65_536 + 1, "FREE", "gone"],
      [0, 65_536, "ACTIVE", "first"],
    ],
  );
  const [draining] = table.slots;
  assert.deepEqual(draining.fields.losses, [1, 2, 4]);
  assert.deepEqual(draining.fields.event_mask, [0, 0]);
  assert.deepEqual(
    draining.dispatchers.map(({ running, matched }) => [running, matched]),
    [
      [0, 20],
      [1, 40],
    ],
  );
});

test("nmictl table prints it, FREE slots on demand", () => {
  writeFileSync(path, image(SLOTS, 3));
  const plain = runTable();
  assert.equal(plain.stderr, "");
  assert.equal(plain.status, 0);
  assert.match(plain.stdout, new RegExp(`daemon ${process.pid} is alive, started 2023-11-14T22:13:20.000Z`));
  assert.match(plain.stdout, /capacity 4, dispatchers 2, high water 3/);
  // 3 lost on the main thread's side (KERNEL is not in `lost`) and 30 + 60 by full queues.
  assert.match(plain.stdout, /^65536 +first +ACTIVE +0 1 +30 +60 +1000 +93 +80\.0 us +cpu-clock$/m);
  assert.doesNotMatch(plain.stdout, /FREE/);
  assert.match(runTable("--all").stdout, /^589825 +gone +FREE/m);
  const json = JSON.parse(runTable("--json").stdout);
  assert.equal(json.daemon, "alive");
  assert.deepEqual(
    json.slots.map((slot: { handlerId: number; lost: number }) => [slot.handlerId, slot.lost]),
    [
      [0x1fff_ffff * 65_536 + 2, 93],
      [65_536, 93],
    ],
  );
});

test("a list that is damaged is shown as far as it goes", () => {
  writeFileSync(path, image([{ ...SLOTS[0], next: 2 }, SLOTS[1]], 1));
  const circle = readTable(path);
  assert.equal(circle.slots.length, 2);
  assert.match(circle.problems.join(), /circle at slot 0/);
  writeFileSync(path, image([{ ...SLOTS[0], next: 5 }], 1));
  const astray = readTable(path);
  assert.equal(astray.slots.length, 1);
  assert.match(astray.problems.join(), /leads to slot 4 of 4/);
});

test("what is no table of this version says what it is", () => {
  rmSync(path, { force: true });
  assert.throws(() => readTable(path), { code: "NOT_FOUND" });
  assert.throws(() => readTable(dirname(path)), { code: "UNREADABLE" });
  assert.equal(failure(Buffer.alloc(0)).code, "NOT_A_TABLE");
  assert.equal(failure(Buffer.from("NMIDHTBX and more of it, and more")).code, "NOT_A_TABLE");
  const starting = image(SLOTS, 3);
  starting.writeUInt32LE(0, 8);
  assert.equal(failure(starting).code, "NOT_READY");
  const newer = image(SLOTS, 3);
  newer.writeUInt32LE(4, 8);
  assert.equal(failure(newer).code, "UNKNOWN_VERSION");
  assert.equal(failure(image(SLOTS, 3, { ...description(), version: 4 })).code, "UNKNOWN_VERSION");
});

test("descriptions that lead outside, or lack what is needed, are corrupt", () => {
  const about = description();
  const cases: Record<string, unknown> = {
    "no JSON object": [],
    "no header": { ...about, header: undefined },
    "no capacity": { ...about, header: about.header.slice(1) },
    "a stride of 0": { ...about, slots: { ...about.slots, stride: 0 } },
    "a field behind its slot": {
      ...about,
      slots: { ...about.slots, fields: [...about.slots.fields, { name: "x", offset: STRIDE, type: "u32" }] },
    },
    "an unknown type": { ...about, header: [{ name: "capacity", offset: 64, type: "i16" }] },
    "dispatchers behind the slot": { ...about, dispatchers: { ...about.dispatchers, offset: STRIDE - 128 } },
    "no state": { ...about, slots: { ...about.slots, fields: about.slots.fields.slice(1) } },
  };
  for (const [name, value] of Object.entries(cases))
    assert.equal(failure(image(SLOTS, 3, value)).code, "CORRUPT", name);
  const long = image(SLOTS, 3);
  long.writeUInt32LE(0xffff_ffff, 20);
  assert.equal(failure(long).code, "CORRUPT");
});

test("a file cut short anywhere is an error, not a table", () => {
  const whole = image(SLOTS, 3);
  for (let length = whole.length - 1; length >= 0; length -= length > 4096 ? 97 : 13) {
    writeFileSync(path, whole);
    truncateSync(path, length);
    assert.throws(() => readTable(path), TableFileError, `cut to ${length} bytes`);
  }
});

test("the command's errors are one line", () => {
  rmSync(path, { force: true });
  const { status, stderr, stdout } = runTable();
  assert.equal(status, 1);
  assert.equal(stdout, "");
  assert.match(stderr, /^nmictl: no handler table at .*handlers\.table.*\n$/);
});

test("liveness by pid", () => {
  assert.equal(liveness(process.pid), "alive");
  assert.equal(liveness(0), "dead");
  assert.equal(liveness(-1), "dead");
  assert.equal(liveness(0xffff_ffff), "dead");
  const { pid } = spawnSync("true");
  assert.equal(liveness(pid), "dead");
});
