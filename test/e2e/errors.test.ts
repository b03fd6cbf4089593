/** Bad input: each request is refused with its code and the name of its field, and nobody else notices. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { type TestContext, test } from "node:test";
import type { BrokerClient, Field, Overflow, RegisterRequest } from "../../clients/typescript/index.js";
import { RpcError } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { deregisterAndCheck, type StreamReader, subscribeNew } from "../support/stream-reader.js";

interface Stage {
  readonly daemon: RunningDaemon;
  readonly client: BrokerClient;
  /** A stream beside what goes wrong. */
  readonly witness: StreamReader;
}

/** A daemon with one stream; after `act` that stream must go on, lack nothing and end well. */
async function withWitness(
  t: TestContext,
  args: readonly string[],
  act: (stage: Stage) => Promise<void>,
): Promise<void> {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:2000", ...args] });
  const client = connectTo(t, daemon);
  const witness = await subscribeNew(client, { name: "witness", events: [] });
  await witness.untilMore(10);
  await act({ daemon, client, witness });
  await witness.untilMore(10);
  const books = await deregisterAndCheck(client, witness);
  assert.equal(books.lost, 0);
  assert.deepEqual((await client.listHandlers()).handlers, [], "what was refused left nothing behind");
  assert.deepEqual((await client.getStatus()).events, []);
  assert.doesNotMatch(daemon.logs.join("\n"), /"level":"(?:error|fatal)"/);
}

async function refused(call: Promise<unknown>, code: string, message: RegExp): Promise<void> {
  await assert.rejects(call, (error: unknown) => {
    assert.ok(error instanceof RpcError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.details, message);
    return true;
  });
}

const NAMED: RegisterRequest = { name: "refused", events: [] };
/** Numbers that a later version of the contract may give a name. */
const UNKNOWN_FIELD = 99 as unknown as Field;
const UNKNOWN_OVERFLOW = 77 as unknown as Overflow;

/** What is refused as INVALID_ARGUMENT, and what the message must begin with: the field, then what is wrong with it. */
const INVALID: readonly (readonly [what: string, request: RegisterRequest, message: RegExp])[] = [
  ["unknown event", { ...NAMED, events: [{ event: "cpu-clok" }] }, /^events\[0\].*cpu-clok.*cpu-clock/],
  ["unknown modifier", { ...NAMED, events: [{ event: "cpu-clock:z" }] }, /^events\[0\].*modifier/],
  ["modifier missing", { ...NAMED, events: [{}, { event: "cpu-clock:" }] }, /^events\[1\].*modifier/],
  ["an event twice", { ...NAMED, events: [{ event: "cycles" }, { event: "cycles" }] }, /^events\[1\].*twice/],
  ["both rates", { ...NAMED, events: [{ frequencyHz: 99, period: 1000 }] }, /^events\[0\].*frequency_hz.*period/],
  ["a rate beyond reason", { ...NAMED, events: [{ frequencyHz: 4_000_000_000 }] }, /^events\[0\].*frequency_hz/],
  ["too many events", { ...NAMED, events: Array.from({ length: 64 }, () => ({})) }, /^events: 64 .*at most 63/],
  ["no name", { ...NAMED, name: "" }, /^name: empty/],
  ["a name too long", { ...NAMED, name: "é".repeat(32) }, /^name: 64 bytes.*at most 63/],
  ["a name with control characters", { ...NAMED, name: "red\u001b[31m" }, /^name: .*control/],
  ["a name with a line feed", { ...NAMED, name: "two\nlines" }, /^name: .*control/],
  ["a queue too small", { ...NAMED, queue: { maxBytes: 1 } }, /^queue\.max_bytes: 1:/],
  ["a queue too large", { ...NAMED, queue: { maxBytes: 2 ** 40 } }, /^queue\.max_bytes: 1099511627776:/],
  ["a flush interval too long", { ...NAMED, queue: { flushIntervalMs: 2 ** 31 } }, /^queue\.flush_interval_ms: /],
  ["a lease too long", { ...NAMED, leaseMs: 2 ** 31 }, /^lease_ms: /],
  ["a field of other events", { ...NAMED, fields: ["CALLCHAIN", "AUX"] }, /^fields\[\]: AUX .*add such an event/],
  ["a field not known", { ...NAMED, fields: [UNKNOWN_FIELD] }, /^fields\[0\]: 99/],
  ["an overflow not known", { ...NAMED, queue: { overflow: UNKNOWN_OVERFLOW } }, /^queue\.overflow: 77/],
  ["nothing left", { ...NAMED, filter: { excludeUser: true, excludeKernel: true } }, /^filter\.exclude_kernel: /],
  ["too long a filter", { ...NAMED, filter: { pids: Array.from({ length: 1025 }, () => 1) } }, /^filter\.pids: 1025/],
  ["no such cgroup", { ...NAMED, filter: { cgroups: ["/no/such/group"] } }, /^filter\.cgroups\[0\]: /],
  ["a cgroup outside", { ...NAMED, filter: { cgroups: ["/../etc"] } }, /^filter\.cgroups\[0\]: /],
];

