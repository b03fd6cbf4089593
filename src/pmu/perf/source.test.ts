import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PmuError } from "../errors.js";
import { viewMemory } from "../ffi.js";
import type { EventShape, Source } from "../source.js";
import { FakeKernel, isAnchor } from "./fake-kernel.test-support.js";
import { openPerfSource } from "./source.js";

const RING_BYTES = 16_384;
const SHAPE: EventShape = { sampleType: 0, branchCounters: false, wakeEach: false };

function open(kernel: FakeKernel): Source {
  return openPerfSource({ ringBytes: RING_BYTES, kernel });
}

/** A machine without a hardware PMU, as most virtual ones. */
function withoutPmu(): FakeKernel {
  const kernel = new FakeKernel();
  kernel.refuse = (call, { attr }) => (call === "open" && attr.type !== 1 ? "ENOENT" : null);
  return kernel;
}

function assertNothingLeft(kernel: FakeKernel): void {
  assert.deepEqual(kernel.openFds, []);
  assert.equal(kernel.mappings.size, 0);
}

describe("openPerfSource", () => {
  it("maps one ring for each online CPU, whatever their numbers, and closes all of it", async () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    assert.deepEqual(
      source.rings.map(({ cpu, dataBytes, pollKind }) => [cpu, dataBytes, pollKind]),
      [0, 2, 5].map((cpu) => [cpu, RING_BYTES, "perf"]),
    );
    assert.deepEqual(
      source.rings.map(({ pollFd }) => pollFd),
      kernel.events.filter(isAnchor).map(({ fd }) => fd),
    );
    for (const { attr } of kernel.events.filter(isAnchor)) {
      assert.deepEqual([attr.watermark, attr.wakeup], [true, RING_BYTES / 2]);
    }
    assert.deepEqual(
      [...kernel.mappings.values()],
      source.rings.map(() => RING_BYTES + 4096),
    );
    // The memory is there to its last byte.
    for (const { address } of source.rings) new Uint8Array(viewMemory(address, RING_BYTES + 4096)).fill(1);
    await source.close();
    await source.close();
    assertNothingLeft(kernel);
  });

  it("finds out anew what it can when kernel.perf_event_paranoid has changed", () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    const canSample = (): boolean | undefined =>
      source.listEvents().events.find(({ name }) => name === "cpu-clock")?.canSample;
    assert.equal(canSample(), true);
    const opened = kernel.events.length;
    assert.equal(canSample(), true);
    assert.equal(kernel.events.length, opened, "nothing is tried twice");
    kernel.paranoidLevel = 4;
    kernel.refuse = (call) => (call === "open" ? "EACCES" : null);
    assert.equal(canSample(), false);
    kernel.paranoidLevel = 1;
    kernel.refuse = () => null;
    assert.equal(canSample(), true);
  });

  it("finds out what it can without leaving anything open", () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    const { events, pmus } = source.listEvents();
    assert.deepEqual(kernel.openEvents, []);
    assert.ok(events.every(({ canSample, group }) => canSample || group === "tracepoint"));
    assert.deepEqual(pmus, [{ name: "cpu", type: 4, cpus: "" }]);
    const opened = kernel.events.length;
    source.listEvents();
    assert.equal(kernel.events.length, opened, "asked once");
  });

  it("samples cycles by default where there is a PMU, else cpu-clock, and says why not", () => {
    assert.equal(open(new FakeKernel()).defaultEvent, "cycles");
    const source = open(withoutPmu());
    assert.equal(source.defaultEvent, "cpu-clock");
    const { events } = source.listEvents();
    const cycles = events.find(({ name }) => name === "cycles");
    assert.equal(cycles?.canSample, false);
    assert.match(cycles?.reason ?? "", /not offered/);
    assert.equal(events.find(({ name }) => name === "cpu-clock")?.canSample, true);
  });

  it("leaves out a CPU that went offline meanwhile", () => {
    const kernel = new FakeKernel();
    kernel.refuse = (call, { cpu }) => (call === "open" && cpu === 2 ? "ENODEV" : null);
    assert.deepEqual(
      open(kernel).rings.map(({ cpu }) => cpu),
      [0, 5],
    );
  });

  for (const [call, name, code] of [
    ["open", "EACCES", "PERMISSION"],
    ["open", "EMFILE", "RESOURCE"],
    ["mmap", "EPERM", "RESOURCE"],
    ["mmap", "ENOMEM", "RESOURCE"],
  ] as const) {
    for (const at of [0, 2, 5]) {
      it(`closes and unmaps everything when ${call} says ${name} on CPU ${at}`, () => {
        const kernel = new FakeKernel();
        kernel.refuse = (refused, { cpu }) => (refused === call && cpu === at ? name : null);
        assert.throws(
          () => open(kernel),
          (error: unknown) => error instanceof PmuError && error.code === code,
        );
        assertNothingLeft(kernel);
      });
    }
  }
});

