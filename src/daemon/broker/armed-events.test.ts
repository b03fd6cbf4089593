import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SAMPLE } from "../../pmu/abi.js";
import { PmuError } from "../../pmu/errors.js";
import { EVENTS_ARMED_MAX } from "../../pmu/record.js";
import { AcquireError, ArmedEvents } from "./armed-events.js";
import { setUp } from "./armed-events.test-support.js";
import { BrokerError } from "./errors.js";
import { FakeSource, refusedRate } from "./fake-source.test-support.js";

/** What dispatchers were told last. */
function lastPace(log: readonly string[]): string | undefined {
  return log.filter((line) => line.startsWith("pace")).at(-1);
}

describe("ArmedEvents: order", () => {
  it("prepares the dispatchers before the first sample, and drains before the last format goes", async () => {
    const { source, armed, user } = setUp();
    const mine = user("cycles", { hz: 100 });
    const events = await armed.acquire([mine]);
    assert.deepEqual(source.takeLog(), ["open 0 100Hz", "armed 0", "pace 100", "add 0 to 0"]);
    assert.equal(source.opened[0].enabled, false, "nobody is ACTIVE yet");
    await armed.start(events);
    assert.deepEqual(source.takeLog(), ["enable 0"]);
    await armed.release(events, [mine]);
    assert.deepEqual(source.takeLog(), ["disable 0", "remove 0", "retired 0", "close 0"]);
    assert.deepEqual(armed.all, []);
  });

  it("tells dispatchers of a faster rate before the kernel ticks faster, of a slower one after", async () => {
    for (const [slow, fast] of [
      [{ hz: 100 }, { hz: 1000 }],
      [{ period: 5000 }, { period: 500 }],
    ]) {
      const { source, user, join, leave } = setUp();
      const [first, second] = [user("cycles", slow), user("cycles", fast)];
      await join(first);
      source.takeLog();
      const armed = await join(second);
      const [slowText, fastText] = "hz" in slow ? ["100", "1000"] : ["5000", "500"];
      const unit = "hz" in slow ? "Hz" : "";
      assert.deepEqual(source.takeLog(), [`pace ${fastText}`, `rate ${fastText}${unit} 0`]);
      await leave(armed, second);
      assert.deepEqual(source.takeLog(), [`rate ${slowText}${unit} 0`, `pace ${slowText}`]);
      assert.equal(source.opened.length, 1, "re-rated, never reopened");
    }
  });

  it("opens another event where the rate of an open one cannot be changed", async () => {
    const { source, user, join, leave } = setUp();
    source.ratesInPlace = false;
    const [slow, fast] = [user("cpu-clock", { hz: 100 }), user("cpu-clock", { hz: 1000 })];
    await join(slow);
    source.takeLog();
    const armed = await join(fast);
    const others = (from: number, hz: number) => {
      const to = from + 1;
      const swap = [`disable ${from}`, `enable ${to}`, `remove ${from}`, `close ${from}`];
      return [`open ${to} ${hz}Hz`, `add ${to} to 0`, ...swap];
    };
    assert.deepEqual(source.takeLog(), ["pace 1000", ...others(0, 1000)]);
    await leave(armed, fast);
    assert.deepEqual(source.takeLog(), [...others(1, 100), "pace 100"]);
  });

  it("does not rely on the period of an event whose every occurrence the kernel samples", async () => {
    const { source, user, join } = setUp();
    for (const [event, pace] of [
      ["page-faults", "pace unknown"],
      ["cpu-clock", "pace 20000"],
      ["cycles", "pace 20000"],
    ]) {
      await join(user(event, { period: 20_000 }));
      assert.ok(source.takeLog().includes(pace), `${event}: ${pace}`);
    }
  });

  it("leaves the kernel alone when a slower handler comes or goes", async () => {
    const { source, user, join, leave } = setUp();
    await join(user("cycles", { hz: 1000 }));
    source.takeLog();
    const slow = user("cycles", { hz: 10 });
    const armed = await join(slow);
    await leave(armed, slow);
    assert.deepEqual(source.takeLog(), []);
  });

  it("switches to another shape without a gap, and back when nobody needs it", async () => {
    const { source, user, join, leave } = setUp();
    await join(user("cycles", { hz: 100 }));
    source.takeLog();
    const chained = user("cycles", { hz: 50 }, { sampleType: SAMPLE.CALLCHAIN, wakeEach: true });
    const armed = await join(chained);
    assert.deepEqual(source.takeLog(), [
      "open 1 100Hz callchain wakeEach",
      "add 1 to 0",
      "disable 0",
      "enable 1",
      "remove 0",
      "close 0",
    ]);
    await leave(armed, chained);
    assert.deepEqual(source.takeLog(), ["open 2 100Hz", "add 2 to 0", "disable 1", "enable 2", "remove 1", "close 1"]);
  });

  it("does not enable another shape of an event that nobody has started", async () => {
    const { source, armed, user } = setUp();
    const users = [user("cycles"), user("cycles", {}, { sampleType: SAMPLE.CGROUP })];
    const events = [await armed.acquire([users[0]]), await armed.acquire([users[1]])].flat();
    assert.ok(source.live.every(({ enabled }) => !enabled));
    await armed.start(events);
    assert.deepEqual(
      source.live.map(({ enabled, shape }) => [enabled, shape.sampleType]),
      [[true, SAMPLE.CGROUP]],
    );
  });

  it("takes one step after the other, however many are asked for at once", async () => {
    const { source, armed, user } = setUp();
    const users = Array.from({ length: 5 }, (_, i) => user("cycles", { hz: 100 * (i + 1) }));
    const joined = await Promise.all(
      users.map(async (one) => {
        const events = await armed.acquire([one]);
        await armed.start(events);
        return events;
      }),
    );
    assert.equal(source.opened.length, 1);
    await Promise.all(joined.map((events, i) => armed.release(events, [users[i]])));
    assert.deepEqual(source.live, []);
    assert.deepEqual(armed.all, []);
    assert.equal(source.log.filter((line) => line.startsWith("enable")).length, 1);
  });

  it("keeps its order when one comes while another goes", async () => {
    const { source, armed, user, join } = setUp();
    const [slow, fast] = [user("cycles", { hz: 100 }), user("cycles", { hz: 1000 })];
    const event = await join(slow);
    source.takeLog();
    await Promise.all([armed.acquire([fast]), armed.release([event], [slow])]);
    assert.deepEqual(source.takeLog(), ["pace 1000", "rate 1000Hz 0"]);
  });

  it("lets software sources tick at a rate of their own", async () => {
    const { source, user, join } = setUp(new FakeSource("synthetic"));
    await join(user("cycles", { hz: 100 }));
    assert.ok(source.takeLog().includes("pace unknown"));
  });
});

