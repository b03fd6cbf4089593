import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SAMPLE } from "../../pmu/abi.js";
import { setUp } from "./armed-events.test-support.js";
import { FakeSource, refusedRate } from "./fake-source.test-support.js";

/** What dispatchers were told last. */
function lastPace(log: readonly string[]): string | undefined {
  return log.filter((line) => line.startsWith("pace")).at(-1);
}

describe("ArmedEvents: limits", () => {
  const at = (hz: number) => ({ kind: "frequency", hz }) as const;

  it("slow the kernel down before the dispatchers hear of it, and let it run again after", async () => {
    const { source, armed, user, join } = setUp();
    const event = await join(user("cycles", { hz: 1000 }));
    source.takeLog();
    await armed.limit(event, at(250));
    assert.deepEqual(source.takeLog(), ["rate 250Hz 0", "pace 250"]);
    await armed.limit(event, at(500));
    assert.deepEqual(source.takeLog(), ["pace 500", "rate 500Hz 0"]);
    await armed.limit(event, null);
    assert.deepEqual(source.takeLog(), ["pace 1000", "rate 1000Hz 0"]);
    await armed.limit(event, at(2000));
    assert.deepEqual(source.takeLog(), [], "nobody is held back");
  });

  it("hold for events that are opened anew for another rate, and for another shape", async () => {
    const { source, armed, user, join } = setUp();
    source.ratesInPlace = false;
    const event = await join(user("cpu-clock", { hz: 1000 }));
    await armed.limit(event, at(250));
    await join(user("cpu-clock", { hz: 100 }, { sampleType: SAMPLE.CALLCHAIN }));
    assert.deepEqual(
      source.opened.map(({ event: { rate }, shape, closed }) => [rate, shape.sampleType, closed]),
      [
        [at(1000), 0, true],
        [at(250), 0, true],
        [at(250), SAMPLE.CALLCHAIN, false],
      ],
    );
    assert.equal(lastPace(source.log), "pace 250");
  });

  it("hold back handlers that come later, and are forgotten when nobody needs them", async () => {
    const { source, armed, user, join, leave } = setUp();
    const slow = user("cycles", { hz: 100 });
    const event = await join(user("cycles", { hz: 1000 }));
    await armed.limit(event, at(250));
    source.takeLog();
    const eager = user("cycles", { hz: 4000 });
    await join(eager);
    await join(slow);
    assert.deepEqual(source.takeLog(), []);
    await leave(event, eager);
    assert.deepEqual(event.cap, at(250));
    for (const one of event.users) if (one !== slow) await leave(event, one);
    assert.deepEqual([event.cap, event.rate], [null, at(100)]);
    await join(user("cycles", { hz: 1000 }));
    assert.deepEqual(event.rate, at(1000));
  });

  it("leave dispatchers and kernel in agreement when the kernel refuses", async () => {
    const { source, armed, user, join } = setUp();
    const event = await join(user("cycles", { hz: 1000 }));
    await armed.limit(event, at(250));
    source.takeLog();
    source.refuse = (what) => (what.startsWith("rate") ? refusedRate() : null);
    await assert.rejects(armed.limit(event, null), { code: "RATE_INVALID" });
    assert.deepEqual(source.takeLog(), ["pace 1000", "pace 250"]);
    assert.deepEqual([event.cap, event.rate], [at(250), at(250)]);
    await assert.rejects(armed.limit(event, at(50)), { code: "RATE_INVALID" });
    assert.deepEqual([event.cap, event.rate], [at(250), at(250)]);
    assert.deepEqual(source.takeLog(), [], "the dispatchers' pace is right as it is");
  });

  it("come too late for an event that is closed, whoever has its index now", async () => {
    const { source, armed, user, join, leave } = setUp();
    const mine = user("cycles", { hz: 1000 });
    const event = await join(mine);
    const left = leave(event, mine);
    const limited = armed.limit(event, at(250));
    await Promise.all([left, limited]);
    const next = await join(user("instructions", { hz: 1000 }));
    source.takeLog();
    assert.equal(next.index, event.index);
    await armed.limit(event, at(250));
    assert.deepEqual(source.takeLog(), []);
    assert.equal(next.cap, null);
  });

  it("do not touch what has no rate", async () => {
    const { source, armed, user, join } = setUp(new FakeSource("synthetic"));
    source.resolve = (request) => ({ ...FakeSource.prototype.resolve.call(source, request), rate: { kind: "all" } });
    const event = await join(user("cycles"));
    source.takeLog();
    await armed.limit(event, at(250));
    assert.deepEqual(source.takeLog(), []);
  });
});
