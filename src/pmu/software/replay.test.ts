import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { RECORD, SAMPLE } from "../abi.js";
import { PmuError } from "../errors.js";
import { FIXTURES } from "../perf-data/collection.test-support.js";
import { PIPE_HEADER_BYTES, USER_RECORD } from "../perf-data/format.js";
import { Bytes, record } from "../perf-data/record-bytes.test-support.js";
import { readRecording } from "../perf-data/recording.js";
import type { EventShape, Source } from "../source.js";
import { isTaskRecord } from "../task-record.js";
import { indexRecords } from "./record-index.js";
import { openReplaySource, type ReplaySourceOptions } from "./replay.js";
import { isReadable, samplesOf, type TakenRecord, TestConsumer } from "./test-consumer.js";

const DEMO = fileURLToPath(new URL("../../../../recordings/demo.perf.data", import.meta.url));
const SHAPE: EventShape = { sampleType: SAMPLE.CALLCHAIN, branchCounters: false, wakeEach: false };

function open(t: TestContext, options: Partial<ReplaySourceOptions> = {}): { source: Source; consumer: TestConsumer } {
  const speed = Number.POSITIVE_INFINITY;
  const source = openReplaySource({ file: DEMO, ringBytes: 1 << 13, speed, ...options });
  t.after(() => source.close());
  return { source, consumer: TestConsumer.ofRings(source.rings) };
}

async function playToEnd(source: Source, consumer: TestConsumer): Promise<TakenRecord[]> {
  let ended = false;
  source.onEnd(() => {
    ended = true;
  });
  source.begin();
  const records = await consumer.takeUntil(() => ended);
  assert.equal(consumer.take().length, 0);
  return records;
}

/** Records of the demo, as they lie in the file, in the order of time. */
function recorded(cpu: number): Buffer[] {
  const recording = readRecording(DEMO);
  const index = indexRecords(recording);
  const bytes = Buffer.from(recording.image.bytes);
  return Array.from(index.offset).flatMap((at, i) =>
    index.cpus[index.ring[i] as number] === cpu ? [bytes.subarray(at, at + bytes.readUInt16LE(at + 6))] : [],
  );
}

function refused(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof PmuError && error.code === code && message.test(error.message);
}

