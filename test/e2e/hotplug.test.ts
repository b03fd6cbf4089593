/**
 * A CPU that really goes offline and comes back under a daemon that samples it. It disturbs everything that runs on the
 * machine, so it has to be asked for: NMID_TEST_CPU_HOTPLUG=1, as root, with nothing else running.
 */
import assert from "node:assert/strict";
import fs from "node:fs";
import { type TestContext, test } from "node:test";
import type { BrokerClient, CpuChange } from "../../clients/typescript/index.js";
import { BOUNDED } from "../support/bound.js";
import { startBusy, usableCpus } from "../support/busy.js";
import { poll } from "../support/conditions.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const cpus = usableCpus();
const cpu = cpus[cpus.length - 1];
const SWITCH = `/sys/devices/system/cpu/cpu${cpu}/online`;

function whyNot(): string | false {
  if (process.env.NMID_TEST_CPU_HOTPLUG !== "1") return "takes a CPU offline: set NMID_TEST_CPU_HOTPLUG=1";
  if (cpus.length < 2) return "there is one CPU";
  try {
    fs.accessSync(SWITCH, fs.constants.W_OK);
    return false;
  } catch {
    return `${SWITCH} cannot be written`;
  }
}

/** It is online after the test, whatever happens. */
function hotplug(t: TestContext): { offline(): void; online(): void } {
  const online = (): void => fs.writeFileSync(SWITCH, "1");
  t.after(online);
  process.once("exit", online);
  return { offline: () => fs.writeFileSync(SWITCH, "0"), online };
}

/** What is the `count`th change, once it has been noticed. */
function change(client: BrokerClient, count: number): Promise<CpuChange> {
  return poll(`change ${count}`, async () => (await client.getStatus()).cpus?.changes[count - 1]);
}

test("a CPU goes, comes back, and is away for a moment", { ...BOUNDED, skip: whyNot() }, async (t) => {
  const daemon = await startLiveDaemon(t, { args: ["--dispatchers", "2"] });
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  const { offline, online } = hotplug(t);
  let samples = 0;
  const reader = await subscribeNew(
    client,
    { name: "hotplug", events: [{ event: "cpu-clock", frequencyHz: 999 }], tasks: true },
    {
      onBatch: (batch) => {
        for (const one of batch.cpu) if (one === cpu) samples++;
      },
    },
  );
  const untilSampled = async (): Promise<void> => {
    // What was pinned there before the CPU went is elsewhere now.
    startBusy(t, { cpu });
    const before = samples;
    await poll(`samples of CPU ${cpu}`, () => (samples > before + 50 ? true : undefined));
  };
  startBusy(t, { cpu: cpus[0] });
  await untilSampled();
  const before = await client.getStatus();
  assert.deepEqual(before.cpus, { watched: cpus, changes: [], changesTotal: 0 });

  offline();
  const gone = await change(client, 1);
  online();
  assert.deepEqual([gone.cpu, gone.kind], [cpu, "GONE"]);
  assert.ok(gone.watchedUntil <= gone.at);
  const back = await change(client, 2);
  assert.deepEqual([back.cpu, back.kind, back.watchedUntil], [cpu, "COME", gone.watchedUntil]);
  await untilSampled();

  offline();
  online();
  const flap = await change(client, 3);
  assert.deepEqual([flap.cpu, flap.kind], [cpu, "BACK"]);
  await untilSampled();

  await reader.untilMore(20);
  const after = await client.getStatus();
  assert.deepEqual(
    after.dispatchers.map((dispatcher) => dispatcher.cpus),
    before.dispatchers.map((dispatcher) => dispatcher.cpus),
    "where they were",
  );
  assert.deepEqual([after.cpus?.watched, after.cpus?.changesTotal], [cpus, 3]);
  await deregisterAndCheck(client, reader);
  assert.equal((await client.getStatus()).unbalanced, 0);
  assert.equal(await daemon.stop(), 0);
});
