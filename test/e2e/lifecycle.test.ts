/** Starting beside another daemon, after a dead one, without permission; stopping; and looking in from outside. */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { type TestContext, test } from "node:test";
import { connect, type GetStatusResponse } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { DAEMON_MAIN, DaemonError, type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { EVERYBODY, policyFile } from "../support/policy.js";
import { hasCommand, startNmictl, startProcess } from "../support/process.js";
import { makeRuntimeDir } from "../support/runtime-dir.js";
import { checkEnd, deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const NOBODY = 65_534;
const SYNTHETIC = ["--source", "synthetic:2000"];

async function refusedToStart(t: TestContext, args: readonly string[], message: RegExp): Promise<void> {
  await assert.rejects(startDaemon(t, { args }), (error: unknown) => {
    assert.ok(error instanceof DaemonError, String(error));
    assert.equal(error.exitCode, 1, error.message);
    assert.match(error.logs.filter((line) => line.startsWith("nmid: ")).join("\n"), message);
    return true;
  });
}

test("a second daemon in the first one's place says so and leaves it alone", BOUNDED, async (t) => {
  const { dir, socket, args } = makeRuntimeDir(t);
  const first = await startDaemon(t, {
    args: [...SYNTHETIC, ...args, "--listen", "127.0.0.1:0", ...policyFile(t, EVERYBODY).args],
  });
  const tcp = first.addresses[1];
  const client = connectTo(t, first);
  const reader = await subscribeNew(client, { name: "undisturbed", events: [] });
  await reader.untilMore(10);

  const { metricsAddress } = first;
  await refusedToStart(t, [...SYNTHETIC, "--runtime-dir", dir], /another nmid runs with .*--runtime-dir/);
  await refusedToStart(t, [...SYNTHETIC, "--listen", `unix:${socket}`], /another process listens on .*nmid\.sock/);
  await refusedToStart(t, [...SYNTHETIC, "--listen", tcp], /cannot listen on .*EADDRINUSE.*--listen/s);
  await refusedToStart(t, [...SYNTHETIC, "--metrics", metricsAddress], /metrics address .* is taken.*--metrics/);

  await reader.untilMore(10);
  await deregisterAndCheck(client, reader);
  using overTcp = connect(tcp);
  assert.equal((await overTcp.getStatus()).pid, first.pid);
  assert.ok((await fetch(`http://${metricsAddress}/metrics`)).ok);
});

test("a path that is no socket is not taken for one", BOUNDED, async (t) => {
  const { socket, args } = makeRuntimeDir(t);
  fs.writeFileSync(socket, "precious");
  await refusedToStart(t, [...SYNTHETIC, ...args], /nmid\.sock exists and is no socket/);
  assert.equal(fs.readFileSync(socket, "utf8"), "precious");
});

interface PrintedTable {
  readonly daemon: string;
  readonly header: { readonly daemon_pid: number };
  readonly slots: readonly {
    readonly handlerId: number;
    readonly state: string;
    readonly fields: { readonly name: string };
  }[];
}

async function printTable(t: TestContext, daemon: RunningDaemon, dir: string): Promise<PrintedTable> {
  const { code, stdout, stderr } = await startNmictl(t, daemon, "--json", "table", "--runtime-dir", dir).exited;
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout) as PrintedTable;
}

test("after SIGKILL the table tells of the dead, and the next daemon takes over what it left", BOUNDED, async (t) => {
  const { dir, socket, args } = makeRuntimeDir(t);
  // What comes of the handlers where they are kept: restart.test.ts.
  const dead = await startDaemon(t, { args: [...SYNTHETIC, "--restart", "end", ...args] });
  const client = connectTo(t, dead);
  const reader = await subscribeNew(client, { name: "bereft", events: [] });
  await reader.untilMore(10);
  await dead.stop("SIGKILL");
  await assert.rejects(reader.done, { code: "UNAVAILABLE" });

  const table = await printTable(t, dead, dir);
  assert.equal(table.daemon, "dead");
  assert.equal(table.header.daemon_pid, dead.pid);
  assert.deepEqual(
    table.slots.map(({ handlerId, state, fields }) => ({ handlerId, state, name: fields.name })),
    [{ handlerId: reader.handlerId, state: "ACTIVE", name: "bereft" }],
  );
  assert.ok(fs.existsSync(socket));

  const next = await startDaemon(t, { args: [...SYNTHETIC, "--restart", "end", ...args] });
  const nextClient = connectTo(t, next);
  assert.deepEqual((await nextClient.listHandlers()).handlers, []);
  assert.deepEqual((await printTable(t, next, dir)).slots, []);
  const again = await subscribeNew(nextClient, { name: "bereft", events: [] });
  await again.untilMore(10);
  await deregisterAndCheck(nextClient, again);
});

test("nmictl table shows the handlers of a daemon that is stopped", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: SYNTHETIC });
  const client = connectTo(t, daemon);
  const reader = await subscribeNew(client, { name: "frozen", events: [] });
  await reader.untilMore(10);
  process.kill(daemon.pid, "SIGSTOP");
  try {
    const table = await printTable(t, daemon, daemon.runtimeDir);
    assert.equal(table.daemon, "stopped");
    assert.deepEqual(
      table.slots.map(({ state, fields }) => ({ state, name: fields.name })),
      [{ state: "ACTIVE", name: "frozen" }],
    );
  } finally {
    process.kill(daemon.pid, "SIGCONT");
  }
  await reader.untilMore(10);
  await deregisterAndCheck(client, reader);
});

