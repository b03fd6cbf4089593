/** A reader that does not keep up loses its own samples, is told which, and is nobody else's problem. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { BrokerClient, DeregisterResponse, Handler, RegisterRequest } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { startDaemon } from "../support/daemon.js";
import { HandlerWatch } from "../support/handler-watch.js";
import { connectTo } from "../support/live.js";
import { checkBooks, checkEnd, deregisterAndCheck, StreamReader, subscribeNew } from "../support/stream-reader.js";

/** The least there is, so that it is full soon. */
const SMALL_QUEUE = { maxBytes: 64 * 1024, flushIntervalMs: 1 } as const;
/** What comes in a second and more does not fit what is on the way to a reader that takes nothing, but fits this. */
const DEEP_QUEUE = { maxBytes: 16 * 1024 * 1024, flushIntervalMs: 1 } as const;
/** A quarter of a second's, some hundred times what a stream that moves writes at once. */
const STUCK_SAMPLES = 50_000;
const LONG_LEASE_MS = 600_000;

/** Two clients, as two programs would be: a connection that is stuck is one program's. */
async function start(t: TestContext, rate = 200_000): Promise<{ client: BrokerClient; other: BrokerClient }> {
  const daemon = await startDaemon(t, { args: ["--source", `synthetic:${rate}`] });
  return { client: connectTo(t, daemon), other: connectTo(t, daemon) };
}

/** A handler of every sample whose reader takes `started` and nothing more. */
function subscribeStuck(
  client: BrokerClient,
  rest: Partial<RegisterRequest> = {},
  signal?: AbortSignal,
): Promise<StreamReader> {
  const request = { name: "stuck", events: [], queue: SMALL_QUEUE, leaseMs: LONG_LEASE_MS, ...rest };
  return subscribeNew(client, request, { paused: true, signal });
}

/** Resolves when the daemon cannot write to the reader any more: many samples come, and none is delivered. */
async function untilStuck(client: BrokerClient, id: number): Promise<Handler> {
  let last: Handler | undefined;
  return untilHandler(client, id, "a stuck stream", (handler) => {
    if (last === undefined || handler.delivered !== last.delivered) last = handler;
    return handler.lost - last.lost > STUCK_SAMPLES;
  });
}

function untilHandler(client: BrokerClient, id: number, what: string, holds: (handler: Handler) => boolean) {
  return poll(what, async () => {
    const { handlers } = await client.listHandlers();
    return handlers.find((handler) => handler.handlerId === id && holds(handler));
  });
}

test("DROP_NEWEST: the losses are told at their place, and a handler beside it loses nothing", BOUNDED, async (t) => {
  const { client, other } = await start(t);
  const healthy = await subscribeNew(other, { name: "healthy", events: [{ frequencyHz: 100 }] });
  const stuck = await subscribeStuck(client);
  const losing = await untilStuck(other, stuck.handlerId);
  assert.deepEqual(
    losing.losses.map(({ reason }) => reason),
    ["QUEUE_FULL"],
  );
  assert.ok(losing.queueBytes <= losing.queueMaxBytes);
  assert.ok(losing.queueMaxBytes <= SMALL_QUEUE.maxBytes);
  await healthy.untilMore(20);

  stuck.resume();
  await stuck.until("the loss, and samples behind it", () => {
    const [first] = stuck.losses;
    return first !== undefined && stuck.nextSequence > first.sequence + first.loss.count;
  });
  const { loss, sequence } = stuck.losses[0];
  assert.ok(sequence > 0, "what was queued before comes first");
  assert.equal(loss.reason, "QUEUE_FULL");
  assert.ok(loss.period > 0 && loss.firstTime > 0n && loss.firstTime <= loss.lastTime);
  await deregisterAndCheck(client, stuck);
  await healthy.untilMore(20);
  const books = await deregisterAndCheck(other, healthy);
  assert.equal(books.lost, 0);
});

