/** The log of a busy run: a line for each thing that happens to handlers, events and dispatchers, and no secrets. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { BOUNDED } from "../support/bound.js";
import { poll } from "../support/conditions.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { deregisterAndCheck, StreamReader, subscribeNew } from "../support/stream-reader.js";

interface Line {
  readonly level: string;
  readonly msg: string;
  readonly handler?: number;
  readonly name?: string;
  readonly peer?: string;
  readonly event?: string;
  readonly why?: string;
  readonly reason?: string;
}

function linesOf({ logs }: RunningDaemon): Line[] {
  return logs.map((line) => JSON.parse(line) as Line);
}

function said(daemon: RunningDaemon, msg: string, name?: string): Line {
  const found = linesOf(daemon).filter((line) => line.msg === msg && (name === undefined || line.name === name));
  assert.equal(found.length, 1, `${msg} of ${name}: ${found.length} lines`);
  return found[0];
}

async function untilSaid(daemon: RunningDaemon, msg: string, name: string): Promise<void> {
  await poll(`"${msg}" of ${name}`, () =>
    linesOf(daemon).some((line) => line.msg === msg && line.name === name) ? true : undefined,
  );
}

/** By their looks: whatever stands for a place in the kernel. */
const KERNEL_ADDRESS = /ffff[0-9a-f]{12}|\b1844[67]\d{15}\b/i;

async function stopAndRead(daemon: RunningDaemon): Promise<string> {
  assert.equal(await daemon.stop(), 0);
  return daemon.logs.join("\n");
}

test("each event of a handler's life is one line with its id, name and peer", BOUNDED, async (t: TestContext) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
  const client = connectTo(t, daemon);
  const broken = new AbortController();
  const reader = await subscribeNew(
    client,
    { name: "resumes", events: [{}], leaseMs: 60_000 },
    { signal: broken.signal },
  );
  await reader.untilMore(100);
  broken.abort(new Error("cut"));
  await assert.rejects(reader.done);
  await untilSaid(daemon, "stream broken", "resumes");
  const resumed = new StreamReader(client, reader.handlerId, "resumes");
  await resumed.untilMore(100);
  await client.deregister(reader.handlerId);
  await resumed.done;

  await client.register({ name: "forgotten", events: [{}], leaseMs: 1 });
  await untilSaid(daemon, "handler removed", "forgotten");
  const greedy = await subscribeNew(
    client,
    { name: "overflows", events: [{}], queue: { maxBytes: 65_536, overflow: "DISCONNECT" } },
    { paused: true },
  );
  await untilSaid(daemon, "handler evicted", "overflows");
  greedy.resume();
  await greedy.done;

  await stopAndRead(daemon);
  for (const [msg, name] of [
    ["handler registered", "resumes"],
    ["handler subscribed", "resumes"],
    ["stream broken", "resumes"],
    ["handler resumed", "resumes"],
    ["handler removed", "resumes"],
    ["handler evicted", "forgotten"],
    ["handler evicted", "overflows"],
  ]) {
    const { handler, peer } = said(daemon, msg, name);
    assert.equal(typeof handler, "number", msg);
    assert.match(peer ?? "", /./, msg);
  }
  assert.match(said(daemon, "handler evicted", "forgotten").why ?? "", /lease/);
  assert.match(said(daemon, "handler evicted", "overflows").why ?? "", /overflow/);
  for (const msg of ["starting", "ready", "stopping", "stopped"]) said(daemon, msg);
  const events = linesOf(daemon).filter(({ msg }) => msg.startsWith("event "));
  assert.ok(events.length >= 2 && events.length % 2 === 0, "what is armed is closed");
  for (const { event } of events) assert.match(event ?? "", /./);
});

test("the log of a busy run holds no addresses of the kernel and no tokens", BOUNDED, async (t: TestContext) => {
  const daemon = await startLiveDaemon(t, { args: ["--log-level", "trace"] });
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  const names = ["cpu-clock", "cpu-clock:k"];
  const readers = await Promise.all(
    names.map((event, i) =>
      subscribeNew(client, { name: `reader-${i}`, events: [{ event, frequencyHz: 999 }], fields: ["CALLCHAIN"] }),
    ),
  );
  // Whether the kernel grants the breakpoint or not, its address is in what is said of it.
  const breakpoint = "mem:0xffffffff81000000/8:x";
  const watching = await client
    .register({ name: "watches the kernel", events: [{ event: breakpoint }] })
    .catch((error: Error) => error);
  await client.register({ name: "at 0xffffffff81000042", events: [{ event: "cpu-clock" }] });
  await readers[0].untilMore(50);
  const scraped = await (await fetch(`http://${daemon.metricsAddress}/metrics`)).text();
  assert.doesNotMatch(scraped.replaceAll("at 0xffffffff81000042", ""), KERNEL_ADDRESS, "labels of events");
  for (const reader of readers) await deregisterAndCheck(client, reader);

  const log = await stopAndRead(daemon);
  assert.match(log, /\(kernel address\)/, "what there was to hide was there");
  if (!(watching instanceof Error)) assert.match(log, /mem:\(kernel address\)/);
  assert.doesNotMatch(log, KERNEL_ADDRESS);
  assert.doesNotMatch(log, /"\w*token\w*":"(?!\(secret\))/);
});
