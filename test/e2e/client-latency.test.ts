/** The client's view of latency against the real daemon's clocks. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Subscription } from "../../clients/typescript/index.js";
import { DEMO_RECORDING } from "../../src/daemon/choose-source.js";
import { BOUNDED } from "../support/bound.js";
import { startDaemon } from "../support/daemon.js";
import { connectTo } from "../support/live.js";

/** Reads until it was given so many batches; returns how many it was given. */
async function readBatches(subscription: Subscription, wanted: number): Promise<number> {
  let batches = 0;
  for await (const { kind } of subscription) {
    if (kind === "samples" && ++batches === wanted) break;
  }
  return batches;
}

test("samples of this machine's clock have ages, two for each batch", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000,cpus=2"] });
  const client = connectTo(t, daemon);
  const { handlerId } = await client.register({
    name: "a",
    events: [{ event: "cpu-clock" }],
    queue: { flushIntervalMs: 20 },
  });
  const subscription = client.subscribe(handlerId);
  const batches = await readBatches(subscription, 10);
  assert.equal(subscription.latency.count, 2 * batches, "none of them came from the future");
  const [median, oldest] = [50, 100].map((percent) => subscription.latency.percentileNs(percent) as number);
  assert.ok(median > 0 && oldest >= median && Number.isFinite(oldest));
});

test("a recording's samples have none", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", `replay:${DEMO_RECORDING}`] });
  const client = connectTo(t, daemon);
  const { handlerId } = await client.register({ name: "a", events: [{}], queue: { flushIntervalMs: 0 } });
  const subscription = client.subscribe(handlerId);
  assert.ok((await readBatches(subscription, 3)) > 0);
  assert.equal(subscription.latency.count, 0);
});
