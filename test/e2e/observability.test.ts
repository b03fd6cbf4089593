/** What operators and tools see of a daemon that runs: metrics, health, reflection, the events it offers. */
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import { test } from "node:test";
import { credentials, makeGenericClientConstructor } from "@grpc/grpc-js";
import { loadSync, type ServiceDefinition } from "@grpc/proto-loader";
import { protoPath as healthProto } from "grpc-health-check";
import { BOUNDED } from "../support/bound.js";
import { type RunningDaemon, startDaemon } from "../support/daemon.js";
import { connectTo, startLiveDaemon } from "../support/live.js";
import { deregisterAndCheck, subscribeNew } from "../support/stream-reader.js";

const SERVICE = "nmi.v1.Broker";

/** One scrape: values by series as Prometheus writes them, and the names of the families that are described. */
async function scrape(daemon: RunningDaemon): Promise<{ values: Map<string, number>; families: Set<string> }> {
  const response = await fetch(`http://${daemon.metricsAddress}/metrics`);
  assert.equal(response.status, 200);
  const values = new Map<string, number>();
  const families = new Set<string>();
  for (const line of (await response.text()).split("\n")) {
    const family = /^# HELP (\S+) \S/.exec(line)?.[1];
    if (family !== undefined) families.add(family);
    const [, series, value] = /^([a-z]\S*|[a-z]\w*\{.*\}) (\S+)$/.exec(line) ?? [];
    if (series !== undefined) values.set(series, Number(value));
  }
  return { values, families };
}

const FAMILIES = [
  "nmid_dispatch_latency_seconds",
  "nmid_removal_wait_seconds",
  "nmid_samples_total",
  "nmid_event_samples_total",
  "nmid_matched_samples_total",
  "nmid_delivered_samples_total",
  "nmid_lost_samples_total",
  "nmid_handler_matched_samples_total",
  "nmid_handler_delivered_samples_total",
  "nmid_handler_lost_samples_total",
  "nmid_unclaimed_samples_total",
  "nmid_kernel_lost_samples_total",
  "nmid_throttled_total",
  "nmid_handlers",
  "nmid_events_armed",
  "nmid_source_fallback",
  "process_cpu_seconds_total",
  "process_resident_memory_bytes",
];

test("/metrics: while handlers stream, and sums that agree with their books afterwards", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:20000"] });
  const client = connectTo(t, daemon);
  const fast = await subscribeNew(client, { name: "fast", events: [] });
  const slow = await subscribeNew(client, { name: "slow", events: [{ frequencyHz: 100 }] });
  await Promise.all([fast.untilMore(1000), slow.untilMore(10)]);

  const during = await scrape(daemon);
  for (const family of FAMILIES) assert.ok(during.families.has(family), family);
  assert.equal(during.values.get('nmid_handlers{state="ACTIVE"}'), 2);
  assert.equal(during.values.get("nmid_events_armed"), 1);
  assert.equal(during.values.get("nmid_source_fallback"), 0);
  const ofFast = `nmid_handler_delivered_samples_total{name="fast"}`;
  assert.ok((during.values.get(ofFast) ?? 0) > 0, ofFast);

  const books = [await deregisterAndCheck(client, fast), await deregisterAndCheck(client, slow)];
  const { values } = await scrape(daemon);
  const sum = (pick: (book: (typeof books)[number]) => number) => books.reduce((total, book) => total + pick(book), 0);
  assert.equal(
    values.get("nmid_matched_samples_total"),
    sum(({ matched }) => matched),
  );
  assert.equal(
    values.get("nmid_delivered_samples_total"),
    sum(({ delivered }) => delivered),
  );
  const stage = (name: string) => values.get(`nmid_dispatch_latency_seconds_count{stage="${name}"}`);
  assert.equal(stage("ring_to_dispatch"), values.get("nmid_samples_total"), "each sample once");
  assert.equal(stage("dispatch_to_stream"), values.get("nmid_delivered_samples_total"), "each delivery once");
  assert.equal(values.get("nmid_removal_wait_seconds_count"), 2);
  assert.equal(values.get("nmid_removals_total"), 2);
  assert.equal(values.get("nmid_events_armed"), 0);
  assert.equal(values.get('nmid_handlers{state="ACTIVE"}'), 0);
});

