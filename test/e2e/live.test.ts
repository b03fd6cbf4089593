/** Eight handlers share one event of the kernel; nobody gets what is somebody else's, and no sample goes astray. */
import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import type { RegisterRequest, SampleBatch } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { hasCommand, startProcess } from "../support/process.js";
import { deregisterAndCheck, type StreamReader, subscribeNew } from "../support/stream-reader.js";

const NOBODY = 65_534;
/** As exclude_kernel's test sees it: x86-64 addresses of the kernel have the highest bit set. */
const KERNEL_ADDRESSES = 1n << 63n;

/** Every sample of one CPU: time and period. */
type Track = { readonly time: bigint[]; readonly period: bigint[] };

function tracker(): { readonly tracks: Map<number, Track>; readonly onBatch: (batch: SampleBatch) => void } {
  const tracks = new Map<number, Track>();
  const onBatch = ({ cpu, time, period, length }: SampleBatch): void => {
    for (let i = 0; i < length; i++) {
      const track = tracks.get(cpu[i]) ?? { time: [], period: [] };
      tracks.set(cpu[i], track);
      track.time.push(time[i]);
      track.period.push(period[i]);
    }
  };
  return { tracks, onBatch };
}

test(
  "eight handlers with rates and filters of their own; half of them leave while samples flow",
  BOUNDED,
  async (t) => {
    const daemon = await startLiveDaemon(t);
    if (daemon === null) return;
    const client = connectTo(t, daemon);
    const cpus = usableCpus();
    const [firstCpu, lastCpu] = [cpus[0], cpus[cpus.length - 1]];
    const inUser = startBusy(t, { cpu: firstCpu, in: "user" });
    const inKernel = startBusy(t, { cpu: lastCpu, in: "kernel" });
    // With an owner of its own where this process may give one; otherwise every process looks the same to the filter.
    const ownUid = process.getuid?.() ?? 0;
    const uid = ownUid === 0 && hasCommand("setpriv") ? NOBODY : ownUid;
    const owned = startBusy(t, { cpu: lastCpu, in: "user", uid: uid === ownUid ? undefined : uid });

    const fast = tracker();
    const slow = tracker();
    const ips: { user: bigint[]; kernel: bigint[] } = { user: [], kernel: [] };
    let callchainAddresses = 0;
    const at = (frequencyHz: number): RegisterRequest["events"] => [{ event: "cpu-clock", frequencyHz }];
    const subscribe = (
      name: string,
      frequencyHz: number,
      rest: Partial<RegisterRequest>,
      onBatch?: (batch: SampleBatch) => void,
    ): Promise<StreamReader> => subscribeNew(client, { name, events: at(frequencyHz), ...rest }, { onBatch });

    const everything = await subscribe("everything", 4999, {}, fast.onBatch);
    const user = await subscribe("pid", 997, { filter: { pids: [inUser.pid] } });
    const other = await subscribe("other pid", 1999, { filter: { pids: [inKernel.pid] } });
    const oneCpu = await subscribe("cpu", 251, { filter: { cpus: [firstCpu] } });
    const kernelOnly = await subscribe("kernel", 1499, { filter: { excludeUser: true } }, ({ ip }) =>
      ips.kernel.push(...ip),
    );
    const userOnly = await subscribe("user", 49, { filter: { excludeKernel: true } }, ({ ip }) => ips.user.push(...ip));
    const byOwner = await subscribe("uid", 499, { filter: { uids: [uid] } });
    const thinned = await subscribe("thinned", 100, { fields: ["CALLCHAIN"] }, (batch) => {
      slow.onBatch(batch);
      assert.equal(batch.callchainLength.length, batch.length);
      callchainAddresses += batch.callchain.length;
    });
    const all = [everything, user, other, oneCpu, kernelOnly, userOnly, byOwner, thinned];

    const { events } = await client.getStatus();
    assert.deepEqual(
      events.map(({ name, frequencyHz, handlers }) => ({ name, frequencyHz, handlers })),
      [{ name: "cpu-clock", frequencyHz: 4999, handlers: 8 }],
      "one event of the kernel, at the fastest rate",
    );

    await Promise.all(all.map((reader) => reader.untilMore(20)));
    const leaving = [user, oneCpu, kernelOnly, thinned];
    const staying = [everything, other, userOnly, byOwner];
    await Promise.all(leaving.map((reader) => deregisterAndCheck(client, reader)));
    await Promise.all(staying.map((reader) => reader.untilMore(20)));
    for (const reader of staying) assert.equal(reader.end, null, `${reader.name} goes on`);
    await Promise.all(staying.map((reader) => deregisterAndCheck(client, reader)));

    const pidsOf = (reader: StreamReader) => [...reader.samplesByPid.keys()];
    assert.deepEqual(pidsOf(user), [inUser.pid]);
    assert.deepEqual(pidsOf(other), [inKernel.pid]);
    assert.deepEqual([...oneCpu.samplesByCpu.keys()], [firstCpu]);
    assert.ok(byOwner.samplesByPid.has(owned.pid));
    if (uid !== ownUid) {
      assert.ok(!byOwner.samplesByPid.has(inUser.pid) && !byOwner.samplesByPid.has(inKernel.pid), "owners differ");
    }
    for (const { pid } of [inUser, inKernel, owned]) assert.ok(everything.samplesByPid.has(pid), `pid ${pid}`);
    assert.ok(ips.user.every((ip) => ip < KERNEL_ADDRESSES));
    assert.ok(ips.kernel.every((ip) => ip >= KERNEL_ADDRESSES));
    assert.ok(callchainAddresses > thinned.samples);
    checkWeights(fast.tracks, slow.tracks);

    const after = await client.getStatus();
    assert.deepEqual(after.events, [], "no handler, no event");
    assert.equal(after.handlers, 0);
    assert.deepEqual(
      { registrations: after.totals?.registrations, removals: after.totals?.removals },
      { registrations: 8, removals: 8 },
    );
  },
);

