import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { COUNTERS } from "./counters.js";
import { type ParsedFamily, parseExposition } from "./exposition.test-support.js";
import { GAUGES, HISTOGRAMS } from "./gauges.js";
import { HISTOGRAM_WORDS, LatencyHistogram, snapshotHistograms } from "./histogram.js";
import { createMetrics } from "./metrics.js";
import type { DispatcherSnapshot, Snapshot } from "./snapshot.js";
import { eventWith, handlerWith } from "./snapshot.test-support.js";

const HOSTILE = 'a"b\\c\nd{e="f"} 1\n# TYPE x gauge\u0000\u001b[31m\r é';
const REASONS = [
  "QUEUE_FULL",
  "QUEUE_DROPPED_OLDEST",
  "STREAM_BROKEN",
  "DISCARDED",
  "LEASE_EXPIRED",
  "DISCONNECTED",
  "SHUTDOWN",
];

function histogramOf(...ns: number[]) {
  const words = new Float64Array(HISTOGRAM_WORDS);
  const histogram = new LatencyHistogram(words);
  for (const value of ns) histogram.record(value);
  return snapshotHistograms([words]);
}

function dispatcher(index: number, change: Partial<DispatcherSnapshot> = {}): DispatcherSnapshot {
  return {
    index,
    cpus: [index],
    pinnedCpus: [],
    wakeups: 11,
    drains: 12,
    samples: 13,
    corruptBytes: 0,
    straySamples: 0,
    restarts: 0,
    unansweredSeconds: 0,
    busySeconds: 1.5,
    busyRatio: 0.5,
    ringFillPeak: 1,
    ringFill: { bounds: [0.5, 0.9], counts: [1, 2, 4], sum: 6.5 },
    ...change,
  };
}

function snapshotWith(change: Partial<Snapshot> = {}): Snapshot {
  return {
    version: "1.2.3",
    source: {
      kind: "perf",
      description: "perf: 2 CPUs",
      clock: "CLOCK_MONOTONIC",
      defaultEvent: "cpu-clock",
      fallback: false,
      reason: "",
    },
    uptimeSeconds: 12.5,
    capacity: 64,
    dispatchers: [
      dispatcher(0),
      dispatcher(1, {
        wakeups: 21,
        drains: 22,
        samples: 23,
        corruptBytes: 24,
        restarts: 1,
        busySeconds: 4.5,
        unansweredSeconds: 12,
      }),
    ],
    overload: { overloaded: false, reason: "", sinceSeconds: 0, episodes: 2, dispatchers: [], kernelLost: 0 },
    cpus: { watched: [0, 1, 5], changes: [], counts: { GONE: 2, COME: 1, BACK: 3 } },
    kernelSettings: { paranoid: 2, maxSampleRateHz: 50_000 },
    events: [eventWith("cpu-clock")],
    handlers: [handlerWith(1), handlerWith(2, { name: HOSTILE, state: "DRAINING", subscribed: false })],
    totals: {
      samples: 5000,
      unclaimed: 50,
      kernelLost: 60,
      throttled: 70,
      produced: 0,
      producedDrained: 0,
      producedLost: 0,
      taskRecords: 0,
      taskRecordsLost: 0,
      auxBytes: 149_968,
      auxBytesDelivered: 137_728,
      auxBytesLost: 12_240,
      auxCorruptBytes: 1,
      auxUntoldBytes: 5,
      auxTruncated: 3,
      matched: 100,
      delivered: 90,
      lost: 10,
      losses: REASONS.map((reason, i) => ({ reason, count: i === 0 ? 10 : 0 })),
      registrations: 4,
      removals: 2,
      slowDispatches: 3,
      unbalanced: { event: 1, handler: 2 },
    },
    ringToDispatch: histogramOf(500, 1_500, 1_500, 3_000_000, 20e9),
    dispatchToStream: histogramOf(),
    sampleToStream: histogramOf(700),
    memory: {
      segments: { usedBytes: 1, peakBytes: 2, limitBytes: 3 },
      outboxes: { usedBytes: 4, peakBytes: 5, limitBytes: 6 },
      streams: { usedBytes: 7, peakBytes: 8, limitBytes: 9 },
    },
    removalOldestSeconds: 1.5,
    connections: {
      open: { unix: 3, tls: 2, tcp: 0 },
      accepted: 9,
      refused: [
        { reason: "tls", count: 4 },
        { reason: "resets", count: 0 },
      ],
      certificateExpiresAt: 1_900_000_000,
    },
    removalWait: histogramOf(0),
    ...change,
  };
}

