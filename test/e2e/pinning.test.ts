/** The daemon's dispatchers run where they are told to: what the kernel says of their threads, against what is asked. */
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { usableCpus } from "../support/busy.js";
import { DaemonError, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { startNmictl } from "../support/process.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const SYNTHETIC = ["--source", "synthetic:20000,cpus=4", "--dispatchers", "2"];
const cpus = usableCpus();
const skip = cpus.length < 2 ? "this machine lets the test use one CPU: every thread runs there anyway" : false;

/** Empty for a thread that has ended since it was listed. */
function readStatus(file: string): string {
  try {
    return fs.readFileSync(file, "utf8");
  } catch {
    return "";
  }
}

/** Cpus_allowed_list of each thread of the process, by the thread's name. */
function allowedByThread(pid: number): Map<string, string> {
  const threads = fs.readdirSync(`/proc/${pid}/task`).map((tid): [string, string] => {
    const status = readStatus(`/proc/${pid}/task/${tid}/status`);
    const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
    return [field("Name"), field("Cpus_allowed_list")];
  });
  return new Map(threads.filter(([name]) => name !== ""));
}

function ownAllowed(): string {
  return allowedByThread(process.pid).values().next().value ?? "";
}

test("lists: each dispatcher's thread is on its CPUs, and no other thread is", { ...BOUNDED, skip }, async (t) => {
  const [first, last] = [cpus[0], cpus[cpus.length - 1]];
  const daemon = await startDaemon(t, { args: [...SYNTHETIC, "--dispatcher-cpus", `${last};${first}`] });
  const client = connectTo(t, daemon);
  const threads = allowedByThread(daemon.pid);
  const dispatchers = [...threads].filter(([name]) => name.startsWith("nmid-disp-")).sort();
  assert.deepEqual(dispatchers, [
    ["nmid-disp-0", String(last)],
    ["nmid-disp-1", String(first)],
  ]);
  for (const [name, allowed] of threads) {
    if (!name.startsWith("nmid-disp-")) assert.equal(allowed, ownAllowed(), `thread ${name}`);
  }
  const status = await client.getStatus();
  assert.deepEqual(
    status.dispatchers.map(({ pinnedCpus }) => pinnedCpus),
    [[last], [first]],
  );
  const { stdout } = await startNmictl(t, daemon, "status").exited;
  assert.match(stdout, new RegExp(`^0 +0-1 +${last} `, "m"));
  assert.match(stdout, new RegExp(`^1 +2-3 +${first} `, "m"));

  const reader = await subscribeNew(client, { name: "a", events: [{ event: "cpu-clock" }] });
  await reader.untilMore(1000);
  await deregisterAndCheck(client, reader);
});

test("auto: on live samples each runs where its rings are", { ...BOUNDED, skip }, async (t) => {
  const daemon = await startLiveDaemon(t, { args: ["--dispatchers", "2", "--dispatcher-cpus", "auto"] });
  if (daemon === null) return;
  const { dispatchers } = await connectTo(t, daemon).getStatus();
  const threads = allowedByThread(daemon.pid);
  for (const { index, cpus: drained, pinnedCpus } of dispatchers) {
    const here = pinnedCpus.map(String).join();
    assert.ok(here !== "" && pinnedCpus.every((cpu) => cpus.includes(cpu)), `dispatcher ${index} is on ${here}`);
    if (drained.every((cpu) => cpus.includes(cpu)))
      assert.deepEqual(
        pinnedCpus,
        drained.toSorted((a, b) => a - b),
      );
    const allowed = threads.get(`nmid-disp-${index}`) ?? "";
    assert.equal(allowed.split(/[-,]/)[0], String(pinnedCpus[0]));
    assert.notEqual(allowed, ownAllowed(), "a part of the machine, not all of it");
  }
});

test("off: dispatchers run anywhere, and none is shown as pinned", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: SYNTHETIC });
  const { dispatchers } = await connectTo(t, daemon).getStatus();
  assert.deepEqual(
    dispatchers.map(({ pinnedCpus }) => pinnedCpus),
    [[], []],
  );
  assert.equal(allowedByThread(daemon.pid).get("nmid-disp-1"), ownAllowed());
});

test("a CPU that is not there is refused at the start", BOUNDED, async (t) => {
  await assert.rejects(
    startDaemon(t, { args: [...SYNTHETIC, "--dispatcher-cpus", `${cpus[0]};8000`] }),
    (error) =>
      error instanceof DaemonError &&
      error.exitCode === 1 &&
      error.logs.some((line) =>
        /^nmid: dispatcher_cpus: CPU 8000 of dispatcher 1 does not exist: name CPUs/.test(line),
      ),
  );
});

test("more dispatchers than rings: the others drain, and the start says so", BOUNDED, async (t) => {
  const args = ["--source", "synthetic:20000,cpus=2", "--dispatchers", "4", "--dispatcher-cpus", "auto"];
  const daemon = await startDaemon(t, { args });
  const client = connectTo(t, daemon);
  assert.ok(daemon.logs.some((line) => line.includes("2 of 4 have no ring to drain")));
  const { dispatchers } = await client.getStatus();
  assert.deepEqual(
    dispatchers.map(({ cpus: drained }) => drained),
    [[0], [1], [], []],
  );
  const reader = await subscribeNew(client, { name: "a", events: [{ event: "cpu-clock" }] });
  await reader.until("samples of both CPUs", () => reader.samplesByCpu.size === 2);
  await deregisterAndCheck(client, reader);
});
