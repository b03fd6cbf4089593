import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from "@grpc/grpc-js";
import { status } from "@grpc/grpc-js";
import { loadBroker, startTestServer } from "./broker.test-support.js";
import {
  connect,
  type Delivery,
  type Fork,
  MalformedMessageError,
  type Mmap,
  type Namespaces,
  NmiError,
  RpcError,
  type Tasks,
} from "./index.js";

type Unary = [ServerUnaryCall<object, object>, sendUnaryData<object>];
type Stream = ServerWritableStream<object, Buffer>;

const serialize = loadBroker().Subscribe.responseSerialize;
const END = serialize({
  end: { matched: "1", reason: "DEREGISTERED", events: [{ periodDelivered: "9007199254740993" }] },
});

const isRpcError = (code: string, details: RegExp) => (error: unknown) =>
  error instanceof RpcError && error.code === code && details.test(error.details);

test("unary calls: what was asked arrives, and what is answered comes back typed", async () => {
  const requests: object[] = [];
  await using server = await startTestServer({
    Register: (...[call, done]: Unary) => {
      requests.push(call.request);
      done(null, {
        handlerId: String(2 ** 44 + 5),
        events: [{ name: "cpu-clock", config: "18446744073709551615", frequencyHz: 997 }],
      });
    },
    Deregister: (...[call, done]: Unary) => {
      requests.push(call.request);
      done(null, { matched: 7, losses: [{ reason: "DISCARDED", count: 2 }] });
    },
    GetStatus: (...[, done]: Unary) => done(null, { version: "1.2.3", totals: { samples: 5 } }),
    ListHandlers: (...[, done]: Unary) => done(null, { handlers: [{ handlerId: 65_536, state: "DRAINING" }] }),
    ListEvents: (...[, done]: Unary) => done(null, { events: [{ name: "cycles", reason: "no PMU" }] }),
  });
  using client = connect(server.address);
  const registered = await client.register({
    name: "a",
    events: [{ event: "cpu-clock", frequencyHz: 997 }],
    filter: { pids: [1, 2], excludeKernel: true },
    fields: ["CALLCHAIN"],
    queue: { maxBytes: 1_000_000, overflow: "DROP_OLDEST", flushIntervalMs: 0 },
  });
  assert.equal(registered.handlerId, 2 ** 44 + 5);
  assert.equal(registered.events[0].config, 0xffff_ffff_ffff_ffffn);
  assert.equal(registered.events[0].period, 0);
  const books = await client.deregister(registered.handlerId, { timeoutMs: 500, discard: true });
  assert.deepEqual(books.losses, [{ reason: "DISCARDED", count: 2 }]);
  assert.equal((await client.getStatus()).totals?.samples, 5);
  assert.equal((await client.listHandlers()).handlers[0].state, "DRAINING");
  assert.equal((await client.listEvents()).events[0].reason, "no PMU");

  const [register, deregister] = requests as [Record<string, unknown>, Record<string, unknown>];
  assert.equal(register.name, "a");
  assert.deepEqual(
    { ...(register.queue as object) },
    {
      maxBytes: 1_000_000,
      overflow: "DROP_OLDEST",
      flushIntervalMs: 0,
      flush: "flushIntervalMs",
    },
  );
  assert.deepEqual(register.fields, ["CALLCHAIN"]);
  assert.deepEqual({ ...deregister }, { handlerId: 2 ** 44 + 5, timeoutMs: 500, discard: true });
});