async function families(snapshot: Snapshot): Promise<Map<string, ParsedFamily>> {
  return parseExposition(await createMetrics(() => snapshot).render());
}

function value(all: Map<string, ParsedFamily>, family: string, labels: Record<string, string> = {}): number {
  const samples = (all.get(family)?.samples ?? []).filter((sample) =>
    Object.entries(labels).every(([name, text]) => sample.labels.get(name) === text),
  );
  assert.equal(samples.length, 1, `${family} ${JSON.stringify(labels)}`);
  return samples[0]?.value as number;
}

test("every family has a help text and a name of its type, in base units", async () => {
  const all = await families(snapshotWith());
  for (const { name, help } of [...COUNTERS, ...GAUGES, ...HISTOGRAMS]) assert.equal(all.get(name)?.help, help);
  for (const [name, { help, type }] of all) {
    assert.match(name, /^(nmid|process|nodejs)_/);
    assert.equal(name.endsWith("_total"), type === "counter", `${name} is a ${type}`);
    assert.doesNotMatch(name, /_(ns|us|ms|milliseconds|kb|kib|hz)(_|$)/);
    assert.ok(help.length > 15, `${name}: ${help}`);
  }
  assert.ok(all.has("process_resident_memory_bytes"));
  assert.ok(!all.has("nodejs_eventloop_lag_p99_seconds"));
});

test("totals, events and dispatchers carry the snapshot's numbers", async () => {
  const all = await families(snapshotWith());
  assert.equal(value(all, "nmid_samples_total"), 5000);
  assert.equal(value(all, "nmid_unclaimed_samples_total"), 50);
  assert.equal(value(all, "nmid_kernel_lost_samples_total"), 60);
  assert.equal(value(all, "nmid_throttled_total"), 70);
  assert.equal(value(all, "nmid_matched_samples_total"), 100);
  assert.equal(value(all, "nmid_delivered_samples_total"), 90);
  assert.equal(value(all, "nmid_registrations_total"), 4);
  assert.equal(value(all, "nmid_removals_total"), 2);
  assert.equal(value(all, "nmid_books_unbalanced_total", { books: "event" }), 1);
  assert.equal(value(all, "nmid_books_unbalanced_total", { books: "handler" }), 2);
  assert.deepEqual(
    all.get("nmid_lost_samples_total")?.samples.map((sample) => [sample.labels.get("reason"), sample.value]),
    REASONS.map((reason, i) => [reason, i === 0 ? 10 : 0]),
  );

  const labels = { event: "cpu-clock", sampling: "frequency" };
  assert.equal(value(all, "nmid_events_armed"), 1);
  assert.equal(value(all, "nmid_event_samples_total", labels), 1000);
  assert.equal(value(all, "nmid_event_unclaimed_samples_total", labels), 5);
  assert.equal(value(all, "nmid_event_kernel_lost_samples_total", labels), 6);
  assert.equal(value(all, "nmid_event_throttle_total", labels), 7);
  assert.equal(value(all, "nmid_event_unthrottle_total", labels), 8);
  assert.equal(value(all, "nmid_event_frequency_hertz", labels), 997);
  assert.equal(value(all, "nmid_event_multiplexing_ratio", labels), 0.75);
  assert.equal(all.get("nmid_event_period")?.samples.length, 0);

  assert.equal(value(all, "nmid_dispatcher_wakeups_total", { dispatcher: "0" }), 11);
  assert.equal(value(all, "nmid_dispatcher_drains_total", { dispatcher: "1" }), 22);
  assert.equal(value(all, "nmid_dispatcher_samples_total", { dispatcher: "1" }), 23);
  assert.equal(value(all, "nmid_dispatcher_corrupt_bytes_total", { dispatcher: "1" }), 24);

  assert.equal(value(all, "nmid_dispatcher_busy_seconds_total", { dispatcher: "1" }), 4.5);

  assert.equal(value(all, "nmid_dispatcher_unanswered_seconds", { dispatcher: "1" }), 12);
  assert.equal(value(all, "nmid_removal_oldest_seconds"), 1.5);
  assert.equal(value(all, "nmid_handlers", { state: "ACTIVE" }), 1);
  assert.equal(value(all, "nmid_handlers", { state: "DRAINING" }), 1);
  assert.equal(value(all, "nmid_handlers", { state: "CLAIMED" }), 0);
  assert.equal(value(all, "nmid_handler_table_capacity"), 64);
  assert.equal(value(all, "nmid_uptime_seconds"), 12.5);
  assert.equal(value(all, "nmid_build_info", { version: "1.2.3", node: process.version }), 1);
  assert.equal(value(all, "nmid_source_info", { kind: "perf", clock: "CLOCK_MONOTONIC" }), 1);
  assert.equal(value(all, "nmid_source_fallback"), 0);
});

