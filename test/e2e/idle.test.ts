/** No consumer, no cost: an idle daemon has armed nothing and sleeps. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { type TestContext, test } from "node:test";
import type { BrokerClient } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { startProcess } from "../support/process.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const WINDOWS_MAX = 5;

/**
 * Switches that all threads of an idle daemon may make while the work below is done, a second or more: its own timers
 * would make one each. A timer that ticks ten times a second exceeds it.
 */
const HOUSEKEEPING_SWITCHES_MAX = 8;

/** By thread: how often it has gone to sleep so far. */
function sleeps(pid: number): Map<string, number> {
  const tasks = `/proc/${pid}/task`;
  return new Map(
    fs.readdirSync(tasks).map((tid) => {
      const status = fs.readFileSync(`${tasks}/${tid}/status`, "utf8");
      return [tid, Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(status)?.[1])];
    }),
  );
}

/** Resolves after a fixed amount of CPU time, in a process of its own. */
async function someWork(t: TestContext): Promise<void> {
  const steps = 1_000_000;
  const { code } = await startProcess(t, "sh", ["-c", `i=0; while [ $i -lt ${steps} ]; do i=$((i+1)); done`]).exited;
  assert.equal(code, 0);
}

async function checkIdle(t: TestContext, daemon: RunningDaemon, client: BrokerClient): Promise<void> {
  const before = await client.getStatus();
  assert.deepEqual(before.events, []);
  // The engine compiles and collects on threads of its own for a while after it has been busy: what wakes again and again
  // is awake in every window, what was only finishing is not in the next.
  let awake: { tid: string; switches: number }[] = [];
  let switches = Number.POSITIVE_INFINITY;
  for (let window = 0; window < WINDOWS_MAX && switches > HOUSEKEEPING_SWITCHES_MAX; window++) {
    const asleep = sleeps(daemon.pid);
    await someWork(t);
    const slept = [...sleeps(daemon.pid)].map(([tid, count]) => ({ tid, switches: count - (asleep.get(tid) ?? 0) }));
    awake = slept.filter((thread) => thread.switches > 0);
    switches = slept.reduce((sum, thread) => sum + thread.switches, 0);
  }
  assert.ok(switches <= HOUSEKEEPING_SWITCHES_MAX, `woke ${switches} times: ${JSON.stringify(awake)}`);
  const after = await client.getStatus();

  const counters = ({ dispatchers }: typeof before) => dispatchers.map(({ wakeups, drains }) => ({ wakeups, drains }));
  assert.deepEqual(counters(after), counters(before), "no dispatcher woke");
  assert.equal(after.totals?.samples, before.totals?.samples);
}

async function checkIdleBeforeAndAfter(t: TestContext, daemon: RunningDaemon): Promise<void> {
  const client = connectTo(t, daemon);
  await checkIdle(t, daemon, client);

  const busy = startBusy(t, { cpu: usableCpus()[0] });
  const events = [{ event: "cpu-clock", frequencyHz: 997 }];
  const reader = await subscribeNew(client, { name: "passing through", events });
  await reader.untilMore(50);
  await deregisterAndCheck(client, reader);
  busy.kill("SIGKILL");
  await busy.exited;

  const { samples } = (await client.getStatus()).totals ?? {};
  assert.ok(samples !== undefined && samples >= reader.samples, "the counters have moved in between");
  await checkIdle(t, daemon, client);
}

test("without handlers nothing is armed and nobody wakes: perf", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t, { args: ["--dispatchers", "2"] });
  if (daemon !== null) await checkIdleBeforeAndAfter(t, daemon);
});

test("without handlers nothing is armed and nobody wakes: synthetic", BOUNDED, async (t) => {
  await checkIdleBeforeAndAfter(t, await startDaemon(t, { args: ["--source", "synthetic:1000"] }));
});
