/** AUX data of a recording to the handlers that ask for it, beside samples to others. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { connect, type Delivery } from "../../clients/typescript/index.js";
import { readRecording } from "../../src/pmu/perf-data/recording.js";
import { BOUNDED } from "../support/bound.js";
import { REPOSITORY, startDaemon } from "../support/daemon.js";
import { connectRaw, type RawClient, type RawDelivery } from "../support/raw-client.js";

const COLLECTION = process.env.NMID_PERF_DATA ?? path.join(REPOSITORY, "..", "shared", "perf-data");
const RECORDING = path.join(COLLECTION, "hw-intelpt-file.perf.data");
const PT = "intel_pt//";
const SKIP = existsSync(RECORDING) ? false : `no ${RECORDING}: set NMID_PERF_DATA`;

const NMICTL = path.join(REPOSITORY, "dist", "clients", "nmictl", "main.js");

interface RecordedBlock {
  readonly size: number;
  readonly aux_offset: number;
  readonly cpu: number;
  readonly sha256: string;
}

async function all(client: RawClient, handlerId: number): Promise<RawDelivery[]> {
  const deliveries: RawDelivery[] = [];
  for await (const delivery of client.subscribe(handlerId)) deliveries.push(delivery);
  return deliveries;
}

/** What arrived for each CPU, end to end; offsets must leave no gap. */
function blocks(deliveries: readonly RawDelivery[]): { cpu: number; size: number; sha256: string }[] {
  const byCpu = new Map<number, Buffer[]>();
  for (const { aux } of deliveries) {
    if (aux === undefined) continue;
    const pieces = byCpu.get(aux.cpu) ?? [];
    assert.equal(
      aux.offset,
      pieces.reduce((sum, piece) => sum + piece.length, 0),
      `CPU ${aux.cpu} has a gap`,
    );
    assert.ok(aux.time > 0);
    byCpu.set(aux.cpu, [...pieces, aux.data]);
  }
  return [...byCpu]
    .sort(([a], [b]) => a - b)
    .map(([cpu, pieces]) => {
      const data = Buffer.concat(pieces);
      return { cpu, size: data.length, sha256: createHash("sha256").update(data).digest("hex") };
    });
}

test("a recording's AUX data arrive byte for byte, its samples at another", { ...BOUNDED, skip: SKIP }, async (t) => {
  const { aux } = JSON.parse(readFileSync(RECORDING.replace(".perf.data", ".records.json"), "utf8")) as {
    readonly aux: readonly RecordedBlock[];
  };
  const recorded = aux.map(({ cpu, size, sha256 }) => ({ cpu, size, sha256 }));
  const daemon = await startDaemon(t, { args: ["--source", `replay:${RECORDING}`, "--dispatchers", "2"] });
  const client = connectRaw(t, daemon.address);
  const pt = await client.register({ name: "trace", events: [{ event: PT }], fields: ["AUX"] });
  const twice = await client.register({ name: "both", events: [{ event: "cycles" }, { event: PT }], fields: ["AUX"] });
  const cycles = await client.register({ name: "samples", events: [{ event: "cycles" }] });
  const [traced, both, sampled] = await Promise.all(
    [pt, twice, cycles].map(({ handler_id }) => all(client, handler_id)),
  );
  assert.deepEqual(blocks(traced), recorded);
  assert.deepEqual(blocks(both), recorded);
  assert.deepEqual(blocks(sampled), []);
  assert.ok(traced.every(({ samples }) => samples === undefined));
  assert.ok(both.every(({ aux: piece }) => piece === undefined || piece.event_index === 1));
  const samples = (of: readonly RawDelivery[]): number => of.reduce((sum, d) => sum + (d.samples?.time.length ?? 0), 0);
  assert.equal(samples(sampled), 15);
  assert.equal(samples(both), 15);
  for (const of of [traced, both, sampled]) {
    assert.equal(of.at(-1)?.end?.reason, "SOURCE_ENDED");
    assert.ok(of.every(({ loss }) => loss === undefined));
  }
  const bytes = recorded.reduce((sum, { size }) => sum + size, 0);
  const { totals } = await client.status();
  assert.equal(totals.aux_bytes, bytes);
  assert.equal(totals.aux_bytes_delivered, 2 * bytes);
  assert.equal(totals.aux_bytes_lost, 0);

  const again = await client.register({ name: "again", events: [{ event: PT }], fields: ["AUX"] });
  const replayed = await all(client, again.handler_id);
  assert.ok(replayed.every(({ loss }) => loss === undefined));
  const afterwards = (await client.status()).totals;
  assert.equal(afterwards.aux_bytes, 2 * bytes, "drained again");
  assert.deepEqual(blocks(replayed), recorded, "the next run, from the beginning");
});

