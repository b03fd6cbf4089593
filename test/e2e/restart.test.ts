/** Handlers outlive the daemon: stopped, killed, started with another configuration, or on what cannot be read any more. */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { type TestContext, test } from "node:test";
import type { BrokerClient, RegisterRequest } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { type LastingDir, makeRuntimeDir } from "../support/runtime-dir.js";
import { checkEnd, deregisterAndCheck, StreamReader, subscribeNew } from "../support/stream-reader.js";

const LEASE_MS = 60_000;
const LOAD = ["--source", "synthetic:20000", "--dispatchers", "2"];

const HANDLERS: readonly RegisterRequest[] = [
  { name: "every sample", events: [], leaseMs: LEASE_MS },
  { name: "thinned", events: [{ frequencyHz: 500 }], leaseMs: LEASE_MS, queue: { flushIntervalMs: 10 } },
  { name: "filtered", events: [], filter: { cpus: [0] }, leaseMs: LEASE_MS, fields: ["CALLCHAIN"] },
  { name: "drops", events: [], leaseMs: LEASE_MS, queue: { maxBytes: 128 * 1024, overflow: "DROP_OLDEST" } },
];

function start(t: TestContext, { args }: LastingDir, ...flags: string[]): Promise<RunningDaemon> {
  return startDaemon(t, { args: [...(flags.length > 0 ? flags : LOAD), ...args] });
}

function logged(daemon: RunningDaemon, msg: string): Record<string, unknown>[] {
  return daemon.logs
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .filter((record) => record.msg === msg);
}

function stateFile({ dir }: LastingDir, handlerId: number): string {
  return path.join(dir, "handlers.state", `${handlerId % 65_536}.json`);
}

/** Waits until the stream that was resumed after restart number `gaps` has brought samples. */
async function resumed(reader: StreamReader, gaps: number): Promise<void> {
  await reader.until("resumed", () => reader.ledger.streams === gaps + 1 && reader.started?.resumed === true);
  await reader.untilMore(50);
  const told = gaps * reader.events.length;
  assert.equal(reader.ledger.gaps.length, told, `${reader.name}: each gap is told once, for each event`);
  for (const { firstTime, lastTime } of reader.ledger.gaps) assert.ok(firstTime > 0n && firstTime < lastTime);
}

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`${signal} under load: handlers come back under their ids, and all books reconcile`, BOUNDED, async (t) => {
    const place = makeRuntimeDir(t);
    const first = await start(t, place);
    const client = connectTo(t, first);
    const readers: StreamReader[] = [];
    for (const request of HANDLERS) readers.push(await subscribeNew(client, request, { resume: true }));
    const absent = await client.register({ name: "not there", events: [], leaseMs: LEASE_MS });
    const removed = await client.register({ name: "removed", events: [] });
    await client.deregister(removed.handlerId);
    await Promise.all(readers.map((reader) => reader.untilMore(200)));
    const before = await matchedOf(client, absent.handlerId, 100);

    await first.stop(signal);
    const second = await start(t, place);
    await Promise.all(readers.map((reader) => resumed(reader, 1)));
    assert.equal(logged(second, "handler restored").length, readers.length + 1);

    // What waited for a stream was in the daemon's memory.
    const late = new StreamReader(client, absent.handlerId, "not there");
    await late.untilMore(50);
    assert.ok(late.lost("RESTART") >= before, `${late.lost("RESTART")} of ${before}`);
    // Ids of handlers that have gone are not given out again.
    const fresh = await client.register({ name: "fresh", events: [] });
    assert.ok(fresh.handlerId > removed.handlerId);
    await client.deregister(fresh.handlerId);
    await assert.rejects(client.deregister(removed.handlerId), { code: "NOT_FOUND" });

    await second.stop(signal);
    const third = await start(t, place);
    await Promise.all(readers.map((reader) => resumed(reader, 2)));
    for (const reader of readers) await deregisterAndCheck(client, reader);
    const books = await client.deregister(absent.handlerId);
    assert.equal(books.matched, books.delivered + books.lost);
    const { unbalanced, handlers } = await client.getStatus();
    assert.deepEqual({ unbalanced, handlers }, { unbalanced: 0, handlers: 0 });
    for (const daemon of [first, second, third]) {
      assert.doesNotMatch(daemon.logs.join("\n"), /"level":"(?:error|fatal)"/);
    }
    assert.deepEqual(fs.readdirSync(path.join(place.dir, "handlers.state")), ["daemon.json"]);
  });
}

async function matchedOf(client: BrokerClient, handlerId: number, least: number): Promise<number> {
  return poll("samples wait for a stream", async () => {
    const { handlers } = await client.listHandlers();
    const matched = handlers.find((handler) => handler.handlerId === handlerId)?.matched ?? 0;
    return matched >= least ? matched : undefined;
  });
}

