/** What supervisors see of a daemon: /healthz and /readyz while it serves, hangs and stops. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { loadConfig, processIo } from "../../src/daemon/config/load.js";
import { startDaemon as startHere } from "../../src/daemon/daemon.js";
import { createLogger } from "../../src/daemon/observe/log.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { DaemonError, startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";
import { subscribeNew } from "../support/stream-reader.js";

async function ask(address: string, path: string): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://${address}${path}`);
  return { status: response.status, text: await response.text() };
}

test(
  "a daemon that serves is alive and ready; one that stops is alive and not ready until it is gone",
  BOUNDED,
  async (t) => {
    const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
    assert.deepEqual(await ask(daemon.metricsAddress, "/healthz"), {
      status: 200,
      text: "alive\ndispatcher 0: alive\n",
    });
    assert.match((await ask(daemon.metricsAddress, "/readyz")).text, /^ready\n/);

    // A reader that takes nothing makes the daemon wait for it.
    const reader = await subscribeNew(connectTo(t, daemon), { name: "stuck", events: [] }, { paused: true });
    reader.done.catch(() => {});
    const metrics = `http://${daemon.metricsAddress}/metrics`;
    await poll("a queue that is full", async () => {
      const text = await (await fetch(metrics)).text();
      return /nmid_lost_samples_total\{reason="QUEUE_FULL"\} [1-9]/.test(text) || undefined;
    });
    const stopped = daemon.stop();
    const draining = await poll("not ready", async () => {
      const ready = await ask(daemon.metricsAddress, "/readyz");
      return ready.status === 503 ? ready : undefined;
    });
    assert.match(draining.text, /^not ready\nstopping: /);
    assert.equal((await ask(daemon.metricsAddress, "/healthz")).status, 200);
    await stopped;
  },
);

test("a dispatcher that hangs shows in both, and no more once it goes on", BOUNDED, async (t) => {
  const runtimeDir = mkdtempSync("/dev/shm/nmid-test-");
  const result = loadConfig(
    ["--source", "synthetic:1000,cpus=2", "--dispatchers", "2", "--metrics", "127.0.0.1:0"].concat(
      ["--runtime-dir", runtimeDir],
      ["--listen", `unix:${join(runtimeDir, "s.sock")}`],
    ),
    {},
    processIo("test"),
  );
  assert.ok(result.action === "run");
  const lines: string[] = [];
  const log = createLogger("info", { write: (line) => lines.push(line) });
  const daemon = await startHere(result.config, "test", log, () => {});
  const word = new Int32Array(new SharedArrayBuffer(4));
  const goOn = (): void => {
    Atomics.store(word, 0, 1);
    Atomics.notify(word, 0);
  };
  t.after(async () => {
    goOn();
    await daemon.stop();
    rmSync(runtimeDir, { recursive: true, force: true });
  });
  assert.equal((await ask(daemon.metrics, "/healthz")).status, 200);
  void daemon.host.threads[1].tell({ kind: "hang", word });
  const dead = await poll("not alive", async () => {
    const live = await ask(daemon.metrics, "/healthz");
    return live.status === 503 ? live : undefined;
  });
  assert.match(dead.text, /^not alive\ndispatcher 0: alive\ndispatcher 1: stalled, it has not answered for \d/);
  const unready = await ask(daemon.metrics, "/readyz");
  assert.equal(unready.status, 503);
  assert.match(unready.text, /dispatcher 1 is stalled/);
  const scraped = (await ask(daemon.metrics, "/metrics")).text;
  const unanswered = (d: number) =>
    Number(new RegExp(`^nmid_dispatcher_unanswered_seconds\\{dispatcher="${d}"\\} (\\S+)$`, "m").exec(scraped)?.[1]);
  assert.ok(unanswered(1) >= 10, `${unanswered(1)}`);
  assert.ok(unanswered(0) < 1, `${unanswered(0)}`);

  goOn();
  await poll("alive", async () => ((await ask(daemon.metrics, "/healthz")).status === 200 ? true : undefined));
  assert.equal((await ask(daemon.metrics, "/readyz")).status, 200);
  const said = lines.map((line) => JSON.parse(line)).filter(({ dispatcher }) => dispatcher === 1);
  assert.deepEqual(
    said.map(({ level, msg }) => [level, msg]),
    [
      ["error", "dispatcher stalled: it does not answer"],
      ["info", "dispatcher answers again"],
    ],
  );
});

test("a metrics port that is taken ends the start with what to do, and leaves nothing behind", BOUNDED, async (t) => {
  const other = createServer().listen(0, "127.0.0.1");
  t.after(() => other.close());
  await once(other, "listening");
  const { port } = other.address() as { port: number };
  await assert.rejects(
    startDaemon(t, { args: ["--source", "synthetic:1000", "--metrics", `127.0.0.1:${port}`] }),
    (error: unknown) => {
      assert.ok(error instanceof DaemonError);
      assert.equal(error.exitCode, 1);
      const said = error.logs.filter((line) => line.startsWith("nmid: "));
      assert.equal(said.length, 1);
      assert.match(said[0], new RegExp(`^nmid: metrics address 127\\.0\\.0\\.1:${port} is taken .*--metrics off$`));
      return true;
    },
  );
});