test("errors carry the status' name and the daemon's words", async () => {
  await using server = await startTestServer({
    Deregister: (...[, done]: Unary) => done({ code: status.NOT_FOUND, details: "no handler 7" }),
    Subscribe: (call: Stream) => call.emit("error", { code: status.FAILED_PRECONDITION, details: "has a stream" }),
    GetStatus: () => {},
  });
  using client = connect(server.address, { timeoutMs: 50 });
  await assert.rejects(client.deregister(7), isRpcError("NOT_FOUND", /^no handler 7$/));
  await assert.rejects(client.subscribe(7).next(), isRpcError("FAILED_PRECONDITION", /^has a stream$/));
  await assert.rejects(client.getStatus(), isRpcError("DEADLINE_EXCEEDED", /./));
  using nobody = connect(`unix:${join(server.directory, "nobody.sock")}`);
  await assert.rejects(nobody.getStatus(), isRpcError("UNAVAILABLE", /nobody\.sock/));
  await assert.rejects(nobody.subscribe(1).next(), isRpcError("UNAVAILABLE", /nobody\.sock/));
});

test("addresses", () => {
  for (const address of ["localhost:1", "127.0.0.1:9810", "[::1]:65535", "unix:/a", "unix:a"]) connect(address).close();
  for (const address of [
    "",
    "unix:",
    "/run/nmid.sock",
    "localhost",
    "localhost:0",
    "a:70000",
    "::1:80",
    "http://a:1",
  ]) {
    assert.throws(
      () => connect(address),
      (error: unknown) => error instanceof NmiError && error.code === "INVALID_ADDRESS",
    );
  }
});

test("task records come typed: one member each, 64-bit integers as bigints, bytes as bytes", async () => {
  const head = { time: "18446744073709551615", pid: 4294967295, tid: 7, cpu: 3, misc: 2 };
  const build = Buffer.from([1, 2, 3]);
  await using server = await startTestServer({
    Subscribe: (call: Stream) => {
      call.write(
        serialize({
          tasks: {
            snapshot: true,
            snapshotComplete: true,
            records: [
              { ...head, comm: { comm: "a b", exec: true, pid: 1, tid: 2 } },
              {
                mmap: {
                  pid: 1,
                  addr: String(0xffff_ffff_8100_0000n),
                  len: "4096",
                  ino: "5",
                  filename: "/x",
                  buildId: build,
                },
              },
              { fork: { pid: 8, ppid: 1, time: "9" } },
              { exit: { pid: 8, ppid: 1 } },
              { ksymbol: { addr: "1", len: 2, name: "bpf_prog" } },
              { bpfEvent: { id: 4, tag: build } },
              { cgroup: { id: "9007199254740993", path: "/a" } },
              { namespaces: { pid: 1, links: [{ dev: "4", inode: "4026531840" }] } },
              { switch: { out: true, nextPrevTid: 6 } },
              { textPoke: { addr: "16", old: build, new: build } },
              // Of a newer contract: a record whose member is not known.
              { time: "4" },
            ],
          },
        }),
      );
      call.write(serialize({ aux: { eventIndex: 1, cpu: 2, offset: "3", flags: "1", data: build, truncated: true } }));
      call.write(END);
      call.end();
    },
  });
  using client = connect(server.address);
  const deliveries: Delivery[] = [];
  for await (const delivery of client.subscribe(5)) deliveries.push(delivery);
  const [tasks, aux] = deliveries;
  assert.equal(tasks.kind, "tasks");
  const { records, ...snapshot } = tasks as Tasks;
  assert.deepEqual(snapshot, { kind: "tasks", snapshot: true, snapshotComplete: true });
  const members = ["comm", "mmap", "fork", "exit", "ksymbol", "bpfEvent", "cgroup", "namespaces", "switch", "textPoke"];
  assert.deepEqual(
    records.map(({ record }) => record),
    members,
  );
  const [comm, mmap, fork, , , bpf, cgroup, namespaces] = records as unknown as readonly Record<string, unknown>[];
  assert.deepEqual(
    { ...comm, comm: { ...(comm.comm as object) } },
    {
      ...head,
      time: 0xffff_ffff_ffff_ffffn,
      comm: { comm: "a b", exec: true, pid: 1, tid: 2 },
      record: "comm",
    },
  );
  assert.deepEqual(
    { ...(mmap.mmap as Mmap) },
    {
      ...{ pid: 1, tid: 0, addr: 0xffff_ffff_8100_0000n, len: 4096n, pgoff: 0n, maj: 0, min: 0, ino: 5n },
      ...{ inoGeneration: 0n, prot: 0, flags: 0, filename: "/x", buildId: build },
    },
  );
  assert.equal((fork.fork as Fork).time, 9n);
  assert.deepEqual({ ...(bpf.bpfEvent as object) }, { type: 0, flags: 0, id: 4, tag: build });
  assert.equal((cgroup.cgroup as { id: bigint }).id, 9_007_199_254_740_993n);
  assert.deepEqual(
    (namespaces.namespaces as Namespaces).links.map((link) => ({ ...link })),
    [{ dev: 4n, inode: 4_026_531_840n }],
  );
  assert.deepEqual(aux, {
    ...{ kind: "aux", eventIndex: 1, cpu: 2, tid: 0, offset: 3n, flags: 1n, time: 0n, data: build, truncated: true },
  });
});

