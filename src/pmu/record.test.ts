import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { CPUMODE, RECORD, SAMPLE } from "./abi.js";
import { FormatTable } from "./format-table.js";
import { BATCH_BYTES_MAX, BATCH_SAMPLES_MAX, BATCH_TASKS_MAX, BatchIndex, isUserMode } from "./record.js";
import { RingReader } from "./ring.js";
import { seededRandom } from "./software/random.js";
import { RingWriter } from "./software/ring-writer.js";
import { plainRing } from "./software/test-consumer.js";
import type { RecordFormat } from "./source.js";

const LIVE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

function format(ids: readonly number[], sampleType = LIVE, fixedPeriod = 0): RecordFormat {
  return { ids: ids.map(BigInt), sampleType, sampleIdAll: true, fixedPeriod };
}

/** A record of 64-bit words; their meaning is the sample type's. */
function record(type: number, misc: number, words: readonly number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 + words.length * 8));
  view.setUint32(0, type, true);
  view.setUint16(4, misc, true);
  view.setUint16(6, view.byteLength, true);
  words.forEach((word, i) => {
    view.setBigUint64(8 + i * 8, BigInt(word), true);
  });
  return new Uint8Array(view.buffer);
}

/** A sample of LIVE. */
function live(id: number, time = 1, period = 1, pid = 1, misc: number = CPUMODE.USER): Uint8Array {
  return record(RECORD.SAMPLE, misc, [id, 0x401000, pid + 2 * 2 ** 32, time, 0, period]);
}

class Heard {
  throttles: [number, boolean][] = [];
  corruptBytes = 0;
  strays = 0;
  throttle(event: number, on: boolean): void {
    this.throttles.push([event, on]);
  }
  corrupt(bytes: number): void {
    this.corruptBytes += bytes;
  }
  stray(): void {
    this.strays++;
  }
  lostRecords = 0;
  lost(records: number): void {
    this.lostRecords += records;
  }
}

function setUp(dataBytes = 65_536): { reader: RingReader; writer: RingWriter; write(...records: Uint8Array[]): void } {
  const memory = plainRing(dataBytes);
  const writer = new RingWriter(memory, dataBytes, 0, () => {});
  return {
    reader: new RingReader(memory, dataBytes),
    writer,
    write: (...records) => {
      for (const bytes of records) {
        assert.ok(writer.room() >= bytes.length);
        writer.append(bytes, 0, bytes.length);
      }
      writer.publish(false);
    },
  };
}

function table(...events: [event: number, format: RecordFormat][]): FormatTable {
  const formats = new FormatTable();
  for (const [event, of] of events) formats.add(event, of);
  return formats;
}

describe("FormatTable", () => {
  it("keeps an id that two openings share until both are gone", () => {
    const { reader, write } = setUp();
    const shared = format([7]);
    const formats = table([1, shared], [1, shared]);
    const heard = new Heard();
    const batch = new BatchIndex();
    const scan = (): number => {
      write(live(7));
      reader.storeTail(batch.scan(reader, reader.loadHead(), formats, heard));
      return batch.count;
    };
    assert.equal(scan(), 1);
    formats.remove(shared);
    assert.equal(scan(), 1);
    formats.remove(shared);
    assert.equal(scan(), 0);
    assert.equal(heard.strays, 1);
    formats.remove(shared);
  });

  it("reads a recording without ids by its only format", () => {
    const { reader, write } = setUp();
    const plain = format([], SAMPLE.IP | SAMPLE.TID, 250);
    const formats = table([4, plain], [4, plain]);
    const batch = new BatchIndex();
    write(record(RECORD.SAMPLE, 0, [0x10, 5]));
    reader.storeTail(batch.scan(reader, reader.loadHead(), formats, new Heard()));
    assert.deepEqual([batch.count, batch.event[0], batch.pid[0], batch.period[0], batch.time[0]], [1, 4, 5, 250, 0]);
    formats.remove(plain);
    formats.remove(plain);
    write(record(RECORD.SAMPLE, 0, [0x10, 5]));
    const heard = new Heard();
    batch.scan(reader, reader.loadHead(), formats, heard);
    assert.equal(heard.strays, 1);
  });

  it("tells ids apart in all their 64 bits", () => {
    const { reader, write } = setUp();
    const formats = table([1, format([5])], [2, format([2 ** 32 + 5])], [3, format([2 ** 52])]);
    const batch = new BatchIndex();
    write(live(5), live(2 ** 32 + 5), live(2 ** 52), live(5));
    batch.scan(reader, reader.loadHead(), formats, new Heard());
    assert.deepEqual(Array.from(batch.event.subarray(0, batch.count)), [1, 2, 3, 1]);
  });

  it("does not remember an id that has got another event since", () => {
    const { reader, write } = setUp();
    const formats = table([1, format([5])]);
    const batch = new BatchIndex();
    for (const event of [1, 2]) {
      write(live(5));
      reader.storeTail(batch.scan(reader, reader.loadHead(), formats, new Heard()));
      assert.equal(batch.event[0], event);
      formats.remove(format([5]));
      formats.add(2, format([5]));
    }
  });
});