describe("ArmedEvents: readings", () => {
  it("go on over a change of shape", async () => {
    const { source, armed, user, join } = setUp();
    const event = await join(user("cycles"));
    source.opened[0].reading = { lost: 5, produced: 50, timeEnabledNs: 100, timeRunningNs: 90 };
    await join(user("cycles", {}, { sampleType: SAMPLE.CALLCHAIN }));
    source.opened[1].reading = { lost: 2, produced: 20, timeEnabledNs: 10, timeRunningNs: 9 };
    assert.deepEqual(armed.read(event), { lost: 7, produced: 70, timeEnabledNs: 110, timeRunningNs: 99 });
    source.opened[1].reading = { lost: null, produced: null, timeEnabledNs: 10, timeRunningNs: 9 };
    assert.equal(armed.read(event).lost, null);
    assert.equal(armed.read(event).produced, null);
  });

  it("can still be taken when an event is retired", async () => {
    const source = new FakeSource();
    const seen: (number | null)[] = [];
    const armed: ArmedEvents = new ArmedEvents({
      source,
      tellAll: source.tellAll,
      onArmed: () => {},
      onRetired: (event) => seen.push(armed.read(event).lost),
      onProblem: () => {},
    });
    const user = {
      event: source.resolve({ event: "cycles" })[0],
      sampleType: 0,
      branchCounters: false,
      wakeEach: false,
    };
    const events = await armed.acquire([user]);
    source.opened[0].reading = { lost: 3, produced: null, timeEnabledNs: 0, timeRunningNs: 0 };
    await armed.release(events, [user]);
    assert.deepEqual(seen, [3]);
  });
});

