/**
 * Minutes of load under which everything happens that can cost a sample, with `nmictl verify` beside it: whatever the
 * producer made was received or is accounted for, to the sample.
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import { type TestContext, test } from "node:test";
import type { Report } from "../../clients/nmictl/verify/reconcile.js";
import { ROLES } from "../../clients/nmictl/verify/roles.js";
import type { BrokerClient } from "../../clients/typescript/index.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { lossesOf, SMALL_RINGS, verify } from "../support/verify.js";

const SYNTHETIC_SECONDS = 120;
const STOPPED_SECONDS = 15;
const THROTTLED_SECONDS = 90;
const BOUNDED = { timeout: 300_000 } as const;

const LIVE_HZ = 4000;
const MAX_SAMPLE_RATE = "/proc/sys/kernel/perf_event_max_sample_rate";
/** Below LIVE_HZ, so that the kernel throttles what is armed. */
const THROTTLING_HZ = 2000;

function noneUnbalanced(daemon: RunningDaemon): void {
  assert.deepEqual(
    daemon.logs.filter((line) => /do not balance/.test(line)),
    [],
  );
}

test("overload, churn, broken streams and full rings: every sample made is accounted for", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, {
    args: ["--source", "synthetic:200000", "--dispatchers", "2"],
    env: SMALL_RINGS,
  });
  const args = ["--seconds", String(SYNTHETIC_SECONDS), "--seed", "4", "-e", "cpu-clock", "-e", "cycles"];
  const report = await verify(t, daemon, ...args);
  noneUnbalanced(daemon);

  // All that there is to survive was there, and all that can be compared was.
  assert.deepEqual(report.unchecked, []);
  assert.equal(report.checks.length, 9);
  assert.deepEqual(
    new Set(report.roles.map(({ role }) => role)),
    new Set(["everything, all along", ...ROLES.map(({ name }) => name)]),
  );
  const losses = lossesOf(report);
  for (const reason of [
    "QUEUE_FULL",
    "QUEUE_DROPPED_OLDEST",
    "STREAM_BROKEN",
    "DISCARDED",
    "LEASE_EXPIRED",
    "DISCONNECTED",
  ]) {
    assert.ok((losses.get(reason) ?? 0) > 0, `${reason}: ${[...losses].join("; ")}`);
  }
  assert.ok(report.eventWide.KERNEL > 0, "the rings were full");
  assert.ok(report.streamsResumed > 0);
  for (const end of ["DEREGISTERED", "OVERFLOWED", "no end", "never subscribed"]) assert.ok(report.ends[end] > 0, end);
  const made = report.checks.find(({ what }) => what.startsWith("samples made"));
  assert.ok(made !== undefined && made.left > 10_000_000 && made.left > report.eventWide.KERNEL);
});

