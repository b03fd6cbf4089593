/**
 * A dispatcher that dies is replaced on its rings: no handler is gone, what it owed is counted and told, and removals
 * that waited for it end. The daemon runs in this process, so that faults can be put into its dispatchers.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { reconcile } from "../../clients/nmictl/verify/reconcile.js";
import { run } from "../../clients/nmictl/verify/run.js";
import { type BrokerClient, connect } from "../../clients/typescript/index.js";
import { loadConfig, processIo } from "../../src/daemon/config/load.js";
import { type Daemon, startDaemon } from "../../src/daemon/daemon.js";
import type { FaultPoint } from "../../src/daemon/dispatch/messages.js";
import { DISPATCHER_STAT } from "../../src/daemon/dispatch/stats.js";
import { createLogger } from "../../src/daemon/observe/log.js";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

interface Running {
  readonly daemon: Daemon;
  readonly client: BrokerClient;
  readonly address: string;
  readonly fatal: Error[];
}

async function start(t: TestContext, ...flags: string[]): Promise<Running> {
  const runtimeDir = mkdtempSync("/dev/shm/nmid-test-");
  const socket = join(runtimeDir, "s.sock");
  const argv = ["--source", "synthetic:20000,cpus=4", "--runtime-dir", runtimeDir, "--listen", `unix:${socket}`];
  const result = loadConfig([...argv, "--metrics", "off", ...flags], {}, processIo("test"));
  assert.ok(result.action === "run");
  const fatal: Error[] = [];
  const daemon = await startDaemon(result.config, "test", createLogger("silent"), (error) => fatal.push(error));
  const client = connect(`unix:${socket}`);
  t.after(async () => {
    client.close();
    await daemon.stop();
    rmSync(runtimeDir, { recursive: true, force: true });
  });
  return { daemon, client, address: `unix:${socket}`, fatal };
}

async function untilRestarted(client: BrokerClient, times: number): Promise<void> {
  await poll(`${times} restarts`, async () => {
    const { dispatchers } = await client.getStatus();
    return dispatchers.reduce((sum, { restarts }) => sum + restarts, 0) === times || undefined;
  });
}

for (const at of ["now", "entered", "matched"] satisfies FaultPoint[]) {
  for (const how of ["throw", "exit"] as const) {
    test(
      `a dispatcher that dies (${how}, ${at}) is replaced, and every handler's books balance`,
      BOUNDED,
      async (t) => {
        const { daemon, client, fatal } = await start(t, "--dispatchers", "2");
        const readers = await Promise.all(
          ["a", "b", "c"].map((name) =>
            subscribeNew(client, { name, events: [{ event: "cpu-clock" }], queue: { flushIntervalMs: 5 } }),
          ),
        );
        for (const reader of readers) await reader.untilMore(2000);
        // The one that is told to die never answers; its successor does.
        void daemon.host.threads[0].tell({ kind: "fail", at, how });
        await untilRestarted(client, 1);
        for (const reader of readers) await reader.untilMore(4000);
        let died = 0;
        for (const reader of readers) {
          const books = await deregisterAndCheck(client, reader);
          died += books.losses.find(({ reason }) => reason === "DISPATCHER_DIED")?.count ?? 0;
        }
        const gaps = readers.flatMap(({ losses }) => losses.filter(({ loss }) => loss.eventWide));
        // Inside one handler's dispatch: what was matched is in its books, what was not looked at is told beside them.
        assert.equal(died > 0, at === "matched", `${died} lost as DISPATCHER_DIED`);
        assert.equal(gaps.length, at === "entered" ? 1 : 0);
        assert.deepEqual(fatal, []);
        // All events are closed again, and new handlers find a dispatcher that knows nothing of old ones.
        assert.deepEqual((await client.getStatus()).events, []);
        const next = await subscribeNew(client, { name: "next", events: [{ event: "cpu-clock" }] });
        await next.untilMore(1000);
        await deregisterAndCheck(client, next);
      },
    );
  }
}

test("a dispatcher that dies while an event changes its shape loses nothing untold", BOUNDED, async (t) => {
  const { daemon, client } = await start(t);
  const [thread] = daemon.host.threads;
  const event = { event: "cpu-clock" };
  const reader = await subscribeNew(client, { name: "a", events: [event], queue: { flushIntervalMs: 5 } });
  await reader.untilMore(1000);
  // It dies in the drain that comes before the old shape's formats go: what the ring holds is still in the old shape.
  const tell = thread.tell.bind(thread);
  let armed = true;
  thread.tell = (control) => {
    if (armed && control.kind === "remove formats") {
      armed = false;
      void tell({ kind: "fail", at: "entered", how: "throw" });
    }
    return tell(control);
  };
  const deep = await subscribeNew(client, { name: "b", events: [event], fields: ["CALLCHAIN"] });
  await untilRestarted(client, 1);
  await Promise.all([reader.untilMore(4000), deep.untilMore(4000)]);
  assert.equal(thread.stats.words[DISPATCHER_STAT.STRAY_SAMPLES], 0);
  for (const each of [deep, reader]) await deregisterAndCheck(client, each);
});

test("a removal that waits for a dispatcher ends when it has died", BOUNDED, async (t) => {
  const { daemon, client } = await start(t);
  const reader = await subscribeNew(client, { name: "a", events: [{}], queue: { flushIntervalMs: 5 } });
  await reader.untilMore(1000);
  void daemon.host.threads[0].tell({ kind: "fail", at: "matched", how: "exit" });
  // Whether it dies before, during or after the removal: both end, with balanced books.
  await deregisterAndCheck(client, reader);
});

test("a dispatcher that dies again and again ends the daemon", BOUNDED, async (t) => {
  const { daemon, fatal } = await start(t);
  await poll("the daemon gives up", () => {
    void daemon.host.threads[0].tell({ kind: "fail", at: "now", how: "throw" });
    return fatal.length > 0 || undefined;
  });
  assert.match(fatal[0].message, /dispatcher 0 died 6 times in a row: a fault was injected/);
});

test(
  "every sample made is accounted for while dispatchers die and handlers of all kinds come and go",
  BOUNDED,
  async (t) => {
    const { daemon, client, address, fatal } = await start(t, "--dispatchers", "2");
    const over = new AbortController();
    const running = run({
      address,
      seconds: 60,
      handlers: 6,
      seed: 3,
      events: ["", "cycles"],
      frequencyHz: 0,
      signal: over.signal,
    });
    const faults: readonly FaultPoint[] = ["matched", "now", "entered", "matched", "entered", "now"];
    for (const [i, at] of faults.entries()) {
      const { totals } = await client.getStatus();
      await poll("more samples", async () => {
        const delivered = (await client.getStatus()).totals?.delivered ?? 0;
        return delivered > (totals?.delivered ?? 0) + 5000 || undefined;
      });
      void daemon.host.threads[i % 2].tell({ kind: "fail", at, how: i < 3 ? "throw" : "exit" });
      await untilRestarted(client, i + 1);
    }
    over.abort();
    const report = reconcile(await running);
    assert.deepEqual(report.imbalances, []);
    // Nobody knows any more whether a dead dispatcher's last batch was claimed.
    assert.deepEqual(report.unchecked, ["one handler's samples against those drained: a dispatcher died"]);
    const died = report.losses.find(({ reason }) => reason === "DISPATCHER_DIED");
    assert.ok(died !== undefined && died.booked > 0);
    assert.deepEqual(fatal, []);
  },
);
