/** Events that are more than a name: tracepoints, breakpoints and groups, from the kernel to a client. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import type { BrokerClient, SampleBatch } from "../../clients/typescript/index.js";
import { RpcError } from "../../clients/typescript/index.js";
import { mapAnonymous, unmap, viewMemory } from "../../src/pmu/ffi.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const PAGE_BYTES = 4096;
const SWITCHES = "sched:sched_switch";
const queue = { flushIntervalMs: 10 };

/** null, and the test skipped with the daemon's own words, where `name` cannot be sampled. */
async function clientThatOffers(t: TestContext, name: string, kind: string): Promise<BrokerClient | null> {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return null;
  const client = connectTo(t, daemon);
  const { events } = await client.listEvents();
  const event = events.find((listed) => listed.name === name) ?? events.find((listed) => listed.name.startsWith(kind));
  if (event?.name === name && event.canSample) return client;
  t.skip(`${name}: ${event?.reason ?? "not listed"}`);
  return null;
}

test("a tracepoint: each occurrence for one handler, weights for another, from one event", BOUNDED, async (t) => {
  const client = await clientThatOffers(t, SWITCHES, "<subsystem>");
  if (client === null) return;
  const periods = { each: new Set<bigint>(), tenth: new Set<bigint>() };
  const keep = (set: Set<bigint>) => ({
    onBatch: ({ period }: SampleBatch) => {
      for (const value of period) set.add(value);
    },
  });
  // The daemon, its client and this test switch contexts for every message.
  const each = await subscribeNew(client, { name: "each", events: [{ event: SWITCHES }], queue }, keep(periods.each));
  const tenth = await subscribeNew(
    client,
    { name: "tenth", events: [{ event: SWITCHES, period: 10 }], queue },
    keep(periods.tenth),
  );
  assert.deepEqual(
    (await client.getStatus()).events.map(({ name, handlers, period }) => ({ name, handlers, period })),
    [{ name: SWITCHES, handlers: 2, period: 1 }],
  );
  await Promise.all([each.untilMore(50), tenth.untilMore(10)]);
  await deregisterAndCheck(client, tenth);
  await deregisterAndCheck(client, each);
  assert.deepEqual([...periods.each], [1n]);
  assert.deepEqual([...periods.tenth], [10n]);
});

test("a pattern of tracepoints is an event for each", BOUNDED, async (t) => {
  const client = await clientThatOffers(t, SWITCHES, "<subsystem>");
  if (client === null) return;
  const { handlerId, events } = await client.register({ name: "pattern", events: [{ event: "sched:sched_wak*" }] });
  const names = events.map(({ name }) => name);
  assert.ok(names.includes("sched:sched_wakeup") && names.includes("sched:sched_waking"), names.join());
  assert.equal(new Set(events.map(({ config }) => config)).size, events.length);
  await client.deregister(handlerId);
});

test("a breakpoint: who writes where, sample for sample", BOUNDED, async (t) => {
  const client = await clientThatOffers(t, "mem:<address>[/<length>][:<rwx>]", "mem:");
  if (client === null) return;
  const address = mapAnonymous(PAGE_BYTES);
  t.after(() => unmap(address, PAGE_BYTES));
  const words = new BigUint64Array(viewMemory(address, PAGE_BYTES));
  const reader = await subscribeNew(client, {
    name: "breakpoint",
    events: [{ event: `mem:0x${(address + 8n).toString(16)}/8:w:u` }],
    filter: { pids: [process.pid] },
    queue,
  });
  const WRITES = 25;
  for (let i = 0; i < WRITES; i++) {
    words[0] = BigInt(i);
    words[1] = BigInt(i);
  }
  await reader.until("all writes", () => reader.samples >= WRITES);
  await deregisterAndCheck(client, reader);
  assert.deepEqual([...reader.samplesByPid], [[process.pid, WRITES]]);
});

test("a group: its leader samples, and what follows keeps its place", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  startBusy(t, { cpu: usableCpus()[0] });
  const seen = new Set<number>();
  const request = {
    name: "group",
    events: [
      { event: "{cpu-clock,page-faults,context-switches}:S", frequencyHz: 500 },
      { event: "task-clock", frequencyHz: 500 },
    ],
    queue,
  };
  const reader = await subscribeNew(client, request, { onBatch: ({ eventIndex }) => void seen.add(eventIndex) });
  assert.deepEqual(
    reader.started?.events.map(({ name, frequencyHz }) => [name, frequencyHz]),
    [
      ["cpu-clock", 500],
      ["page-faults", 0],
      ["context-switches", 0],
      ["task-clock", 500],
    ],
  );
  const { events } = await client.getStatus();
  assert.deepEqual(
    events.map(({ name }) => name),
    ["cpu-clock", "task-clock"],
  );
  await reader.until("both", () => seen.has(0) && seen.has(3));
  const books = await deregisterAndCheck(client, reader);
  assert.deepEqual([...seen].sort(), [0, 3]);
  assert.equal(books.events.length, 4);
  assert.ok(books.events.every(({ eventIndex, matched }) => matched === 0 || eventIndex === 0 || eventIndex === 3));
});

test("what cannot be had is refused with its place and the remedy", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  for (const [event, code, message] of [
    ["cpu-clock:e", "INVALID_ARGUMENT", /^events\[1\]\.event: event "cpu-clock:e", column 11: .*`exclusive`/],
    ["{cpu-clock,page-faults}", "INVALID_ARGUMENT", /^events\[1\]\.event: groups in which every event samples/],
    ["mem:main", "INVALID_ARGUMENT", /^events\[1\]\.event: .*column 5: "main" is no address/],
    ["msr/tsc/", "FAILED_PRECONDITION", /^events\[1\]\.event: event msr\/tsc\/: the PMU only counts the event/],
  ] as const) {
    const { pmus } = await client.listEvents();
    if (event === "msr/tsc/" && !pmus.some(({ name }) => name === "msr")) continue;
    await assert.rejects(client.register({ name: "refused", events: [{}, { event }] }), (error: unknown) => {
      assert.ok(error instanceof RpcError, String(error));
      assert.equal(error.code, code, error.message);
      assert.match(error.details, message);
      return true;
    });
  }
  assert.deepEqual((await client.getStatus()).events, []);
});