describe("ArmedEvents: refusals", () => {
  it("changes nothing when one of several events cannot be opened, and says which", async () => {
    const { source, armed, user, retired } = setUp();
    let opens = 0;
    source.refuse = (what) => (what === "open" && opens++ === 2 ? new PmuError("RESOURCE", "no more") : null);
    const users = [user("cycles"), user("cpu-clock"), user("instructions")];
    await assert.rejects(armed.acquire(users), (error: unknown) => {
      assert.ok(error instanceof AcquireError);
      assert.equal(error.index, 2);
      assert.equal((error.cause as PmuError).code, "RESOURCE");
      return true;
    });
    assert.deepEqual(source.live, []);
    assert.deepEqual(armed.all, []);
    assert.deepEqual(retired.sort(), [0, 1]);
    source.refuse = () => null;
    await armed.acquire(users);
    assert.deepEqual(
      armed.all.map(({ index }) => index),
      [0, 1, 2],
    );
  });

  it("leaves those who were there as they were when the kernel refuses a faster rate", async () => {
    const { source, armed, user, join } = setUp();
    const event = await join(user("cycles", { hz: 100 }));
    source.takeLog();
    source.refuse = (what) => (what === "rate 1000Hz" ? refusedRate() : null);
    await assert.rejects(armed.acquire([user("cycles", { hz: 1000 })]), AcquireError);
    assert.deepEqual(source.takeLog(), ["pace 1000", "pace 100"]);
    assert.equal(event.users.size, 1);
    assert.equal(source.live.length, 1);
    assert.deepEqual(event.rate, { kind: "frequency", hz: 100 });
  });

  it("leaves those who were there as they were when another shape cannot be opened", async () => {
    const { source, armed, user, join } = setUp();
    const event = await join(user("cycles", { hz: 100 }));
    source.refuse = (what) => (what === "open" ? new PmuError("RESOURCE", "no fds") : null);
    await assert.rejects(armed.acquire([user("cycles", { hz: 1000 }, { sampleType: SAMPLE.CALLCHAIN })]), AcquireError);
    assert.equal(event.users.size, 1);
    assert.deepEqual(
      source.live.map(({ enabled }) => enabled),
      [true],
    );
    assert.equal(lastPace(source.log), "pace 100");
  });

  it("goes back to the old shape when the new rate is refused behind it", async () => {
    const { source, armed, user, join } = setUp();
    const event = await join(user("cycles", { hz: 100 }));
    source.refuse = (what) => (what === "rate 1000Hz" ? refusedRate() : null);
    await assert.rejects(armed.acquire([user("cycles", { hz: 1000 }, { sampleType: SAMPLE.CALLCHAIN })]), AcquireError);
    assert.equal(event.shape.sampleType, 0);
    assert.deepEqual(
      source.live.map(({ enabled, shape }) => [enabled, shape.sampleType]),
      [[true, 0]],
    );
  });

  it("lets a handler leave though the event cannot be slowed down, and keeps the dispatchers' pace with the kernel's", async () => {
    const { source, user, join, leave, problems } = setUp();
    await join(user("cycles", { hz: 100 }));
    const fast = user("cycles", { hz: 1000 });
    const event = await join(fast);
    source.takeLog();
    source.refuse = (what) => (what === "rate 100Hz" ? refusedRate() : null);
    await leave(event, fast);
    assert.deepEqual(source.takeLog(), []);
    assert.equal(problems.length, 1);
    assert.equal(event.users.size, 1);
  });

  it("goes on after a step that failed", async () => {
    const { source, armed, user, join } = setUp();
    source.refuse = (what) => (what === "open" ? new PmuError("RESOURCE", "no fds") : null);
    await assert.rejects(armed.acquire([user("cycles")]));
    source.refuse = () => null;
    await join(user("cycles"));
    assert.equal(source.live.length, 1);
  });

  it("has a bit in the mask for each event and no more", async () => {
    const { source, armed, user } = setUp();
    const users = Array.from({ length: EVENTS_ARMED_MAX }, (_, i) => user(`r${(i + 1).toString(16)}`));
    const events = await armed.acquire(users);
    assert.deepEqual(
      events.map(({ index }) => index),
      Array.from({ length: EVENTS_ARMED_MAX }, (_, i) => i),
    );
    await assert.rejects(armed.acquire([user("rffff")]), (error: unknown) => {
      const { cause } = error as AcquireError;
      return cause instanceof BrokerError && cause.code === "RESOURCE_EXHAUSTED";
    });
    await armed.release([events[17]], [users[17]]);
    assert.equal((await armed.acquire([user("rffff")]))[0].index, 17, "a free bit is used again");
    assert.equal(source.live.length, EVENTS_ARMED_MAX);
  });
});
