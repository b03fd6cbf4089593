/** SIGHUP without a service manager: the configuration is read again, or the terminal is gone. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { DAEMON_MAIN, type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { hasCommand, startProcess } from "../support/process.js";

function configFile(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-reload-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  return path.join(dir, "nmid.yaml");
}

/** Writes the file, signals, and resolves when the log has a line more that matches. */
async function reload(daemon: RunningDaemon, file: string, yaml: string, line: RegExp): Promise<void> {
  const count = (): number => daemon.logs.filter((text) => line.test(text)).length;
  const before = count();
  fs.writeFileSync(file, yaml);
  process.kill(daemon.pid, "SIGHUP");
  await poll(`a line like ${line}`, () => (count() > before ? true : undefined));
}

test("limits change for those who register from then on, and not by a file that will not do", BOUNDED, async (t) => {
  const file = configFile(t);
  fs.writeFileSync(file, "limits: {lease_max_ms: 50000}\n");
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000", "--config", file] });
  const client = connectTo(t, daemon);
  const register = (leaseMs: number) => client.register({ name: `for ${leaseMs} ms`, events: [], leaseMs });
  const { handlerId } = await register(50_000);

  await reload(daemon, file, "ring_kib: 64\nlimits: {lease_max_ms: 20000}\n", /before a restart: ring_kib/);
  await assert.rejects(register(20_001), /lease_ms: 20001: at most 20000/);
  await register(20_000);
  // What was promised before holds.
  const { handlers } = await client.listHandlers();
  assert.ok(handlers.some((handler) => handler.handlerId === handlerId && handler.state === "ACTIVE"));

  for (const yaml of ["limits: {lease_max_ms: 1}\n", "limits: [", "listen: nowhere\nlimits: {lease_max_ms: 30000}\n"]) {
    await reload(daemon, file, yaml, /reload refused, the old configuration stays/);
    await assert.rejects(register(20_001), /at most 20000/);
  }
  fs.rmSync(file);
  process.kill(daemon.pid, "SIGHUP");
  await poll("the file's absence told", () => daemon.logs.some((line) => /ENOENT/.test(line)) || undefined);
  await assert.rejects(register(20_001), /at most 20000/);

  await reload(daemon, file, "limits: {lease_max_ms: 30000}\n", /"changed":\["limits.lease_max_ms"\]/);
  await register(30_000);
});

test("a flag goes before the file, in a reload, too", BOUNDED, async (t) => {
  const file = configFile(t);
  fs.writeFileSync(file, "");
  const flagged = await startDaemon(t, { args: ["--source", "synthetic:1000", "--config", file] });
  await reload(flagged, file, "log_level: error\noverload: lower\n", /"changed":\["overload"\]/);
  await reload(flagged, file, "log_level: error\n", /"changed":\["overload"\]/);
});

test("on a terminal it ends the daemon in order", BOUNDED, async (t) => {
  if (!hasCommand("script")) return t.skip("script (bsdutils) is not installed");
  const dir = fs.mkdtempSync("/dev/shm/nmid-hangup-");
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const flags = `--source synthetic:1000 --metrics off --runtime-dir ${dir} --listen unix:${dir}/nmid.sock`;
  const pidFile = path.join(dir, "pid");
  // The shell becomes the daemon.
  const command = `echo $$ > ${pidFile}; exec ${process.execPath} ${DAEMON_MAIN} ${flags}`;
  const terminal = startProcess(t, "script", ["-qfec", command, "/dev/null"]);
  await terminal.line(/ready/);
  process.kill(Number(fs.readFileSync(pidFile, "utf8")), "SIGHUP");
  await terminal.line(/stopped/);
  assert.equal((await terminal.exited).code, 0);
});
