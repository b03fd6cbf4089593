import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FORMAT, SAMPLE } from "../abi.js";
import { filesOf, type MachineName } from "../events/machines.test-support.js";
import type { EventShape, ResolvedEvent, Source } from "../source.js";
import { FakeKernel, type OpenedEvent } from "./fake-kernel.test-support.js";
import { openPerfSource } from "./source.js";

const SHAPE: EventShape = { sampleType: 0, branchCounters: false, wakeEach: false };
const GROUP_FORMAT = FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING | FORMAT.GROUP | FORMAT.ID | FORMAT.LOST;

function setUp(machine: MachineName = "intel-server"): { kernel: FakeKernel; source: Source } {
  const kernel = new FakeKernel();
  kernel.files = filesOf(machine);
  return { kernel, source: openPerfSource({ ringBytes: 16_384, kernel }) };
}

function only(events: readonly ResolvedEvent[]): ResolvedEvent {
  assert.equal(events.length, 1);
  return events[0];
}

/** By CPU: who leads, and what is told of each. */
function described({ cpu, attr, leader, enabled }: OpenedEvent): unknown[] {
  return [cpu, attr.config, leader !== null, attr.samplePeriod, attr.freq, attr.disabled, enabled];
}

describe("{a,b}:S", () => {
  it("samples its leader alone, on every CPU, with what its members have counted", () => {
    const { kernel, source } = setUp();
    const event = only(source.resolve({ event: "{cycles,instructions,cache-misses}:S", frequencyHz: 500 }));
    const opened = source.open(event, SHAPE);
    assert.deepEqual(
      kernel.openEvents.map(described),
      [0, 2, 5].flatMap((cpu) => [
        [cpu, 0n, false, 500n, true, true, false],
        [cpu, 1n, true, 0n, false, false, false],
        [cpu, 3n, true, 0n, false, false, false],
      ]),
    );
    for (const { attr } of kernel.openEvents) assert.equal(attr.readFormat, BigInt(GROUP_FORMAT));
    const leaders = kernel.openEvents.filter(({ leader }) => leader === null);
    for (const { fd, cpu, leader } of kernel.openEvents) {
      if (leader !== null) assert.equal(leaders.find((other) => other.fd === leader)?.cpu, cpu, `of ${fd}`);
    }
    assert.deepEqual(
      opened.formats.map(({ ids, readFormat, member }) => [ids, readFormat, member]),
      [[leaders.map(({ id }) => id), GROUP_FORMAT, 0]],
    );
    assert.ok((opened.formats[0].sampleType & SAMPLE.READ) !== 0);
    opened.enable();
    assert.ok(leaders.every(({ enabled }) => enabled));
    opened.setRate({ kind: "frequency", hz: 900 });
    assert.deepEqual(
      kernel.openEvents.map(({ period }) => period),
      [0, 2, 5].flatMap(() => [900n, null, null]),
      "members have no rate",
    );
    opened.close();
    assert.deepEqual(kernel.openEvents, []);
  });

  it("reads times and losses from the group's layout", () => {
    const { kernel, source } = setUp();
    const opened = source.open(only(source.resolve({ event: "{cycles,instructions}:S" })), SHAPE);
    // nr, time_enabled, time_running, then value, id, lost of each.
    kernel.reading = () => [2n, 10n, 7n, 1000n, 1n, 4n, 2000n, 2n, 0n];
    assert.deepEqual(opened.read(), { lost: 12, produced: null, timeEnabledNs: 30, timeRunningNs: 21 });
  });

  it("is another event than its leader alone, and one for all who ask for the same", () => {
    const { source } = setUp();
    const key = (event: string): string => only(source.resolve({ event })).key;
    const keys = ["cycles", "cycles:S", "{cycles,instructions}:S", "{cycles,instructions}", "{cycles,branches}:S"].map(
      key,
    );
    assert.equal(new Set(keys).size, keys.length);
    assert.equal(key("{cycles,instructions}:S"), key("{cpu-cycles, instructions}:S"));
    assert.notEqual(key("{cycles,instructions}:S"), key("{cycles:u,instructions}:S"));
  });

  it("leaves nothing open when a member is refused", () => {
    for (const at of [0, 2, 5]) {
      const { kernel, source } = setUp();
      const event = only(source.resolve({ event: "{cycles,instructions}:S" }));
      kernel.refuse = (call, { cpu, attr }) => (call === "open" && cpu === at && attr.config === 1n ? "EINVAL" : null);
      assert.throws(() => source.open(event, SHAPE), {
        code: "EVENT_UNSUPPORTED",
        message: /the PMU cannot count this group at once/,
      });
      assert.deepEqual(kernel.openEvents, []);
    }
  });
});

