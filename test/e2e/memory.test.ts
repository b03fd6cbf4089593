/** What consumers can make the daemon hold has a ceiling, whatever they do, and those who read lose nothing by it. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import {
  type BrokerClient,
  type Handler,
  type MemoryPart,
  type RegisterRequest,
  RpcError,
} from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { HOSTILE_KINDS, HostileReader } from "../support/hostile-reader.js";
import { connectTo } from "../support/live.js";
import { deregisterAndCheck, type StreamReader, subscribeNew } from "../support/stream-reader.js";

const MIB = 1024 * 1024;
const CEILING_BYTES = 64 * MIB;
const HOSTILE = 40;
/** Each could fill a quarter of the ceiling: ten times as much all together, were it not kept. */
const QUEUE_BYTES = 16 * MIB;
const OVERFLOWS = ["DROP_NEWEST", "DROP_OLDEST"] as const;
/** What a connection takes in Node, twice over, and what its garbage collector lets lie. */
const BESIDES_BYTES = HOSTILE * 100 * 1024 + 48 * MIB;
/** Of the daemon's life without hostile readers, for its code to be compiled and its heap to have grown. */
const WARM_SAMPLES = 20_000;
/** All hostile readers are stuck, and lose what comes. */
const LOST_SAMPLES = 10_000;

async function start(t: TestContext, limits = ""): Promise<RunningDaemon> {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-memory-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const config = path.join(dir, "nmid.yaml");
  fs.writeFileSync(config, `limits:\n  memory_max_bytes: ${CEILING_BYTES}\n${limits}`);
  return startDaemon(t, {
    args: ["--config", config, "--source", "synthetic:10000", "--dispatchers", "2", "--capacity", "64"],
  });
}

function residentBytes({ pid }: RunningDaemon): number {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

async function memoryOf(client: BrokerClient): Promise<Record<"segments" | "outboxes" | "streams", MemoryPart>> {
  const { memory } = await client.getStatus();
  assert.ok(memory !== null);
  return memory;
}

/** Every sample of the source, in a lane of its own: no CPU has the last number. */
function requestOf(i: number): RegisterRequest {
  return {
    name: `hostile ${i}`,
    events: [],
    filter: { cpus: [...Array(16).keys(), 1000 + i] },
    queue: { maxBytes: QUEUE_BYTES, overflow: OVERFLOWS[i % 8 < 4 ? 0 : 1], flushIntervalMs: i % 3 },
    leaseMs: 600_000,
  };
}

async function subscribeHostile(t: TestContext, daemon: RunningDaemon, client: BrokerClient): Promise<HostileReader[]> {
  const readers: HostileReader[] = [];
  t.after(() => {
    for (const reader of readers) reader.close();
  });
  for (let i = 0; i < HOSTILE; i++) {
    const { handlerId } = await client.register(requestOf(i));
    readers.push(await HostileReader.subscribe(daemon.address, handlerId, HOSTILE_KINDS[i % HOSTILE_KINDS.length]));
  }
  return readers;
}

/** Resolves when each of them has lost, since it was last given anything, what shows that it is stuck. */
function untilStuck(client: BrokerClient, readers: readonly HostileReader[]): Promise<readonly Handler[]> {
  return poll("stuck readers", async () => {
    const { handlers } = await client.listHandlers();
    const hostile = handlers.filter(({ handlerId }) => readers.some((reader) => reader.handlerId === handlerId));
    return hostile.length === readers.length && hostile.every(({ lost }) => lost > LOST_SAMPLES) ? hostile : undefined;
  });
}

function checkCeiling(memory: Awaited<ReturnType<typeof memoryOf>>): void {
  const parts = Object.entries(memory);
  const limit = parts.reduce((sum, [, { limitBytes }]) => sum + limitBytes, 0);
  assert.ok(limit <= CEILING_BYTES, `${limit} bytes in all`);
  for (const [name, { peakBytes, limitBytes }] of parts) {
    assert.ok(peakBytes <= limitBytes, `${name}: ${peakBytes} of ${limitBytes}`);
  }
}

async function lossless(client: BrokerClient, reader: StreamReader): Promise<void> {
  const books = await deregisterAndCheck(client, reader);
  assert.equal(books.lost, 0, `${reader.name}: ${JSON.stringify(books.losses)}`);
  assert.ok(books.delivered > 0);
}

test("readers stuck in every way stay below the ceiling, and take nothing from others", BOUNDED, async (t) => {
  const daemon = await start(t);
  const client = connectTo(t, daemon);
  const healthy = await Promise.all(
    [{ events: [] }, { events: [{ frequencyHz: 100 }] }, { events: [], filter: { cpus: [0] } }].map((request, i) =>
      subscribeNew(connectTo(t, daemon), { ...request, name: `healthy ${i}`, queue: { flushIntervalMs: 10 } }),
    ),
  );
  await healthy[0].untilMore(WARM_SAMPLES);
  const before = { resident: residentBytes(daemon), ...(await memoryOf(client)) };

  const hostile = await subscribeHostile(t, daemon, client);
  const stuck = await untilStuck(client, hostile);
  const with_ = { resident: residentBytes(daemon), ...(await memoryOf(client)) };
  t.diagnostic(JSON.stringify({ before, with: with_ }));
  for (const { name, queueBytes, queueMaxBytes } of stuck) assert.ok(queueBytes <= queueMaxBytes, name);
  checkCeiling(await memoryOf(client));
  const grown = with_.resident - before.resident;
  assert.ok(grown <= CEILING_BYTES + BESIDES_BYTES, `the daemon has grown by ${Math.round(grown / MIB)} MiB`);
  for (const reader of healthy) await reader.untilMore(100);

  for (const reader of hostile) reader.close();
  await Promise.all(hostile.map(({ handlerId }) => client.deregister(handlerId, { discard: true })));
  await healthy[0].untilMore(WARM_SAMPLES);
  for (const reader of healthy) await lossless(client, reader);
  const after = await poll("all memory given back", async () => {
    const memory = await memoryOf(client);
    return memory.streams.usedBytes === 0 && memory.outboxes.usedBytes === 0 ? memory : undefined;
  });
  checkCeiling(after);
  assert.equal((await client.getStatus()).unbalanced, 0);
});

test("filters count, too: one that finds no room is refused, and takes nothing", BOUNDED, async (t) => {
  const entries = 8192;
  const daemon = await start(t, `  filter_entries_max: ${entries}\n`);
  const client = connectTo(t, daemon);
  const register = (i: number): Promise<{ handlerId: number }> =>
    client.register({
      name: `filter ${i}`,
      events: [],
      filter: { pids: Array.from({ length: entries }, (_, pid) => 1 + i * entries + pid) },
      leaseMs: 600_000,
    });
  const registered: number[] = [];
  let refused: unknown;
  while (refused === undefined) {
    await register(registered.length).then(
      ({ handlerId }) => registered.push(handlerId),
      (error: unknown) => {
        refused = error;
      },
    );
  }
  assert.ok(refused instanceof RpcError);
  assert.equal(refused.code, "RESOURCE_EXHAUSTED");
  assert.match(refused.message, /filter: .*name fewer pids/);
  assert.ok(registered.length > 1);
  checkCeiling(await memoryOf(client));
  await client.deregister(registered[0]);
  assert.ok((await register(1000)).handlerId > 0);
});