/** The demo with `patch` applied. */
function variant(t: TestContext, patch: (bytes: Buffer, attr: number) => void): string {
  const folder = mkdtempSync(join(tmpdir(), "nmid-replay-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const bytes = readFileSync(DEMO);
  patch(bytes, Number(bytes.readBigUInt64LE(24)));
  const file = join(folder, "variant.perf.data");
  writeFileSync(file, bytes);
  return file;
}

describe("the replay source", { timeout: 60_000 }, () => {
  it("says what it plays", (t) => {
    const { source } = open(t);
    assert.equal(source.clock, "CLOCK_MONOTONIC");
    assert.equal(source.clockIsMonotonic, false);
    assert.equal(source.defaultEvent, "cpu-clock");
    assert.deepEqual(
      source.rings.map(({ cpu }) => cpu),
      [0, 1],
    );
    assert.deepEqual(
      source.listEvents().events.map(({ name, canSample }) => [name, canSample]),
      [["cpu-clock", true]],
    );
    const event = source.resolve({ event: "" })[0];
    assert.deepEqual(event.rate, { kind: "all" });
    assert.equal(event.periodUnit, "ns");
    assert.equal(source.resolve({ event: "cpu-clock", frequencyHz: 10 })[0].key, event.key);
    const [format] = source.open(event, SHAPE).formats;
    assert.ok(format && format.ids.length > 0 && (format.sampleType & SAMPLE.IDENTIFIER) !== 0);
  });

  it("takes samples without ids for those of the only event, whatever ids the file lists", async (t) => {
    const file = `${FIXTURES}cgroup-all.perf.data`;
    const source = openReplaySource({ file, ringBytes: 64 * 1024 });
    t.after(() => source.close());
    const [format] = source.open(source.resolve({ event: "" })[0], { ...SHAPE, sampleType: SAMPLE.IP }).formats;
    assert.equal(format.sampleType & (SAMPLE.ID | SAMPLE.IDENTIFIER), 0);
    assert.deepEqual(format.ids, []);
  });

  it("means by a name all events of the recording that share it", (t) => {
    const attr = (config: number, id: number) =>
      record(USER_RECORD.HEADER_ATTR, 0, new Bytes().u32(1, 64).u64(config, 1, SAMPLE.IDENTIFIER).pad(64).u64(id));
    const parts = [new Bytes().raw(Buffer.from("PERFILE2")).u64(PIPE_HEADER_BYTES).toArray()];
    parts.push(attr(2, 11), attr(3, 12), attr(2, 13));
    const file = join(mkdtempSync(join(tmpdir(), "nmid-replay-")), "perf.data");
    t.after(() => rmSync(dirname(file), { recursive: true }));
    writeFileSync(file, Buffer.concat(parts));
    const { source } = open(t, { file });
    const keys = (event: string) => source.resolve({ event, frequencyHz: 0, period: 0 }).map(({ key }) => key);
    assert.deepEqual(keys("page-faults"), ["0/page-faults", "2/page-faults"]);
    assert.deepEqual(keys("context-switches"), ["1/context-switches"]);
  });

  it("writes every record as it is, in order, through rings smaller than the recording", async (t) => {
    const { source, consumer } = open(t);
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    const records = await playToEnd(source, consumer);
    for (const cpu of [0, 1]) {
      const own = records.flatMap((record) => (record.cpu === cpu ? [Buffer.from(record.view.buffer)] : []));
      assert.deepEqual(own, recorded(cpu));
    }
  });

  it("plays again for the next first subscriber", async (t) => {
    const { source, consumer } = open(t);
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    const first = await playToEnd(source, consumer);
    const second = await playToEnd(source, consumer);
    assert.equal(second.length, first.length);
    assert.deepEqual(event.read().lost, 0);
  });

  it("does not end before the rings are drained", async (t) => {
    const { source, consumer } = open(t, { ringBytes: 1 << 18 });
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    let ended = false;
    source.onEnd(() => {
      ended = true;
    });
    source.begin();
    const expected = recorded(0).length + recorded(1).length;
    let taken = 0;
    while (taken < expected) {
      assert.ok(!ended);
      taken += consumer.take(10).length;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    while (!ended) await new Promise((resolve) => setTimeout(resolve, 1));
  });

  it("keeps the recorded pace", async (t) => {
    const { source, consumer } = open(t, { ringBytes: 1 << 18, speed: 20 });
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    const { time, count } = indexRecords(readRecording(DEMO));
    const spanMs = ((time[count - 1] as number) - (time[0] as number)) / 1e6;
    const start = performance.now();
    await playToEnd(source, consumer);
    // A lower bound only: a busy machine may take longer, none may take less.
    assert.ok(performance.now() - start >= spanMs / 20);
  });

  it("starts over when everybody left in the middle, and does not end for nobody", async (t) => {
    const { source, consumer } = open(t);
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    let ends = 0;
    source.onEnd(() => ends++);
    event.enable();
    source.begin();
    await consumer.takeUntil((records) => records.length > 0);
    event.close();
    consumer.take();
    assert.equal(consumer.take().length, 0);
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    const records = await playToEnd(source, consumer);
    assert.equal(records.length, recorded(0).length + recorded(1).length);
    assert.equal(ends, 1);
  });

  it("goes on where it was when an event is opened in another shape", async (t) => {
    const { source, consumer } = open(t);
    const before = source.open(source.resolve({ event: "" })[0], SHAPE);
    before.enable();
    source.begin();
    const records = await consumer.takeUntil((taken) => taken.length > 0);
    const after = source.open(source.resolve({ event: "" })[0], { ...SHAPE, wakeEach: true });
    before.disable();
    records.push(...consumer.take());
    after.enable();
    before.close();
    let ended = false;
    source.onEnd(() => {
      ended = true;
    });
    records.push(...(await consumer.takeUntil(() => ended)));
    after.disable();
    assert.equal(records.length, recorded(0).length + recorded(1).length);
    const produced = [before, after].map((event) => event.read().produced ?? 0);
    assert.ok(produced.every((samples) => samples > 0));
    assert.equal(produced[0] + produced[1], samplesOf(records).length, "each counts what was made for it");
  });

  it("waits for an event when it begins without one", async (t) => {
    const { source, consumer } = open(t);
    source.begin();
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    const samples = samplesOf(await playToEnd(source, consumer));
    assert.ok(samples.length > 300);
  });

  it("finds events by name, alias and base name, and says what there is", (t) => {
    const { source } = open(t);
    assert.throws(
      () => source.resolve({ event: "cycles" })[0],
      refused("EVENT_UNKNOWN", /the recording holds cpu-clock/),
    );
    assert.throws(() => source.resolve({ event: "cpu-clok" })[0], refused("EVENT_UNKNOWN", /did you mean "cpu-clock"/));
    assert.throws(() => source.resolve({ event: "cpu-clock:u" })[0], refused("EVENT_UNKNOWN", /other modifiers/));
    assert.throws(() => source.resolve({ event: "", frequencyHz: 1, period: 1 })[0], refused("RATE_INVALID", /./));
    const excludeKernel = (bytes: Buffer, attr: number): void => {
      bytes.writeBigUInt64LE(bytes.readBigUInt64LE(attr + 40) | 0x60n, attr + 40);
    };
    const { source: user } = open(t, { file: variant(t, excludeKernel) });
    assert.equal(user.resolve({ event: "cpu-clock:u" })[0].name, "cpu-clock");
    assert.ok(user.resolve({ event: "cpu-clock" })[0].excludeKernel);
  });

  it("refuses what the recording does not carry", (t) => {
    const withoutChains = (bytes: Buffer, attr: number): void => {
      bytes.writeUInt32LE(bytes.readUInt32LE(attr + 24) & ~SAMPLE.CALLCHAIN, attr + 24);
    };
    const { source } = open(t, { file: variant(t, withoutChains) });
    const event = source.resolve({ event: "" })[0];
    assert.throws(() => source.open(event, SHAPE), refused("SHAPE_UNSUPPORTED", /without callchains/));
    assert.throws(
      () => source.open(event, { sampleType: SAMPLE.CGROUP, branchCounters: false, wakeEach: false }),
      refused("SHAPE_UNSUPPORTED", /filter.cgroups/),
    );
    assert.throws(
      () => openReplaySource({ file: "/nonexistent", ringBytes: 4096 }),
      refused("RECORDING_UNREADABLE", /ENOENT/),
    );
  });

  it("names clocks other than this machine's", (t) => {
    const perfClock = (bytes: Buffer, attr: number): void => {
      bytes.writeBigUInt64LE(bytes.readBigUInt64LE(attr + 40) & ~(1n << 25n), attr + 40);
    };
    assert.equal(open(t, { file: variant(t, perfClock) }).source.clock, "perf_clock of the recording");
    const raw = (bytes: Buffer, attr: number): number => bytes.writeInt32LE(4, attr + 92);
    assert.equal(open(t, { file: variant(t, raw) }).source.clock, "CLOCK_MONOTONIC_RAW");
  });

  it("counts the losses that the recording tells", async (t) => {
    const lose = (bytes: Buffer): void => {
      // The first sample becomes a LOST record with the same id.
      let at = Number(bytes.readBigUInt64LE(40));
      while (bytes.readUInt32LE(at) !== RECORD.SAMPLE) at += bytes.readUInt16LE(at + 6);
      const id = bytes.readBigUInt64LE(at + 8);
      const time = bytes.readBigUInt64LE(at + 32);
      const end = at + bytes.readUInt16LE(at + 6);
      bytes.writeUInt32LE(RECORD.LOST, at);
      bytes.writeBigUInt64LE(42n, at + 16);
      // struct sample_id: TID, TIME, CPU, IDENTIFIER
      bytes.writeBigUInt64LE(time, end - 24);
      bytes.writeBigUInt64LE(0n, end - 16);
      bytes.writeBigUInt64LE(id, end - 8);
    };
    const { source, consumer } = open(t, { file: variant(t, lose) });
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    const records = await playToEnd(source, consumer);
    assert.equal(records.filter(({ type }) => type === RECORD.LOST).length, 1);
    event.disable();
    const told = event.read();
    assert.equal(told.lost, 42);
    assert.equal(told.produced, samplesOf(records).length + 42);
    const again = source.open(source.resolve({ event: "" })[0], SHAPE);
    again.enable();
    assert.deepEqual([again.read().produced, again.read().lost], [0, 0], "each opening counts its own");
    await playToEnd(source, consumer);
    again.disable();
    assert.deepEqual([again.read().produced, again.read().lost], [told.produced, 42]);
  });

  it("starts over in a loop, with times that go on", async (t) => {
    const { source, consumer } = open(t, { loop: true });
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    source.begin();
    const passes = 3;
    const all = recorded(0).length + recorded(1).length;
    const records = await consumer.takeUntil((taken) => taken.length > passes * all);
    for (const cpu of [0, 1]) {
      // IDENTIFIER, IP, TID, TIME
      const times = samplesOf(records).flatMap(({ cpu: own, view }) =>
        own === cpu ? [view.getBigUint64(32, true)] : [],
      );
      assert.ok(times.length > 0);
      assert.deepEqual(
        times,
        times.toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0)),
      );
      assert.ok((times.at(-1) as bigint) > (times[0] as bigint));
    }
  });

  it("plays what is readable of a damaged recording, says where it is damaged, and ends", async (t) => {
    const cut = (bytes: Buffer): void => {
      // The data section's middle is no record.
      const start = Number(bytes.readBigUInt64LE(40));
      let at = start;
      while (at < start + 20_000) at += bytes.readUInt16LE(at + 6);
      bytes.writeBigUInt64LE(0n, at);
    };
    const { source, consumer } = open(t, { file: variant(t, cut) });
    assert.match(source.warnings?.join() ?? "", /^the recording is damaged at byte \d+: a record of 0 bytes; .*again$/);
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    const records = await playToEnd(source, consumer);
    assert.ok(records.length > 0 && records.length < recorded(0).length + recorded(1).length);
  });

  it("plays compressed recordings in pipe mode", async (t) => {
    const file = fileURLToPath(new URL("../../../../test/fixtures/perf-data/zstd2-pipe.perf.data", import.meta.url));
    const { source, consumer } = open(t, { file, ringBytes: 1 << 17 });
    assert.deepEqual(source.warnings, []);
    source.open(source.resolve({ event: "cpu-clock" })[0], SHAPE).enable();
    const records = await playToEnd(source, consumer);
    const { counts } = readRecording(file);
    for (const type of [RECORD.SAMPLE, 3, 4, 7, 10]) {
      assert.equal(records.filter((taken) => taken.type === type).length, counts[type], `records of type ${type}`);
    }
  });

  it("makes its rings readable", async (t) => {
    const { source } = open(t);
    source.open(source.resolve({ event: "" })[0], SHAPE).enable();
    source.begin();
    for (const { pollFd } of source.rings) {
      while (!isReadable(pollFd)) await new Promise((resolve) => setTimeout(resolve, 1));
    }
  });

  it("closes in the middle of a run", async (t) => {
    const { source } = open(t);
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    source.begin();
    await source.close();
    await source.close();
    event.close();
  });

  it("plays task records without the event that recorded them, and tells those before its position", async (t) => {
    const { source, consumer } = open(t);
    const read = async (): Promise<Buffer[]> => {
      const found: Buffer[] = [];
      for await (const run of source.taskSnapshot().runs) {
        const bytes = Buffer.from(run.buffer);
        for (let at = 0; at < bytes.length; at += bytes.readUInt16LE(at + 6))
          found.push(bytes.subarray(at, at + bytes.readUInt16LE(at + 6)));
      }
      return found;
    };
    const tasks = source.openTasks({ contextSwitches: false });
    assert.deepEqual(tasks.formats, source.open(source.resolve({ event: "" })[0], SHAPE).formats);
    assert.deepEqual(await read(), []);
    tasks.enable();
    const expected = [0, 1].flatMap((cpu) => recorded(cpu).filter((bytes) => isTaskRecord(bytes.readUInt32LE(0))));
    // The event has to be enabled for the recording to be played at all.
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    source.begin();
    let samples = 0;
    await consumer.takeUntil((records) => {
      samples += records.filter(({ type }) => type === RECORD.SAMPLE).length;
      return samples > 0;
    });
    const told = await read();
    assert.ok(told.length > 0 && told.length <= expected.length);
    for (const bytes of told) assert.ok(expected.some((other) => other.equals(bytes)));
    event.disable();
    tasks.disable();
    tasks.close();
    event.close();
  });
});
