/**
 * A C program that knows docs/handler-table.md and nothing else reads the table of a daemon that runs, that is stopped
 * and that was killed, and agrees with ListHandlers.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, type TestContext, test } from "node:test";
import type { BrokerClient, DeregisterResponse, Handler } from "../../clients/typescript/index.js";
import { FILTER_FLAG, generationOfId, HEADER, LAYOUT_VERSION, LOSS_REASONS } from "../../src/registry/layout.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { REPOSITORY, type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { hasCommand } from "../support/process.js";
import { deregisterAndCheck, type StreamReader, subscribeNew } from "../support/stream-reader.js";

const CAPACITY = 40;
const DISPATCHERS = 2;
/** The least there is with so many dispatchers, so that it is full soon. */
const SMALL_QUEUE = { maxBytes: DISPATCHERS * 64 * 1024, flushIntervalMs: 1 } as const;

const directory = mkdtempSync(join(tmpdir(), "nmid-reader-"));
const program = join(directory, "reader");
after(() => rmSync(directory, { recursive: true, force: true }));

interface Line {
  readonly id: number;
  readonly state: string;
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly dispatches: number;
  readonly longestNs: number;
  readonly dispatchNsSum: number;
  readonly queueMaxBytes: number;
  readonly filterFlags: number;
  readonly registeredAt: number;
  /** By LOSS_REASONS. */
  readonly losses: readonly number[];
  readonly buckets: readonly number[];
  readonly name: string;
  readonly events: string;
}

function runReader(path: string): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(program, [path], { encoding: "utf8", timeout: 30_000 });
  return { status, stdout, stderr };
}

function parseLine(line: string): Line {
  const fields = line.split("\t");
  const [id, matched, delivered, lost, dispatches, longestNs, dispatchNsSum, queueMaxBytes, filterFlags, registeredAt] =
    [fields[0], ...fields.slice(2, 11)].map(Number);
  const [losses, buckets] = fields.slice(11, 13).map((list) => list.split(",").map(Number));
  const [state, name, events] = [fields[1], fields[13], fields[14]];
  const counters = { matched, delivered, lost, dispatches, longestNs, dispatchNsSum };
  return { id, state, ...counters, queueMaxBytes, filterFlags, registeredAt, losses, buckets, name, events };
}

/** What the reader sees of the table that `daemon` maintains, or has maintained. */
function read(path: string, daemon: RunningDaemon): Line[] {
  const { status, stdout, stderr } = runReader(path);
  assert.equal(stderr, "");
  assert.equal(status, 0);
  const [head, ...lines] = stdout.trimEnd().split("\n");
  assert.equal(head, `daemon ${daemon.pid} ${CAPACITY} ${DISPATCHERS}`);
  return lines.map(parseLine);
}

/** Handlers only: no slots that are free again. */
function handlersOf(lines: readonly Line[]): Line[] {
  return lines.filter(({ state }) => state !== "FREE").sort((a, b) => a.id - b.id);
}

async function list(client: BrokerClient): Promise<Handler[]> {
  const { handlers } = await client.listHandlers();
  return [...handlers].sort((a, b) => a.handlerId - b.handlerId);
}

function lossesOf(losses: Handler["losses"]): number[] {
  return LOSS_REASONS.map((reason) => losses.find((loss) => loss.reason === reason)?.count ?? 0);
}

function countersOf(handler: Handler): Record<string, number | readonly number[]> {
  const { matched, delivered, lost, dispatches, longestDispatchNs, dispatchNsSum, losses } = handler;
  const buckets = handler.dispatchTimeBuckets;
  return {
    ...{ matched, delivered, lost, dispatches, longestNs: longestDispatchNs, dispatchNsSum },
    ...{ losses: lossesOf(losses), buckets },
  };
}

function isBetween(low: unknown, value: unknown, high: unknown, what: string): void {
  const [lows, values, highs] = [low, value, high].map((numbers) => [numbers].flat() as number[]);
  assert.equal(values.length, lows.length, what);
  values.forEach((number, i) => {
    assert.ok(lows[i] <= number && number <= highs[i], `${what}[${i}]: ${lows[i]} <= ${number} <= ${highs[i]}`);
  });
}

