import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FORMAT, SAMPLE, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import { type EventShape, type OpenEvent, PLAIN_ATTR, type Rate, type ResolvedEvent, UNGROUPED } from "../source.js";
import { type CpuRing, openPerfEvent } from "./event.js";
import { errno, FakeKernel } from "./fake-kernel.test-support.js";

const SHAPE: EventShape = { sampleType: 0, branchCounters: false, wakeEach: false };

function event(rate: Rate, changes: Partial<ResolvedEvent> = {}): ResolvedEvent {
  return {
    ...PLAIN_ATTR,
    ...UNGROUPED,
    name: "cycles",
    key: "cycles",
    rate,
    periodUnit: "events",
    ...changes,
  };
}

const HZ_1000: Rate = { kind: "frequency", hz: 1000 };
const CLOCK = { name: "cpu-clock", type: TYPE.SOFTWARE, config: 0n } as const;

function setUp(): { kernel: FakeKernel; rings: CpuRing[]; open(of: ResolvedEvent, shape?: EventShape): OpenEvent } {
  const kernel = new FakeKernel();
  // The rings' own events; they stay open whatever happens to others.
  const rings = kernel.cpus.map((cpu) => {
    const attr = new Uint8Array(128);
    attr[0] = 1;
    attr[8] = 9;
    return { cpu, anchorFd: kernel.openEvent(attr, cpu) };
  });
  return { kernel, rings, open: (of, shape = SHAPE) => openPerfEvent(kernel, rings, of, shape) };
}