test("DROP_OLDEST: what waits is the newest", BOUNDED, async (t) => {
  const { client, other } = await start(t);
  const healthy = await subscribeNew(other, { name: "healthy", events: [{ frequencyHz: 100 }] });
  const times: bigint[] = [];
  const { handlerId } = await client.register({
    name: "stuck",
    events: [],
    queue: { maxBytes: 1024 * 1024, overflow: "DROP_OLDEST" },
    leaseMs: LONG_LEASE_MS,
  });
  const stuck = new StreamReader(client, handlerId, "stuck", {
    paused: true,
    onBatch: ({ time }) => {
      times.push(time[time.length - 1]);
    },
  });
  await stuck.untilStarted();
  const dropping = await untilHandler(other, handlerId, "a drop", ({ losses }) =>
    losses.some(({ reason, count }) => reason === "QUEUE_DROPPED_OLDEST" && count > 50_000),
  );
  stuck.resume();
  const books = await deregisterAndCheck(client, stuck);
  const dropped = dropping.losses.find(({ reason }) => reason === "QUEUE_DROPPED_OLDEST")?.count ?? 0;
  assert.ok(stuck.lost("QUEUE_DROPPED_OLDEST") >= dropped);
  const last = stuck.losses.filter(({ loss }) => loss.reason === "QUEUE_DROPPED_OLDEST").at(-1);
  assert.ok(last !== undefined && last.sequence + last.loss.count < books.lastSequence, "samples come after the loss");
  assert.ok((times.at(-1) as bigint) > last.loss.firstTime, "and are newer");
  const healthyBooks = await deregisterAndCheck(other, healthy);
  assert.equal(healthyBooks.lost, 0);
});

test("DISCONNECT: the handler is removed with OVERFLOWED", BOUNDED, async (t) => {
  const { client, other } = await start(t);
  using watch = await HandlerWatch.start(other);
  const healthy = await subscribeNew(other, { name: "healthy", events: [{ frequencyHz: 100 }] });
  const cut = await subscribeStuck(client, { queue: { ...DEEP_QUEUE, overflow: "DISCONNECT" } });
  await watch.seen("DRAINING", cut.handlerId, (_change, { state }) => state === "DRAINING");
  cut.resume();
  await checkEnd(cut, "OVERFLOWED");
  assert.ok((cut.end?.lost ?? 0) > 0);
  await watch.removed(cut.handlerId);
  await assert.rejects(client.deregister(cut.handlerId), { code: "NOT_FOUND" });
  await healthy.untilMore(20);
  const books = await deregisterAndCheck(other, healthy);
  assert.equal(books.lost, 0);
});

test("DISCONNECT: a reader that stays stuck does not keep its slot", BOUNDED, async (t) => {
  const { client, other } = await start(t);
  using watch = await HandlerWatch.start(other);
  const cut = await subscribeStuck(client, { queue: { ...DEEP_QUEUE, overflow: "DISCONNECT" } });
  const last = await watch.removed(cut.handlerId);
  assert.equal(last.matched, last.delivered + last.lost);
  assert.deepEqual((await other.listHandlers()).handlers, []);
  cut.resume();
  // The stream is reset, so that nothing of it stays behind.
  await assert.rejects(cut.done, { code: "CANCELLED" });
});

test(
  "Deregister of a stuck reader: DEADLINE_EXCEEDED, DRAINING, and a retry with discard ends it",
  BOUNDED,
  async (t) => {
    const { client, other } = await start(t);
    const healthy = await subscribeNew(other, { name: "healthy", events: [{ frequencyHz: 100 }] });
    const stuck = await subscribeStuck(client);
    await untilStuck(other, stuck.handlerId);

    await assert.rejects(other.deregister(stuck.handlerId, { timeoutMs: 50 }), (error: Error) => {
      assert.match(error.message, /^Deregister: DEADLINE_EXCEEDED: timeout_ms: 50 .*discard/);
      return true;
    });
    const draining = await untilHandler(other, stuck.handlerId, "DRAINING", ({ state }) => state === "DRAINING");
    await healthy.untilMore(20);
    const later = await untilHandler(other, stuck.handlerId, "still DRAINING", ({ state }) => state === "DRAINING");
    assert.equal(later.matched, draining.matched, "it gets nothing new");
    await assert.rejects(other.register({ name: "stuck", events: [] }), { code: "ALREADY_EXISTS" });
    const again = other.subscribe(stuck.handlerId);
    await assert.rejects(again.next(), { code: "FAILED_PRECONDITION" });

    const books = await other.deregister(stuck.handlerId, { discard: true });
    assert.equal(books.matched, draining.matched);
    assert.equal(books.matched, books.delivered + books.lost);
    assert.equal(books.lastSequence, books.matched);
    assert.equal(
      books.losses.reduce((sum, { count }) => sum + count, 0),
      books.lost,
    );
    assert.ok(books.losses.some(({ reason }) => reason === "DISCARDED"));
    const handlers = (await other.listHandlers()).handlers.map(({ name }) => name);
    assert.deepEqual(handlers, ["healthy"]);
    stuck.resume();
    await assert.rejects(stuck.done, { code: "CANCELLED" });
    assert.ok(stuck.samples <= books.delivered);
    const healthyBooks = await deregisterAndCheck(other, healthy);
    assert.equal(healthyBooks.lost, 0);
  },
);