describe("{a,b}", () => {
  it("samples every member, into formats of their own, and starts them together", () => {
    const { kernel, source } = setUp();
    const event = only(source.resolve({ event: "{cycles,instructions}", period: 5000 }));
    const opened = source.open(event, SHAPE);
    assert.deepEqual(
      opened.formats.map(({ ids, member }) => [ids.length, member]),
      [
        [3, 0],
        [3, 1],
      ],
    );
    assert.ok(kernel.openEvents.every(({ output, attr }) => output !== null && attr.samplePeriod === 5000n));
    assert.deepEqual(
      opened.formats.map(({ ids }) => ids),
      [0n, 1n].map((config) => kernel.openEvents.filter(({ attr }) => attr.config === config).map(({ id }) => id)),
    );
    opened.setRate({ kind: "period", period: 70 });
    assert.ok(kernel.openEvents.every(({ period }) => period === 70n));
  });
});

describe("events of a PMU that has some of the CPUs", () => {
  it("are opened there and nowhere else", () => {
    const { kernel, source } = setUp("intel-hybrid");
    kernel.cpus = [];
    const events = source.resolve({ event: "cycles" });
    assert.deepEqual(
      events.map(({ name, cpus }) => [name, cpus]),
      [
        ["cpu_atom/cycles/", "16-23"],
        ["cpu_core/cycles/", "0-15"],
      ],
    );
    source.open(events[1], SHAPE);
    assert.deepEqual(
      kernel.openEvents.map(({ cpu, attr }) => [cpu, attr.config]),
      [0, 2, 5].map((cpu) => [cpu, 0x4_0000_0000n]),
    );
    assert.throws(() => source.open(events[0], SHAPE), {
      code: "EVENT_UNSUPPORTED",
      message: "event cpu_atom/cycles/: none of its CPUs (16-23) is online",
    });
  });
});

describe("what the kernel is told", () => {
  it("carries breakpoints, precision and pinning", () => {
    const { kernel, source } = setUp();
    source.open(only(source.resolve({ event: "mem:0x7f00/2:w" })), SHAPE);
    source.open(only(source.resolve({ event: "cpu/mem-loads,ldlat=30/ppuD" })), SHAPE);
    const [breakpoint, load] = [kernel.openEvents[0].attr, kernel.openEvents[3].attr];
    assert.deepEqual([breakpoint.type, breakpoint.bpType, breakpoint.config1, breakpoint.config2], [5, 2, 0x7f00n, 2n]);
    // Each hit, as perf does.
    assert.deepEqual([breakpoint.freq, breakpoint.samplePeriod], [false, 1n]);
    assert.deepEqual([load.config, load.config1, load.preciseIp, load.pinned], [0x1cdn, 30n, 2, true]);
  });

  it("is the most precision that the kernel takes where P asks for it", () => {
    for (const max of [3, 2, 1, 0]) {
      const { kernel, source } = setUp();
      kernel.refuse = (call, { attr }) => (call === "open" && attr.preciseIp > max ? "EOPNOTSUPP" : null);
      assert.equal(only(source.resolve({ event: "cycles:P" })).preciseIp, max);
      assert.deepEqual(kernel.openEvents, [], "tried and closed");
    }
  });

  it("takes its rate from the terms, or the request, but not from both", () => {
    const { source } = setUp();
    const rate = (event: string, frequencyHz = 0) => only(source.resolve({ event, frequencyHz })).rate;
    assert.deepEqual(rate("cpu/r1,period=100003/"), { kind: "period", period: 100_003 });
    assert.deepEqual(rate("cpu/r1,freq=777/"), { kind: "frequency", hz: 777 });
    assert.deepEqual(rate("sched:sched_switch"), { kind: "period", period: 1 });
    assert.deepEqual(rate("sched:sched_switch", 50), { kind: "frequency", hz: 50 });
    for (const [event, hz] of [
      ["cpu/r1,period=1/", 1],
      ["cpu/r1,period=1,freq=1/", 0],
    ] as const) {
      assert.throws(() => rate(event, hz), { code: "RATE_INVALID", message: /has a rate among its terms as well/ });
    }
    assert.throws(() => rate("cpu/r1,freq=100001/"), { code: "RATE_INVALID", message: /above the kernel's maximum/ });
  });
});