test("a stream from started to end", async () => {
  await using server = await startTestServer({
    Subscribe: (call: Stream) => {
      call.write(serialize({ started: { handlerId: 5, events: [{ name: "cpu-clock" }], clock: "CLOCK_MONOTONIC" } }));
      // A kind of a newer contract.
      call.write(Buffer.from([0x3a, 0x00]));
      call.write(serialize({ samples: { time: ["1", "2"], pid: [3, 4] } }));
      call.write(serialize({ loss: { count: 3, reason: "QUEUE_FULL", firstTime: "18446744073709551615" } }));
      call.write(END);
      call.end();
    },
  });
  using client = connect(server.address);
  const deliveries: Delivery[] = [];
  for await (const delivery of client.subscribe(5)) deliveries.push(delivery);
  // The second message, of a kind from the future, is left out.
  assert.deepEqual(
    deliveries.map(({ kind }) => kind),
    ["started", "samples", "loss", "end"],
  );
  const [, samples, loss, end] = deliveries;
  assert.ok(samples.kind === "samples" && loss.kind === "loss" && end.kind === "end");
  assert.deepEqual([...samples.pid], [3, 4]);
  assert.equal(loss.firstTime, 0xffff_ffff_ffff_ffffn);
  assert.equal(end.matched, 1);
  assert.equal(end.events[0].periodDelivered, 9_007_199_254_740_993n);
});

test("a stream's latency: the ages of each batch's oldest and newest sample, where the clock is this host's", async () => {
  const MS = 1_000_000;
  const HOURS = 3600n * 1_000_000_000n;
  const streams: Record<number, { readonly clock: string; readonly source: string; readonly ageNs: bigint }> = {
    1: { clock: "CLOCK_MONOTONIC", source: "perf", ageNs: 0n },
    2: { clock: "CLOCK_MONOTONIC_RAW", source: "perf", ageNs: 0n },
    // As it was when it was recorded.
    3: { clock: "CLOCK_MONOTONIC", source: "replay", ageNs: 0n },
    // From the future: whatever clock that is.
    4: { clock: "CLOCK_MONOTONIC", source: "perf", ageNs: -HOURS },
  };
  await using server = await startTestServer({
    Subscribe: (call: ServerWritableStream<{ handlerId: number }, Buffer>) => {
      const { clock, source, ageNs } = streams[call.request.handlerId];
      const at = process.hrtime.bigint() - ageNs;
      const ago = (ms: number) => String(at - BigInt(ms * MS));
      call.write(serialize({ started: { clock, source } }));
      call.write(serialize({ samples: { time: [ago(50), ago(40), ago(10)] } }));
      call.write(serialize({ samples: { time: [ago(5)] } }));
      call.write(serialize({ loss: { count: 3 } }));
      call.write(END);
      call.end();
    },
  });
  using client = connect(server.address);
  const measured = client.subscribe(1);
  assert.equal(measured.latency.count, 0);
  for await (const _ of measured);
  assert.equal(measured.latency.count, 4);
  for (const [percent, ageMs] of [
    [25, 5],
    [75, 10],
    [100, 50],
  ]) {
    assert.ok((measured.latency.percentileNs(percent) as number) > ageMs * MS, `${percent} %`);
  }
  for (const handlerId of [2, 3, 4]) {
    const unmeasured = client.subscribe(handlerId);
    for await (const _ of unmeasured);
    assert.equal(unmeasured.latency.count, 0, `stream ${handlerId}`);
    assert.equal(unmeasured.latency.percentileNs(50), undefined);
  }
});

