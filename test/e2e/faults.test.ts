/** Faults that a daemon survives: what docs/reliability.md promises of them, against the real one. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { Random } from "../../clients/nmictl/verify/random.js";
import { type BrokerClient, connect, RpcError } from "../../clients/typescript/index.js";
import { FAULTS, openFiles } from "../soak/faults.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { DAEMON_MAIN, REPOSITORY, type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { hasCommand, startNmictl } from "../support/process.js";
import { subscribeNew } from "../support/stream-reader.js";
import { within } from "../support/within.js";

const OWN_CONNECTION = { channelOptions: { "grpc.use_local_subchannel_pool": 1 } } as const;
const CYCLES = 10_000;
const CYCLES_AT_A_TIME = 50;
const SHORT_LEASE_MS = 100;
const NONSENSE = ["bytes that are no HTTP/2", "frames that make no sense", "a call whose message is malformed"];
const TIMES = 150;
const STOP_MS_MAX = 20_000;

async function untilNobodyIsLeft(client: BrokerClient): Promise<void> {
  await poll("nobody to be left", async () => {
    const { handlers, events } = await client.getStatus();
    return handlers === 0 && events.length === 0 ? true : undefined;
  });
}

async function untilFilesAre(daemon: RunningDaemon, wanted: number): Promise<void> {
  await poll(`${wanted} open files`, () => (openFiles(daemon.pid) === wanted ? true : undefined));
}

test("10,000 that connect, register and vanish leave no handler, no event and no open file", {
  timeout: 300_000,
}, async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-cycles-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const config = path.join(dir, "nmid.yaml");
  // They are one peer's, faster than one peer may be by default.
  fs.writeFileSync(config, "limits:\n  requests_per_second_max: 100000\n");
  const daemon = await startDaemon(t, {
    args: ["--config", config, "--source", "synthetic:1000", "--capacity", "1024", "--log-level", "info"],
  });
  const client = connectTo(t, daemon);
  await client.getStatus();
  const filesBefore = openFiles(daemon.pid);
  let refused = 0;
  const cycle = async (number: number): Promise<void> => {
    const one = connect(daemon.address, OWN_CONNECTION);
    try {
      await one.register({ name: `cycle-${number}`, events: [], leaseMs: SHORT_LEASE_MS });
    } catch (error) {
      // The table holds those whose leases run yet: come again when there is room.
      if (!(error instanceof RpcError) || error.code !== "RESOURCE_EXHAUSTED") throw error;
      refused++;
      await poll("room in the table", async () => {
        const { handlers, capacity } = await client.getStatus();
        return handlers < capacity ? true : undefined;
      });
    } finally {
      one.close();
    }
  };
  let next = 0;
  const cycles = async (): Promise<void> => {
    while (next < CYCLES) await cycle(next++);
  };
  await Promise.all(Array.from({ length: CYCLES_AT_A_TIME }, cycles));
  await untilNobodyIsLeft(client);
  await untilFilesAre(daemon, filesBefore);
  const { totals, unbalanced } = await client.getStatus();
  assert.equal(totals?.registrations, CYCLES - refused);
  assert.equal(totals?.removals, CYCLES - refused);
  assert.equal(unbalanced, 0);
});

for (const name of NONSENSE) {
  test(`${name}, ${TIMES} times: a reader beside them loses nothing, and no open file stays`, BOUNDED, async (t) => {
    const fault = FAULTS.find((one) => one.name === name);
    assert.ok(fault !== undefined);
    const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000"] });
    const client = connectTo(t, daemon);
    const reader = await subscribeNew(client, { name: "beside", events: [] });
    await reader.until("a sample", () => reader.samples > 0);
    const filesBefore = openFiles(daemon.pid);
    const random = new Random(7);
    for (let time = 0; time < TIMES; time++) await fault.inflict({ daemon, random });
    await untilFilesAre(daemon, filesBefore);
    const seen = reader.samples;
    await reader.until("more samples", () => reader.samples > seen);
    const books = await client.deregister(reader.handlerId);
    assert.equal(books.lost, 0);
    assert.equal((await client.getStatus()).unbalanced, 0);
  });
}

test("no file left for connections: those that are there go on, and others are let in when there is one", {
  ...BOUNDED,
  skip: hasCommand("prlimit") ? false : "prlimit (util-linux) is not installed",
}, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000"] });
  const client = connectTo(t, daemon);
  const reader = await subscribeNew(client, { name: "beside", events: [] });
  await reader.until("a sample", () => reader.samples > 0);
  const limit = openFiles(daemon.pid) + 5;
  assert.equal(spawnSync("prlimit", ["--pid", String(daemon.pid), `--nofile=${limit}:${limit + 100}`]).status, 0);
  const sockets = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const socket = net.connect(daemon.address.replace(/^unix:/, ""));
      socket.on("error", () => {});
      await Promise.race([once(socket, "connect"), once(socket, "close")]);
      return socket;
    }),
  );
  const seen = reader.samples;
  await reader.until("more samples", () => reader.samples > seen + 100);
  for (const socket of sockets) socket.destroy();
  const late = connect(daemon.address, { ...OWN_CONNECTION, timeoutMs: 1000 });
  t.after(() => late.close());
  await poll("to be let in", async () => {
    return await late.getStatus().then(
      () => true,
      () => undefined,
    );
  });
  assert.equal((await client.deregister(reader.handlerId)).lost, 0);
});

/** A daemon whose log goes where there is no room. */
async function startWithFullLog(t: TestContext): Promise<{ address: string; pid: number }> {
  const runtimeDir = fs.mkdtempSync("/dev/shm/nmid-full-");
  const address = `unix:${path.join(runtimeDir, "nmid.sock")}`;
  const full = fs.openSync("/dev/full", "w");
  const args = ["--listen", address, "--metrics", "off", "--runtime-dir", runtimeDir, "--source", "synthetic:1000"];
  const child = spawn(process.execPath, [DAEMON_MAIN, ...args], { cwd: REPOSITORY, stdio: ["ignore", full, full] });
  fs.closeSync(full);
  const exited = once(child, "close");
  t.after(async () => {
    child.kill("SIGTERM");
    const stopped = await within(
      STOP_MS_MAX,
      exited.then(([code]) => ({ code })),
    );
    child.kill("SIGKILL");
    await exited;
    fs.rmSync(runtimeDir, { recursive: true, force: true });
    assert.deepEqual(stopped, { code: 0 });
  });
  return { address, pid: child.pid as number };
}

