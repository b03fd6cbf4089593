import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FakeKernel } from "../../pmu/perf/fake-kernel.test-support.js";
import { openPerfSource } from "../../pmu/perf/source.js";
import { type ArmedEvent, ArmedEvents, type EventUser } from "./armed-events.js";
import { FakeSource } from "./fake-source.test-support.js";
import { SettingsWatch } from "./settings-watch.js";

interface Line {
  readonly level: string;
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

function setUp() {
  const kernel = new FakeKernel();
  kernel.cpus = [0];
  const source = openPerfSource({ ringBytes: 16_384, kernel });
  const problems: string[] = [];
  const paces: (number | null)[] = [];
  const armedEvents = new ArmedEvents({
    source,
    tellAll: async (control) => {
      await Promise.resolve();
      if (control.kind === "pace") paces.push(control.pace.frequencyHz ?? control.pace.period);
    },
    onArmed() {},
    onRetired() {},
    onProblem: (_armed, error) => problems.push(error.message),
  });
  const lines: Line[] = [];
  const watch = new SettingsWatch({
    source,
    armedEvents,
    log: (level, fields, message) => lines.push({ level, fields, message }),
  });
  // As the kernel: what is faster than its maximum is neither opened nor set.
  kernel.refuse = (call, { attr, period }) => {
    const asked = call === "period" ? (period ?? 0n) : attr.samplePeriod;
    return call === "open" && attr.freq && asked > BigInt(kernel.sampleRateMax) ? "EINVAL" : null;
  };
  return {
    kernel,
    source,
    armedEvents,
    watch,
    lines,
    problems,
    paces,
    arm: async (
      event: string,
      rate: { frequencyHz?: number; period?: number },
      shape: Partial<EventUser> = {},
    ): Promise<ArmedEvent> => {
      await watch.look();
      const [resolved] = source.resolve({ event, ...rate });
      const user = { event: resolved, sampleType: 0, branchCounters: false, wakeEach: false, ...shape };
      const [armed] = await armedEvents.acquire([user]);
      await armedEvents.start([armed]);
      return armed;
    },
  };
}

const hz = (value: number) => ({ kind: "frequency", hz: value });

describe("SettingsWatch: kernel.perf_event_max_sample_rate", () => {
  it("holds what is faster below it, and lets it go when it rises again", async () => {
    const { kernel, armedEvents, watch, lines, problems, paces, arm } = setUp();
    const fast = await arm("cycles", { frequencyHz: 4000 });
    const slow = await arm("instructions", { frequencyHz: 100 });
    const clock = await arm("cpu-clock", { period: 200_000 });
    const rare = await arm("page-faults", { period: 3 });
    paces.length = 0;
    kernel.sampleRateMax = 1000;
    await watch.look();
    assert.deepEqual(fast.rate, hz(1000));
    assert.deepEqual(slow.rate, hz(100));
    assert.deepEqual(clock.rate, { kind: "period", period: 1_000_000 });
    assert.deepEqual(rare.rate, { kind: "period", period: 3 });
    assert.deepEqual(paces, [1000, 1_000_000]);
    assert.equal(kernel.openEvents.find(({ attr }) => attr.config === 0n && attr.type === 0)?.period, 1000n);
    await watch.look();
    assert.deepEqual(
      lines.map(({ level, fields }) => [level, fields]),
      [
        [
          "warn",
          {
            was_hz: 100_000,
            now_hz: 1000,
            events: [
              { event: "cycles", was: "4000 Hz", now: "1000 Hz" },
              { event: "cpu-clock", was: "each 200000", now: "each 1000000" },
            ],
          },
        ],
      ],
      "told once",
    );
    assert.deepEqual(armedEvents.allowedRate(fast), hz(1000));
    assert.equal(watch.settings?.maxSampleRateHz, 1000);
    kernel.sampleRateMax = 2000;
    await watch.look();
    assert.deepEqual(fast.rate, hz(2000));
    kernel.sampleRateMax = 100_000;
    await watch.look();
    assert.deepEqual([fast.rate, clock.rate], [hz(4000), { kind: "period", period: 200_000 }]);
    assert.deepEqual(
      lines.map(({ level }) => level),
      ["warn", "info", "info"],
    );
    assert.deepEqual(problems, []);
  });

  it("opens nothing faster: neither another shape of an event, nor one that was asked for before", async () => {
    const { kernel, source, armedEvents, watch, arm, problems } = setUp();
    const armed = await arm("cycles", { frequencyHz: 4000 });
    const [late] = source.resolve({ event: "instructions", frequencyHz: 4000 });
    kernel.sampleRateMax = 1000;
    await watch.look();
    const wanted: EventUser = { event: armed.event, sampleType: 0, branchCounters: false, wakeEach: true };
    await armedEvents.acquire([wanted, { ...wanted, event: late }]);
    assert.ok(kernel.openEvents.every(({ attr }) => attr.samplePeriod === 1000n));
    assert.deepEqual(armed.rate, hz(1000));
    assert.deepEqual(problems, []);
  });

  it("is independent of what an overload holds back", async () => {
    const { kernel, armedEvents, watch, arm } = setUp();
    const armed = await arm("cycles", { frequencyHz: 4000 });
    await armedEvents.limit(armed, { kind: "frequency", hz: 500 });
    kernel.sampleRateMax = 1000;
    await watch.look();
    assert.deepEqual(armed.rate, hz(500));
    await armedEvents.limit(armed, null);
    assert.deepEqual(armed.rate, hz(1000));
    await armedEvents.limit(armed, { kind: "frequency", hz: 500 });
    kernel.sampleRateMax = 100_000;
    await watch.look();
    assert.deepEqual(armed.rate, hz(500));
  });

  it("leaves the rate and the pace as they were where the kernel refuses another", async () => {
    const { kernel, watch, arm, problems, paces } = setUp();
    const armed = await arm("cycles", { frequencyHz: 4000 });
    kernel.refuse = (call) => (call === "period" ? "EINVAL" : null);
    kernel.sampleRateMax = 1000;
    await watch.look();
    assert.deepEqual(armed.rate, hz(4000));
    assert.equal(paces.at(-1), 4000);
    assert.equal(problems.length, 1);
  });
});

describe("SettingsWatch: kernel.perf_event_paranoid", () => {
  it("says what would be refused from now on, and lets it go on", async () => {
    const { kernel, armedEvents, watch, lines, arm } = setUp();
    const cycles = await arm("cycles", { frequencyHz: 100 });
    const clock = await arm("cpu-clock", { frequencyHz: 100 });
    const opened = kernel.openEvents;
    kernel.paranoidLevel = 3;
    kernel.refuse = (call, { attr }) => (call === "open" && attr.type === 0 ? "EACCES" : null);
    await watch.look();
    await watch.look();
    assert.deepEqual(kernel.openEvents, opened);
    assert.ok(opened.every(({ enabled }) => enabled));
    assert.match(watch.refused(cycles), /perf_event_paranoid is 3/);
    assert.equal(watch.refused(clock), "");
    assert.equal(lines.length, 1);
    assert.equal(lines[0].level, "warn");
    assert.deepEqual([lines[0].fields.was, lines[0].fields.now], [2, 3]);
    assert.deepEqual(
      (lines[0].fields.events as { event: string }[]).map(({ event }) => event),
      ["cycles"],
    );
    kernel.paranoidLevel = 1;
    kernel.refuse = () => null;
    await watch.look();
    assert.equal(watch.refused(cycles), "");
    assert.equal(lines[1].level, "info");
    assert.equal(armedEvents.all.length, 2);
  });

  it("is nobody's where no kernel is asked", async () => {
    const source = new FakeSource("replay");
    const lines: string[] = [];
    const armedEvents = new ArmedEvents({
      source,
      tellAll: source.tellAll,
      onArmed() {},
      onRetired() {},
      onProblem() {},
    });
    const watch = new SettingsWatch({ source, armedEvents, log: (_level, _fields, message) => lines.push(message) });
    await watch.look();
    assert.equal(watch.settings, null);
    assert.equal(armedEvents.kernelMaxHz, null);
    assert.deepEqual(lines, []);
  });
});
