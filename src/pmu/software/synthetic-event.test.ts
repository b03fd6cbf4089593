import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { CPUMODE, RECORD, SAMPLE } from "../abi.js";
import { FormatTable } from "../format-table.js";
import { BatchIndex } from "../record.js";
import { RingReader } from "../ring.js";
import { RingWriter } from "./ring-writer.js";
import { SyntheticEvent, type SyntheticEventOptions, syntheticSampleType } from "./synthetic-event.js";
import { plainRing, samplesOf, type TakenRecord, TestConsumer } from "./test-consumer.js";

const MS = 1e6;
const DATA_BYTES = 1 << 18;

function setUp(options: Partial<SyntheticEventOptions> = {}, dataBytes = DATA_BYTES) {
  const cpus = options.cpus ?? [0];
  const memories = cpus.map(() => plainRing(dataBytes));
  const writers = memories.map((memory, i) => new RingWriter(memory, dataBytes, cpus[i] as number, () => {}));
  const consumer = new TestConsumer(
    memories.map((memory, i) => ({ cpu: cpus[i] as number, reader: new RingReader(memory, dataBytes) })),
  );
  const event = new SyntheticEvent(writers, {
    ids: cpus.map((_, i) => BigInt(i + 1)),
    cpus,
    ratePerSecond: 1000,
    seed: 1,
    callchain: false,
    wakeEach: false,
    excludeUser: false,
    excludeKernel: false,
    ...options,
  });
  return { event, consumer, memories };
}

function run(event: SyntheticEvent, consumer: TestConsumer, fromNs: number, ms: number): TakenRecord[] {
  const records: TakenRecord[] = [];
  for (let i = 1; i <= ms; i++) {
    event.tick(fromNs + i * MS);
    records.push(...consumer.take());
  }
  return records;
}

const time = ({ view }: TakenRecord): number => Number(view.getBigUint64(32, true));

