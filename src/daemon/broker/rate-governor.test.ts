import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { parseEventSpec } from "../../pmu/event-spec.js";
import type { Rate } from "../../pmu/source.js";
import type { Condition } from "./overload-watch.js";
import { type GovernedEvent, RateGovernor } from "./rate-governor.js";
import { capped } from "./rates.js";

const SECOND_NS = 1e9;
const RAISE_AFTER = 10;

interface Event extends GovernedEvent {
  readonly name: string;
  asked: Rate;
  inForce: Rate;
  samples: number;
}

function hz(rate: Rate): number {
  return rate.kind === "frequency" ? rate.hz : 0;
}

function event(name: string, frequency: number, samples = frequency): Event {
  const rate: Rate = { kind: "frequency", hz: frequency };
  return { name, event: { ...parseEventSpec(name), rate, key: name }, asked: rate, inForce: rate, samples };
}

function setUp(...events: Event[]) {
  const governor = new RateGovernor({ floorHz: 100, raiseAfterNs: RAISE_AFTER * SECOND_NS });
  const fixture = {
    governor,
    second: 0,
    events,
    /** One look, and its step carried out: "lower cycles 500", "raise cycles 1000", or null. */
    look(condition: Condition): string | null {
      fixture.second++;
      const step = governor.look(fixture.second * SECOND_NS, condition, fixture.events);
      if (step === null) return null;
      for (const { event, cap } of step.changes) event.inForce = capped(event.asked, cap);
      return [step.kind, ...step.changes.map(({ event }) => `${event.name} ${hz(event.inForce)}`)].join(" ");
    },
    looks(count: number, condition: Condition): (string | null)[] {
      return Array.from({ length: count }, () => fixture.look(condition));
    },
    /** How many looks at `condition` it takes to the next step, and that. */
    until(condition: Condition): [number, string] {
      for (let looks = 1; looks < 10_000; looks++) {
        const step = fixture.look(condition);
        if (step !== null) return [looks, step];
      }
      throw new Error("no step");
    },
  };
  return fixture;
}

describe("RateGovernor: down", () => {
  it("halves at the second bad look, and then at each second one, down to the floor", () => {
    const { looks } = setUp(event("cycles", 350));
    assert.deepEqual(looks(7, "bad"), [null, "lower cycles 175", null, "lower cycles 100", null, null, null]);
  });

  it("takes bad looks together that belong to one overload, and those of two apart", () => {
    const one = setUp(event("cycles", 1000));
    assert.deepEqual([one.look("bad"), ...one.looks(4, "uncertain"), one.look("bad")].at(-1), "lower cycles 500");
    const two = setUp(event("cycles", 1000));
    assert.deepEqual([two.look("bad"), two.look("fine"), two.look("bad")].at(-1), null);
  });

  it("halves what weighs most, and leaves alone what hardly counts or cannot be slower", () => {
    const [big, half, small, atFloor] = [
      event("cycles", 8000),
      event("faults", 4000),
      event("cpu-clock", 1000),
      event("r1", 99, 50_000),
    ];
    const all: Event = { ...event("r2", 0, 90_000), asked: { kind: "all" }, inForce: { kind: "all" } };
    const { looks } = setUp(small, big, atFloor, half, all);
    assert.equal(looks(2, "bad").at(-1), "lower cycles 4000 faults 2000");
  });

  it("does nothing where nothing can be lowered", () => {
    const { looks } = setUp({ ...event("cycles", 0, 1000), asked: { kind: "all" }, inForce: { kind: "all" } });
    assert.ok(looks(20, "bad").every((step) => step === null));
    assert.ok(
      setUp()
        .looks(20, "bad")
        .every((step) => step === null),
    );
  });
});