test("a malformed message ends the iteration and the call", async () => {
  const events = new EventEmitter();
  const cancelled = once(events, "cancelled");
  await using server = await startTestServer({
    Subscribe: (call: Stream) => {
      call.on("cancelled", () => events.emit("cancelled"));
      call.write(Buffer.from([0x12, 0x7f]));
    },
  });
  using client = connect(server.address);
  await assert.rejects(client.subscribe(5).next(), MalformedMessageError);
  await cancelled;
});

test("leaving the loop, or aborting, cancels the call", async () => {
  const events = new EventEmitter();
  let cancelled = once(events, "cancelled");
  await using server = await startTestServer({
    Subscribe: (call: Stream) => {
      call.on("cancelled", () => events.emit("cancelled"));
      call.write(serialize({ started: {} }));
    },
    WatchHandlers: (call: ServerWritableStream<object, object>) => {
      call.on("cancelled", () => events.emit("cancelled"));
      call.write({ kind: "SYNCHRONIZED" });
    },
  });
  using client = connect(server.address);
  for await (const delivery of client.subscribe(5)) {
    assert.equal(delivery.kind, "started");
    break;
  }
  await cancelled;

  cancelled = once(events, "cancelled");
  const reason = new Error("enough");
  const abort = new AbortController();
  const changes = client.watchHandlers({ signal: abort.signal });
  assert.deepEqual({ ...(await changes.next()).value }, { kind: "SYNCHRONIZED", handler: null });
  const next = changes.next();
  abort.abort(reason);
  await assert.rejects(next, reason);
  await cancelled;
  await assert.rejects(client.subscribe(5, { signal: abort.signal }).next(), reason);
});

test("a consumer that does not pull holds the server back", async () => {
  const messages = 600;
  const batch = serialize({ samples: { time: Array.from({ length: 8_192 }, (_, i) => i) } });
  let written = 0;
  await using server = await startTestServer({
    Subscribe: async (call: Stream) => {
      for (; written < messages; written++) {
        if (!call.write(batch)) await new Promise((resolve) => call.once("drain", resolve));
      }
      call.write(END);
      call.end();
    },
    GetStatus: (...[, done]: Unary) => done(null, {}),
  });
  using client = connect(server.address);
  const deliveries = client.subscribe(5);
  await deliveries.next();
  // Calls on the same connection go through while the stream is held; the server stands still between them at the end.
  for (let before = -1; before !== written; ) {
    before = written;
    for (let i = 0; i < 20; i++) await client.getStatus();
  }
  assert.ok(written < messages / 2, `${written} of ${messages} messages were written to a consumer that read one`);
  let received = 1;
  for await (const { kind } of deliveries) if (kind === "samples") received++;
  assert.equal(received, messages);
});

test("a message of 10 MB passes", async () => {
  const period = new BigUint64Array(1_250_000).fill(7n);
  const run = Buffer.from(period.buffer);
  const head = (tag: number, length: number) =>
    Buffer.from([
      tag,
      (length & 0x7f) | 0x80,
      ((length >> 7) & 0x7f) | 0x80,
      ((length >> 14) & 0x7f) | 0x80,
      length >> 21,
    ]);
  await using server = await startTestServer({
    Subscribe: (call: Stream) => {
      call.write(Buffer.concat([head(0x12, run.length + 5), head(0x42, run.length), run]));
      call.end();
    },
  });
  using client = connect(server.address);
  const { value } = await client.subscribe(5).next();
  assert.ok(value?.kind === "samples" && value.length === period.length && value.period.at(-1) === 7n);
});
