/** The software sources: the same code behind the ring, so the same books. */
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import type { BrokerClient, End, EventBooks } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { REPOSITORY, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { checkEnd, deregisterAndCheck, StreamReader, subscribeNew } from "../support/stream-reader.js";

const RECORDING = path.join(REPOSITORY, "recordings", "demo.perf.data");

/** All that was matched or left out. */
function weight({ periodDelivered, periodLost, periodCarried }: EventBooks): bigint {
  return periodDelivered + periodLost + periodCarried;
}

/** A handler of every sample, streamed until the recording ends. */
async function wholeRun(client: BrokerClient, name: string): Promise<End> {
  const reader = await subscribeNew(client, { name, events: [] });
  return checkEnd(reader, "SOURCE_ENDED");
}

test("a recording is played to all, ends their streams, and starts again for the next", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", `replay:${RECORDING}`] });
  const client = connectTo(t, daemon);
  // One that leaves in the middle: the next run begins at the beginning.
  const passing = await subscribeNew(client, { name: "passing", events: [] });
  await passing.untilMore(5);
  await deregisterAndCheck(client, passing);

  const requests = [
    { name: "every sample", events: [] },
    { name: "thinned", events: [{ frequencyHz: 10 }] },
    { name: "by weight", events: [{ period: 50_000_000 }] },
    { name: "user", events: [], filter: { excludeKernel: true } },
    { name: "kernel", events: [], filter: { excludeUser: true } },
  ];
  const registered = await Promise.all(requests.map((request) => client.register(request)));
  const readers = registered.map(({ handlerId }, i) => new StreamReader(client, handlerId, requests[i].name));
  const [every, thinned, byWeight, user, kernel] = await Promise.all(
    readers.map((reader) => checkEnd(reader, "SOURCE_ENDED")),
  );
  for (const end of [every, thinned, byWeight, user, kernel]) assert.equal(end.lost, 0);
  const total = weight(every.events[0]);
  assert.equal(every.events[0].periodCarried, 0n);
  assert.ok(thinned.delivered < every.delivered && byWeight.delivered < every.delivered);
  assert.ok(thinned.delivered > 1 && byWeight.delivered > 1);
  assert.equal(weight(thinned.events[0]), total, "what is left out is added to what is sent, or carried");
  assert.equal(weight(byWeight.events[0]), total);
  assert.equal(user.delivered + kernel.delivered, every.delivered, "each sample is one or the other");
  assert.equal(readers[0].started?.source, "replay");
  assert.deepEqual((await client.listHandlers()).handlers, []);

  const again = await wholeRun(client, "again");
  assert.deepEqual(again.events, every.events, "the same recording, sample for sample");
});

test("a handler that the recording's end found without a stream lives on for its lease", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", `replay:${RECORDING}`] });
  const client = connectTo(t, daemon);
  const { handlerId } = await client.register({ name: "late", events: [], leaseMs: 600_000 });
  const first = await wholeRun(client, "first");
  const late = new StreamReader(client, handlerId, "late");
  const end = await checkEnd(late, "SOURCE_ENDED");
  assert.equal(end.delivered, 2 * first.delivered, "what had waited for it, and the run it began");
});

test("several dispatchers: every sample is somebody's, and the books are one", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:50000,cpus=4", "--dispatchers", "2"] });
  const client = connectTo(t, daemon);
  const queue = { maxBytes: 16 * 1024 * 1024 };
  const all = await subscribeNew(client, { name: "all", events: [{ event: "cpu-clock" }], queue });
  const both = await subscribeNew(client, {
    name: "two events",
    events: [{ event: "cpu-clock", frequencyHz: 500 }, { event: "cycles" }],
    queue,
  });
  const perCpu = await Promise.all(
    [0, 1, 2, 3].map((cpu) =>
      subscribeNew(client, { name: `cpu ${cpu}`, events: [{ event: "cpu-clock" }], filter: { cpus: [cpu] }, queue }),
    ),
  );
  await Promise.all([all, both, ...perCpu].map((reader) => reader.untilMore(5000)));
  for (const reader of perCpu) await deregisterAndCheck(client, reader);
  const books = await deregisterAndCheck(client, both);
  await deregisterAndCheck(client, all);

  assert.deepEqual([...all.samplesByCpu.keys()].sort(), [0, 1, 2, 3]);
  for (const [cpu, reader] of perCpu.entries()) assert.deepEqual([...reader.samplesByCpu.keys()], [cpu]);
  assert.ok(books.events.every(({ delivered }) => delivered > 0));
  const { dispatchers, totals } = await client.getStatus();
  assert.deepEqual(
    dispatchers.map(({ cpus }) => [...cpus]),
    [
      [0, 1],
      [2, 3],
    ],
  );
  assert.ok(dispatchers.every(({ samples, corruptBytes }) => samples > 0 && corruptBytes === 0));
  assert.equal(
    dispatchers.reduce((sum, { samples }) => sum + samples, 0),
    totals?.samples,
  );
  assert.equal(totals?.matched, (totals?.delivered ?? 0) + (totals?.lost ?? 0));
});
