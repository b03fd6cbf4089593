import assert from "node:assert/strict";
import { hrtime } from "node:process";
import { describe, it, type TestContext } from "node:test";
import { RECORD, SAMPLE } from "../abi.js";
import { PmuError } from "../errors.js";
import type { EventShape, Source } from "../source.js";
import { openSyntheticSource, type SyntheticSourceOptions } from "./synthetic.js";
import { isReadable, samplesOf, TestConsumer } from "./test-consumer.js";

const SHAPE: EventShape = { sampleType: 0, branchCounters: false, wakeEach: false };

function open(
  t: TestContext,
  options: Partial<SyntheticSourceOptions> = {},
): { source: Source; consumer: TestConsumer } {
  const source = openSyntheticSource({ ratePerSecond: 20_000, cpus: 2, seed: 1, ringBytes: 1 << 16, ...options });
  t.after(() => source.close());
  return { source, consumer: TestConsumer.ofRings(source.rings) };
}

describe("the synthetic source", { timeout: 30_000 }, () => {
  it("resolves any generic event, one key for all rates", (t) => {
    const { source } = open(t);
    const all = source.resolve({ event: "" })[0];
    assert.equal(all.name, "cpu-clock");
    assert.deepEqual(all.rate, { kind: "all" });
    const slow = source.resolve({ event: "cpu-clock", frequencyHz: 99 })[0];
    assert.deepEqual(slow.rate, { kind: "frequency", hz: 99 });
    assert.equal(slow.key, all.key);
    assert.notEqual(source.resolve({ event: "cpu-clock:u" })[0].key, all.key);
    assert.throws(
      () => source.resolve({ event: "cycels" })[0],
      (error) => error instanceof PmuError && error.code === "EVENT_UNKNOWN",
    );
    assert.throws(
      () => source.open(all, { ...SHAPE, sampleType: SAMPLE.CGROUP }),
      (error) => error instanceof PmuError && error.code === "SHAPE_UNSUPPORTED",
    );
    assert.ok(source.listEvents().events.every(({ canSample }) => canSample));
  });

  it("writes samples of now into every ring, of enabled events only", async (t) => {
    const { source, consumer } = open(t);
    const before = hrtime.bigint();
    const [one, other] = ["cycles", "instructions"].map((event) => source.open(source.resolve({ event })[0], SHAPE));
    assert.ok(one && other);
    one.enable();
    const records = samplesOf(
      await consumer.takeUntil((taken) => new Set(taken.map(({ cpu }) => cpu)).size === 2 && taken.length > 500),
    );
    const ids = one.formats[0]?.ids ?? [];
    for (const { view, cpu } of records) {
      assert.equal(view.getBigUint64(8, true), ids[cpu]);
      const time = view.getBigUint64(32, true);
      assert.ok(time > before && time <= hrtime.bigint());
    }
    other.enable();
    const otherIds = new Set(other.formats[0]?.ids);
    await consumer.takeUntil((taken) => taken.some(({ view }) => otherIds.has(view.getBigUint64(8, true))));
    other.close();
    consumer.take();
    const rest = await consumer.takeUntil((taken) => taken.length > 100);
    assert.ok(rest.every(({ view }) => !otherIds.has(view.getBigUint64(8, true))));
  });

  it("is silent once disable has returned, and goes on when enabled again", async (t) => {
    const { source, consumer } = open(t, { ratePerSecond: 500_000 });
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    for (let round = 0; round < 20; round++) {
      event.enable();
      await consumer.takeUntil((taken) => taken.length > 0);
      event.disable();
      consumer.take();
      assert.equal(consumer.take().length, 0);
    }
    event.close();
    event.close();
    event.enable();
    assert.equal(consumer.take().length, 0);
  });

  it("reads the losses of a ring that nobody drained", async (t) => {
    const { source, consumer } = open(t, { ratePerSecond: 1_000_000, cpus: 1 });
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    while ((event.read().lost ?? 0) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.ok(isReadable(source.rings[0]?.pollFd ?? -1));
    const early = consumer.take();
    const late = await consumer.takeUntil((taken) => taken.some(({ type }) => type === RECORD.LOST));
    event.disable();
    const records = [...early, ...late, ...consumer.take()];
    const { lost, timeEnabledNs, timeRunningNs } = event.read();
    const times = samplesOf(records).map(({ view }) => Number(view.getBigUint64(32, true)));
    const told = records.reduce(
      (sum, { type, view }) => sum + (type === RECORD.LOST ? Number(view.getBigUint64(16, true)) : 0),
      0,
    );
    assert.ok(lost !== null && told <= lost && told > 0);
    // One sample a microsecond, with no gap but the lost ones (and what a stalled generator never generated).
    const span = Math.round(((times.at(-1) as number) - (times[0] as number)) / 1000) + 1;
    assert.ok(times.length + told <= span);
    assert.equal(timeEnabledNs, timeRunningNs);
    assert.ok(timeEnabledNs > 0);
  });

  it("counts what it has made, exactly once disable has returned: taken and lost", async (t) => {
    const { source, consumer } = open(t, { ratePerSecond: 1_000_000, cpus: 1 });
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    let taken = 0;
    for (let round = 0; round < 5; round++) {
      event.enable();
      const lostBefore = event.read().lost ?? 0;
      while ((event.read().lost ?? 0) === lostBefore) await new Promise((resolve) => setTimeout(resolve, 1));
      event.disable();
      taken += samplesOf(consumer.take()).length;
      const { produced, lost } = event.read();
      assert.ok(taken > 0 && lost !== null && lost > 0);
      assert.equal(produced, taken + lost);
    }
  });

  it("wakes for each batch when the shape says so", async (t) => {
    const { source } = open(t, { ratePerSecond: 1000, cpus: 1 });
    const event = source.open(source.resolve({ event: "" })[0], { ...SHAPE, wakeEach: true });
    event.enable();
    while (!isReadable(source.rings[0]?.pollFd ?? -1)) await new Promise((resolve) => setTimeout(resolve, 1));
  });

  it("closes twice without harm, open events or not", async (t) => {
    const { source } = open(t);
    const event = source.open(source.resolve({ event: "" })[0], SHAPE);
    event.enable();
    await Promise.all([source.close(), source.close()]);
    event.close();
  });
});