describe("PerfSource", () => {
  it("closes the events that are still open", async () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    const [first, second] = ["cycles", "cpu-clock"].map((event) => source.open(source.resolve({ event })[0], SHAPE));
    assert.equal(kernel.openEvents.length, 6);
    first.close();
    first.close();
    assert.equal(kernel.openEvents.length, 3);
    await source.close();
    assertNothingLeft(kernel);
    second.close();
  });

  it("leaves nothing open of an event that one CPU refuses", async () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    const event = source.resolve({ event: "cycles" })[0];
    kernel.refuse = (call, { cpu }) => (call === "open" && cpu === 5 ? "EMFILE" : null);
    assert.throws(() => source.open(event, SHAPE), { code: "RESOURCE" });
    assert.deepEqual(kernel.openEvents, []);
    await source.close();
    assertNothingLeft(kernel);
  });

  it("fills in what a request leaves open", () => {
    const source = open(withoutPmu());
    const event = source.resolve({ event: "" })[0];
    assert.equal(event.name, "cpu-clock");
    assert.equal(event.periodUnit, "ns");
    assert.deepEqual(event.rate, { kind: "frequency", hz: 99 });
    assert.deepEqual(source.resolve({ event: "cycles:u", period: 1000 })[0].rate, { kind: "period", period: 1000 });
  });

  it("refuses a clock's period that means more than the kernel's maximum, and leaves other events theirs", () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    source.resolve({ event: "cpu-clock", period: 10_000 })[0];
    for (const period of [1, 9_999]) {
      assert.throws(() => source.resolve({ event: "cpu-clock", period })[0], {
        code: "RATE_INVALID",
        message: /events\[\]\.period/,
      });
      source.resolve({ event: "context-switches", period })[0];
    }
    kernel.sampleRateMax = 50_000;
    assert.throws(() => source.resolve({ event: "task-clock", period: 19_999 })[0], { code: "RATE_INVALID" });
    source.resolve({ event: "task-clock", period: 20_000 })[0];
  });

  it("refuses a frequency above the kernel's maximum of now", () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    source.resolve({ event: "cycles", frequencyHz: 100_000 })[0];
    kernel.sampleRateMax = 50_000;
    assert.throws(() => source.resolve({ event: "cycles", frequencyHz: 50_001 })[0], {
      code: "RATE_INVALID",
      message: /^events\[\]\.frequency_hz: 50001 is above the kernel's maximum of 50000/,
    });
    source.resolve({ event: "cycles", period: 1 })[0];
  });

  it("shares a kernel event among requests that differ in their rate alone", () => {
    const source = open(new FakeKernel());
    const key = (event: string, frequencyHz = 0, period = 0): string =>
      source.resolve({ event, frequencyHz, period })[0].key;
    assert.equal(key("cycles", 100), key("cycles", 5000));
    assert.equal(key("cycles", 0, 100), key("cpu-cycles", 0, 200));
    const different = [key("cycles", 100), key("cycles", 0, 100), key("cycles:u", 100), key("cpu-clock", 100)];
    assert.equal(new Set(different).size, different.length);
  });

  it("passes modifiers on to the kernel", () => {
    const kernel = new FakeKernel();
    const source = open(kernel);
    source.open(source.resolve({ event: "cycles:u" })[0], SHAPE);
    assert.ok(kernel.openEvents.every(({ attr }) => attr.excludeKernel));
  });
});
