import assert from "node:assert/strict";
import { test } from "node:test";
import { loadBroker } from "./broker.test-support.js";
import { type ControlDelivery, decodeDelivery } from "./decode.js";
import { MalformedMessageError } from "./errors.js";
import type { Delivery, SampleBatch } from "./messages.js";

const { responseSerialize, responseDeserialize } = loadBroker().Subscribe;
const decodeControl = (bytes: Uint8Array) => responseDeserialize(Buffer.from(bytes)) as ControlDelivery;
const decode = (bytes: Uint8Array) => decodeDelivery(bytes, decodeControl);

const COLUMNS = {
  time: ["1000000000", "18446744073709551615", "3"],
  ip: [String(0xffff_ffff_8108_2390n), "4198400", "0"],
  pid: [100, 4294967295, 0],
  tid: [101, 4294967294, 0],
  cpu: [0, 1, 255],
  period: ["10101010", "1", "9007199254740993"],
};
const REFERENCE = responseSerialize({
  samples: {
    eventIndex: 3,
    sequence: 77,
    ...COLUMNS,
    callchain: ["18446744073709551488", "1", "2", "5"],
    callchainLength: [3, 0, 1],
  },
});

/** Every other column, of three samples; of the ragged ones none, some and more. */
const REST = {
  addr: ["1", "2", "18446744073709551615"],
  weight: ["4", "5", "6"],
  dataSrc: ["7", "8", "9"],
  cgroup: ["10", "11", "12"],
  raw: [1, 2, 4294967295],
  rawLength: [0, 1, 2],
  branchStack: ["1", "2", "3", "4", "5", "6"],
  branchStackLength: [2, 0, 0],
  branchHwIndex: ["18446744073709551615", "0", "1"],
  branchCounters: ["13", "14"],
  regsUser: ["1", "2", "3", "4"],
  regsUserAbi: [2, 0, 1],
  stackUser: ["15", "16", "17"],
  stackUserLength: [16, 0, 3],
  transaction: ["18", "19", "20"],
  physAddr: ["21", "22", "23"],
  dataPageSize: ["4096", "0", "2097152"],
  codePageSize: ["4096", "0", "4096"],
  regsIntr: ["24"],
  regsIntrAbi: [0, 2, 0],
  read: ["25", "26", "27"],
  readLength: [1, 2, 0],
  aux: ["28"],
  auxLength: [0, 8, 0],
  cpumode: [1, 2, 16386],
};
const ALL_COLUMNS = responseSerialize({ samples: { eventIndex: 3, sequence: 77, ...COLUMNS, ...REST } });

function samples(delivery: Delivery | undefined): SampleBatch {
  assert.equal(delivery?.kind, "samples");
  return delivery as SampleBatch;
}

function assertReference(batch: SampleBatch): void {
  assert.equal(batch.eventIndex, 3);
  assert.equal(batch.sequence, 77);
  assert.equal(batch.length, 3);
  assert.deepEqual([...batch.time], [1_000_000_000n, 0xffff_ffff_ffff_ffffn, 3n]);
  assert.deepEqual([...batch.ip], [0xffff_ffff_8108_2390n, 4_198_400n, 0n]);
  assert.deepEqual([...batch.pid], [100, 0xffff_ffff, 0]);
  assert.deepEqual([...batch.tid], [101, 0xffff_fffe, 0]);
  assert.deepEqual([...batch.cpu], [0, 1, 255]);
  assert.deepEqual([...batch.period], [10_101_010n, 1n, 9_007_199_254_740_993n]);
  assert.deepEqual([...batch.callchain], [0xffff_ffff_ffff_ff80n, 1n, 2n, 5n]);
  assert.deepEqual([...batch.callchainLength], [3, 0, 1]);
}

function fixed64(...values: bigint[]): Buffer {
  return Buffer.from(new BigUint64Array(values).buffer);
}

function fixed32(...values: number[]): Buffer {
  return Buffer.from(new Uint32Array(values).buffer);
}

/** A length-delimited field, its length padded to `varintBytes`. */
function field(number: number, payload: Uint8Array, varintBytes = 1): Buffer {
  const length = Array.from({ length: varintBytes }, (_, i) => {
    const bits = Math.floor(payload.length / 128 ** i) % 128;
    return i < varintBytes - 1 ? bits | 0x80 : bits;
  });
  const tag = number < 16 ? [(number << 3) | 2] : [((number << 3) & 0x7f) | 2 | 0x80, number >> 4];
  return Buffer.concat([Buffer.from([...tag, ...length]), payload]);
}

function delivery(...fields: Buffer[]): Buffer {
  return field(2, Buffer.concat(fields), 3);
}

test("the columns of a reference encoder", () => {
  assertReference(samples(decode(REFERENCE)));
});

