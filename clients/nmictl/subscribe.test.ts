import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { startTestServer } from "../typescript/broker.test-support.js";
import {
  Broker,
  EVENT,
  HANDLER_ID,
  jsonLines,
  run,
  type Stream,
  serialize,
  start,
  type Unary,
} from "./nmictl.test-support.js";

test("subscribe asks for what its options say", async () => {
  const broker = new Broker(1);
  await using server = await startTestServer(broker.implementation);
  const args =
    "-e cycles:u -e cpu-clock -F 500 -p 1,2 --pid 3 -C 0-2,7 -u 1000 --cgroup /a --exclude-kernel -g --name me " +
    "--count 1 --max-bytes 65536 --overflow disconnect --flush-interval 0 --lease 5000";
  const { code, stderr } = await run(server, "subscribe", ...args.split(" "));
  assert.equal(code, 0, stderr);
  const { filter, queue, ...rest } = broker.registered[0];
  assert.deepEqual(structuredClone(rest), {
    name: "me",
    events: [
      { event: "cycles:u", frequencyHz: 500, period: 0 },
      { event: "cpu-clock", frequencyHz: 500, period: 0 },
    ],
    fields: ["CALLCHAIN"],
    leaseMs: 5000,
    tasks: false,
    contextSwitches: false,
    exclusive: false,
    branchSampleType: 0,
  });
  assert.deepEqual(structuredClone(filter), {
    pids: [1, 2, 3],
    cpus: [0, 1, 2, 7],
    uids: [1000],
    cgroups: ["/a"],
    excludeUser: false,
    excludeKernel: true,
  });
  const asked = { maxBytes: 65_536, overflow: "DISCONNECT", flushIntervalMs: 0, flush: "flushIntervalMs" };
  assert.deepEqual(structuredClone(queue), asked);
});

test("subscribe prints a line a sample, stops at the count, reads until end and shows the books", async () => {
  const broker = new Broker(3);
  await using server = await startTestServer(broker.implementation);
  const { code, stdout, stderr } = await run(server, "subscribe", "--count", "5");
  assert.equal(code, 0, stderr);
  const lines = stdout.split("\n");
  assert.match(
    lines[0],
    new RegExp(
      `^12345\\.678901234 \\[000\\] ${process.pid}/${process.pid} \\S.* cpu-clock 1003009 0xffffffff81082390$`,
    ),
  );
  assert.deepEqual(lines.slice(1, 5), [
    "\t[user]",
    "\t0x401000",
    "12345.678901235 [012] 0/0 swapper cpu-clock 9007199254740993 0x401000",
    "\t0x5",
  ]);
  assert.equal(lines.filter((line) => line.includes("cpu-clock")).length, 5);
  assert.match(stderr, /^nmictl: handler 196609 gets cpu-clock at 997 Hz from perf$/m);
  assert.match(stderr, /^nmictl: lost 4 samples of cpu-clock: QUEUE_FULL$/m);
  assert.match(stderr, /^nmictl: matched 12, delivered 8, lost 4 \(QUEUE_FULL 4\), received 8: DEREGISTERED$/m);
  assert.equal(broker.deregistered.length, 1);
});

test("subscribe --json: an object for every sample and delivery, the books last", async () => {
  const broker = new Broker(1);
  await using server = await startTestServer(broker.implementation);
  const { stdout } = await run(server, "subscribe", "--json", "--count", "2");
  const objects = jsonLines(stdout);
  assert.deepEqual(
    objects.map(({ kind }) => kind),
    ["started", "loss", "sample", "sample", "end", "books"],
  );
  const { comm, ...second } = objects[3];
  assert.equal(comm, "swapper");
  assert.deepEqual(second, {
    kind: "sample",
    event: "cpu-clock",
    eventIndex: 0,
    sequence: 11,
    time: "12345678901235",
    cpu: 12,
    pid: 0,
    tid: 0,
    period: "9007199254740993",
    ip: "0x401000",
    callchain: ["0x5"],
  });
  const { matched, delivered, lost, received, losses } = objects[5];
  assert.deepEqual({ matched, delivered, lost, received }, { matched: 12, delivered: 8, lost: 4, received: 4 });
  assert.deepEqual(losses, [{ reason: "QUEUE_FULL", count: 4 }]);
  assert.equal(objects[5].latency, null);
});

