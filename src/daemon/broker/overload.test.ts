import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { recordRingFill } from "../dispatch/ring-fill.js";
import { DISPATCHER_STAT, DispatcherStats, EVENT_STAT } from "../dispatch/stats.js";
import { type ArmedEvent, ArmedEvents, type EventUser } from "./armed-events.js";
import { FakeSource, refusedRate } from "./fake-source.test-support.js";
import { KernelLossWatch } from "./kernel-loss.js";
import { OverloadControl } from "./overload.js";

const SECOND_NS = 1e9;

interface Line {
  readonly level: string;
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

function setUp({ policy = "lower", canLower = true }: { policy?: "report" | "lower"; canLower?: boolean } = {}) {
  const source = new FakeSource();
  const clock = { ns: 100 * SECOND_NS };
  const lines: Line[] = [];
  const problems: string[] = [];
  const config = { policy };
  const dispatchers = [{ stats: new DispatcherStats() }, { stats: new DispatcherStats() }];
  const armedEvents: ArmedEvents = new ArmedEvents({
    source,
    tellAll: source.tellAll,
    onArmed: () => {
      if (armedEvents.all.length === 1) overload.begin();
    },
    onRetired: (armed) => {
      kernelLoss.retire(armed, []);
      if (armedEvents.all.length === 1) overload.idle();
    },
    onProblem: () => {},
  });
  const kernelLoss = new KernelLossWatch(armedEvents);
  const overload: OverloadControl = new OverloadControl({
    dispatchers,
    armedEvents,
    kernelLoss,
    get policy() {
      return config.policy;
    },
    canLower,
    limits: { floorHz: 100, raiseAfterNs: 3 * SECOND_NS },
    now: () => clock.ns,
    log: (level, fields, message) => lines.push({ level, fields, message }),
    onProblem: (_armed, error) => problems.push(error.message),
  });
  const fixture = {
    source,
    config,
    clock,
    lines,
    problems,
    dispatchers,
    armedEvents,
    overload,
    async arm(event: string, hz: number): Promise<{ armed: ArmedEvent; user: EventUser }> {
      const resolved = source.resolve({ event, frequencyHz: hz })[0];
      const user: EventUser = { event: resolved, sampleType: 0, branchCounters: false, wakeEach: false };
      const [armed] = await armedEvents.acquire([user]);
      await armedEvents.start([armed]);
      return { armed, user };
    },
    /** A second in which the kernel dropped so many samples of each event. */
    async second(kernelLost = 0): Promise<void> {
      clock.ns += SECOND_NS;
      for (const opened of source.live)
        opened.reading = { ...opened.reading, lost: (opened.reading.lost ?? 0) + kernelLost };
      kernelLoss.poll([]);
      await overload.look();
    },
    async seconds(count: number, kernelLost = 0): Promise<void> {
      for (let i = 0; i < count; i++) await fixture.second(kernelLost);
    },
    rate: (armed: ArmedEvent) => (armed.rate.kind === "frequency" ? armed.rate.hz : null),
    messages: () => lines.map(({ level, message }) => `${level}: ${message}`),
  };
  return fixture;
}

describe("OverloadControl: what it sees and says", () => {
  it("is one line at the beginning, with the reason and a remedy, and one at the end", async () => {
    const { arm, seconds, lines, overload, messages } = setUp({ policy: "report" });
    await arm("cycles", 1000);
    await seconds(3);
    assert.deepEqual(messages(), []);
    await seconds(4, 10);
    assert.equal(overload.state.overloaded, true);
    assert.equal(overload.lastedNs(), 3 * SECOND_NS);
    await seconds(9);
    assert.deepEqual(messages(), ["warn: overloaded: the dispatchers do not keep up", "info: overload has ended"]);
    const [began, ended] = lines.map(({ fields }) => fields);
    assert.match(String(began.reason), /the kernel dropped 10 samples/);
    assert.match(String(began.remedy), /more dispatchers .*; --overload lower lets it/);
    assert.equal(began.kernel_lost, 10);
    assert.deepEqual(ended, { seconds: 8, kernel_lost: 40, why: "the dispatchers keep up" });
  });

  it("shares out time at work and full rings, and takes a drain that outlasts a look for one", async () => {
    const { arm, second, dispatchers, overload, clock } = setUp();
    await arm("cycles", 1000);
    const [first, other] = dispatchers;
    first.stats.words[DISPATCHER_STAT.BUSY] = 0.25 * SECOND_NS;
    recordRingFill(first.stats.ringFill, 55, 100);
    // At work since half a second from now, and not back.
    other.stats.words[DISPATCHER_STAT.BUSY] = -(clock.ns + 0.5 * SECOND_NS);
    recordRingFill(other.stats.ringFill, 99, 100);
    await second();
    assert.deepEqual(overload.looks, [
      { busyRatio: 0.25, ringFillPeak: 0.6 },
      { busyRatio: 0.5, ringFillPeak: 1 },
    ]);
    await second();
    assert.deepEqual(overload.looks, [
      { busyRatio: 0, ringFillPeak: 0 },
      { busyRatio: 1, ringFillPeak: 1 },
    ]);
    await second();
    assert.equal(overload.state.overloaded, true);
    assert.deepEqual(overload.state.dispatchers, [1]);
  });

  it("ends with the last event, and what was lost to the very end is told", async () => {
    const { arm, second, source, armedEvents, overload, lines, clock } = setUp();
    const { armed, user } = await arm("cycles", 1000);
    await second(5);
    source.live[0].reading = { produced: null, lost: 7, timeEnabledNs: 0, timeRunningNs: 0 };
    clock.ns += SECOND_NS / 2;
    await armedEvents.release([armed], [user]);
    assert.equal(overload.state.overloaded, false);
    assert.deepEqual(lines.at(-1)?.fields, { seconds: 0.5, kernel_lost: 7, why: "nothing is sampled any more" });
    // What was lost, and how the rings were, before an event is armed again says nothing of it.
    await arm("cycles", 1000);
    await second();
    assert.equal(overload.state.episodes, 1);
    assert.deepEqual(overload.looks[0], { busyRatio: 0, ringFillPeak: 0 });
  });

  it("does not promise what the source cannot do", async () => {
    for (const [policy, remedy] of [
      ["report", /lower rates$/],
      ["lower", /--overload lower has no effect on this source/],
    ] as const) {
      const { arm, seconds, lines, rate } = setUp({ policy, canLower: false });
      const { armed } = await arm("cycles", 1000);
      await seconds(5, 1);
      assert.equal(rate(armed), 1000);
      assert.match(String(lines[0].fields.remedy), remedy);
    }
  });
});

describe("OverloadControl: what it does to rates", () => {
  it("is nothing where it may only report", async () => {
    const { arm, seconds, rate } = setUp({ policy: "report" });
    const { armed } = await arm("cycles", 1000);
    await seconds(20, 5);
    assert.equal(rate(armed), 1000);
  });

  it("lowers those that contribute, step by step to the floor, and raises them when it is over", async () => {
    const { arm, seconds, second, rate, messages, lines, dispatchers } = setUp();
    const { armed: cycles } = await arm("cycles", 350);
    const { armed: faults } = await arm("page-faults", 1000);
    const [{ stats }] = dispatchers;
    const load = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        stats.words[stats.event(cycles.index, EVENT_STAT.SAMPLES)] += 1000;
        await second(5);
      }
    };
    await load(2);
    assert.deepEqual([rate(cycles), rate(faults)], [175, 1000]);
    await load(2);
    assert.deepEqual([rate(cycles), rate(faults)], [100, 1000]);
    await seconds(5 + 3);
    assert.deepEqual([rate(cycles), rate(faults)], [200, 1000]);
    await seconds(1 + 4);
    assert.deepEqual([rate(cycles), rate(faults)], [350, 1000]);
    await seconds(50);
    assert.deepEqual(messages(), [
      "warn: overloaded: the dispatchers do not keep up",
      "info: rates lowered",
      "info: rates lowered",
      "info: overload has ended",
      "info: rates raised",
      "info: rates raised",
    ]);
    assert.deepEqual(lines[1].fields, { events: [{ event: "cycles", asked: "350 Hz", now: "175 Hz" }] });
  });

