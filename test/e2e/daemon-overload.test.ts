/** Dispatchers that cannot keep up: the daemon says so, lowers rates where it may, and recovers. */
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { type TestContext, test } from "node:test";
import type { BrokerClient, GetStatusResponse } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { startNmictl } from "../support/process.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const BEGAN = "overloaded: the dispatchers do not keep up";
const ENDED = "overload has ended";

/** The log's lines with this message. */
function logged(daemon: RunningDaemon, message: string): Record<string, unknown>[] {
  const records = daemon.logs.flatMap((line) => (line.startsWith("{") ? [JSON.parse(line)] : []));
  return records.filter(({ msg }) => msg === message);
}

async function metric(daemon: RunningDaemon, series: string): Promise<number> {
  const text = await (await fetch(`http://${daemon.metricsAddress}/metrics`)).text();
  const line = text.split("\n").find((one) => one.startsWith(`${series} `));
  return Number(line?.split(" ").at(-1));
}

function untilStatus(
  client: BrokerClient,
  what: string,
  holds: (status: GetStatusResponse) => boolean,
): Promise<GetStatusResponse> {
  return poll(what, async () => {
    const status = await client.getStatus();
    return holds(status) ? status : undefined;
  });
}

/** More than any dispatcher drains: the load generator is as busy as one. */
test("a load that nobody can drain shows everywhere, once, and its end does", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:50000000", "--overload", "lower"] });
  const client = connectTo(t, daemon);
  assert.equal((await client.getStatus()).overload?.overloaded, false);
  assert.equal(await metric(daemon, "nmid_overloaded"), 0);

  const reader = await subscribeNew(client, { name: "thin", events: [{ frequencyHz: 1000 }] });
  const { overload, events } = await untilStatus(
    client,
    "an overload",
    (status) => status.overload?.overloaded === true,
  );
  assert.match(overload?.reason ?? "", /the kernel dropped \d+ samples; dispatcher 0 /);
  assert.deepEqual(overload?.dispatchers, [0]);
  assert.ok((overload?.kernelLost ?? 0) > 0);
  assert.equal(overload?.episodes, 1);
  assert.equal(events[0].loweredFrequencyHz, 0, "the generator's pace is its own");
  assert.equal(await metric(daemon, "nmid_overloaded"), 1);
  assert.equal(await metric(daemon, "nmid_overload_episodes_total"), 1);
  assert.ok((await metric(daemon, 'nmid_dispatcher_busy_seconds_total{dispatcher="0"}')) > 0);
  assert.ok((await metric(daemon, 'nmid_dispatcher_ring_fill_ratio_count{dispatcher="0"}')) > 0);
  await startNmictl(t, daemon, "status").line(/^overload: +OVERLOADED for \d+\.\d s, \d+ samples lost by the kernel: /);

  // It lasts: more of it is no other one.
  const lost = overload?.kernelLost ?? 0;
  await untilStatus(client, "more losses", (status) => (status.overload?.kernelLost ?? 0) > lost);
  await deregisterAndCheck(client, reader);
  const after = await untilStatus(client, "the end", (status) => status.overload?.overloaded === false);
  assert.deepEqual([after.overload?.episodes, after.overload?.reason], [1, ""]);
  assert.equal(await metric(daemon, "nmid_overloaded"), 0);
  const [began] = logged(daemon, BEGAN);
  const [ended] = logged(daemon, ENDED);
  assert.deepEqual([logged(daemon, BEGAN).length, logged(daemon, ENDED).length], [1, 1]);
  assert.match(String(began.remedy), /more dispatchers .* has no effect on this source/);
  assert.equal(ended.kernel_lost, after.totals?.kernelLost, "all that was lost was lost in it");
});

/** Clock ticks of CPU time that a process has had; proc(5). */
function cpuTicks(pid: number): number {
  const [, ...fields] = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ");
  const [utime, stime] = fields.join(") ").split(" ").slice(11, 13).map(Number);
  return utime + stime;
}

/**
 * The whole daemon is stopped until the load has run so long that its ring must be full, and goes on: the kernel has
 * dropped samples then, however fast this machine is.
 */
