import assert from "node:assert/strict";
import { test } from "node:test";
import { type DaemonPhase, Health, type HealthParts } from "./health.js";
import type { Liveness } from "./liveness.js";

const ALIVE: Liveness = { unansweredSeconds: [0, 0], stalled: [] };
const STALLED: Liveness = { unansweredSeconds: [0, 12.34], stalled: [1] };

function health(change: Partial<HealthParts> & { readonly is?: Liveness; readonly during?: DaemonPhase } = {}): Health {
  const { is = ALIVE, during = "serving", ...parts } = change;
  return new Health({
    liveness: { check: async () => is },
    source: { description: "perf: 2 CPUs" },
    fallbackReason: null,
    armed: () => 0,
    phase: () => during,
    now: () => 0,
    ...parts,
  });
}

test("alive while every dispatcher answers, and while one is merely late", async () => {
  assert.deepEqual(await health().live(), { ok: true, text: "alive\ndispatcher 0: alive\ndispatcher 1: alive\n" });
  const late = await health({ is: { unansweredSeconds: [0.8, 0], stalled: [] } }).live();
  assert.equal(late.ok, true);
  assert.match(late.text, /^dispatcher 0: late, it has not answered for 0\.8 s$/m);
});

test("not alive, nor ready, when a dispatcher is stalled: it says which", async () => {
  const live = await health({ is: STALLED }).live();
  assert.equal(live.ok, false);
  assert.match(live.text, /^not alive\n(.*\n)*dispatcher 1: stalled, it has not answered for 12\.3 s$/m);
  const ready = await health({ is: STALLED }).ready();
  assert.equal(ready.ok, false);
  assert.match(ready.text, /^not ready\ndispatcher 1 is stalled/);
});

test("ready between the start and the stop, and not ready says why", async () => {
  assert.deepEqual(await health().ready(), { ok: true, text: "ready\nsource: perf: 2 CPUs\n" });
  for (const during of ["starting", "stopping"] as const) {
    const { ok, text } = await health({ during }).ready();
    assert.equal(ok, false);
    assert.match(text, new RegExp(`^not ready\n${during}: `));
  }
});

test("a source that can sample nothing is not ready; it is tried once a second, and not while it samples", async () => {
  let nowNs = 0;
  let tried = 0;
  let armed = 0;
  const whyNotAble = (): string => {
    tried++;
    return "kernel.perf_event_paranoid is 4";
  };
  const one = health({
    source: { description: "perf", whyNotAble },
    armed: () => armed,
    now: () => nowNs,
  });
  for (let i = 0; i < 3; i++) {
    const { ok, text } = await one.ready();
    assert.equal(ok, false);
    assert.match(text, /^source: kernel\.perf_event_paranoid is 4$/m);
  }
  assert.equal(tried, 1);
  nowNs = 1e9;
  await one.ready();
  assert.equal(tried, 2);
  armed = 1;
  nowNs = 2e9;
  assert.equal((await one.ready()).ok, true);
  assert.equal(tried, 2);
});

test("a recording that stands in is served, and said so", async () => {
  const { ok, text } = await health({ fallbackReason: "no CAP_PERFMON" }).ready();
  assert.equal(ok, true);
  assert.match(text, /^NO LIVE SAMPLES.*no CAP_PERFMON$/m);
});