/** CPU time that a process has used, in clock ticks of 10 ms. */
function cpuTicks(pid: number): number {
  const fields = fs
    .readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** What goes wrong in the kernel while the daemon runs; each resolves once it is seen to have happened. */
class Troubles {
  readonly #client: BrokerClient;
  readonly #daemon: RunningDaemon;
  readonly #busyPid: number;
  readonly #over: AbortSignal;

  /** Once it is `over` nothing more happens, and nothing is waited for. */
  constructor(client: BrokerClient, daemon: RunningDaemon, busyPid: number, over: AbortSignal) {
    this.#client = client;
    this.#daemon = daemon;
    this.#busyPid = busyPid;
    this.#over = over;
  }

  /** The daemon does not get to run while samples are taken, and the rings run over. */
  async stop(): Promise<void> {
    const lost = await this.#first("an event", ({ kernelLost }) => kernelLost);
    if (lost === null) return;
    process.kill(this.#daemon.pid, "SIGSTOP");
    try {
      // A tenth of a second of a CPU that is busy: 400 samples, where a ring takes 127.
      const from = cpuTicks(this.#busyPid);
      await poll("a busy CPU", () => (cpuTicks(this.#busyPid) - from >= 10 ? true : undefined));
    } finally {
      process.kill(this.#daemon.pid, "SIGCONT");
    }
    await this.#first("samples lost in the rings", ({ kernelLost }) => (kernelLost > lost ? kernelLost : undefined));
  }

  /** The kernel finds the event too fast, and stops it for the rest of a tick, again and again. */
  async throttle(): Promise<void> {
    const before = await this.#first("an event", ({ throttled }) => throttled);
    if (before === null) return;
    const allowed = fs.readFileSync(MAX_SAMPLE_RATE, "utf8");
    fs.writeFileSync(MAX_SAMPLE_RATE, String(THROTTLING_HZ));
    try {
      await this.#first("an event to be throttled", ({ throttled }) => (throttled > before ? throttled : undefined));
    } finally {
      fs.writeFileSync(MAX_SAMPLE_RATE, allowed);
    }
  }

  /** What `pick` finds in the first event's status, once there is one and it finds something; null when it is over. */
  async #first(
    what: string,
    pick: (event: { kernelLost: number; throttled: number }) => number | undefined,
  ): Promise<number | null> {
    return await poll(what, async () => {
      if (this.#over.aborted) return null;
      const [event] = (await this.#client.getStatus()).events;
      return event === undefined ? undefined : pick(event);
    });
  }
}

/** Null where the rate can be changed, else why not. */
function cannotThrottle(): string | null {
  try {
    fs.writeFileSync(MAX_SAMPLE_RATE, fs.readFileSync(MAX_SAMPLE_RATE));
    return null;
  } catch (error) {
    return `no throttling: ${(error as Error).message}`;
  }
}

/** Runs `verify` for `seconds` and gives the daemon `trouble` after `trouble` meanwhile. */
async function troubled(
  t: TestContext,
  seconds: number,
  trouble: (troubles: Troubles, turn: number) => Promise<void>,
): Promise<Report | null> {
  const daemon = await startLiveDaemon(t, { args: ["--dispatchers", "2"], env: SMALL_RINGS });
  if (daemon === null) return null;
  const busy = usableCpus().map((cpu) => startBusy(t, { cpu }));
  const options = ["--seconds", String(seconds), "--seed", "5", "-e", "cpu-clock", "-F", String(LIVE_HZ)];
  const over = new AbortController();
  const verified = verify(t, daemon, ...options).finally(() => over.abort());
  const troubles = new Troubles(connectTo(t, daemon), daemon, busy[0].pid, over.signal);
  const troubling = (async () => {
    for (let turn = 0; !over.signal.aborted; turn++) await trouble(troubles, turn);
  })();
  const [report] = await Promise.all([verified, troubling]);
  noneUnbalanced(daemon);
  assert.match(report.source, /^perf/);
  assert.deepEqual(report.unchecked, ["samples made: this source does not count them"]);
  assert.ok(report.eventWide.KERNEL > 0);
  assert.ok(report.roles.every(({ handlers }) => handlers > 0) && report.roles.length === ROLES.length + 1);
  const [witness] = report.roles;
  assert.ok(witness.received > 0);
  return report;
}

test("live samples into the smallest rings, and a daemon that is stopped now and then", BOUNDED, async (t) => {
  await troubled(t, STOPPED_SECONDS, async (troubles) => await troubles.stop());
});

test("live samples of an event that the kernel throttles, of a daemon that is stopped now and then", {
  ...BOUNDED,
  skip: cannotThrottle() ?? false,
}, async (t) => {
  const report = await troubled(t, THROTTLED_SECONDS, async (troubles, turn) => {
    await (turn % 2 === 0 ? troubles.throttle() : troubles.stop());
  });
  if (report === null) return;
  const throttled = Object.values(report.throttled);
  assert.ok(throttled.some((times) => times > 0));
});
