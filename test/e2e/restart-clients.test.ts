/** The command line outlives a restart of the daemon. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import type { Report } from "../../clients/nmictl/verify/reconcile.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { hasCommand, startNmictl } from "../support/process.js";
import { makeRuntimeDir } from "../support/runtime-dir.js";

const LOAD = ["--source", "synthetic:20000", "--dispatchers", "2"];

test("nmictl subscribe notes the gap, and its books hold both daemons' samples", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await startDaemon(t, { args: [...LOAD, ...place.args] });
  const command = startNmictl(t, first, "--json", "subscribe", "-F", "1000");
  await command.line(/"kind":"samples"|"ip":/);
  await first.stop();
  await startDaemon(t, { args: [...LOAD, ...place.args] });
  await command.line(/the daemon was restarted: .* was not counted for /);
  await command.line(/is resumed/);
  command.kill("SIGINT");
  const { code, stderr, stdout } = await command.exited;
  assert.equal(code, 0, stderr);
  const books = stdout
    .split("\n")
    .filter((line) => line.includes('"kind":"books"'))
    .map((line) => JSON.parse(line) as { matched: number; delivered: number; lost: number; received: number });
  assert.equal(books.length, 1, stderr);
  assert.equal(books[0].matched, books[0].delivered + books[0].lost);
  assert.equal(books[0].received, books[0].delivered);
});

test("nmictl record writes the gap as LOST and goes on", BOUNDED, async (t) => {
  const place = makeRuntimeDir(t);
  const first = await startDaemon(t, { args: [...LOAD, ...place.args] });
  const file = path.join(place.dir, "perf.data");
  const command = startNmictl(t, first, "record", "-a", "-F", "1000", "-o", file);
  await poll("samples are recorded", () => (fs.existsSync(file) && fs.statSync(file).size > 8192) || undefined);
  await first.stop();
  const second = await startDaemon(t, { args: [...LOAD, ...place.args] });
  await command.line(/the daemon was restarted: nothing was recorded for /);
  const client = connectTo(t, second);
  await poll("samples of the second daemon", async () => {
    const [handler] = (await client.listHandlers()).handlers;
    return handler.subscribed && handler.delivered > 5000 ? handler : undefined;
  });
  command.kill("SIGINT");
  const { code, stderr } = await command.exited;
  // 128 and the signal's number, as perf record has it.
  assert.equal(code, 130, stderr);
  if (!hasCommand("perf")) return t.skip("there is no perf: Debian's linux-perf");
  const script = execFileSync("perf", ["script", "--show-lost-events", "-F", "time,ip", "-i", file], {
    encoding: "utf8",
  });
  const lines = script.split("\n").filter((line) => line !== "");
  const gap = lines.findIndex((line) => line.includes("PERF_RECORD_LOST"));
  assert.ok(gap > 0 && gap < lines.length - 1, `the gap is line ${gap} of ${lines.length}`);
});

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`nmictl verify reconciles a run in which the daemon was restarted by ${signal}`, BOUNDED, async (t) => {
    const place = makeRuntimeDir(t);
    const first = await startDaemon(t, { args: [...LOAD, ...place.args] });
    const command = startNmictl(t, first, "--json", "verify", "--seconds", "8", "--handlers", "8", "--seed", "3");
    const client = connectTo(t, first);
    await poll("handlers are there", async () => {
      const { handlers } = await client.listHandlers();
      return handlers.filter(({ delivered }) => delivered > 1000).length > 2 || undefined;
    });
    await first.stop(signal);
    await startDaemon(t, { args: [...LOAD, ...place.args] });
    const { code, stdout, stderr } = await command.exited;
    const report = JSON.parse(stdout) as Report;
    assert.deepEqual(report.imbalances, [], stderr);
    assert.equal(report.restarts, 1);
    assert.ok(report.gapMs > 0);
    assert.deepEqual(report.unchecked, [
      "the daemon's totals: the daemon was restarted 1 times, and counts from its start",
    ]);
    assert.equal(code, 0, stderr);
  });
}
