/** A handler outlives its stream for its lease, and not for longer. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { type TestContext, test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { HandlerWatch } from "../support/handler-watch.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { startNmictl } from "../support/process.js";
import { deregisterAndCheck, StreamReader, subscribeNew } from "../support/stream-reader.js";

const LEASE_MS = 300;
/** Longer than any test: a handler that goes before has not gone by its lease. */
const LONG_LEASE_MS = 600_000;

/** perf_event fds that the daemon holds. */
function perfFds(daemon: RunningDaemon): number {
  const dir = `/proc/${daemon.pid}/fd`;
  let count = 0;
  for (const fd of fs.readdirSync(dir)) {
    try {
      if (fs.readlinkSync(`${dir}/${fd}`) === "anon_inode:[perf_event]") count++;
    } catch (error) {
      // Closed between the listing and the look.
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
  }
  return count;
}

/** A client process that streams the daemon's default event; resolves when its first sample has arrived. */
async function startClientProcess(t: TestContext, daemon: RunningDaemon, name: string, hz: number) {
  const args = [
    "-e",
    "cpu-clock",
    "-F",
    String(hz),
    "--name",
    name,
    "--lease",
    String(LEASE_MS),
    "--flush-interval",
    "1",
  ];
  const client = startNmictl(t, daemon, "--json", "subscribe", ...args);
  await client.line(/"kind":"sample"/);
  return client;
}

test(
  "a client killed in mid-stream: its lease removes the handler, and the kernel's event is closed",
  BOUNDED,
  async (t) => {
    const daemon = await startLiveDaemon(t);
    if (daemon === null) return;
    const client = connectTo(t, daemon);
    startBusy(t, { cpu: usableCpus()[0] });
    using watch = await HandlerWatch.start(client);
    const idleFds = perfFds(daemon);

    const killed = await startClientProcess(t, daemon, "killed", 5000);
    const { handlerId } = (await client.listHandlers()).handlers[0];
    assert.ok(perfFds(daemon) > idleFds);
    assert.equal((await client.getStatus()).events[0].frequencyHz, 5000);
    killed.kill("SIGKILL");
    await watch.seen("the stream broken", handlerId, ({ kind }, { subscribed }) => kind === "CHANGED" && !subscribed);
    const last = await watch.removed(handlerId);
    assert.equal(last.matched, last.delivered + last.lost);

    assert.deepEqual((await client.getStatus()).events, []);
    assert.equal(perfFds(daemon), idleFds);
    assert.deepEqual((await client.listHandlers()).handlers, []);
  },
);

test("a client killed in mid-stream: the event is re-rated for those that stay", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  startBusy(t, { cpu: usableCpus()[0] });
  using watch = await HandlerWatch.start(client);
  const steady = await subscribeNew(client, { name: "steady", events: [{ event: "cpu-clock", frequencyHz: 100 }] });
  await steady.untilMore(5);
  const fds = perfFds(daemon);

  const killed = await startClientProcess(t, daemon, "killed", 5000);
  const ids = (await client.listHandlers()).handlers.map(({ handlerId }) => handlerId);
  const handlerId = ids.find((id) => id !== steady.handlerId) as number;
  assert.equal((await client.getStatus()).events[0].frequencyHz, 5000);
  killed.kill("SIGKILL");
  await watch.removed(handlerId);

  const [armed] = (await client.getStatus()).events;
  assert.deepEqual({ frequencyHz: armed.frequencyHz, handlers: armed.handlers }, { frequencyHz: 100, handlers: 1 });
  assert.equal(perfFds(daemon), fds, "one event, shared");
  await steady.untilMore(20);
  await deregisterAndCheck(client, steady);
});

test("a handler that nobody subscribes to is removed by its lease", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000"] });
  const client = connectTo(t, daemon);
  using watch = await HandlerWatch.start(client);
  const request = { name: "forgotten", events: [], leaseMs: LEASE_MS };
  const { handlerId, leaseMs } = await client.register(request);
  assert.equal(leaseMs, LEASE_MS);
  const last = await watch.removed(handlerId);
  assert.equal(last.delivered, 0);
  assert.equal(last.lost, last.matched);
  await assert.rejects(client.deregister(handlerId), { code: "NOT_FOUND" });
  const { events, totals } = await client.getStatus();
  assert.deepEqual(events, []);
  assert.equal(totals?.matched, totals?.lost);
  // The name is free again.
  const again = await client.register({ ...request, leaseMs: LONG_LEASE_MS });
  assert.notEqual(again.handlerId, handlerId);
});

test(
  "subscribing again within the lease resumes: numbers go on, and the books hold both streams",
  BOUNDED,
  async (t) => {
    const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
    const client = connectTo(t, daemon);
    using watch = await HandlerWatch.start(client);
    const { handlerId } = await client.register({ name: "resumed", events: [], leaseMs: LONG_LEASE_MS });
    const breaking = new AbortController();
    const first = new StreamReader(client, handlerId, "first", { signal: breaking.signal });
    await first.untilMore(2000);
    assert.equal(first.started?.resumed, false);
    breaking.abort();
    await assert.rejects(first.done);
    const idle = await watch.seen("broken", handlerId, ({ kind }, { subscribed, state, matched }) => {
      return kind === "CHANGED" && !subscribed && state === "ACTIVE" && matched > 0;
    });
    assert.ok(idle.leaseRemainingMs > 0);

    // It goes on matching without a stream: what waits in the queue is the next stream's.
    await poll("samples matched without a stream", async () => {
      const [handler] = (await client.listHandlers()).handlers;
      return handler.matched > idle.matched ? handler : undefined;
    });
    const second = new StreamReader(client, handlerId, "second");
    await second.untilMore(2000);
    assert.equal(second.started?.resumed, true);
    assert.equal((await client.listHandlers()).handlers[0].leaseRemainingMs, 0);
    const books = await client.deregister(handlerId);
    await second.done;

    const resumedAt = second.started?.nextSequence ?? 0;
    // What the daemon had handed over when the client left, and the client never read. Negative: what the client has read
    // although the daemon had to take it for lost.
    const inTransit = resumedAt - first.nextSequence;
    assert.equal(books.matched, books.delivered + books.lost);
    assert.equal(books.delivered, first.samples + inTransit + second.samples);
    assert.equal(books.lost, second.events[0].lost);
    assert.equal(books.lastSequence, books.matched);
    assert.equal(second.nextSequence, books.lastSequence);
    assert.equal(second.end?.matched, books.matched);
  },
);
