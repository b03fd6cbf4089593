import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { type HeldStream, openDelivery } from "../delivery/delivery.test-support.js";
import { type ArmedEvent, ArmedEvents, type EventUser } from "./armed-events.js";
import { FakeSource } from "./fake-source.test-support.js";
import type { Handler } from "./handler.js";
import { KernelLossWatch } from "./kernel-loss.js";

interface Fixture {
  readonly source: FakeSource;
  readonly armedEvents: ArmedEvents;
  readonly watch: KernelLossWatch;
  arm(event: string): Promise<{ armed: ArmedEvent; user: EventUser }>;
  lose(opened: number, lost: number | null): void;
}

function setUp(): Fixture {
  const source = new FakeSource();
  const armedEvents = new ArmedEvents({
    source,
    tellAll: source.tellAll,
    onArmed: () => {},
    onRetired: () => {},
    onProblem: () => {},
  });
  return {
    source,
    armedEvents,
    watch: new KernelLossWatch(armedEvents),
    arm: async (event) => {
      const user = { event: source.resolve({ event })[0], sampleType: 0, branchCounters: false, wakeEach: false };
      const [armed] = await armedEvents.acquire([user]);
      return { armed, user };
    },
    lose: (opened, lost) => {
      source.opened[opened].reading = { lost, produced: null, timeEnabledNs: 0, timeRunningNs: 0 };
    },
  };
}

function handlerOf(...armed: ArmedEvent[]): { handler: Handler; stream: HeldStream; told(): [number, number][] } {
  const fixture = openDelivery({ events: armed.length });
  const stream = fixture.attach();
  // The watch looks at these alone.
  const handler = { armed, places: armed.map((_, i) => i), delivery: fixture.delivery } as unknown as Handler;
  return {
    handler,
    stream,
    told: () => {
      stream.releaseAll();
      return stream.messages.flatMap(({ loss }) =>
        loss?.reason === "KERNEL" ? [[loss.event_index, loss.count] as [number, number]] : [],
      );
    },
  };
}

describe("KernelLossWatch", () => {
  it("tells every handler of the event what is new, under its own index", async () => {
    const { watch, arm, lose } = setUp();
    const [{ armed: cycles }, { armed: clock }] = [await arm("cycles"), await arm("cpu-clock")];
    const both = handlerOf(clock, cycles);
    const one = handlerOf(cycles);
    const none = handlerOf();
    const handlers = [both.handler, one.handler, none.handler];
    watch.poll(handlers);
    lose(0, 5);
    watch.poll(handlers);
    watch.poll(handlers);
    lose(0, 7);
    lose(1, 1);
    watch.poll(handlers);
    // A stream that is being written is told once of all that came meanwhile.
    assert.deepEqual(both.told().sort(), [
      [0, 1],
      [1, 7],
    ]);
    assert.deepEqual(one.told(), [[0, 7]]);
    assert.deepEqual(none.told(), []);
  });

  it("does not tell a handler of what was lost before it came", async () => {
    const { watch, arm, lose } = setUp();
    const { armed } = await arm("cycles");
    lose(0, 5);
    watch.poll([]);
    const late = handlerOf(armed);
    lose(0, 6);
    watch.poll([late.handler]);
    assert.deepEqual(late.told(), [[0, 1]]);
  });

  it("is silent where the kernel cannot count", async () => {
    const { watch, arm, lose } = setUp();
    const { armed } = await arm("cycles");
    const handler = handlerOf(armed);
    lose(0, null);
    watch.poll([handler.handler]);
    assert.deepEqual(handler.told(), []);
    assert.equal(watch.retire(armed, [handler.handler]).lost, null);
    assert.deepEqual(handler.told(), []);
  });

  it("gives the last reading of an event that goes, and starts anew with its successor", async () => {
    const { watch, armedEvents, arm, lose } = setUp();
    const { armed, user } = await arm("cycles");
    lose(0, 5);
    watch.poll([]);
    lose(0, 8);
    assert.deepEqual([watch.seen(armed), watch.total], [5, 5]);
    const last = handlerOf(armed);
    assert.equal(watch.retire(armed, [last.handler]).lost, 8);
    assert.deepEqual(last.told(), [[0, 3]], "up to the end");
    assert.equal(watch.total, 8);
    await armedEvents.release([armed], [user]);
    const { armed: next } = await arm("cycles");
    const handler = handlerOf(next);
    lose(1, 2);
    watch.poll([handler.handler]);
    assert.deepEqual(handler.told(), [[0, 2]]);
    assert.deepEqual([watch.seen(next), watch.total], [2, 10], "of events that are gone, too");
  });
});
