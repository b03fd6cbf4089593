/** nmid.service under a real systemd, with CAP_PERFMON alone: started by a client, reloaded, hung, killed, stopped. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { type TestContext, test } from "node:test";
import { connect } from "../../clients/typescript/index.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { canHoldThreads, holdThread } from "../support/hold-thread.js";
import { type Machine, startMachine } from "../support/machine.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const SERVICE = "nmid.service";
const SOCKET = "/run/nmid/nmid.sock";
const CONFIG = "/etc/nmid/nmid.yaml";
const CAP_PERFMON = 1n << 38n;
/** The whole takes some seconds; each wait has a bound of its own. */
const BOUNDED = { timeout: 300_000 };
/** Below the unit's, so that the test need not wait as long, and far above what a loaded machine takes to answer. */
const WATCHDOG_S = 6;

const clientOf = (machine: Machine) => connect(`unix:${machine.path(SOCKET)}`);

/** Resolves to the service's main process, in this process's terms, once it is active and another than `before`. */
function activePid(machine: Machine, before = 0): Promise<number> {
  return poll("an active nmid.service", async () => {
    const shown = await machine.must("systemctl", "show", "-p", "ActiveState,MainPID", SERVICE);
    if (!shown.includes("ActiveState=active")) return undefined;
    const pid = hostPid(machine, Number(/MainPID=(\d+)/.exec(shown)?.[1]));
    return pid === before ? undefined : pid;
  });
}

/** The process that is `inner` in the machine's pid namespace; undefined when it is gone. */
function hostPid(machine: Machine, inner: number): number | undefined {
  const namespace = (pid: string): string => fs.readlinkSync(`/proc/${pid}/ns/pid`);
  const init = machine.path("").split("/")[2];
  for (const pid of fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      if (namespace(pid) === namespace(init) && status(pid, "NSpid").at(-1) === String(inner)) return Number(pid);
    } catch {
      // Gone meanwhile, or a zombie without namespaces.
    }
  }
  return undefined;
}

function status(pid: number | string, field: string): string[] {
  const line = fs
    .readFileSync(`/proc/${pid}/status`, "utf8")
    .split("\n")
    .find((text) => text.startsWith(`${field}:`));
  return line?.split(/\s+/).slice(1) ?? [];
}

const restarts = async (machine: Machine): Promise<number> => Number(await machine.show(SERVICE, "NRestarts"));

async function unitsAreSound(machine: Machine): Promise<void> {
  const units = await machine.run("systemd-analyze", "verify", "nmid.service", "nmid.socket");
  assert.deepEqual(units, { code: 0, stdout: "", stderr: "" });
  // The drop-ins, too.
  const dir = "/etc/systemd/system/nmid.service.d";
  await machine.must("mkdir", "-p", dir);
  for (const name of fs.readdirSync(machine.path("/usr/share/doc/nmid/nmid.service.d"))) {
    const dropIn = `${dir}/${name.replace(/\.example$/, "")}`;
    await machine.must("cp", `/usr/share/doc/nmid/nmid.service.d/${name}`, dropIn);
    const verified = await machine.run("systemd-analyze", "verify", "nmid.service");
    assert.deepEqual(verified, { code: 0, stdout: "", stderr: "" }, name);
    await machine.must("rm", dropIn);
  }
  assert.match(await machine.must("id", "nmid"), /^uid=\d+\(nmid\) gid=\d+\(nmid\)/);
}

async function startedByItsFirstClient(machine: Machine): Promise<void> {
  await machine.must("systemctl", "start", "nmid.socket");
  assert.equal(await machine.show(SERVICE, "ActiveState"), "inactive");
  using client = clientOf(machine);
  await client.getStatus();
  const pid = await activePid(machine);
  assert.match(await machine.show(SERVICE, "StatusText"), /^perf: .*, 0 handlers, on .*nmid\.sock/);
  assert.deepEqual(fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(1, 4), [
    "/usr/bin/nmid",
    "--config",
    CONFIG,
  ]);
}

async function hasCapPerfmonAlone(machine: Machine): Promise<void> {
  const pid = await activePid(machine);
  for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) {
    assert.equal(BigInt(`0x${status(pid, set)[0]}`), CAP_PERFMON, set);
  }
  const uid = (await machine.must("id", "-u", "nmid")).trim();
  assert.deepEqual(status(pid, "Uid"), [uid, uid, uid, uid]);
  assert.deepEqual(status(pid, "NoNewPrivs"), ["1"]);
  // Filters that systemd-nspawn has installed count, too: none would be 0.
  assert.deepEqual(status(pid, "Seccomp"), ["2"]);
  assert.equal(fs.statSync(machine.path("/run/nmid/handlers.table")).mode & 0o777, 0o640);
}

