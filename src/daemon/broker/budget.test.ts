import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type ArmedEvent, ArmedEvents, type EventUser } from "./armed-events.js";
import { BrokerError } from "./errors.js";
import { FakeSource } from "./fake-source.test-support.js";

interface Registered {
  readonly armed: readonly ArmedEvent[];
  leave(): Promise<void>;
}

interface Fixture {
  readonly source: FakeSource;
  register(handler: string, events: readonly string[], exclusive?: boolean): Promise<Registered>;
}

function setUp(counters: number): Fixture {
  const source = new FakeSource();
  source.counters = counters;
  const events = new ArmedEvents({
    source,
    tellAll: source.tellAll,
    onArmed: () => {},
    onRetired: () => {},
    onProblem: (_armed, error) => assert.fail(error.message),
  });
  return {
    source,
    register: async (handler, names, exclusive = false) => {
      const users = names.map(
        (event): EventUser => ({
          event: source.resolve({ event })[0],
          sampleType: 0,
          branchCounters: false,
          wakeEach: false,
        }),
      );
      const armed = await events.acquire(users, { handler, exclusive });
      await events.start(armed);
      return { armed, leave: () => events.release(armed, users) };
    },
  };
}

async function refused(registration: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(registration, (error: unknown) => {
    assert.ok(error instanceof BrokerError, `${error}`);
    assert.equal(error.code, "FAILED_PRECONDITION");
    assert.match(error.message, message);
    return true;
  });
}

describe("the counters of the PMU", () => {
  it("are shared in turns where nobody minds", async () => {
    const { register, source } = setUp(2);
    await register("a", ["cycles", "instructions"]);
    await register("b", ["branches", "cache-misses"]);
    assert.equal(source.live.length, 4);
  });

  it("go to an exclusive handler where they suffice for all", async () => {
    const { register } = setUp(3);
    await register("a", ["cycles"]);
    await register("b", ["cycles", "instructions"], true);
    await register("c", ["branches"]);
    await refused(
      register("d", ["cache-misses"]),
      /^events: they would be multiplexed with those of b, registered with `exclusive`/,
    );
  });

  it("are refused to an exclusive handler by the names of those in the way, with nothing changed", async () => {
    const { register, source } = setUp(2);
    const first = await register("a", ["cycles"]);
    const second = await register("b", ["instructions", "cpu-clock"]);
    const c = () => register("c", ["cycles", "branches"], true);
    await refused(c(), /^exclusive: the events would be multiplexed with those of b: deregister them/);
    assert.equal(source.live.length, 3);
    await second.leave();
    const third = await c();
    assert.equal(source.live.length, 2);
    await third.leave();
    await first.leave();
    assert.deepEqual(source.live, []);
  });

  it("hold an exclusive handler's claim only while it is there", async () => {
    const { register } = setUp(1);
    const holder = await register("a", ["cycles"], true);
    await refused(register("b", ["branches"]), /those of a,/);
    await register("c", ["cycles", "cpu-clock", "page-faults"]);
    await holder.leave();
    await register("b", ["branches"]);
  });

  it("are counted for the members of groups", async () => {
    const { register } = setUp(3);
    await register("a", ["{cycles,instructions,branches}:S"], true);
    await refused(register("b", ["cycles"]), /those of a,/);
  });

  it("must suffice for an exclusive handler's own events", async () => {
    const { register } = setUp(2);
    await refused(
      register("a", ["cycles", "instructions", "branches"], true),
      /^exclusive: the events do not fit beside each other: ask for fewer \(there are 2 counters\)/,
    );
    await register("a", ["cycles", "instructions"], true);
  });

  it("are not asked for what needs none", async () => {
    const { register } = setUp(0);
    await register("a", ["cpu-clock", "page-faults", "mem:0x1000"], true);
    await refused(register("b", ["cycles"]), /^events: cycles cannot be counted here: there are 0 counters\./);
  });
});