const STOPS = [
  { signal: "SIGTERM", dispatchers: 1, rate: 2000 },
  { signal: "SIGINT", dispatchers: 1, rate: 2000 },
  { signal: "SIGTERM", dispatchers: 3, rate: 100_000 },
] as const;

for (const { signal, dispatchers, rate } of STOPS) {
  test(`${signal}, ${dispatchers} dispatchers: streams end, nothing is left, exit code 0`, BOUNDED, async (t) => {
    const { dir, socket, args } = makeRuntimeDir(t);
    const source = ["--source", `synthetic:${rate}`, "--dispatchers", String(dispatchers)];
    // A service manager's signal would leave the handlers to the next daemon: restart.test.ts.
    const restart = ["--restart", signal === "SIGTERM" ? "end" : "keep"];
    const daemon = await startDaemon(t, { args: [...source, ...restart, ...args] });
    const client = connectTo(t, daemon);
    const readers = await Promise.all(
      ["one", "two"].map((name) => subscribeNew(client, { name, events: [], queue: { maxBytes: 16 * 1024 * 1024 } })),
    );
    await client.register({ name: "never subscribed", events: [] });
    await Promise.all(readers.map((reader) => reader.untilMore(50)));
    // One Ctrl-C comes twice below npm: from the terminal and from npm.
    if (signal === "SIGINT") process.kill(daemon.pid, signal);
    assert.equal(await daemon.stop(signal), 0);
    for (const reader of readers) await checkEnd(reader, "DAEMON_STOPPING");
    assert.ok(!fs.existsSync(socket), "the socket is gone");
    assert.ok(!fs.existsSync(path.join(dir, "handlers.table")), "the table is gone");
    assert.doesNotMatch(daemon.logs.join("\n"), /"level":"(?:error|fatal)"/);
  });
}

/** A twentieth of them fills a queue of 64 KiB. */
const STUCK_SAMPLES = 40_000;

