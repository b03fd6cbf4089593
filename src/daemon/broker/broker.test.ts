import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FaultyStream, HeldStream } from "../delivery/delivery.test-support.js";
import { openBroker } from "./broker.test-support.js";

describe("Broker: a stream that throws", () => {
  it("costs its own handler the stream, no one else anything, and one line in the log", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { broker, request, dispatcherOf, log } = openBroker();
    const [victim, other] = [await broker.register(request("victim"), ""), await broker.register(request("other"), "")];
    const [faulty, healthy] = [new FaultyStream(), new HeldStream()];
    broker.subscribe(victim.id, faulty);
    broker.subscribe(other.id, healthy);
    faulty.releaseAll();
    healthy.releaseAll();
    log.length = 0;
    faulty.failing = "write";
    for (const { handle } of [victim, other]) {
      dispatcherOf(handle.slot).put(3);
      broker.wake(handle.slot);
    }
    healthy.releaseAll();
    assert.deepEqual(log, [
      {
        event: "stream failed",
        fields: { handler: victim.id, name: "victim", lease_ms: 60_000, peer: "", error: "write has failed" },
      },
    ]);
    assert.deepEqual(healthy.story, ["started 0", "samples 0+3"]);
    assert.equal(other.lease, null);
    assert.ok(victim.lease !== null);
    assert.equal(victim.delivery.subscribed, false);
    const next = new HeldStream();
    broker.subscribe(victim.id, next);
    next.releaseAll();
    assert.deepEqual(next.story, ["started 0", "loss STREAM_BROKEN 3"]);
    assert.equal(next.messages[0].started?.resumed, true);
    assert.equal(victim.lease, null);
  });

  it("as it is attached leaves the handler to be subscribed again, until its lease ends", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { broker, request, log } = openBroker();
    const handler = await broker.register(request("a"), "");
    const faulty = new FaultyStream();
    faulty.failing = "write";
    log.length = 0;
    broker.subscribe(handler.id, faulty);
    assert.deepEqual(
      log.map(({ event }) => event),
      ["stream failed"],
    );
    assert.equal(faulty.aborted, true);
    assert.ok(handler.lease !== null);
    // The transport reports its end as well, as it does of any other.
    broker.streamBroken(handler);
    assert.equal(log.length, 1);
    const next = new HeldStream();
    broker.subscribe(handler.id, next);
    assert.equal(next.messages[0].started?.resumed, false);
  });
});

describe("Broker: a registration that fails", () => {
  it("takes nothing when there is no memory for the outbox", async () => {
    const { broker, parts, request } = openBroker();
    const { openHandler } = await import("./registration.js");
    const { checkRegister } = await import("./request.js");
    const spec = checkRegister(request("a"), { source: parts.source, limits: parts.limits, dispatchers: 1 });
    const reports = { onOverflow() {}, onFault() {} };
    const terms = { principal: "", registrant: null, visibility: { kernelAddresses: true, owner: null } };
    const none = (): never => {
      throw new RangeError("Array buffer allocation failed");
    };
    await assert.rejects(openHandler(parts, spec, "", terms, reports, none), /allocation failed/);
    assert.equal(parts.outboxMemory.usedBytes, 0);
    assert.equal(broker.handlers.length, 0);
  });

  it("gives everything back, also what cannot be undone in order", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const fixture = openBroker(1);
    const { broker, parts, request, source, log } = fixture;
    fixture.failOn = "attach";
    // The event is closed by the undoing, which fails too.
    source.refuse = (what) => (what === "close" ? new Error("close failed") : null);
    await assert.rejects(broker.register(request("a"), ""), /attach failed/);
    assert.equal(parts.outboxMemory.usedBytes, 0);
    assert.ok(log.some(({ event }) => event === "a registration could not be undone"));
    source.refuse = () => null;
    const handler = await broker.register(request("a"), "");
    assert.ok(handler.chargedBytes > 0);
    assert.equal(parts.outboxMemory.usedBytes, handler.chargedBytes);
  });
});

describe("Broker: what has changed in the machine", () => {
  it("is followed before a request is looked at, and a stop meanwhile refuses it", async () => {
    const { broker, source, parts, request } = openBroker();
    const story: string[] = [];
    let looked = (): void => {};
    parts.machine.look = () => {
      story.push("look");
      return new Promise((resolve) => {
        looked = resolve;
      });
    };
    const resolveEvent = source.resolve.bind(source);
    source.resolve = (event) => {
      story.push("resolve");
      return resolveEvent(event);
    };
    const first = broker.register(request("first"), "");
    assert.deepEqual(story, ["look"]);
    looked();
    await first;
    assert.deepEqual(story, ["look", "resolve"]);
    const late = broker.register(request("late"), "");
    await broker.stop(0);
    looked();
    await assert.rejects(late, { code: "UNAVAILABLE" });
    assert.deepEqual(broker.handlers, []);
  });
});

describe("Broker: how long samples wait", () => {
  it("grows with the streams of handlers that leave it to the daemon, and dispatchers follow", async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    const { broker, request, told, parts } = openBroker();
    const queue = { max_bytes: 0, overflow: "DROP_NEWEST" };
    const small = { ...queue, max_bytes: parts.limits.queueDefaultBytes / 2 };
    const own = { ...queue, flush: "flush_interval_ms", flush_interval_ms: 7 };
    const names = Array.from({ length: 16 }, (_, i) => `default ${i}`);
    const adapting = await Promise.all(names.map((name) => broker.register(request(name), "")));
    const fixed = [await broker.register(request("own", own), ""), await broker.register(request("small", small), "")];
    const intervals = (): Set<number> => new Set(adapting.map(({ delivery }) => delivery.flushIntervalMs));
    assert.deepEqual(intervals(), new Set([400]), "without a stream a handler costs nothing");
    const streams = [...adapting, ...fixed].map(({ id }) => {
      const stream = new HeldStream();
      broker.subscribe(id, stream);
      return stream;
    });
    assert.deepEqual(intervals(), new Set([800]));
    assert.deepEqual(
      fixed.map(({ delivery }) => delivery.flushIntervalMs),
      [7, 400],
      "what a handler says stands, and a small queue does not hold more",
    );
    const late = await broker.register(request("late"), "");
    const attached = told.filter((control) => control.kind === "attach").map(({ spec }) => spec);
    assert.deepEqual([attached.at(-1)?.flushIntervalMs, attached.at(-1)?.flushIsDaemons], [800, true]);
    assert.deepEqual(
      attached.slice(16, 18).map(({ flushIntervalMs, flushIsDaemons }) => [flushIntervalMs, flushIsDaemons]),
      [
        [7, false],
        [400, false],
      ],
    );
    assert.equal(late.delivery.flushIntervalMs, 800);
    const last = (): unknown => told.findLast(({ kind }) => kind === "flush interval");
    assert.deepEqual(last(), { kind: "flush interval", intervalMs: 800 });
    for (const handler of adapting.slice(8)) broker.streamBroken(handler);
    await Promise.resolve();
    assert.deepEqual(intervals(), new Set([400]));
    assert.deepEqual(last(), { kind: "flush interval", intervalMs: 400 });
    assert.equal(streams.length, 18);
  });
});