/** What was read between two answers of ListHandlers; counters only grow. */
function agree(lines: readonly Line[], earlier: readonly Handler[], later: readonly Handler[] = earlier): void {
  const identity = (handler: Handler) => [
    handler.handlerId,
    handler.name,
    handler.state,
    handler.events.map(({ name }) => name).join(","),
    handler.queueMaxBytes,
    handler.registeredAt,
  ];
  const handlers = handlersOf(lines);
  assert.deepEqual(
    handlers.map((line) => [line.id, line.name, line.state, line.events, line.queueMaxBytes, line.registeredAt]),
    earlier.map(identity),
  );
  assert.deepEqual(later.map(identity), earlier.map(identity));
  handlers.forEach((line, i) => {
    const [low, high] = [countersOf(earlier[i]), countersOf(later[i])];
    for (const name of Object.keys(low)) isBetween(low[name], line[name as keyof Line], high[name], name);
  });
}

/** The slot's counters once it is free are the final books. */
function agreeWithBooks(lines: readonly Line[], id: number, name: string, books: DeregisterResponse): void {
  const line = lines.find((candidate) => candidate.id === id);
  assert.ok(line !== undefined, `${name} is not shown`);
  const { state, matched, delivered, lost, losses } = line;
  assert.deepEqual(
    { state, name: line.name, matched, delivered, lost, losses },
    {
      state: "FREE",
      name,
      matched: books.matched,
      delivered: books.delivered,
      lost: books.lost,
      losses: lossesOf(books.losses),
    },
  );
}

async function start(t: TestContext, runtimeDir?: string): Promise<{ daemon: RunningDaemon; client: BrokerClient }> {
  const own = runtimeDir === undefined ? [] : ["--runtime-dir", runtimeDir];
  const daemon = await startDaemon(t, {
    args: ["--source", "synthetic:100000", "--capacity", `${CAPACITY}`, "--dispatchers", `${DISPATCHERS}`, ...own],
  });
  return { daemon, client: connectTo(t, daemon) };
}

/** Three handlers that stream, in slots of which one has had an owner before. */
async function startStreams(client: BrokerClient): Promise<StreamReader[]> {
  const { handlerId } = await client.register({ name: "before", events: [] });
  const plain = await subscribeNew(client, { name: "plain", events: [{ event: "cpu-clock" }] });
  await client.deregister(handlerId);
  const several = await subscribeNew(client, {
    name: "zwei Ereignisse, größer",
    events: [{ event: "cycles:u" }, { event: "instructions" }],
    queue: { maxBytes: 8 << 20 },
  });
  const filtered = await subscribeNew(client, {
    name: "x".repeat(63),
    events: [{ event: "cpu-clock" }],
    filter: { cpus: [0, 1], excludeKernel: true },
  });
  const readers = [plain, several, filtered];
  for (const reader of readers) await reader.untilMore(5000);
  return readers;
}

function isStopped(pid: number): boolean {
  return /^State:\s+T/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
}

const noCompiler = hasCommand("cc") ? false : "no C compiler (cc) is installed";