/** What foreign tools do: a client made from the service's own proto file. */
function clientOf(daemon: RunningDaemon, protoFile: string, service: string) {
  const definition = loadSync(protoFile, { enums: String, defaults: true, oneofs: true })[service] as ServiceDefinition;
  const Client = makeGenericClientConstructor(definition, service);
  return new Client(daemon.address, credentials.createInsecure(), { "grpc.default_authority": "localhost" });
}

test("the health service says SERVING", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000"] });
  const client = clientOf(daemon, healthProto, "grpc.health.v1.Health");
  t.after(() => client.close());
  for (const service of ["", SERVICE]) {
    const answer = await new Promise((resolve, reject) => {
      client.check({ service }, (error: Error | null, response: object) => (error ? reject(error) : resolve(response)));
    });
    assert.deepEqual({ ...(answer as object) }, { status: "SERVING" });
  }
});

interface ReflectionAnswer {
  readonly listServicesResponse?: { readonly service: readonly { readonly name: string }[] };
  readonly fileDescriptorResponse?: { readonly fileDescriptorProto: readonly Buffer[] };
}

test("reflection lists the services and describes them", BOUNDED, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", "synthetic:1000"] });
  const entry = createRequire(import.meta.url).resolve("@grpc/reflection");
  const protoFile = path.join(path.dirname(entry), "..", "proto", "grpc", "reflection", "v1", "reflection.proto");
  const client = clientOf(daemon, protoFile, "grpc.reflection.v1.ServerReflection");
  t.after(() => client.close());
  const ask = (request: object): Promise<ReflectionAnswer> =>
    new Promise((resolve, reject) => {
      const call = client.serverReflectionInfo();
      call.on("data", (answer: ReflectionAnswer) => {
        resolve(answer);
        call.end();
      });
      call.on("error", reject);
      call.write(request);
    });
  const { listServicesResponse } = await ask({ listServices: "*" });
  const names = listServicesResponse?.service.map(({ name }) => name) ?? [];
  assert.ok(names.includes(SERVICE), names.join());
  const { fileDescriptorResponse } = await ask({ fileContainingSymbol: SERVICE });
  const [file] = fileDescriptorResponse?.fileDescriptorProto ?? [];
  for (const word of ["SampleBatch", "WatchHandlers", "QUEUE_DROPPED_OLDEST"]) assert.ok(file.includes(word), word);
});

test("ListEvents: cpu-clock can be sampled live, and what cannot has its reason", BOUNDED, async (t) => {
  const daemon = await startLiveDaemon(t);
  if (daemon === null) return;
  const client = connectTo(t, daemon);
  const { events, defaultEvent } = await client.listEvents();
  const find = (name: string) => events.find((event) => event.name === name);
  assert.equal(find("cpu-clock")?.canSample, true);
  for (const { name, canSample, reason, description } of events) {
    assert.equal(canSample, reason === "", name);
    assert.notEqual(description, "", name);
  }
  const cycles = find("cycles");
  assert.equal(defaultEvent, cycles?.canSample ? "cycles" : "cpu-clock");
  if (cycles?.canSample) return;
  assert.match(cycles?.reason ?? "", /PMU/);
  const refused = client.register({ name: "no PMU", events: [{ event: "cycles" }] });
  await assert.rejects(refused, (error: Error & { readonly code?: string }) => {
    assert.equal(error.code, "FAILED_PRECONDITION");
    assert.match(error.message, /events\[.*cycles/);
    return true;
  });
  assert.deepEqual((await client.listHandlers()).handlers, []);
});