describe("RateGovernor: up", () => {
  it("doubles after each calm time until all is as it was asked for", () => {
    const { looks, until } = setUp(event("cycles", 1000));
    looks(4, "bad");
    // The look after a step is not counted, and the calm is measured from the first that is.
    assert.deepEqual(until("fine"), [RAISE_AFTER + 2, "raise cycles 500"]);
    assert.deepEqual(until("fine"), [RAISE_AFTER + 2, "raise cycles 1000"]);
    assert.ok(looks(100, "fine").every((step) => step === null));
  });

  it("waits while it is uncertain whether the overload is over", () => {
    const { looks, until } = setUp(event("cycles", 1000));
    looks(3, "bad");
    assert.ok(looks(100, "uncertain").every((step) => step === null));
    assert.deepEqual(until("fine"), [RAISE_AFTER + 1, "raise cycles 1000"]);
  });

  it("takes a step back at once that brings the overload again, and waits twice as long each time, to a bound", () => {
    const { look, looks, until } = setUp(event("cycles", 1000));
    looks(2, "bad");
    const waits: number[] = [];
    for (let i = 0; i < 8; i++) {
      const [wait, step] = until("fine");
      assert.equal(step, "raise cycles 1000");
      waits.push(wait - 2);
      assert.equal(look("bad"), null, "saw both sides of the step");
      assert.equal(look("bad"), "lower cycles 500");
    }
    assert.deepEqual(waits, [10, 20, 40, 80, 160, 320, 320, 320]);
  });

  it("goes back to the failed rate quickly, and is patient only there", () => {
    const { look, looks, until } = setUp(event("cycles", 1000));
    looks(2, "bad");
    until("fine");
    look("bad");
    assert.equal(look("bad"), "lower cycles 500");
    assert.equal(until("bad")[1], "lower cycles 250");
    assert.deepEqual(until("fine"), [RAISE_AFTER + 2, "raise cycles 500"]);
    assert.deepEqual(until("fine"), [2 * RAISE_AFTER + 2, "raise cycles 1000"]);
  });

  it("forgets what failed when it has worked, and when other handlers ask", () => {
    const works = setUp(event("cycles", 1000));
    works.looks(2, "bad");
    works.until("fine");
    works.looks(2, "bad");
    works.until("fine");
    works.looks(RAISE_AFTER + 2, "fine");
    works.looks(2, "bad");
    assert.deepEqual(works.until("fine"), [RAISE_AFTER + 2, "raise cycles 1000"]);

    const other = setUp(event("cycles", 1000));
    other.looks(2, "bad");
    other.until("fine");
    other.looks(2, "bad");
    other.events[0].asked = { kind: "frequency", hz: 900 };
    assert.deepEqual(other.until("fine"), [RAISE_AFTER + 2, "raise cycles 900"]);
  });

  it("remembers which rate failed over steps down that were none: at the floor, or refused", () => {
    for (const refuse of [false, true]) {
      const fixture = setUp(event("cycles", 250));
      const { look, looks, until, governor, events } = fixture;
      looks(2, "bad");
      until("fine");
      looks(2, "bad");
      assert.equal(hz(events[0].inForce), 125);
      if (!refuse) look("bad");
      for (let i = 0; i < 20; i++) {
        if (!refuse) look("bad");
        else {
          const step = governor.look(++fixture.second * SECOND_NS, "bad", events);
          if (step !== null) governor.refused(step);
        }
      }
      if (refuse) assert.equal(hz(events[0].inForce), 125);
      const steps: [number, string][] = [];
      while (hz(events[0].inForce) < 250) steps.push(until("fine"));
      const [looksToLast, last] = steps.at(-1) as [number, string];
      assert.equal(last, "raise cycles 250");
      assert.ok(looksToLast > 2 * RAISE_AFTER, `${looksToLast} looks`);
    }
  });

  it("raises whoever is held back, whatever it remembers", () => {
    const held = event("cycles", 1000);
    held.inForce = { kind: "frequency", hz: 250 };
    const { until, looks } = setUp(held);
    assert.equal(until("fine")[1], "raise cycles 500");
    assert.equal(until("fine")[1], "raise cycles 1000");
    assert.deepEqual(looks(2, "bad").at(-1), "lower cycles 500", "at once: still on trial");
  });

  it("is as patient with a kernel that refuses", () => {
    const { governor, events, second, looks } = setUp(event("cycles", 1000));
    looks(2, "bad");
    let at = second + 2;
    const waits: number[] = [];
    for (let i = 0; i < 3; i++) {
      const before = at;
      let step = null;
      while (step === null) step = governor.look(++at * SECOND_NS, "fine", events);
      assert.equal(step.kind, "raise");
      governor.refused(step);
      waits.push(at - before - 2);
    }
    assert.deepEqual(waits, [10, 20, 40]);
  });
});

describe("RateGovernor: in a loop with a load that it does not know", () => {
  it("finds a rate that can be borne, spends little time above, and comes back when the load goes", () => {
    const cycles = event("cycles", 64_000);
    const faults = event("faults", 500);
    const { look } = setUp(cycles, faults);
    let capacity = 10_000;
    let badLooks = 0;
    let sinceBad = 5;
    const run = (seconds: number): void => {
      for (let i = 0; i < seconds; i++) {
        cycles.samples = hz(cycles.inForce);
        faults.samples = hz(faults.inForce);
        const bad = cycles.samples + faults.samples > capacity;
        sinceBad = bad ? 0 : sinceBad + 1;
        if (bad) badLooks++;
        look(bad ? "bad" : sinceBad < 5 ? "uncertain" : "fine");
      }
    };
    run(10);
    assert.equal(hz(cycles.inForce), 8000);
    assert.equal(hz(faults.inForce), 500, "it hardly counts");
    badLooks = 0;
    run(3600);
    assert.ok(badLooks < 40, `${badLooks} bad seconds in an hour`);
    assert.ok(hz(cycles.inForce) >= 8000);
    capacity = 1e9;
    run(320 + 60);
    assert.equal(hz(cycles.inForce), 64_000);
  });
});