  it("goes on after a refusal", async () => {
    const { arm, seconds, source, rate, problems } = setUp();
    const { armed } = await arm("cycles", 1000);
    await seconds(2, 5);
    assert.equal(rate(armed), 500);
    source.refuse = (what) => (what === "rate 1000Hz" ? refusedRate() : null);
    await seconds(60);
    assert.ok(problems.length > 0 && problems.length < 6, `${problems.length} tries, each after a longer wait`);
    assert.equal(rate(armed), 500);
    source.refuse = () => null;
    await seconds(50);
    assert.equal(rate(armed), 1000);
  });

  it("is taken back when it may only report from now on, and begins anew when it may lower again", async () => {
    const { arm, second, seconds, config, source, rate, problems, lines } = setUp();
    const { armed } = await arm("cycles", 1000);
    await seconds(4, 5);
    assert.equal(rate(armed), 250);
    config.policy = "report";
    source.refuse = (what) => (what === "rate 1000Hz" ? refusedRate() : null);
    await second(5);
    assert.deepEqual([rate(armed), problems.length], [250, 1]);
    source.refuse = () => null;
    await second(5);
    assert.equal(rate(armed), 1000);
    assert.deepEqual(lines.at(-1)?.fields, { events: [{ event: "cycles", asked: "1000 Hz", now: "1000 Hz" }] });
    const { length } = lines;
    await seconds(20, 5);
    assert.equal(lines.length, length);
    config.policy = "lower";
    await seconds(4, 5);
    assert.equal(rate(armed), 500);
  });

  it("takes no second step while one is under way", async () => {
    const { arm, seconds, second, source, armedEvents, rate } = setUp();
    const { armed } = await arm("cycles", 1000);
    await second(5);
    // A dispatcher that takes its time to answer.
    let answer = (): void => {};
    const limit = armedEvents.limit.bind(armedEvents);
    let calls = 0;
    armedEvents.limit = async (...args) => {
      calls++;
      await new Promise<void>((resolve) => {
        answer = resolve;
      });
      return limit(...args);
    };
    const looks = [second(5), second(5), second(5), second(5)];
    assert.equal(calls, 1);
    answer();
    await Promise.all(looks);
    assert.equal(rate(armed), 500);
    assert.equal(source.opened.length, 1);
    armedEvents.limit = limit;
    await seconds(3, 5);
    assert.equal(rate(armed), 250);
  });
});