test("of several events the books go on for each, whether the daemon is stopped or killed", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  let daemon = await start(t, place);
  const client = connectTo(t, daemon);
  const events = [{ event: "cycles" }, { event: "instructions" }];
  const reader = await subscribeNew(client, { name: "several", events, leaseMs: LEASE_MS }, { resume: true });
  await reader.untilMore(500);
  for (const [i, signal] of (["SIGTERM", "SIGKILL", "SIGTERM"] as const).entries()) {
    await daemon.stop(signal);
    daemon = await start(t, place);
    await resumed(reader, i + 1);
  }
  await deregisterAndCheck(client, reader);
});

test("SIGINT ends handlers for good", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await start(t, place);
  const reader = await subscribeNew(connectTo(t, first), HANDLERS[0], { resume: true });
  await reader.untilMore(10);
  assert.equal(await first.stop("SIGINT"), 0);
  await checkEnd(reader, "DAEMON_STOPPING");
  const second = await start(t, place);
  assert.deepEqual((await connectTo(t, second).listHandlers()).handlers, []);
});

test("a lease runs on while there is no daemon", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await start(t, place);
  const client = connectTo(t, first);
  const reader = await subscribeNew(client, { name: "short", events: [], leaseMs: 50 }, { resume: true });
  const lasting = await subscribeNew(client, HANDLERS[0], { resume: true });
  await reader.untilMore(10);
  await first.stop("SIGKILL");
  // Whoever waits for a daemon does so for no longer.
  await assert.rejects(reader.done, { code: "UNAVAILABLE", message: /lease of 50 ms ran out/ });
  const second = await start(t, place);
  assert.equal(logged(second, "lease expired").length, 1);
  await resumed(lasting, 1);
  await assert.rejects(client.deregister(reader.handlerId), { code: "NOT_FOUND" });
  await deregisterAndCheck(client, lasting);
});

test("what cannot be read is set aside, with a line in the log; the others come back", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await start(t, place);
  const client = connectTo(t, first);
  const torn = await subscribeNew(client, HANDLERS[0], { resume: true });
  const forged = await subscribeNew(client, HANDLERS[1], { resume: true });
  const sound = await subscribeNew(client, HANDLERS[2], { resume: true });
  await first.stop();
  const tornFile = stateFile(place, torn.handlerId);
  assert.equal(fs.statSync(tornFile).mode & 0o777, 0o600);
  fs.truncateSync(tornFile, 100);
  const forgedFile = stateFile(place, forged.handlerId);
  const saved = JSON.parse(fs.readFileSync(forgedFile, "utf8")) as { left: { carried: { settled: unknown[] } } };
  saved.left.carried.settled = [{ delivered: -1 }];
  fs.writeFileSync(forgedFile, JSON.stringify(saved));

  const second = await start(t, place);
  const lines = second.logs.filter((line) => line.includes("was set aside"));
  assert.equal(lines.length, 2, lines.join("\n"));
  assert.match(lines.join("\n"), /settled/);
  assert.ok(fs.existsSync(`${tornFile}.corrupt`));
  await assert.rejects(torn.done, { code: "NOT_FOUND" });
  await assert.rejects(forged.done, { code: "NOT_FOUND" });
  await resumed(sound, 1);
  await deregisterAndCheck(client, sound);
});

test("handlers that cannot be had any more are ended, with the reason and their books", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await start(t, place);
  const client = connectTo(t, first);
  const kept = await subscribeNew(client, HANDLERS[0], { resume: true });
  const surplus = await subscribeNew(client, HANDLERS[1], { resume: true });
  await Promise.all([kept.untilMore(100), surplus.untilMore(10)]);
  await first.stop();
  const second = await start(t, place, ...LOAD, "--capacity", "1");
  const end = await checkEnd(surplus, "NOT_REARMED");
  assert.match(end.message, /the handler table has 1 slots.*--capacity/);
  await resumed(kept, 1);

  await second.stop();
  await start(t, place, "--source", "replay:recordings/demo.perf.data");
  const last = await checkEnd(kept, "NOT_REARMED");
  assert.match(last.message, /the daemon's source is replay .* and was synthetic/);
  assert.deepEqual((await client.listHandlers()).handlers, []);
});

test("a daemon that does not get to its feet leaves handlers as it found them", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await start(t, place);
  const client = connectTo(t, first);
  const reader = await subscribeNew(client, HANDLERS[0], { resume: true });
  await reader.untilMore(200);
  await first.stop();
  const file = path.join(place.dir, "no socket");
  fs.writeFileSync(file, "");
  await assert.rejects(start(t, place, ...LOAD, "--listen", `unix:${file}`), /is no socket/);
  await start(t, place);
  await reader.untilMore(200);
  // One that nobody could connect to counted for a moment, too.
  assert.equal(reader.ledger.gaps.length, 2);
  await deregisterAndCheck(client, reader);
});
