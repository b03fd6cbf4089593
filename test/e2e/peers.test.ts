/** Who connects: other users through Unix sockets that let them, sockets of systemd, plain TCP, peers that vanish. */
import assert from "node:assert/strict";
import { once } from "node:events";
import fs from "node:fs";
import { type AddressInfo, connect as connectSocket, createServer } from "node:net";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { connect } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { DAEMON_MAIN, DaemonError, type RunningDaemon, spawnDaemon, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { untilLogged } from "../support/logged.js";
import { metric, untilMetric } from "../support/metric.js";
import { EVERYBODY, policyFile } from "../support/policy.js";
import { hasCommand, NMICTL_MAIN, type RunningProcess, startProcess } from "../support/process.js";

const SYNTHETIC = ["--source", "synthetic:1000"];
const NOBODY = "65534";
/** A group that every Linux has, and nobody is in. */
const GROUP = "daemon";

/** A directory that everyone may enter, and a socket's path in it. */
function openDir(t: TestContext): { dir: string; socket: string } {
  const dir = fs.mkdtempSync("/dev/shm/nmid-peers-");
  fs.chmodSync(dir, 0o755);
  t.after(() => fs.rmSync(dir, { recursive: true }));
  return { dir, socket: path.join(dir, "s") };
}

/** nmictl as nobody, in these groups beside; null where this user may not become another. */
function asNobody(
  t: TestContext,
  groups: readonly number[],
  address: string,
  ...args: string[]
): RunningProcess | null {
  if (process.getuid?.() !== 0 || !hasCommand("setpriv")) {
    t.skip("needs root and setpriv to be another user");
    return null;
  }
  const who = groups.length === 0 ? ["--clear-groups"] : [`--groups=${groups.join(",")}`];
  const privileges = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, ...who];
  return startProcess(t, "setpriv", [...privileges, process.execPath, NMICTL_MAIN, "--address", address, ...args]);
}

function groupOf(name: string): number | undefined {
  const line = fs
    .readFileSync("/etc/group", "utf8")
    .split("\n")
    .find((entry) => entry.startsWith(`${name}:`));
  return line === undefined ? undefined : Number(line.split(":")[2]);
}

async function peerNamed(daemon: RunningDaemon, name: string): Promise<string> {
  using client = connect(daemon.address);
  return await poll(`a handler named ${name}`, async () => {
    const { handlers } = await client.listHandlers();
    return handlers.find((handler) => handler.name === name)?.peer;
  });
}

test("another user is known by its uid and pid, from the socket and not from what it says", BOUNDED, async (t) => {
  const { socket } = openDir(t);
  const args = [...SYNTHETIC, "--listen", `unix:${socket}`, "--socket-mode", "0666", ...policyFile(t, EVERYBODY).args];
  const daemon = await startDaemon(t, { args });
  assert.equal(fs.statSync(socket).mode & 0o777, 0o666);
  const nobody = asNobody(t, [], daemon.address, "subscribe", "--name", "other");
  if (nobody === null) return;
  // setpriv becomes node.
  assert.equal(await peerNamed(daemon, "other"), `uid=${NOBODY} pid=${nobody.pid}`);
  await untilLogged(daemon, new RegExp(`"peer":"uid=${NOBODY} pid=${nobody.pid}"`));
});

test("a Unix socket is for its owner and its group", BOUNDED, async (t) => {
  const { socket } = openDir(t);
  const gid = groupOf(GROUP);
  assert(gid !== undefined);
  const args = [...SYNTHETIC, "--listen", `unix:${socket}`, "--socket-group", GROUP];
  const daemon = await startDaemon(t, { args });
  const { mode, gid: owner } = fs.statSync(socket);
  assert.deepEqual([mode & 0o777, owner], [0o660, gid]);
  const outsider = asNobody(t, [], daemon.address, "status");
  if (outsider === null) return;
  const refused = await outsider.exited;
  assert.equal(refused.code, 1, refused.stdout);
  assert.match(refused.stderr, /EACCES/);
  const member = await asNobody(t, [gid], daemon.address, "status")?.exited;
  assert.equal(member?.code, 0, member?.stderr);
});