test("no room for its log: the daemon serves all the same, and stops as it should", {
  ...BOUNDED,
  skip: fs.existsSync("/dev/full") && fs.existsSync("/dev/shm") ? false : "no /dev/full or /dev/shm",
}, async (t) => {
  const { address } = await startWithFullLog(t);
  const client = connect(address, { timeoutMs: 1000 });
  t.after(() => client.close());
  await poll("the daemon", async () => {
    return await client.getStatus().then(
      () => true,
      () => undefined,
    );
  });
  const reader = await subscribeNew(client, { name: "reader", events: [] });
  await reader.until("samples", () => reader.samples > 100);
  assert.equal((await client.deregister(reader.handlerId)).lost, 0);
});

/** Writes into a file system of one megabyte. */
test("no room for a recording: the recorder says so, fails, and what it wrote is whole", {
  ...BOUNDED,
  skip: process.getuid?.() === 0 ? false : "not root: cannot mount a small file system",
}, async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-small-"));
  const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=512k", "tmpfs", dir], { encoding: "utf8" });
  if (mounted.status !== 0) {
    fs.rmdirSync(dir);
    t.skip(`mount: ${mounted.stderr.trim()}`);
    return;
  }
  t.after(() => {
    spawnSync("umount", ["-l", dir]);
    fs.rmdirSync(dir);
  });
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:50000"] });
  const file = path.join(dir, "perf.data");
  const recorder = startNmictl(t, daemon, "record", "-a", "-e", "cpu-clock", "-o", file);
  const { code, stderr } = await recorder.exited;
  assert.notEqual(code, 0, stderr);
  assert.match(stderr, /ENOSPC|no space left/i);
  assert.match(stderr, /perf\.data/);
  const client = connectTo(t, daemon);
  await untilNobodyIsLeft(client);
  if (!hasCommand("perf")) return;
  const script = spawnSync("perf", ["script", "-i", file, "-F", "time"], { encoding: "utf8", maxBuffer: 2 ** 28 });
  assert.ok(script.stdout.split("\n").length > 100, script.stderr);
});

const FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

test("the wall clock steps a day ahead and back: samples, leases and books go on as before", {
  ...BOUNDED,
  skip: fs.existsSync(FAKETIME) ? false : "faketime is not installed",
}, async (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-clock-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const clock = path.join(dir, "clock");
  fs.writeFileSync(clock, "+0");
  const daemon = await startLiveDaemon(t, {
    env: {
      LD_PRELOAD: FAKETIME,
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
    },
  });
  if (daemon === null) return;
  startBusy(t, { cpu: usableCpus()[0] });
  const client = connectTo(t, daemon);
  const reader = await subscribeNew(client, { name: "reader", events: [{ event: "cpu-clock", frequencyHz: 500 }] });
  const waiting = await client.register({ name: "waits", events: [], leaseMs: 60_000 });
  for (const step of ["+1d", "-1d", "+0"]) {
    fs.writeFileSync(clock, step);
    const seen = reader.samples;
    await reader.until(`samples at ${step}`, () => reader.samples > seen + 50);
  }
  const stepped = daemon.logs.flatMap((line) => (line.startsWith("{") ? [JSON.parse(line).time] : []));
  assert.ok(stepped.length > 0);
  const { handlers } = await client.listHandlers();
  assert.ok(
    handlers.some(({ handlerId, leaseRemainingMs }) => handlerId === waiting.handlerId && leaseRemainingMs > 0),
    "a lease runs by the monotonic clock",
  );
  assert.equal((await client.deregister(reader.handlerId)).lost, 0);
  await client.deregister(waiting.handlerId);
  assert.equal((await client.getStatus()).unbalanced, 0);
});