test("every column on request, at every alignment", () => {
  for (let shift = 0; shift < 8; shift++) {
    const memory = Buffer.alloc(ALL_COLUMNS.length + 8);
    ALL_COLUMNS.copy(memory, shift);
    const batch = samples(decode(memory.subarray(shift, shift + ALL_COLUMNS.length)));
    assert.equal(batch.length, 3);
    for (const [name, values] of Object.entries(REST)) {
      const column = batch[name as keyof typeof REST];
      assert.deepEqual(Array.from(column, String), values.map(String), name);
    }
  }
});

test("the span of a batch's times: the first and the last of each run, in whatever order runs come", () => {
  const time = (...values: bigint[]) => field(3, fixed64(...values));
  const spanOf = (message: Buffer) => {
    const span = { oldestNs: 1, newestNs: 1 };
    decodeDelivery(message, decodeControl, span);
    return span;
  };
  const day = 86_400_000_000_000n;
  const later = 9_007_199_254_740_993n;
  assert.deepEqual(spanOf(delivery(time(day, day + 7n, day + 9n))), {
    oldestNs: Number(day),
    newestNs: Number(day + 9n),
  });
  assert.deepEqual(spanOf(delivery(time(20n, 30n), time(5n), time(), time(10n, later))), {
    oldestNs: 5,
    newestNs: Number(later),
  });
  // An element that its sender did not pack is a run of one.
  assert.deepEqual(spanOf(delivery(Buffer.concat([Buffer.from([(3 << 3) | 1]), fixed64(0xff_0000_0001n)]))), {
    oldestNs: 0xff_0000_0001,
    newestNs: 0xff_0000_0001,
  });
  // What was before must not be taken for this batch's.
  assert.deepEqual(spanOf(delivery(field(5, fixed32(1, 2)))), { oldestNs: Number.NaN, newestNs: Number.NaN });
});

test("the same message at every alignment", () => {
  for (let shift = 0; shift < 16; shift++) {
    const memory = Buffer.alloc(REFERENCE.length + 16, 0xee);
    REFERENCE.copy(memory, shift);
    assertReference(samples(decode(memory.subarray(shift, shift + REFERENCE.length))));
  }
});

test("an aligned column is a view, an unaligned one memory of its own", () => {
  const message = delivery(field(3, fixed64(1n, 2n)));
  const start = message.length - 16;
  for (const [shift, view] of [
    [8 - (start % 8), true],
    [9 - (start % 8), false],
  ] as const) {
    const memory = new Uint8Array(message.length + 16);
    memory.set(message, shift);
    const { time } = samples(decode(memory.subarray(shift, shift + message.length)));
    assert.deepEqual([...time], [1n, 2n]);
    assert.equal(time.buffer === memory.buffer, view);
  }
});

test("several runs of a column are joined, in order, however long their lengths are written", () => {
  const batch = samples(
    decode(
      delivery(
        field(3, fixed64(1n, 2n, 3n, 4n, 5n), 3),
        field(5, fixed32(10), 2),
        field(4, fixed64(11n, 12n), 10),
        field(5, fixed32(), 1),
        field(5, fixed32(20, 30), 4),
        field(4, fixed64(13n, 14n, 15n), 1),
        field(5, fixed32(40, 50), 1),
      ),
    ),
  );
  assert.equal(batch.length, 5);
  assert.deepEqual([...batch.time], [1n, 2n, 3n, 4n, 5n]);
  assert.deepEqual([...batch.ip], [11n, 12n, 13n, 14n, 15n]);
  assert.deepEqual([...batch.pid], [10, 20, 30, 40, 50]);
  assert.equal(batch.tid.length, 0);
});

test("0xA8 0x80 0x00 is a length of 40", () => {
  const times = fixed64(1n, 2n, 3n, 4n, 5n);
  const message = Buffer.concat([Buffer.from([0x12, 44, 0x1a, 0xa8, 0x80, 0x00]), times]);
  assert.deepEqual([...samples(decode(message)).time], [1n, 2n, 3n, 4n, 5n]);
});

test("elements that were not packed, and a batch in two pieces", () => {
  const unpacked = Buffer.concat([Buffer.from([0x19]), fixed64(9n), Buffer.from([0x2d]), fixed32(8)]);
  const batch = samples(
    decode(Buffer.concat([delivery(unpacked), delivery(field(3, fixed64(10n)), field(5, fixed32(7)))])),
  );
  assert.deepEqual([...batch.time], [9n, 10n]);
  assert.deepEqual([...batch.pid], [8, 7]);
});