describe("openPerfEvent", () => {
  it("opens the event on every CPU, disabled, into that CPU's ring, and reports every id", () => {
    const { kernel, rings, open } = setUp();
    const opened = open(event(HZ_1000));
    assert.deepEqual(
      kernel.openEvents.map(({ cpu, output, enabled }) => [cpu, output, enabled]),
      rings.map(({ cpu, anchorFd }) => [cpu, anchorFd, false]),
    );
    assert.equal(opened.formats.length, 1);
    assert.deepEqual(
      opened.formats[0].ids,
      kernel.openEvents.map(({ id }) => id),
    );
    opened.enable();
    assert.ok(kernel.openEvents.every(({ enabled }) => enabled));
    opened.disable();
    assert.ok(kernel.openEvents.every(({ enabled }) => !enabled));
  });

  it("always samples what every batch carries, and the rest on request", () => {
    const { kernel, open } = setUp();
    const base = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;
    for (const [shape, sampleType] of [
      [SHAPE, base],
      [{ ...SHAPE, sampleType: SAMPLE.CALLCHAIN }, base | SAMPLE.CALLCHAIN],
      [{ ...SHAPE, sampleType: SAMPLE.CGROUP }, base | SAMPLE.CGROUP],
    ] as const) {
      const opened = open(event(HZ_1000), shape);
      assert.equal(opened.formats[0].sampleType, sampleType);
      assert.ok(kernel.openEvents.every(({ attr }) => attr.sampleType === BigInt(sampleType)));
      opened.close();
    }
    open(event(HZ_1000), { ...SHAPE, wakeEach: true });
    assert.ok(kernel.openEvents.every(({ attr }) => attr.wakeup === 1 && !attr.watermark));
  });

  it("asks for all that a field needs, and says how its samples are to be read", () => {
    const { kernel, open } = setUp();
    const asked = SAMPLE.REGS_USER | SAMPLE.REGS_INTR | SAMPLE.STACK_USER | SAMPLE.BRANCH_STACK | SAMPLE.WEIGHT;
    const { formats } = open(event(HZ_1000), {
      sampleType: asked | SAMPLE.READ,
      branchCounters: true,
      wakeEach: false,
    });
    const [{ attr }] = kernel.openEvents;
    const [format] = formats;
    assert.equal(attr.sampleType, BigInt(format.sampleType));
    assert.equal(format.sampleType & (SAMPLE.WEIGHT | SAMPLE.WEIGHT_STRUCT), SAMPLE.WEIGHT_STRUCT);
    assert.equal(format.sampleType & ~SAMPLE.WEIGHT_STRUCT & asked, asked & ~SAMPLE.WEIGHT);
    assert.deepEqual(
      [attr.readFormat, attr.branchSampleType, attr.sampleRegsUser, attr.sampleRegsIntr, attr.sampleStackUser],
      [19n, 0xa0008n, 0xff0fffn, 0xff0fffn, 8192],
    );
    const { readFormat, branchSampleType, sampleRegsUser, sampleRegsIntr, sampleStackUser } = format;
    assert.deepEqual(
      [readFormat, branchSampleType, sampleRegsUser, sampleRegsIntr, sampleStackUser],
      [19, 0xa0008, 0xff0fffn, 0xff0fffn, 8192],
    );
    open(event({ kind: "period", period: 7 })).close();
    const {
      branchSampleType: branches,
      sampleRegsUser: regs,
      sampleStackUser: stack,
    } = kernel.events[kernel.events.length - 1].attr;
    assert.deepEqual([branches, regs, stack], [0n, 0n, 0]);
  });

  it("asks for the branches that are wanted, and says where the machine does not record them", () => {
    const { kernel, open } = setUp();
    const shape = { ...SHAPE, sampleType: SAMPLE.BRANCH_STACK };
    const calls = { ...event(HZ_1000), branchSampleType: 0x11 };
    const [format] = open(calls, shape).formats;
    assert.equal(format.branchSampleType, 0x20011);
    assert.ok(kernel.openEvents.every(({ attr }) => attr.branchSampleType === 0x20011n));
    kernel.refuse = (call) => (call === "open" ? "EOPNOTSUPP" : null);
    assert.throws(() => open(calls, shape), {
      code: "SHAPE_UNSUPPORTED",
      message: /^branch_sample_type: 0x11: this machine's PMU .* cycles \(EOPNOTSUPP\): ask for fewer/,
    });
  });

  it("does without the index of branches and the parts of the weight where the kernel is older", () => {
    const { kernel, open } = setUp();
    kernel.refuse = (call, { attr }) =>
      call === "open" && ((attr.branchSampleType >> 17n) & 1n) === 1n ? "EINVAL" : null;
    const shape = { ...SHAPE, sampleType: SAMPLE.BRANCH_STACK | SAMPLE.WEIGHT };
    const [{ sampleType, branchSampleType, readFormat }] = open(event(HZ_1000), shape).formats;
    assert.deepEqual([sampleType & SAMPLE.WEIGHT, sampleType & SAMPLE.WEIGHT_STRUCT], [SAMPLE.WEIGHT, 0]);
    assert.deepEqual([branchSampleType, readFormat], [8, 3]);
  });

  it("says that software events record no branches, and which machines do not", () => {
    const { kernel, open } = setUp();
    const shape = { ...SHAPE, sampleType: SAMPLE.BRANCH_STACK };
    const refused = (message: RegExp) => (error: unknown) =>
      error instanceof PmuError && error.code === "SHAPE_UNSUPPORTED" && message.test(error.message);
    assert.throws(() => open(event(HZ_1000, CLOCK), shape), refused(/BRANCH_STACK: cpu-clock is counted in software/));
    kernel.refuse = (call) => (call === "open" ? "EOPNOTSUPP" : null);
    assert.throws(() => open(event(HZ_1000), shape), refused(/BRANCH_STACK: this machine's PMU.*cycles/));
    kernel.refuse = (call) => (call === "open" ? "EINVAL" : null);
    assert.throws(() => open(event(HZ_1000), { ...shape, branchCounters: true }), refused(/BRANCH_COUNTERS: /));
    assert.equal(kernel.openEvents.length, 0);
  });

  it("opens by frequency in Hz, by period in events", () => {
    const { kernel, open } = setUp();
    open(event(HZ_1000)).close();
    open(event({ kind: "period", period: 12_345 })).close();
    const attrs = kernel.events.slice(3).map(({ attr }) => [attr.freq, attr.samplePeriod]);
    assert.deepEqual(attrs, [...new Array(3).fill([true, 1000n]), ...new Array(3).fill([false, 12_345n])]);
  });

  it("opens clocks by period and never re-rates them: their samples would go on telling the old one", () => {
    for (const config of [0n, 1n]) {
      const { kernel, open } = setUp();
      const opened = open(event({ kind: "frequency", hz: 997 }, { ...CLOCK, config }));
      assert.ok(kernel.openEvents.every(({ attr }) => !attr.freq && attr.samplePeriod === 1_003_009n));
      assert.equal(opened.setRate({ kind: "frequency", hz: 10_000 }), false);
      assert.ok(kernel.openEvents.every(({ period }) => period === null));
    }
  });

  it("re-rates other events in their own unit, on every CPU", () => {
    const { kernel, open } = setUp();
    const opened = open(event(HZ_1000));
    assert.equal(opened.setRate({ kind: "frequency", hz: 4000 }), true);
    assert.deepEqual(
      kernel.openEvents.map(({ period }) => period),
      [4000n, 4000n, 4000n],
    );
  });

  it("has no rate to offer for every sample", () => {
    const { kernel, open } = setUp();
    assert.throws(() => open(event({ kind: "all" })), { code: "RATE_INVALID" });
    assert.equal(kernel.openEvents.length, 0);
  });

  it("names the kernel's limit when it rejects a new rate", () => {
    const { kernel, open } = setUp();
    const opened = open(event(HZ_1000));
    kernel.sampleRateMax = 25_000;
    kernel.refuse = (call) => (call === "period" ? "EINVAL" : null);
    assert.throws(() => opened.setRate(HZ_1000), {
      code: "RATE_INVALID",
      message: "event cycles: the kernel rejects the rate; kernel.perf_event_max_sample_rate is 25000",
    });
    kernel.refuse = (call) => (call === "period" ? "EIO" : null);
    assert.throws(() => opened.setRate(HZ_1000), { name: "Errno" });
  });

  it("does without lost counts where the kernel is older than 6.0", () => {
    const { kernel, open } = setUp();
    kernel.refuse = (call, { attr }) =>
      call === "open" && (attr.readFormat & BigInt(FORMAT.LOST)) !== 0n ? "EINVAL" : null;
    const opened = open(event(HZ_1000));
    assert.equal(kernel.openEvents.length, 3);
    assert.ok(kernel.openEvents.every(({ attr }) => attr.readFormat === 3n));
    kernel.reading = () => [9n, 10n, 7n];
    assert.deepEqual(opened.read(), { lost: null, produced: null, timeEnabledNs: 30, timeRunningNs: 21 });
  });

  it("adds up the readings of all CPUs, and passes over an event in error state", () => {
    const { kernel, open } = setUp();
    const opened = open(event(HZ_1000));
    assert.ok(kernel.openEvents.every(({ attr }) => attr.readFormat === BigInt(3 | FORMAT.LOST)));
    kernel.reading = ({ cpu }) => (cpu === 2 ? [] : [9n, 10n, 7n, 4n]);
    assert.deepEqual(opened.read(), { lost: 8, produced: null, timeEnabledNs: 20, timeRunningNs: 14 });
  });

  it("serves the CPUs that are left when one has gone offline, and says so when none is", () => {
    const { kernel, rings, open } = setUp();
    kernel.refuse = (call, { cpu }) => (call === "open" && cpu === rings[1].cpu ? "ENODEV" : null);
    assert.equal(open(event(HZ_1000)).formats[0].ids.length, rings.length - 1);
    kernel.refuse = (call) => (call === "open" ? "ENODEV" : null);
    assert.throws(() => open(event(HZ_1000)), PmuError);
  });

  for (const [name, code, says] of [
    ["EMFILE", "RESOURCE", /RLIMIT_NOFILE/],
    ["EACCES", "PERMISSION", /perf_event_paranoid is 2/],
    ["EPERM", "PERMISSION", /perf_event_paranoid is 2/],
    ["EBUSY", "RESOURCE", /exclusively/],
    ["EINVAL", "EVENT_UNSUPPORTED", /rejects/],
  ] as const) {
    for (const at of [0, 1, 2]) {
      it(`closes what it opened when CPU number ${at} says ${name}`, () => {
        const { kernel, rings, open } = setUp();
        kernel.refuse = (call, { cpu }) => (call === "open" && cpu === rings[at].cpu ? name : null);
        assert.throws(
          () => open(event(HZ_1000)),
          (error: unknown) => {
            assert.ok(error instanceof PmuError);
            assert.equal(error.code, code);
            assert.match(error.message, says);
            assert.match(error.message, /^event cycles: /);
            return true;
          },
        );
        assert.equal(kernel.openEvents.length, 0);
        assert.equal(kernel.openFds.length, 3, "the rings stay");
      });
    }
  }

  it("closes what it opened when an output cannot be redirected, the last one included", () => {
    const { kernel, open } = setUp();
    kernel.refuse = (call, { cpu }) => (call === "output" && cpu === 5 ? "EINVAL" : null);
    assert.throws(() => open(event(HZ_1000)), PmuError);
    assert.equal(kernel.openEvents.length, 0);
  });

  it("closes once", () => {
    const { kernel, open } = setUp();
    const opened = open(event(HZ_1000));
    opened.close();
    opened.close();
    assert.equal(kernel.openEvents.length, 0);
  });
});

describe("the fake kernel", () => {
  it("fails with the errors that the FFI layer makes", () => {
    assert.equal(errno("ioctl", "EOPNOTSUPP").code, "EOPNOTSUPP");
  });
});