/** The bytes of each CPU's area, as the file holds them behind its PERF_RECORD_AUXTRACE. */
function areasOfFile(): Map<number, Buffer> {
  const { auxTraces, image } = readRecording(RECORDING);
  const areas = new Map<number, Buffer>();
  for (const { cpu, offset, data } of auxTraces) {
    const before = areas.get(cpu) ?? Buffer.alloc(0);
    assert.equal(offset, before.length);
    areas.set(cpu, Buffer.concat([before, image.bytes.subarray(data.start, data.end)]));
  }
  return areas;
}

test("the client library gives one consumer the file's AUX data, another the samples", {
  ...BOUNDED,
  skip: SKIP,
}, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", `replay:${RECORDING},speed=max`] });
  using client = connect(daemon.address);
  const trace = await client.register({ name: "trace", events: [{ event: PT }], fields: ["AUX"] });
  const sampling = await client.register({ name: "samples", events: [{ event: "cycles" }] });
  const deliveries = async (handlerId: number): Promise<Delivery[]> => {
    const taken: Delivery[] = [];
    for await (const delivery of client.subscribe(handlerId)) taken.push(delivery);
    return taken;
  };
  const [traced, sampled] = await Promise.all([trace, sampling].map(({ handlerId }) => deliveries(handlerId)));
  const received = new Map<number, Buffer>();
  for (const delivery of traced) {
    if (delivery.kind !== "aux") continue;
    const before = received.get(delivery.cpu) ?? Buffer.alloc(0);
    assert.equal(delivery.offset, BigInt(before.length));
    received.set(delivery.cpu, Buffer.concat([before, delivery.data]));
  }
  assert.deepEqual(new Map([...received].sort(([a], [b]) => a - b)), areasOfFile());
  assert.deepEqual(new Set(traced.map(({ kind }) => kind)), new Set(["started", "aux", "end"]));
  assert.deepEqual(new Set(sampled.map(({ kind }) => kind)), new Set(["started", "samples", "end"]));
  const samples = sampled.reduce((sum, delivery) => sum + (delivery.kind === "samples" ? delivery.length : 0), 0);
  assert.equal(samples, 15);
});

test("nmictl subscribe --field AUX --json prints the file's AUX data", { ...BOUNDED, skip: SKIP }, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", `replay:${RECORDING},speed=max`] });
  const args = ["--address", daemon.address, "--json", "subscribe", "-e", PT, "--field", "AUX"];
  const { stdout } = await promisify(execFile)(process.execPath, [NMICTL, ...args], { maxBuffer: 2 ** 24 });
  const received = new Map<number, Buffer>();
  for (const line of stdout.trimEnd().split("\n")) {
    const { kind, cpu, data } = JSON.parse(line) as { kind: string; cpu: number; data: string };
    if (kind !== "aux") continue;
    received.set(cpu, Buffer.concat([received.get(cpu) ?? Buffer.alloc(0), Buffer.from(data, "base64")]));
  }
  assert.deepEqual(new Map([...received].sort(([a], [b]) => a - b)), areasOfFile());
});

test("AUX is refused where no event has an AUX area", { ...BOUNDED, skip: SKIP }, async (t) => {
  const daemon = await startDaemon(t, { args: ["--source", `replay:${RECORDING}`] });
  const client = connectRaw(t, daemon.address);
  await assert.rejects(
    client.register({ name: "none", events: [{ event: "cycles" }], fields: ["AUX"] }),
    /INVALID_ARGUMENT: fields\[\]: AUX .* cycles has none: add such an event, or leave AUX out/,
  );
});