test("unknown fields of every wire type are skipped, in the batch and around it", () => {
  const group = Buffer.from([0xa3, 0x03, 0x08, 0x01, 0x0b, 0x0c, 0xa4, 0x03]);
  const unknown = Buffer.concat([
    Buffer.from([0xc0, 0x02, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
    Buffer.from([0xc1, 0x02, 1, 2, 3, 4, 5, 6, 7, 8]),
    Buffer.from([0xc2, 0x02, 2, 0xff, 0xff]),
    Buffer.from([0xc5, 0x02, 1, 2, 3, 4]),
    group,
  ]);
  const batch = samples(decode(Buffer.concat([unknown, delivery(unknown, field(3, fixed64(6n)), unknown), unknown])));
  assert.deepEqual([...batch.time], [6n]);
  assert.equal(decode(unknown), undefined);
  assert.equal(decode(Buffer.alloc(0)), undefined);
});

test("started, loss, tasks and end", () => {
  const books = {
    eventIndex: 1,
    matched: 3,
    delivered: 2,
    lost: 1,
    periodDelivered: "1",
    periodLost: "2",
    periodCarried: "3",
  };
  const started = decode(responseSerialize({ started: { handlerId: 65_537, clock: "CLOCK_MONOTONIC", events: [] } }));
  assert.equal(started?.kind, "started");
  const loss = decode(responseSerialize({ loss: { count: 5, reason: "QUEUE_FULL" } }));
  assert.equal(loss?.kind, "loss");
  assert.equal((loss as { reason: string }).reason, "QUEUE_FULL");
  const end = decode(responseSerialize({ end: { matched: 3, reason: "SOURCE_ENDED", events: [books] } }));
  assert.equal(end?.kind, "end");
});

test("a message cut short anywhere is malformed", () => {
  const messages = [
    REFERENCE,
    ALL_COLUMNS,
    delivery(field(3, fixed64(1n, 2n), 3), field(5, fixed32(1, 2), 2)),
    responseSerialize({ started: { handlerId: 9, clock: "CLOCK_MONOTONIC", events: [{ name: "cpu-clock" }] } }),
    responseSerialize({ loss: { count: 300, reason: "KERNEL", firstTime: 1 } }),
    responseSerialize({ end: { matched: 300, events: [{ matched: 300 }] } }),
  ];
  for (const message of messages) {
    decode(message);
    for (let length = 1; length < message.length; length++) {
      assert.throws(() => decode(message.subarray(0, length)), MalformedMessageError, `cut to ${length} bytes`);
    }
  }
});

test("corrupt messages are named", () => {
  const cases: [string, Buffer, RegExp][] = [
    ["field 0", Buffer.from([0x02, 0x00]), /field number 0/],
    ["wire type 7", Buffer.from([0x0f]), /wire type 7/],
    ["samples as a varint", Buffer.from([0x10, 0x01]), /wire type 0/],
    ["an endless varint", Buffer.alloc(11, 0xff), /longer than 10 bytes/],
    ["an endless length", Buffer.from([0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), /above 32 bits/],
    ["a run that is no whole number of elements", delivery(field(3, Buffer.alloc(12))), /run of 12 bytes/],
    ["a column of the wrong wire type", delivery(Buffer.from([0x18, 0x01])), /wire type 0/],
    ["columns of different lengths", delivery(field(3, fixed64(1n, 2n)), field(5, fixed32(1))), /pid holds 1 of 2/],
    ["callchains that do not add up", delivery(field(9, fixed64(1n)), field(10, fixed32(2))), /add up to 2/],
    ["raw data that does not add up", delivery(field(15, fixed32(1)), field(16, fixed32(2))), /raw holds 1 .* 2/],
    ["half a branch", delivery(field(17, fixed64(1n)), field(18, fixed32(1))), /branchStack holds 1 .* 3/],
    [
      "a stack longer than its words",
      delivery(field(23, fixed64(1n)), field(24, fixed32(9))),
      /stackUser holds 1 .* 2/,
    ],
    ["registers without a sample", delivery(field(21, fixed64(1n)), field(22, fixed32(0))), /regsUser holds 1/],
    [
      "one sample's registers short",
      delivery(field(29, fixed64(1n)), field(30, fixed32(2, 2))),
      /regsIntr holds 1 .* 2/,
    ],
    ["counters of no branch", delivery(field(20, fixed64(1n))), /branchCounters holds 1 .* 0/],
    ["a column short of a sample", delivery(field(3, fixed64(1n, 2n)), field(13, fixed64(1n))), /dataSrc holds 1 of 2/],
    ["a group that never ends", Buffer.from([0xa3, 0x01, 0x08, 0x01]), /truncated group/],
    ["the end of no group", Buffer.from([0xa4, 0x01]), /never began/],
  ];
  for (const [name, message, expected] of cases) {
    assert.throws(
      () => decode(message),
      (error: unknown) => error instanceof MalformedMessageError && expected.test(error.message),
      name,
    );
  }
});

test("random damage is decoded or malformed, never anything else", () => {
  const seed = Number(process.env.NMI_TEST_SEED ?? Date.now() % 0xffff_ffff);
  let state = seed >>> 0;
  const random = (below: number) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let round = 0; round < 20_000; round++) {
    const message = Buffer.from(round % 2 === 0 ? REFERENCE : ALL_COLUMNS);
    for (let flips = 1 + random(3); flips > 0; flips--) message[random(message.length)] = random(256);
    try {
      decode(message);
    } catch (error) {
      assert.ok(error instanceof MalformedMessageError, `NMI_TEST_SEED=${seed} round ${round}: ${error}`);
    }
  }
});