test("Register refuses what cannot be, naming the field", BOUNDED, async (t) => {
  await withWitness(t, [], async ({ client }) => {
    for (const [what, request, message] of INVALID) {
      await t.test(what, () => refused(client.register(request), "INVALID_ARGUMENT", message));
    }
  });
});

test("rate 0 and period 0 is every sample of a synthetic source", BOUNDED, async (t) => {
  await withWitness(t, [], async ({ client }) => {
    const { handlerId, events } = await client.register({ ...NAMED, events: [{ frequencyHz: 0, period: 0 }] });
    assert.deepEqual([events[0].frequencyHz, events[0].period], [0, 0]);
    await client.deregister(handlerId);
  });
});

test(
  "a rate above the kernel's maximum is refused with the maximum; neither rate nor period is 99 Hz",
  BOUNDED,
  async (t) => {
    const daemon = await startLiveDaemon(t);
    if (daemon === null) return;
    const client = connectTo(t, daemon);
    // The kernel lowers it by itself under load.
    const max = Number(fs.readFileSync("/proc/sys/kernel/perf_event_max_sample_rate", "utf8"));
    const tooFast = { ...NAMED, events: [{ event: "cpu-clock", frequencyHz: max + 1 }] };
    await refused(
      client.register(tooFast),
      "INVALID_ARGUMENT",
      /^events\[0\]\.frequency_hz: .*perf_event_max_sample_rate/,
    );
    const { handlerId, events } = await client.register({ ...NAMED, events: [{ event: "cpu-clock" }] });
    assert.equal(events[0].frequencyHz, 99);
    await client.deregister(handlerId);
    assert.deepEqual((await client.getStatus()).events, []);
  },
);

test("a name that is taken is ALREADY_EXISTS and free again after the removal", BOUNDED, async (t) => {
  await withWitness(t, [], async ({ client, witness }) => {
    const again = { name: witness.name, events: [] };
    await refused(client.register(again), "ALREADY_EXISTS", /^name: "witness"/);
    const race = await Promise.allSettled([client.register(NAMED), client.register(NAMED), client.register(NAMED)]);
    const won = race.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
    assert.equal(won.length, 1, "one of those that ask at once gets it");
    await client.deregister(won[0].handlerId);
    const { handlerId } = await client.register(NAMED);
    await client.deregister(handlerId);
  });
});

test("a stale handler id is NOT_FOUND, also when its slot has a new owner", BOUNDED, async (t) => {
  await withWitness(t, ["--capacity", "2"], async ({ client }) => {
    const old = await client.register({ ...NAMED, name: "old" });
    await client.deregister(old.handlerId);
    await refused(client.deregister(old.handlerId), "NOT_FOUND", /^handler_id: /);
    // The only free slot.
    const reader = await subscribeNew(client, { name: "new", events: [] });
    assert.notEqual(reader.handlerId, old.handlerId);
    await refused(client.deregister(old.handlerId), "NOT_FOUND", /^handler_id: /);
    await refused(subscribeNewStream(client, old.handlerId), "NOT_FOUND", /^handler_id: /);
    for (const never of [0, 7, 2 ** 40]) await refused(client.deregister(never), "NOT_FOUND", /^handler_id: /);
    await reader.untilMore(10);
    const books = await deregisterAndCheck(client, reader);
    assert.equal(books.lost, 0);
  });
});

async function subscribeNewStream(client: BrokerClient, handlerId: number): Promise<void> {
  for await (const delivery of client.subscribe(handlerId)) assert.fail(`a stream with ${delivery.kind}`);
}

test("a second Subscribe is FAILED_PRECONDITION, and the first stream goes on", BOUNDED, async (t) => {
  await withWitness(t, [], async ({ client, witness }) => {
    for (let i = 0; i < 3; i++) {
      await refused(subscribeNewStream(client, witness.handlerId), "FAILED_PRECONDITION", /^handler_id: .*live stream/);
    }
  });
});

test("a full table is RESOURCE_EXHAUSTED, and usable again after a removal", BOUNDED, async (t) => {
  await withWitness(t, ["--capacity", "2"], async ({ client }) => {
    const second = await client.register({ ...NAMED, name: "second" });
    for (const name of ["third", "fourth"]) {
      await refused(client.register({ ...NAMED, name }), "RESOURCE_EXHAUSTED", /2 slots.*--capacity/);
    }
    await client.deregister(second.handlerId);
    const { handlerId } = await client.register({ ...NAMED, name: "third" });
    await client.deregister(handlerId);
  });
});

test("a message too large is RESOURCE_EXHAUSTED", BOUNDED, async (t) => {
  await withWitness(t, [], async ({ client }) => {
    const large = { ...NAMED, name: "x".repeat(2 * 1024 * 1024) };
    await refused(client.register(large), "RESOURCE_EXHAUSTED", /larger than max/);
  });
});