test("a group that there is not ends the start, and says so", BOUNDED, async () => {
  await assert.rejects(spawnDaemon({ args: [...SYNTHETIC, "--socket-group", "no-such-group"] }), (error: unknown) => {
    assert(error instanceof DaemonError);
    assert.match(error.message, /socket_group: there is no group no-such-group: create it, or name another/);
    return true;
  });
});

test("a socket that systemd has opened is listened on, and left as it is", BOUNDED, async (t) => {
  if (!hasCommand("systemd-socket-activate")) return t.skip("systemd-socket-activate is not installed");
  const { dir, socket } = openDir(t);
  // Where to listen is left to what is passed; the daemon starts with the first connection, which waits for it.
  const activate = ["--fdname=nmid.socket", `--listen=${socket}`, process.execPath, DAEMON_MAIN];
  const running = startProcess(t, "systemd-socket-activate", [
    ...activate,
    ...[...SYNTHETIC, "--runtime-dir", dir, "--metrics", "off"],
  ]);
  await poll("the socket", () => (fs.existsSync(socket) ? true : undefined));
  const { mode, ino } = fs.statSync(socket);
  using client = connect(`unix:${socket}`);
  const { pid, listenAddresses } = await client.getStatus();
  assert.equal(pid, running.pid, "it is execve'd");
  assert.deepEqual(listenAddresses, [`unix:${socket}`]);
  process.kill(pid, "SIGTERM");
  assert.equal((await running.exited).code, 0);
  assert.deepEqual([fs.statSync(socket).mode, fs.statSync(socket).ino], [mode, ino], "systemd listens on it still");
});

test("what systemd passes stands in for the same address in the configuration, beside others", BOUNDED, async (t) => {
  if (!hasCommand("systemd-socket-activate")) return t.skip("systemd-socket-activate is not installed");
  const { dir, socket } = openDir(t);
  const other = path.join(dir, "other");
  const listen = [`unix:${other}`, `unix:${socket}`].flatMap((address) => ["--listen", address]);
  const args = [...SYNTHETIC, "--runtime-dir", dir, "--metrics", "off", ...listen];
  startProcess(t, "systemd-socket-activate", [`--listen=${socket}`, process.execPath, DAEMON_MAIN, ...args]);
  await poll("the socket", () => (fs.existsSync(socket) ? true : undefined));
  using client = connect(`unix:${socket}`);
  assert.deepEqual((await client.getStatus()).listenAddresses, [`unix:${socket}`, `unix:${other}`]);
  using second = connect(`unix:${other}`);
  await second.getStatus();
});