describe("a reader in C that knows docs/handler-table.md", { skip: noCompiler }, () => {
  before(() => {
    const source = join(REPOSITORY, "test", "outside-reader", "reader.c");
    const { status, stderr } = spawnSync(
      "cc",
      ["-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", program, source],
      { encoding: "utf8" },
    );
    assert.equal(status, 0, stderr);
  });

  test("agrees with ListHandlers while samples flow, and with the final books", BOUNDED, async (t) => {
    const { daemon, client } = await start(t);
    const path = join(daemon.runtimeDir, "handlers.table");
    assert.deepEqual(read(path, daemon), []);
    const readers = await startStreams(client);
    for (let round = 0; round < 20; round++) {
      const earlier = await list(client);
      const lines = read(path, daemon);
      agree(lines, earlier, await list(client));
      await readers[round % readers.length].untilMore(1000);
    }
    const handlers = handlersOf(read(path, daemon));
    const flags = readers.map(({ handlerId }) => handlers.find(({ id }) => id === handlerId)?.filterFlags);
    assert.deepEqual(flags, [0, 0, FILTER_FLAG.CPUS | FILTER_FLAG.EXCLUDE_KERNEL]);
    const generations = handlers.map(({ id }) => generationOfId(id));
    assert.deepEqual(generations, [1, 1, 2], "a slot is used again");

    for (const reader of readers) {
      const books = await deregisterAndCheck(client, reader);
      agreeWithBooks(read(path, daemon), reader.handlerId, reader.name, books);
    }
    agree(read(path, daemon), []);
  });

  test("sees what was lost, by reason", BOUNDED, async (t) => {
    const { daemon, client } = await start(t);
    const path = join(daemon.runtimeDir, "handlers.table");
    const { handlerId } = await client.register({ name: "unread", events: [], queue: SMALL_QUEUE });
    const earlier = await poll("a full queue", async () => {
      const handlers = await list(client);
      return handlers[0].lost > 0 ? handlers : undefined;
    });
    agree(read(path, daemon), earlier, await list(client));
    const books = await client.deregister(handlerId, { discard: true });
    assert.deepEqual(books.losses.map(({ reason }) => reason).sort(), ["DISCARDED", "QUEUE_FULL"]);
    agreeWithBooks(read(path, daemon), handlerId, "unread", books);
  });

  test("reads the table of a daemon that is stopped, and of one that was killed", BOUNDED, async (t) => {
    const runtimeDir = mkdtempSync("/dev/shm/nmid-test-");
    t.after(() => rmSync(runtimeDir, { recursive: true, force: true }));
    const { daemon, client } = await start(t, runtimeDir);
    const path = join(runtimeDir, "handlers.table");
    await startStreams(client);

    const earlier = await list(client);
    let stopped: Line[];
    process.kill(daemon.pid, "SIGSTOP");
    try {
      await poll("the daemon is stopped", () => isStopped(daemon.pid) || undefined);
      stopped = read(path, daemon);
      assert.deepEqual(read(path, daemon), stopped);
    } finally {
      process.kill(daemon.pid, "SIGCONT");
    }
    const last = await list(client);
    agree(stopped, earlier, last);

    process.kill(daemon.pid, "SIGKILL");
    await daemon.exited;
    const left = read(path, daemon);
    assert.deepEqual(read(path, daemon), left);
    // Nobody is asked any more: they have gone on from what ListHandlers said last.
    assert.deepEqual(
      handlersOf(left).map(({ id, name, state }) => [id, name, state]),
      last.map(({ handlerId, name }) => [handlerId, name, "ACTIVE"]),
    );
    handlersOf(left).forEach((line, i) => {
      assert.ok(line.matched >= last[i].matched && line.delivered >= last[i].delivered, line.name);
    });
  });

  test("refuses what is no table of its version", async () => {
    const path = join(directory, "no.table");
    const header = Buffer.alloc(4096);
    const refusal = (bytes: Buffer): string => {
      writeFileSync(path, bytes);
      const { status, stdout, stderr } = runReader(path);
      assert.equal(status, 1);
      assert.equal(stdout, "");
      return stderr;
    };
    assert.match(refusal(header.subarray(0, 100)), /100 bytes are no table/);
    assert.match(refusal(header), /no table$/m);
    header.write("NMIDHTBL");
    assert.match(refusal(header), /not complete yet/);
    header.writeUInt32LE(LAYOUT_VERSION + 1, HEADER.VERSION);
    assert.match(refusal(header), /layout version 4, not 3/);
    header.writeUInt32LE(LAYOUT_VERSION, HEADER.VERSION);
    header.writeUInt32LE(1, HEADER.CAPACITY);
    header.writeUInt32LE(4096, HEADER.SLOTS_AT);
    header.writeUInt32LE(704, HEADER.SLOT_STRIDE);
    assert.match(refusal(header), /do not hold what its header says/);
  });
});