async function samplesLive(t: TestContext, machine: Machine): Promise<void> {
  startBusy(t, { cpu: usableCpus()[0] });
  using client = clientOf(machine);
  const reader = await subscribeNew(client, { name: "live", events: [{ event: "cpu-clock", frequencyHz: 999 }] });
  await reader.untilMore(100);
  await deregisterAndCheck(client, reader);
}

async function configure(machine: Machine, yaml: string): Promise<void> {
  fs.writeFileSync(machine.path(CONFIG), yaml);
}

async function reloadsWhatItCan(machine: Machine): Promise<void> {
  const pid = await activePid(machine);
  await configure(machine, "log_level: debug\ncapacity: 7\nlimits: {lease_max_ms: 20000}\n");
  await machine.must("systemctl", "reload", SERVICE);
  const log = await poll("the reload's lines", async () => {
    const text = await machine.journal(SERVICE);
    return text.includes("before a restart") ? text : undefined;
  });
  assert.match(log, /"changed":\["log_level","limits\.lease_max_ms"\]/);
  // The level is in force when the reload's own lines are written.
  await configure(machine, "log_level: warn\ncapacity: 8\nlimits: {lease_max_ms: 20000}\n");
  await machine.must("systemctl", "reload", SERVICE);
  await poll("the second reload's warning", async () =>
    [...(await machine.journal(SERVICE)).matchAll(/before a restart/g)].length === 2 ? true : undefined,
  );
  assert.equal([...(await machine.journal(SERVICE)).matchAll(/"configuration reloaded"/g)].length, 1);
  assert.match(log, /changed, but not before a restart: capacity/);
  using client = clientOf(machine);
  await assert.rejects(
    client.register({ name: "too long", events: [], leaseMs: 20_001 }),
    /lease_ms: 20001: at most 20000/,
  );
  assert.equal(await activePid(machine), pid);
}

async function keepsTheOldConfiguration(machine: Machine): Promise<void> {
  const pid = await activePid(machine);
  await configure(machine, "limits: {lease_max_ms: never}\n");
  const reload = await machine.run("systemctl", "reload", SERVICE);
  assert.equal(reload.code, 1, "systemctl says so");
  const text = await poll("the refusal in STATUS", async () => {
    const shown = await machine.show(SERVICE, "StatusText");
    return shown.includes("REFUSED") ? shown : undefined;
  });
  assert.match(text, /^perf: .*RELOAD REFUSED, the old configuration stays: .*nmid\.yaml:1 key limits\.lease_max_ms/);
  assert.match(await machine.journal(SERVICE), /"level":"error".*reload refused/);
  using client = clientOf(machine);
  await assert.rejects(client.register({ name: "too long", events: [], leaseMs: 20_001 }), /at most 20000/);
  assert.equal(await activePid(machine), pid);
  await configure(machine, "log_level: debug\n");
  await machine.must("systemctl", "reload", SERVICE);
  await poll("a STATUS without the refusal", async () =>
    (await machine.show(SERVICE, "StatusText")).includes("REFUSED") ? undefined : true,
  );
}

/** Makes the watchdog quicker, which a restart puts in force. */
async function shortenWatchdog(machine: Machine): Promise<void> {
  const dir = "/run/systemd/system/nmid.service.d";
  await machine.must("mkdir", "-p", dir);
  fs.writeFileSync(machine.path(`${dir}/watchdog.conf`), `[Service]\nWatchdogSec=${WATCHDOG_S}\n`);
  await machine.must("systemctl", "daemon-reload");
  await machine.must("systemctl", "restart", SERVICE);
}

/** Does `hang` to the daemon, and sees systemd end it and start another, which serves. */
async function isReplacedWhen(machine: Machine, hang: (pid: number) => Promise<void> | void): Promise<void> {
  const pid = await activePid(machine);
  const before = await restarts(machine);
  await hang(pid);
  const next = await activePid(machine, pid);
  assert.equal(await restarts(machine), before + 1);
  using client = clientOf(machine);
  await client.getStatus();
  assert.equal(await activePid(machine), next);
}