test("subscribe --field AUX prints pieces of AUX areas, and what was lost of them", async () => {
  const registered: Record<string, unknown>[] = [];
  await using server = await startTestServer({
    Register: (...[call, done]: Unary) => {
      registered.push(call.request as Record<string, unknown>);
      done(null, { handlerId: HANDLER_ID });
    },
    Subscribe: (call: Stream) => {
      const piece = { cpu: 3, tid: 71, offset: "9007199254740993", flags: "1", time: "12345678901234" };
      call.write(serialize({ started: { handlerId: HANDLER_ID, events: [{ ...EVENT, name: "intel_pt//u" }] } }));
      call.write(serialize({ aux: { ...piece, data: Buffer.of(0, 255, 2), truncated: true } }));
      call.write(serialize({ loss: { reason: "QUEUE_FULL", eventWide: true, auxBytes: "5000" } }));
      call.write(serialize({ end: { reason: "SOURCE_ENDED" } }));
      call.end();
    },
  });
  const args = ["subscribe", "-e", "intel_pt//u", "--field", "AUX"];
  const text = await run(server, ...args);
  assert.equal(text.code, 0, text.stderr);
  assert.deepEqual(registered[0]?.fields, ["AUX"]);
  assert.equal(
    text.stdout,
    "12345.678901234 [003] 71 intel_pt//u AUX 9007199254740993+3 TRUNCATED: the area was full\n",
  );
  assert.match(text.stderr, /^nmictl: lost 5000 bytes of AUX data of intel_pt\/\/u: QUEUE_FULL$/m);
  assert.match(text.stderr, /^nmictl: AUX data: 3 bytes received, 5000 lost$/m);

  const [, aux, , , books] = jsonLines((await run(server, "--json", ...args)).stdout);
  assert.deepEqual(aux, {
    ...{ kind: "aux", event: "intel_pt//u", eventIndex: 0, time: "12345678901234", cpu: 3, tid: 71 },
    ...{ offset: "9007199254740993", flags: "1", truncated: true, data: "AP8C" },
  });
  assert.deepEqual([books.auxBytes, books.auxBytesLost], [3, 5000]);

  const refused = await run(server, "subscribe", "--field", "RAW");
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /--field.*RAW.*Allowed choices are AUX, CALLCHAIN/);
});

test("subscribe tells how old samples were, where the daemon's clock is this machine's", async () => {
  const MS = 1_000_000n;
  await using server = await startTestServer({
    ...new Broker(0).implementation,
    Subscribe: (call: Stream) => {
      const now = process.hrtime.bigint();
      call.write(serialize({ started: { handlerId: HANDLER_ID, events: [EVENT], clock: "CLOCK_MONOTONIC" } }));
      call.write(serialize({ samples: { time: [String(now - 200n * MS), String(now - MS)] } }));
      call.write(serialize({ end: { matched: 2, delivered: 2, reason: "SOURCE_ENDED" } }));
      call.end();
    },
  });
  const { stdout, stderr } = await run(server, "subscribe", "--quiet", "--json");
  const [{ kind, latency }] = jsonLines(stdout);
  assert.equal(kind, "books");
  assert.ok(latency.p50Ns > 1e6 && latency.p99Ns > 2e8, JSON.stringify(latency));
  assert.match(stderr, /^nmictl: from sample to receipt: half within \d+\.\d m?s, 99 % within \d+\.\d m?s$/m);
});

test("subscribe --quiet shows the books alone; a duration ends it", async () => {
  const broker = new Broker(2);
  await using server = await startTestServer(broker.implementation);
  const { code, stdout, stderr } = await run(server, "subscribe", "--quiet", "--duration", "0.05");
  assert.equal(code, 0);
  assert.equal(stdout, "");
  assert.match(stderr, /^nmictl: matched 12, .*\n$/);
});

test("SIGINT and SIGTERM deregister and end with the books", async () => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const broker = new Broker(1);
    await using server = await startTestServer(broker.implementation);
    const { child, done } = start(server, ["subscribe"]);
    assert.ok(child.stdout);
    await once(child.stdout, "data");
    child.kill(signal);
    const { code, stderr } = await done;
    assert.equal(code, 0);
    assert.match(stderr, /received 4: DEREGISTERED/);
  }
});

test("a reader that leaves ends it quietly, with a removal that discards", async () => {
  const broker = new Broker(Number.POSITIVE_INFINITY);
  await using server = await startTestServer(broker.implementation);
  const { child, done } = start(server, ["subscribe"]);
  assert.ok(child.stdout);
  await once(child.stdout, "data");
  child.stdout.destroy();
  const { code, stderr } = await done;
  assert.equal(code, 0, stderr);
  assert.doesNotMatch(stderr, /EPIPE/);
  assert.equal(broker.deregistered[0].discard, true);
});

test("a handler that overflowed, or a stream without end, is a failure", async () => {
  const ends = [
    [serialize({ end: { matched: 3, lost: 3, reason: "OVERFLOWED" } }), /matched 3, .*: OVERFLOWED$/m],
    [Buffer.alloc(0), /: no end received$/m],
  ] as const;
  for (const [end, expected] of ends) {
    await using server = await startTestServer({
      Register: (...[, done]: Unary) => done(null, { handlerId: HANDLER_ID }),
      Subscribe: (call: Stream) => {
        call.write(end);
        call.end();
      },
    });
    const { code, stderr } = await run(server, "subscribe");
    assert.equal(code, 1);
    assert.match(stderr, expected);
  }
});