describe("SyntheticEvent", () => {
  it("keeps the rate over all rings, evenly, with times up to now", () => {
    const start = 3e14 + 123;
    const { event, consumer } = setUp({ ratePerSecond: 7000, cpus: [0, 1, 2] });
    event.start(start);
    const records = run(event, consumer, start, 1000);
    assert.equal(records.length, 7000);
    for (const cpu of [0, 1, 2]) {
      const own = records.filter((record) => record.cpu === cpu);
      assert.ok(Math.abs(own.length - 7000 / 3) < 2);
      for (const [i, record] of own.entries()) {
        assert.equal(record.view.getBigUint64(8, true), BigInt(cpu + 1));
        assert.equal(record.view.getUint32(40, true), cpu);
        assert.equal(record.view.getBigUint64(48, true), BigInt(Math.round(3e9 / 7000)));
        const gap = time(record) - (i === 0 ? start : time(own[i - 1] as TakenRecord));
        assert.ok(gap > 0 && gap < 430_000, `gap of ${gap} ns`);
      }
    }
  });

  it("writes no sample later than now", () => {
    const { event, consumer } = setUp({ ratePerSecond: 12_345, cpus: [0, 1] });
    event.start(0);
    for (let now = 0; now < 50 * MS; now += 777_777) {
      event.tick(now);
      for (const record of consumer.take()) assert.ok(time(record) <= now);
    }
  });

  it("says when the next sample is due, so that a slow rate needs no ticks", () => {
    const { event, consumer } = setUp({ ratePerSecond: 10 });
    event.start(0);
    assert.equal(event.tick(0), 100 * MS);
    assert.equal(consumer.take().length, 0);
    assert.equal(event.tick(100 * MS), 200 * MS);
    assert.equal(consumer.take().length, 1);
  });

  it("does not make up for more than 100 ms", () => {
    const { event, consumer } = setUp({ ratePerSecond: 1000 });
    event.start(0);
    event.tick(5000 * MS);
    const records = consumer.take();
    assert.ok(records.length >= 100 && records.length <= 101);
    assert.equal(event.lost, 0);
    assert.equal(event.produced, records.length, "what was never made is not counted");
    assert.ok(time(records[0] as TakenRecord) >= 4900 * MS);
  });

  it("keeps exact books in a full ring: generated = taken + lost, and LOST says how many", () => {
    const { event, consumer } = setUp({ ratePerSecond: 100_000 }, 4096);
    event.start(0);
    const records: TakenRecord[] = [];
    for (let ms = 1; ms <= 1000; ms++) {
      event.tick(ms * MS);
      if (ms % 3 === 0) records.push(...consumer.take());
    }
    records.push(...consumer.take());
    const samples = samplesOf(records);
    assert.equal(samples.length + event.lost, 100_000);
    assert.equal(event.produced, 100_000);
    const told = records.reduce(
      (sum, { type, view }) => sum + (type === RECORD.LOST ? view.getBigUint64(16, true) : 0n),
      0n,
    );
    // The last losses have not been told.
    assert.ok(Number(told) <= event.lost && Number(told) > event.lost - 400);
    const times = samples.map(time);
    assert.deepEqual(
      times,
      times.toSorted((a, b) => a - b),
    );
  });

  it("is the same for the same seed, times aside", () => {
    const bodies = (seed: number): string[] => {
      const { event, consumer } = setUp({ seed, callchain: true });
      event.start(0);
      return run(event, consumer, 0, 100).map(({ view }) => Buffer.from(view.buffer).toString("hex"));
    };
    assert.deepEqual(bodies(5), bodies(5));
    assert.notDeepEqual(bodies(5), bodies(6));
  });

  it("leaves out what modifiers exclude", () => {
    const modes = (options: Partial<SyntheticEventOptions>): Set<number> => {
      const { event, consumer } = setUp({ ...options, callchain: true });
      event.start(0);
      return new Set(run(event, consumer, 0, 200).map(({ misc }) => misc));
    };
    assert.deepEqual(modes({}), new Set([CPUMODE.USER, CPUMODE.KERNEL]));
    assert.deepEqual(modes({ excludeKernel: true }), new Set([CPUMODE.USER]));
    assert.deepEqual(modes({ excludeUser: true }), new Set([CPUMODE.KERNEL]));
    assert.deepEqual(modes({ excludeUser: true, excludeKernel: true }), new Set());
  });

  it("writes callchains that start at the sample's ip, behind their context", () => {
    const { event, consumer } = setUp({ callchain: true });
    event.start(0);
    for (const { view, misc } of run(event, consumer, 0, 500)) {
      const count = Number(view.getBigUint64(56, true));
      assert.equal(view.byteLength, 64 + count * 8);
      const context = BigInt.asIntN(64, view.getBigUint64(64, true));
      assert.equal(context, misc === CPUMODE.KERNEL ? -128n : -512n);
      assert.equal(view.getBigUint64(72, true), view.getBigUint64(16, true));
    }
  });

  it("is read by the dispatcher's own scan", () => {
    for (const callchain of [false, true]) {
      const { event, memories } = setUp({ callchain });
      const formats = new FormatTable();
      formats.add(0, { ids: [1n], sampleType: syntheticSampleType(callchain), sampleIdAll: true, fixedPeriod: 0 });
      const reader = new RingReader(memories[0] as ArrayBuffer, DATA_BYTES);
      const batch = new BatchIndex();
      event.start(0);
      let count = 0;
      for (let ms = 1; ms <= 3000; ms++) {
        event.tick(ms * MS);
        const next = batch.scan(reader, reader.loadHead(), formats, {
          throttle: () => assert.fail("throttled"),
          corrupt: (bytes) => assert.fail(`${bytes} corrupt bytes`),
          stray: () => assert.fail("a sample of an unknown id"),
          lost: () => {},
        });
        for (let i = 0; i < batch.count; i++) assert.equal(batch.period[i], 1e6);
        count += batch.count;
        reader.storeTail(next);
      }
      assert.equal(count, 3000);
    }
  });

  it("carries the sample type it says", () => {
    assert.equal(syntheticSampleType(true) & SAMPLE.CALLCHAIN, SAMPLE.CALLCHAIN);
    assert.equal(syntheticSampleType(false) & SAMPLE.CALLCHAIN, 0);
  });
});