test("a reader that never reads does not keep the daemon from stopping", BOUNDED, async (t) => {
  const { socket, args } = makeRuntimeDir(t);
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:200000", "--restart", "end", ...args] });
  const client = connectTo(t, daemon);
  const other = connectTo(t, daemon);
  const healthy = await subscribeNew(other, { name: "healthy", events: [{ frequencyHz: 100 }] });
  const request = { name: "stuck", events: [], queue: { maxBytes: 64 * 1024, flushIntervalMs: 1 } };
  const stuck = await subscribeNew(client, request, { paused: true });
  // Stream and queue are full when it is given nothing more of what its queue would have held many times over.
  let stuckAt = { delivered: -1, lost: 0 };
  await poll("the reader to be stuck", async () => {
    const { handlers } = await other.listHandlers();
    const { delivered, lost } = handlers.find(({ name }) => name === "stuck") as { delivered: number; lost: number };
    if (delivered !== stuckAt.delivered) stuckAt = { delivered, lost };
    return lost - stuckAt.lost > STUCK_SAMPLES || undefined;
  });
  await healthy.untilMore(10);
  assert.equal(await daemon.stop(), 0);
  await checkEnd(healthy, "DAEMON_STOPPING");
  stuck.resume();
  await assert.rejects(stuck.done);
  assert.ok(!fs.existsSync(socket));
});

/** Why the kernel would not refuse a process without privileges here, or why there can be none; null when it will. */
function whyNoUnprivileged(): string | null {
  if (process.getuid?.() !== 0) return "needs root, to become nobody";
  if (!hasCommand("setpriv")) return "needs setpriv (util-linux)";
  const paranoid = Number(fs.readFileSync("/proc/sys/kernel/perf_event_paranoid", "utf8"));
  return paranoid < 1 ? `kernel.perf_event_paranoid is ${paranoid}: everybody may sample here` : null;
}

/** The daemon as nobody, without a capability. Null when that cannot be; the test is then skipped. */
async function startUnprivileged(t: TestContext, source: string) {
  const reason = whyNoUnprivileged();
  const drop = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, "--clear-groups", "--inh-caps=-all"];
  if (reason !== null) {
    t.skip(reason);
    return null;
  }
  const readable = await startProcess(t, "setpriv", [...drop, "test", "-r", DAEMON_MAIN]).exited;
  if (readable.code !== 0) {
    t.skip(`nobody may not read ${DAEMON_MAIN}`);
    return null;
  }
  const { dir, socket, args } = makeRuntimeDir(t);
  fs.chownSync(dir, NOBODY, NOBODY);
  const flags = ["--source", source, "--metrics", "127.0.0.1:0", ...args];
  const running = startProcess(t, "setpriv", [...drop, process.execPath, DAEMON_MAIN, ...flags]);
  return { running, socket };
}

const MISSING = /kernel\.perf_event_paranoid is -?\d+.*CAP_PERFMON/;

test("without permission --source perf exits and names the setting and the capability", BOUNDED, async (t) => {
  const started = await startUnprivileged(t, "perf");
  if (started === null) return;
  const { code, stderr } = await started.running.exited;
  assert.equal(code, 1);
  assert.match(stderr, MISSING);
});

test("without permission --source auto replays the recording and says so loudly", BOUNDED, async (t) => {
  const started = await startUnprivileged(t, "auto");
  if (started === null) return;
  const { running, socket } = started;
  const ready = JSON.parse(await running.line(/"msg":"ready"/)) as { fallback: boolean; metrics: string };
  assert.equal(ready.fallback, true);
  const warning = running.lines.find((line) => line.includes('"level":"warn"')) ?? "";
  assert.match(warning, MISSING);

  using client = connect(`unix:${socket}`);
  const status: GetStatusResponse = await client.getStatus();
  assert.equal(status.fallback, true);
  assert.match(status.sourceReason, MISSING);
  assert.match(status.source, /^replay: .*demo\.perf\.data/);
  const metrics = await (await fetch(`http://${ready.metrics}/metrics`)).text();
  assert.match(metrics, /^nmid_source_fallback 1$/m);

  const reader = await subscribeNew(client, { name: "first look", events: [] });
  assert.deepEqual([reader.started?.source, reader.started?.fallback], ["replay", true]);
  await reader.untilMore(10);
  await deregisterAndCheck(client, reader);
  running.kill("SIGTERM");
  assert.equal((await running.exited).code, 0);
});