test("an overload shows, with what it does to rates", async () => {
  const calm = await families(snapshotWith());
  assert.equal(value(calm, "nmid_overloaded"), 0);
  assert.equal(value(calm, "nmid_overload_episodes_total"), 2);
  assert.equal(value(calm, "nmid_event_lowered_ratio", { event: "cpu-clock" }), 1);
  const { overload } = snapshotWith();
  const all = await families(
    snapshotWith({
      overload: { ...overload, overloaded: true, episodes: 3, dispatchers: [1] },
      events: [
        eventWith("cpu-clock", { frequencyHz: 1000, loweredFrequencyHz: 250, loweredRatio: 0.25 }),
        eventWith("cycles", { frequencyHz: 0, period: 500, loweredPeriod: 1000, loweredRatio: 0.5 }),
      ],
    }),
  );
  assert.equal(value(all, "nmid_overloaded"), 1);
  assert.equal(value(all, "nmid_overload_episodes_total"), 3);
  assert.equal(value(all, "nmid_event_frequency_hertz", { event: "cpu-clock" }), 250, "in force");
  assert.equal(value(all, "nmid_event_lowered_ratio", { event: "cpu-clock" }), 0.25);
  assert.equal(value(all, "nmid_event_period", { event: "cycles" }), 1000, "in force");
  const fill = all
    .get("nmid_dispatcher_ring_fill_ratio")
    ?.samples.filter(({ labels }) => labels.get("dispatcher") === "1");
  assert.deepEqual(
    fill?.map((sample) => [sample.labels.get("le") ?? sample.name.replace(/^.*_/, ""), sample.value]),
    [
      ["0.5", 1],
      ["0.9", 3],
      ["+Inf", 7],
      ["sum", 6.5],
      ["count", 7],
    ],
  );
});

test("CPUs that come and go show, and the kernel's maximum where there is a kernel", async () => {
  const all = await families(snapshotWith());
  assert.equal(value(all, "nmid_cpus_watched"), 3);
  for (const [kind, count] of [
    ["GONE", 2],
    ["COME", 1],
    ["BACK", 3],
  ] as const) {
    assert.equal(value(all, "nmid_cpu_changes_total", { kind }), count);
  }
  assert.equal(value(all, "nmid_kernel_max_sample_rate_hertz"), 50_000);
  const none = await families(snapshotWith({ kernelSettings: null }));
  assert.equal(value(none, "nmid_kernel_max_sample_rate_hertz"), 0);
});

test("a source that stands in for the kernel shows", async () => {
  const { source } = snapshotWith();
  const all = await families(snapshotWith({ source: { ...source, kind: "replay", fallback: true, reason: "why" } }));
  assert.equal(value(all, "nmid_source_fallback"), 1);
  assert.equal(value(all, "nmid_source_info", { kind: "replay" }), 1);
});