const timeouts = async (machine: Machine): Promise<number> =>
  [...(await machine.journal(SERVICE)).matchAll(/Watchdog timeout/g)].length;

async function stopsAndCanBeStartedAgain(machine: Machine): Promise<void> {
  using client = clientOf(machine);
  const reader = await subscribeNew(client, { name: "to the end", events: [{ event: "cpu-clock", frequencyHz: 99 }] });
  await machine.must("systemctl", "stop", SERVICE);
  // The handler is left to the next daemon, and its stream is broken off until then.
  await assert.rejects(reader.done, /UNAVAILABLE/);
  assert.equal(await machine.show(SERVICE, "Result"), "success");
  assert.match(await machine.journal(SERVICE), /"msg":"stopped"/);
  // The socket is systemd's, and stays.
  assert.equal(await machine.show("nmid.socket", "ActiveState"), "active");
  assert.ok(fs.lstatSync(machine.path(SOCKET)).isSocket());
  assert.ok(!fs.existsSync(machine.path("/run/nmid/handlers.table")));
  using next = clientOf(machine);
  await next.getStatus();
  await activePid(machine);
}

async function pinsWithTheDropIn(machine: Machine): Promise<void> {
  await configure(machine, "dispatcher_cpus: auto\n");
  // It would try again for a while.
  await machine.run("systemctl", "restart", SERVICE);
  await poll("the reason", async () => (await machine.journal(SERVICE)).includes("pinning.conf.example") || undefined);
  const dir = "/run/systemd/system/nmid.service.d";
  await machine.must("cp", "/usr/share/doc/nmid/nmid.service.d/pinning.conf.example", `${dir}/pinning.conf`);
  await machine.must("systemctl", "daemon-reload");
  await machine.must("systemctl", "restart", SERVICE);
  using client = clientOf(machine);
  const { dispatchers } = await client.getStatus();
  assert.ok(dispatchers[0].pinnedCpus.length > 0);
}

async function doesNotTryAgainWithoutHope(machine: Machine): Promise<void> {
  await configure(machine, "capacity: 0\n");
  const { code } = await machine.run("systemctl", "restart", SERVICE);
  assert.equal(code, 1);
  assert.equal(await machine.show(SERVICE, "ExecMainStatus"), "78");
  // Not "activating", as while systemd waits to try again.
  assert.equal(await machine.show(SERVICE, "ActiveState"), "failed");
  assert.match(await machine.journal(SERVICE), /nmid\.yaml:1 key capacity: 0 is below 1/);
}

test("nmid.service under systemd", BOUNDED, async (t) => {
  const machine = await startMachine(t);
  if (machine === null) return;
  await t.test("units and drop-ins are sound, and the user is there", () => unitsAreSound(machine));
  await t.test("the first client starts it through the socket, and it says when it is ready", () =>
    startedByItsFirstClient(machine),
  );
  await t.test("it runs as its own user, with CAP_PERFMON alone", () => hasCapPerfmonAlone(machine));
  await t.test("it samples the kernel", (t) => samplesLive(t, machine));
  await t.test("a reload puts in force what can be, and says what waits", () => reloadsWhatItCan(machine));
  await t.test("a configuration that will not do leaves the old one, and is told", () =>
    keepsTheOldConfiguration(machine),
  );
  await shortenWatchdog(machine);
  await t.test("a dispatcher that hangs is noticed, and the daemon replaced", async (t) => {
    if (!canHoldThreads()) return t.skip("python3 is not installed");
    await isReplacedWhen(machine, (pid) => holdThread(t, pid, "nmid-disp-0"));
    assert.equal(await timeouts(machine), 1);
    assert.match(await machine.journal(SERVICE), /"dispatcher":0.*does not answer/);
  });
  await t.test("so is a process that hangs", async () => {
    const before = await timeouts(machine);
    await isReplacedWhen(machine, (pid) => void process.kill(pid, "SIGSTOP"));
    assert.equal(await timeouts(machine), before + 1);
  });
  await t.test("and one that is killed", () => isReplacedWhen(machine, (pid) => void process.kill(pid, "SIGKILL")));
  await t.test("it stops when told to, and the next client starts it again", () => stopsAndCanBeStartedAgain(machine));
  await t.test("dispatchers are pinned where the drop-in allows it, and it is named where not", () =>
    pinsWithTheDropIn(machine),
  );
  await t.test("a configuration that will not do is no reason to try again and again", () =>
    doesNotTryAgainWithoutHope(machine),
  );
});