/**
 * Between two of the slow handler's samples on a CPU lie samples that it was not sent; their periods are in the second
 * one's. The fast handler, registered before and removed after, was sent them all.
 */
function checkWeights(fast: ReadonlyMap<number, Track>, slow: ReadonlyMap<number, Track>): void {
  let compared = 0;
  for (const [cpu, { time, period }] of slow) {
    const all = fast.get(cpu) as Track;
    const weightAt = new Map<bigint, bigint>();
    let total = 0n;
    for (const [i, timeNs] of all.time.entries()) {
      total += all.period[i];
      weightAt.set(timeNs, total);
    }
    for (let i = 1; i < time.length; i++) {
      const [before, upTo] = [weightAt.get(time[i - 1]), weightAt.get(time[i])];
      assert.ok(before !== undefined && upTo !== undefined, `CPU ${cpu}: a sample that the fast handler was not sent`);
      assert.equal(period[i], upTo - before, `CPU ${cpu}, sample ${i}: the weight of what was left out`);
      compared++;
    }
  }
  assert.ok(compared > 0);
}

test("a pid that another handler asks for never shows, and joining and leaving disturbs nobody", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t, { args: ["--dispatchers", "2"] });
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  const cpus = usableCpus();
  const workload = startBusy(t, { cpu: cpus[0] });
  startBusy(t, { cpu: cpus[cpus.length - 1] });
  const events = (frequencyHz: number) => [{ event: "cpu-clock", frequencyHz }];
  // Above pid_max: nobody.
  const elsewhere = await subscribeNew(client, {
    name: "elsewhere",
    events: events(499),
    filter: { pids: [2 ** 22 + 1] },
  });
  const steady = await subscribeNew(client, { name: "steady", events: events(199), filter: { pids: [workload.pid] } });
  for (const frequencyHz of [4000, 150, 2500]) {
    const guest = await subscribeNew(client, { name: "guest", events: events(frequencyHz) });
    await Promise.all([
      guest.until("samples of the workload", () => guest.samplesByPid.has(workload.pid)),
      guest.untilMore(50),
      steady.untilMore(10),
    ]);
    await deregisterAndCheck(client, guest);
    const [armed] = (await client.getStatus()).events;
    assert.equal(armed.frequencyHz, 499, "back at the fastest rate of those that stayed");
  }
  await steady.untilMore(10);
  await deregisterAndCheck(client, steady);
  assert.deepEqual([...steady.samplesByPid.keys()], [workload.pid]);
  const books = await deregisterAndCheck(client, elsewhere);
  assert.equal(books.matched, 0);
  // Whatever was in the rings was drained before its event was forgotten.
  for (const { straySamples } of (await client.getStatus()).dispatchers) assert.equal(straySamples, 0);
});

test("a clock's samples weigh what lies between them, whatever the rate was before", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  const [cpu] = usableCpus();
  startBusy(t, { cpu });
  const filter = { cpus: [cpu] };
  const subscribe = async (name: string, frequencyHz: number) => {
    const periods = new Set<bigint>();
    const onBatch = ({ period }: SampleBatch): void => {
      for (const value of period) periods.add(value);
    };
    const request = { name, filter, events: [{ event: "cpu-clock", frequencyHz }], queue: { flushIntervalMs: 10 } };
    const reader = await subscribeNew(client, request, { onBatch });
    return { reader, periods };
  };
  const { reader: slow, periods } = await subscribe("slow", 500);
  await slow.untilMore(100);
  const { reader: fast, periods: fastPeriods } = await subscribe("fast", 2000);
  await fast.untilMore(100);
  await deregisterAndCheck(client, fast);
  assert.deepEqual([...fastPeriods], [500_000n], "faster than the event was opened for");
  periods.clear();
  await slow.untilMore(100);
  await deregisterAndCheck(client, slow);
  assert.ok(periods.has(2_000_000n), "at its own rate again");
  assert.ok(
    [...periods].every((period) => period % 500_000n === 0n),
    [...periods].join(),
  );
});

test("a period instead of a frequency: the clock's samples weigh what was asked for", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  startBusy(t, { cpu: usableCpus()[0] });
  const PERIOD_NS = 1_000_000;
  const periods = new Set<bigint>();
  const reader = await subscribeNew(
    client,
    { name: "by period", events: [{ event: "cpu-clock", period: PERIOD_NS }], queue: { flushIntervalMs: 0 } },
    {
      onBatch: ({ period }) => {
        for (const value of period) periods.add(value);
      },
    },
  );
  await reader.untilMore(200);
  await deregisterAndCheck(client, reader);
  assert.deepEqual([...periods], [BigInt(PERIOD_NS)]);
});

test(
  "a period of occurrences that the kernel samples one by one: thinned to what was asked for",
  BOUNDED,
  async (t) => {
    const daemon = await startLiveDaemon(t);
    if (daemon === null) return;
    const client = connectTo(t, daemon);
    // Each process that starts faults its pages in.
    startProcess(t, "prlimit", ["--cpu=300", "sh", "-c", "while :; do /bin/true; done"]);
    const PERIOD = 100;
    const periods = new Set<bigint>();
    const reader = await subscribeNew(
      client,
      { name: "by period", events: [{ event: "page-faults", period: PERIOD }], queue: { flushIntervalMs: 10 } },
      {
        onBatch: ({ period }) => {
          for (const value of period) periods.add(value);
        },
      },
    );
    await reader.untilMore(200);
    await deregisterAndCheck(client, reader);
    assert.deepEqual([...periods], [BigInt(PERIOD)]);
  },
);