test("handlers have their own series, and hostile names come through unharmed", async () => {
  const all = await families(snapshotWith());
  const labels = { name: HOSTILE };
  assert.equal(value(all, "nmid_handler_matched_samples_total", labels), 10);
  assert.equal(value(all, "nmid_handler_delivered_samples_total", labels), 7);
  assert.equal(value(all, "nmid_handler_lost_samples_total", { ...labels, reason: "QUEUE_FULL" }), 3);
  assert.equal(value(all, "nmid_handler_queue_bytes", labels), 100);
  assert.equal(value(all, "nmid_handler_queue_max_bytes", labels), 1000);
  assert.equal(value(all, "nmid_handler_longest_dispatch_seconds", labels), 1.5e-6);
  assert.equal(value(all, "nmid_handler_dispatches_total", labels), 2);
  assert.equal(value(all, "nmid_handler_subscribed", labels), 0);
  assert.equal(value(all, "nmid_handler_subscribed", { name: "handler-1" }), 1);
});

test("histograms are cumulative, and their count is that of the last bucket", async () => {
  const all = await families(snapshotWith());
  for (const [name, stage, count, sum] of [
    ["nmid_dispatch_latency_seconds", "ring_to_dispatch", 5, (500 + 3_000 + 3_000_000 + 20e9) / 1e9],
    ["nmid_dispatch_latency_seconds", "dispatch_to_stream", 0, 0],
    ["nmid_removal_wait_seconds", undefined, 1, 0],
  ] as const) {
    const family = all.get(name);
    assert.equal(family?.type, "histogram");
    const samples = family?.samples.filter((sample) => sample.labels.get("stage") === stage) ?? [];
    const buckets = samples.filter((sample) => sample.name.endsWith("_bucket"));
    assert.equal(buckets.length, 25);
    buckets.forEach((bucket, i) => {
      const before = buckets[i - 1];
      if (before === undefined) return;
      assert.ok(bucket.value >= before.value, "cumulative");
      const le = Number(bucket.labels.get("le")?.replace("+Inf", "Infinity"));
      assert.ok(le > Number(before.labels.get("le")), "ascending");
    });
    assert.equal(buckets.at(-1)?.labels.get("le"), "+Inf");
    assert.equal(buckets.at(-1)?.value, count);
    assert.equal(samples.find((sample) => sample.name.endsWith("_count"))?.value, count);
    assert.equal(samples.find((sample) => sample.name.endsWith("_sum"))?.value, sum);
  }
  const le = (bound: string) =>
    all
      .get("nmid_dispatch_latency_seconds")
      ?.samples.find(({ labels }) => labels.get("stage") === "ring_to_dispatch" && labels.get("le") === bound)?.value;
  assert.deepEqual([le("0.000001"), le("0.000002"), le("0.004096"), le("8.388608")], [1, 3, 4, 4]);
});

test("what has gone from the snapshot goes from the metrics; totals stay", async () => {
  let snapshot = snapshotWith();
  let taken = 0;
  const metrics = createMetrics(() => {
    taken++;
    return snapshot;
  });
  assert.equal(taken, 0);
  await metrics.render();
  snapshot = snapshotWith({ handlers: [handlerWith(2)], events: [] });
  const all = parseExposition(await metrics.render());
  assert.equal(taken, 2, "one snapshot a scrape");
  assert.equal(all.get("nmid_handler_matched_samples_total")?.samples.length, 1);
  assert.equal(all.get("nmid_event_samples_total")?.samples.length, 0);
  assert.equal(value(all, "nmid_events_armed"), 0);
  assert.equal(value(all, "nmid_matched_samples_total"), 100);
  assert.equal(metrics.contentType, "text/plain; version=0.0.4; charset=utf-8");
});

const promtool = spawnSync("promtool", ["--version"]);

test("promtool finds nothing to object to", { skip: promtool.error && "promtool is not installed" }, async () => {
  const text = await createMetrics(() => snapshotWith()).render();
  const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
  assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: "", stderr: "" });
});