describe("BatchIndex", () => {
  it("indexes samples and passes over everything else", () => {
    const { reader, write } = setUp();
    const batch = new BatchIndex();
    const heard = new Heard();
    write(
      record(3, 0, [1, 2, 3]), // COMM
      live(5, 2 ** 40 + 3, 2 ** 33, 7, CPUMODE.KERNEL),
      record(RECORD.LOST, 0, [5, 100]),
      record(RECORD.THROTTLE, 0, [1, 5, 5]),
      record(RECORD.UNTHROTTLE, 0, [1, 5, 5]),
      record(RECORD.THROTTLE, 0, [1]), // too short to name its event
      live(6, 9, 1, 8, CPUMODE.USER | 0x4000), // EXACT_IP
    );
    const head = reader.loadHead();
    assert.equal(batch.scan(reader, head, table([1, format([5])], [40, format([6])]), heard), head);
    assert.equal(batch.count, 2);
    assert.deepEqual(Array.from(batch.event.subarray(0, 2)), [1, 40]);
    assert.deepEqual(Array.from(batch.pid.subarray(0, 2)), [7, 8]);
    assert.deepEqual(Array.from(batch.time.subarray(0, 2)), [2 ** 40 + 3, 9]);
    assert.deepEqual(Array.from(batch.period.subarray(0, 2)), [2 ** 33, 1]);
    assert.deepEqual(Array.from(batch.cpumode.subarray(0, 2)), [CPUMODE.KERNEL, CPUMODE.USER]);
    assert.deepEqual([batch.eventMaskLow, batch.eventMaskHigh], [1 << 1, 1 << 8]);
    assert.deepEqual([batch.countOf[1], batch.countOf[40]], [1, 1]);
    assert.deepEqual(heard.throttles, [
      [1, true],
      [1, false],
    ]);
    assert.deepEqual([heard.corruptBytes, heard.strays, heard.lostRecords], [0, 0, 100]);
    assert.equal(batch.tasks, 0);
  });

  it("keeps task records, for those who want them, before the samples that follow them", () => {
    const { reader, writer, write } = setUp();
    const batch = new BatchIndex();
    const formats = table([1, format([5])]);
    batch.wantsTasks = true;
    const at = writer.head;
    const [comm, switched] = [record(RECORD.COMM, 0, [1, 2, 3]), record(RECORD.SWITCH, 0, [1])];
    write(comm, record(RECORD.LOST, 0, [5, 1]), comm, live(5), switched, live(5), comm, live(5), comm, comm);
    const batches: number[][] = [];
    while (reader.tail < reader.loadHead()) {
      reader.storeTail(batch.scan(reader, reader.loadHead(), formats, new Heard()));
      batches.push([batch.tasks, batch.count, batch.eventMaskHigh >>> 0]);
      if (batches.length === 1)
        assert.deepEqual(Array.from(batch.taskAt.subarray(0, 2)), [at, (at + 32 + 24) / 4].map(Math.floor));
    }
    assert.deepEqual(batches, [
      [3, 2, 2 ** 31],
      [1, 1, 2 ** 31],
      [2, 0, 2 ** 31],
    ]);
  });

  it("takes no more task records than it has room for, and goes on behind them", () => {
    const { reader, write } = setUp(2 ** 17);
    const batch = new BatchIndex();
    batch.wantsTasks = true;
    for (let i = 0; i < BATCH_TASKS_MAX + 3; i++) write(record(RECORD.EXIT, 0, [1]));
    const counts: number[] = [];
    while (reader.tail < reader.loadHead()) {
      reader.storeTail(batch.scan(reader, reader.loadHead(), table(), new Heard()));
      counts.push(batch.tasks);
    }
    assert.deepEqual(counts, [BATCH_TASKS_MAX, 3]);
  });

  it("says whether all samples have one format", () => {
    const { reader, write } = setUp();
    const formats = table([1, format([5])], [1, format([6], LIVE & ~SAMPLE.PERIOD)], [2, format([7])]);
    const batch = new BatchIndex();
    for (const [ids, isUniform] of [
      [[5, 5, 5], true],
      [[5, 6, 5], false],
      [[6, 5, 5, 5], false],
      [[6], true],
      [[5, 7], true],
    ] as const) {
      write(...ids.map((id) => live(id)));
      reader.storeTail(batch.scan(reader, reader.loadHead(), formats, new Heard()));
      assert.equal(batch.uniform !== null, isUniform, `${ids}`);
    }
  });

  it("starts from nothing with every scan", () => {
    const { reader, write } = setUp();
    const batch = new BatchIndex();
    const formats = table([3, format([5])]);
    write(live(5));
    reader.storeTail(batch.scan(reader, reader.loadHead(), formats, new Heard()));
    batch.claimed[0] = 1;
    batch.scan(reader, reader.loadHead(), formats, new Heard());
    assert.deepEqual([batch.count, batch.eventMaskLow, batch.countOf[3], batch.uniform], [0, 0, 0, null]);
    write(live(5));
    batch.scan(reader, reader.loadHead(), formats, new Heard());
    assert.equal(batch.claimed[0], 0);
  });

  it("stops at its bounds, and goes on behind them", () => {
    const bytes = live(5).length;
    const batch = new BatchIndex();
    const formats = table([0, format([5])]);
    const bySamples = setUp(2 ** 20);
    for (let i = 0; i < BATCH_SAMPLES_MAX + 5; i++) bySamples.write(live(5));
    const head = bySamples.reader.loadHead();
    const next = batch.scan(bySamples.reader, head, formats, new Heard());
    assert.equal(batch.count, BATCH_SAMPLES_MAX);
    assert.equal(next, BATCH_SAMPLES_MAX * bytes);
    bySamples.reader.storeTail(next);
    assert.equal(batch.scan(bySamples.reader, head, formats, new Heard()), head);
    assert.equal(batch.count, 5);
    const byBytes = setUp(2 ** 20);
    const large = record(RECORD.SAMPLE, 0, [5, ...new Array<number>(4000).fill(0)]);
    for (let i = 0; i < 5; i++) byBytes.write(large);
    const end = batch.scan(byBytes.reader, byBytes.reader.loadHead(), formats, new Heard());
    assert.equal(end, Math.ceil(BATCH_BYTES_MAX / large.length) * large.length);
  });

  it("ends, within the head, on any bytes whatever", () => {
    for (let seed = 0; seed < 300; seed++) {
      const random = seededRandom(seed);
      const dataBytes = 4096;
      const memory = plainRing(dataBytes);
      const words = new Uint32Array(memory, 4096);
      for (let i = 0; i < words.length; i++) {
        // Often something like a header, so that a scan gets further than the first word.
        words[i] = random() < 0.5 ? Math.floor(random() * 2 ** 32) : i & 1 ? (8 * Math.floor(random() * 12)) << 16 : 9;
      }
      const control = new BigUint64Array(memory, 0, 512);
      const tail = 8 * Math.floor(random() * 100_000);
      const head = tail + 8 * Math.floor(random() * 700);
      control[128] = BigInt(head);
      control[129] = BigInt(tail);
      const reader = new RingReader(memory, dataBytes);
      const formats = table(
        [0, format([9], LIVE | SAMPLE.CALLCHAIN | SAMPLE.CGROUP)],
        [63, format([9 * 2 ** 32 + 9], LIVE)],
      );
      const batch = new BatchIndex();
      for (let scans = 0; reader.tail < head; scans++) {
        assert.ok(scans <= dataBytes / 8, `seed ${seed}`);
        const next = batch.scan(reader, head, formats, new Heard());
        assert.ok(next > reader.tail && next <= head, `seed ${seed}: ${reader.tail} to ${next} of ${head}`);
        reader.storeTail(next);
      }
    }
  });

  it("calls a head that is behind the tail, or too far ahead, corrupt", () => {
    const { reader } = setUp(4096);
    const heard = new Heard();
    const batch = new BatchIndex();
    assert.equal(batch.scan(reader, 4096 + 8, table(), heard), 4104);
    assert.equal(heard.corruptBytes, 4104);
    reader.storeTail(64);
    assert.equal(batch.scan(reader, 8, table(), heard), 8);
    assert.equal(batch.count, 0);
  });
});

it("a sample too short for an id is corrupt, whatever is behind it", () => {
  for (const behind of [1, 2]) {
    const { reader, write } = setUp();
    const heard = new Heard();
    write(record(RECORD.SAMPLE, 0, []), record(100, 0, [behind]));
    const batch = new BatchIndex();
    batch.scan(reader, reader.loadHead(), table([1, format([1])]), heard);
    assert.deepEqual([batch.count, heard.corruptBytes, heard.strays], [0, 8, 0]);
  }
});

describe("isUserMode", () => {
  it("takes a guest's user space for user space, and all else for the kernel", () => {
    const user = Object.entries(CPUMODE).filter(([, mode]) => isUserMode(mode));
    assert.deepEqual(
      user.map(([name]) => name),
      ["USER", "GUEST_USER"],
    );
  });
});