/** systemd-socket-activate takes no port 0. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test("a TCP socket of systemd's beyond loopback needs what any other does", BOUNDED, async (t) => {
  if (!hasCommand("systemd-socket-activate")) return t.skip("systemd-socket-activate is not installed");
  const { dir } = openDir(t);
  const args = [...SYNTHETIC, "--runtime-dir", dir, "--metrics", "off"];
  const port = await freePort();
  const activate = [`--listen=0.0.0.0:${port}`, process.execPath, DAEMON_MAIN];
  const running = startProcess(t, "systemd-socket-activate", [...activate, ...args]);
  await running.line(/Listening on/);
  using client = connect(`127.0.0.1:${port}`, { timeoutMs: 5_000 });
  await assert.rejects(client.getStatus());
  const { code, stderr } = await running.exited;
  assert.equal(code, 1);
  assert.match(stderr, /reachable from other machines.*insecure: true/);
});

test(
  "plain TCP beyond loopback is refused, unless the configuration says insecure, which is told loudly",
  BOUNDED,
  async (t) => {
    const args = [...SYNTHETIC, "--listen", "0.0.0.0:0"];
    await assert.rejects(spawnDaemon({ args }), (error: unknown) => {
      assert(error instanceof DaemonError);
      assert.equal(error.exitCode, 78);
      assert.match(error.message, /reachable from other machines.*set insecure: true/);
      return true;
    });
    const daemon = await startDaemon(t, { args, env: { NMID_INSECURE: "true" } });
    await untilLogged(daemon, /"level":"warn".*INSECURE: plain TCP beyond this machine/);
    using client = connect(daemon.address.replace("0.0.0.0", "127.0.0.1"));
    await client.getStatus();
    assert.equal(await metric(daemon, 'nmid_connections{kind="tcp"}'), 1);
  },
);

test("a client over TCP that is frozen is noticed, and its connection closed", BOUNDED, async (t) => {
  const { dir, socket } = openDir(t);
  const config = path.join(dir, "nmid.yaml");
  fs.writeFileSync(config, "limits: {keepalive_interval_ms: 100, keepalive_timeout_ms: 200}\n");
  const daemon = await startDaemon(t, {
    args: [
      ...[...SYNTHETIC, "--config", config, "--listen", "127.0.0.1:0", "--listen", `unix:${socket}`],
      ...policyFile(t, EVERYBODY).args,
    ],
  });
  const watch = startProcess(t, process.execPath, [NMICTL_MAIN, "--address", daemon.address, "--json", "watch"]);
  await watch.line(/SYNCHRONIZED/);
  assert.equal(await metric(daemon, 'nmid_connections{kind="tcp"}'), 1);
  watch.kill("SIGSTOP");
  await untilMetric(daemon, 'nmid_refused_total{reason="keepalive"}', 1);
  assert.equal(await metric(daemon, 'nmid_connections{kind="tcp"}'), 0);
  await untilLogged(daemon, /has not answered a ping/);
});

test("connections leave half of the file descriptors, however many there are", BOUNDED, async (t) => {
  if (!hasCommand("prlimit")) return t.skip("prlimit is not installed");
  const { dir, socket } = openDir(t);
  const args = [...SYNTHETIC, "--listen", `unix:${socket}`, "--runtime-dir", dir, "--metrics", "127.0.0.1:0"];
  const running = startProcess(t, "prlimit", ["--nofile=200:200", process.execPath, DAEMON_MAIN, ...args]);
  const { metrics: metricsAddress } = JSON.parse(await running.line(/"msg":"ready"/)) as { metrics: string };
  assert.match(running.lines.join("\n"), /of the 200 files that may be open.*no more than 100 are let in/);
  const sockets = Array.from({ length: 300 }, () => connectSocket(socket).on("error", () => {}));
  t.after(() => {
    for (const each of sockets) each.destroy();
  });
  await untilMetric({ metricsAddress }, 'nmid_refused_total{reason="connections"}', 200);
  assert.equal(await metric({ metricsAddress }, 'nmid_connections{kind="unix"}'), 100);
  for (const each of sockets) each.destroy();
  await poll("nobody", async () =>
    (await metric({ metricsAddress }, 'nmid_connections{kind="unix"}')) === 0 ? true : undefined,
  );
  using client = connect(`unix:${socket}`);
  const { handlerId } = await client.register({ name: "after", events: [] });
  await client.deregister(handlerId);
});

test("limits are the configuration's, and refusals are counted", BOUNDED, async (t) => {
  const { dir } = openDir(t);
  const config = path.join(dir, "nmid.yaml");
  fs.writeFileSync(config, "limits: {connections_per_peer_max: 1, streams_per_peer_max: 1}\n");
  const daemon = await startDaemon(t, { args: [...SYNTHETIC, "--config", config] });
  const client = connectTo(t, daemon);
  const changes = client.watchHandlers();
  assert.equal((await changes.next()).value?.kind, "SYNCHRONIZED");
  await assert.rejects(client.getStatus(), {
    code: "RESOURCE_EXHAUSTED",
    message: /uid=\d+ has 1 calls open, limits\.streams_per_peer_max/,
  });
  assert.equal(await metric(daemon, 'nmid_refused_total{reason="streams_of_peer"}'), 1);
  using second = connect(daemon.address, { channelOptions: { "grpc.use_local_subchannel_pool": 1 } });
  // grpc-js tells what GOAWAY said when it came before the end of the connection.
  await assert.rejects(second.getStatus(), { code: /^(RESOURCE_EXHAUSTED|UNAVAILABLE)$/ });
  await untilMetric(daemon, 'nmid_refused_total{reason="connections_of_peer"}', 1);
  await changes.return?.();
  await client.getStatus();
});