test(
  "Deregister with discard does not wait for a stuck reader, and lets go of what its stream held",
  BOUNDED,
  async (t) => {
    const { client, other } = await start(t);
    const stuck = await subscribeStuck(client);
    await untilStuck(other, stuck.handlerId);
    const { matched, delivered, lost } = await other.deregister(stuck.handlerId, { timeoutMs: 60_000, discard: true });
    assert.equal(matched, delivered + lost);
    stuck.resume();
    // The stream is reset: what was on its way does not arrive behind the books' back.
    await assert.rejects(stuck.done);
    assert.ok(stuck.samples <= delivered, `${stuck.samples} received, ${delivered} delivered`);
  },
);

test("a time-out longer than timers go is as long as they go", BOUNDED, async (t) => {
  const { client } = await start(t);
  const reader = await subscribeNew(client, { name: "patient", events: [{ frequencyHz: 100 }] });
  const removal = client.deregister(reader.handlerId, { timeoutMs: 2 ** 32 - 1 });
  await checkBooks(reader, await removal);
});

test("those who deregister the same handler at once are told the same books", BOUNDED, async (t) => {
  const { client, other } = await start(t);
  using watch = await HandlerWatch.start(other);
  const stuck = await subscribeStuck(client);
  await untilStuck(other, stuck.handlerId);
  const first = client.deregister(stuck.handlerId, { timeoutMs: 30_000 });
  await watch.seen("DRAINING", stuck.handlerId, (_change, { state }) => state === "DRAINING");
  // It waits for its reader: whoever asks now, asks while it is being removed. The refusal shows that both are in.
  const second = other.deregister(stuck.handlerId, { timeoutMs: 30_000 });
  await assert.rejects(other.deregister(stuck.handlerId, { timeoutMs: 1 }), { code: "DEADLINE_EXCEEDED" });
  stuck.resume();
  const [one, two] = await Promise.all([first, second]);
  assert.deepEqual(one, two);
  await checkBooks(stuck, one);
});

test("a client deregisters from within its own stream's loop", BOUNDED, async (t) => {
  const { client } = await start(t, 2000);
  let books: DeregisterResponse | undefined;
  const { handlerId } = await client.register({ name: "its own", events: [], queue: { flushIntervalMs: 5 } });
  const reader: StreamReader = new StreamReader(client, handlerId, "its own", {
    onBatch: async () => {
      if (reader.samples > 100) books ??= await client.deregister(handlerId);
    },
  });
  await reader.done;
  await checkBooks(reader, books as DeregisterResponse);
  assert.equal(books?.lost, 0);
});

test(
  "a stream that breaks while its reader is stuck: the lease removes the handler with balanced books",
  BOUNDED,
  async (t) => {
    const { client, other } = await start(t);
    using watch = await HandlerWatch.start(other);
    const breaking = new AbortController();
    const stuck = await subscribeStuck(client, { leaseMs: 200 }, breaking.signal);
    await untilStuck(other, stuck.handlerId);
    breaking.abort();
    stuck.resume();
    await assert.rejects(stuck.done);
    const last = await watch.removed(stuck.handlerId);
    assert.equal(last.matched, last.delivered + last.lost);
    const reasons = last.losses.map(({ reason }) => reason);
    assert.ok(reasons.includes("LEASE_EXPIRED"), reasons.join());
  },
);