async function suspend(daemon: RunningDaemon, load: number): Promise<void> {
  const until = cpuTicks(load) + SUSPENDED_TICKS;
  process.kill(daemon.pid, "SIGSTOP");
  try {
    await poll("the load to run", () => cpuTicks(load) >= until || undefined);
  } finally {
    process.kill(daemon.pid, "SIGCONT");
  }
}

const FREQUENCY_HZ = 20_000;
/** Of 56 bytes a sample this ring takes 9,362: 468 ms at this rate, and half a second's delay elsewhere does no harm. */
const RING_KIB = 512;
/** 700 ms. At half the rate it does not fill the ring any more. */
const SUSPENDED_TICKS = 70;

async function startLowering(t: TestContext): Promise<RunningDaemon | null> {
  const dir = fs.mkdtempSync("/tmp/nmid-test-");
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const config = path.join(dir, "nmid.yaml");
  fs.writeFileSync(config, `ring_kib: ${RING_KIB}\noverload: lower\nlimits: { overload_raise_after_ms: 1000 }\n`);
  return startLiveDaemon(t, { args: ["--config", config] });
}

test("live rates are lowered while the kernel drops samples, and raised again after", BOUNDED, async (t) => {
  const maxHz = Number(fs.readFileSync("/proc/sys/kernel/perf_event_max_sample_rate", "utf8"));
  if (maxHz < FREQUENCY_HZ) {
    t.skip(`kernel.perf_event_max_sample_rate is ${maxHz}, and the test needs ${FREQUENCY_HZ}`);
    return;
  }
  const daemon = await startLowering(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  const [cpu] = usableCpus();
  const load = startBusy(t, { cpu });
  const request = { filter: { cpus: [cpu], pids: [load.pid] }, queue: { flushIntervalMs: 10 } };
  const events = (frequencyHz: number) => [{ event: "cpu-clock", frequencyHz }];
  const periods = new Set<bigint>();
  const reader = await subscribeNew(
    client,
    { name: "fast", events: events(FREQUENCY_HZ), ...request },
    {
      onBatch: ({ period }) => {
        for (const value of period) periods.add(value);
      },
    },
  );
  const atHz = (hz: number) => BigInt(1e9 / hz);
  await reader.until("samples at the rate asked for", () => periods.has(atHz(FREQUENCY_HZ)));

  const lowered = await poll("a lowered rate", async () => {
    await suspend(daemon, load.pid);
    const status = await client.getStatus();
    return status.events[0].loweredFrequencyHz > 0 ? status : undefined;
  });
  assert.equal(lowered.overload?.overloaded, true);
  assert.equal(lowered.events[0].frequencyHz, FREQUENCY_HZ, "what is asked for stays");
  assert.ok(lowered.events[0].loweredFrequencyHz <= FREQUENCY_HZ / 2);
  assert.ok(lowered.events[0].kernelLost > 0);
  assert.ok((await metric(daemon, 'nmid_event_lowered_ratio{event="cpu-clock",sampling="frequency"}')) <= 0.5);
  // Each sample weighs what lies between it and the last: a rate that is lowered does not distort sums.
  await reader.until("samples at a lowered rate", () => periods.has(atHz(FREQUENCY_HZ / 2)));
  // Who comes meanwhile is held back as well.
  const late = await subscribeNew(client, { name: "late", events: events(FREQUENCY_HZ), ...request });
  assert.ok((await client.getStatus()).events[0].loweredFrequencyHz > 0);
  await late.untilMore(10);
  await deregisterAndCheck(client, late);

  const raised = await untilStatus(
    client,
    "the rate as asked for",
    ({ events: [event] }) => event.loweredFrequencyHz === 0,
  );
  assert.equal(raised.overload?.overloaded, false);
  periods.clear();
  await reader.until("samples at the rate asked for, again", () => periods.has(atHz(FREQUENCY_HZ)));
  await deregisterAndCheck(client, reader);
  const lines = ["rates lowered", "rates raised", BEGAN, ENDED].map((message) => logged(daemon, message).length);
  assert.ok(
    lines.every((count) => count > 0),
    lines.join(),
  );
});
