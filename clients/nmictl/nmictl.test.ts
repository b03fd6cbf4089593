/** The command line as a process of its own, against a server of the real contract. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { test } from "node:test";
import { type ServerUnaryCall, type ServerWritableStream, type sendUnaryData, status } from "@grpc/grpc-js";
import { loadBroker, startTestServer, type TestServer } from "../typescript/broker.test-support.js";

const MAIN = join(import.meta.dirname, "main.js");
const HANDLER_ID = 3 * 65_536 + 1;
const serialize = loadBroker().Subscribe.responseSerialize;

type Unary = [ServerUnaryCall<object, object>, sendUnaryData<object>];
type Stream = ServerWritableStream<object, Buffer>;

const EVENT = { name: "cpu-clock", frequencyHz: 997, periodUnit: "ns" };
const BATCH = {
  sequence: 10,
  time: ["12345678901234", "12345678901235"],
  ip: [String(0xffff_ffff_8108_2390n), "4198400"],
  pid: [process.pid, 0],
  tid: [process.pid, 0],
  cpu: [0, 12],
  period: ["1003009", "9007199254740993"],
  callchain: [String(BigInt.asUintN(64, -512n)), "4198400", "5"],
  callchainLength: [2, 1],
};
const HANDLER = {
  handlerId: HANDLER_ID,
  name: "evil\u001b[2J",
  state: "ACTIVE",
  events: [EVENT],
  matched: 30,
  delivered: 20,
  lost: 10,
  queueBytes: 2048,
  queueMaxBytes: 1_048_576,
  leaseRemainingMs: 9500,
};

/** A daemon with one handler: it streams `batches` batches, and ends the stream when the handler is deregistered. */
class Broker {
  readonly batches: number;
  readonly registered: Record<string, unknown>[] = [];
  readonly deregistered: Record<string, unknown>[] = [];
  #stream: Stream | undefined;

  constructor(batches: number) {
    this.batches = batches;
  }

  readonly implementation = {
    Register: (...[call, done]: Unary) => {
      this.registered.push(call.request as Record<string, unknown>);
      done(null, { handlerId: HANDLER_ID, events: [EVENT] });
    },
    Subscribe: async (call: Stream) => {
      this.#stream = call;
      call.write(serialize({ started: { handlerId: HANDLER_ID, events: [EVENT], source: "perf" } }));
      call.write(serialize({ loss: { count: 4, reason: "QUEUE_FULL" } }));
      for (let i = 0; i < this.batches && this.deregistered.length === 0 && !call.cancelled; i++) {
        if (!call.write(serialize({ samples: BATCH }))) {
          await Promise.race([once(call, "drain"), once(call, "cancelled")]);
        }
      }
    },
    Deregister: (...[call, done]: Unary) => {
      this.deregistered.push(call.request as Record<string, unknown>);
      const books = { matched: 12, delivered: 8, lost: 4 };
      this.#stream?.write(serialize({ samples: BATCH }));
      this.#stream?.write(serialize({ end: { ...books, reason: "DEREGISTERED" } }));
      this.#stream?.end();
      done(null, { ...books, lastSequence: 12, waitedNs: 1500, losses: [{ reason: "QUEUE_FULL", count: 4 }] });
    },
  };
}

interface Run {
  readonly child: ChildProcess;
  readonly done: Promise<{ code: number | null; stdout: string; stderr: string }>;
}

function start(server: Pick<TestServer, "address">, args: readonly string[]): Run {
  const child = spawn(process.execPath, [MAIN, "--address", server.address, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  return { child, done: once(child, "close").then(([code]) => ({ code, stdout, stderr })) };
}

const run = (server: Pick<TestServer, "address">, ...args: string[]) => start(server, args).done;
const jsonLines = (text: string) =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));

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

test("status, events, handlers, watch and deregister", async () => {
  const events = [
    { name: "cpu-clock", group: "software", canSample: true, aliases: ["cpu_clock"] },
    { name: "cycles", group: "hardware", reason: "this machine has no PMU", config: String(2n ** 63n) },
  ];
  await using server = await startTestServer({
    ...new Broker(0).implementation,
    GetStatus: (...[, done]: Unary) =>
      done(null, {
        version: "0.1.0",
        source: "replay",
        fallback: true,
        sourceReason: "CAP_PERFMON is missing",
        totals: { samples: 12 },
        dispatchers: [
          { index: 0, cpus: [0, 1, 2, 8, 10, 9], pinnedCpus: [3, 4], busyRatio: 0.97, ringFillPeak: 1 },
          { index: 1, wakeups: 7 },
        ],
        events: [
          { name: "cpu-clock", frequencyHz: 997, timeEnabledSeconds: 2, timeRunningSeconds: 1 },
          { name: "cycles", frequencyHz: 997, loweredFrequencyHz: 499 },
          { name: "faults", period: 10, loweredPeriod: 20 },
          { name: "clock", frequencyHz: 9, loweredFrequencyHz: 8, loweredByKernel: true, refused: "paranoid is 4" },
        ],
        cpus: {
          watched: [0, 1, 5],
          changes: [
            { cpu: 7, kind: "GONE", at: 1000.5, watchedUntil: 1000 },
            { cpu: 5, kind: "BACK", at: 2001, watchedUntil: 2000 },
          ],
          changesTotal: 9,
        },
        kernelSettings: { perfEventParanoid: -1, paranoidKnown: true, perfEventMaxSampleRate: 50_000 },
        overload: { overloaded: true, sinceSeconds: 2.5, kernelLost: 7, reason: "why", episodes: 3 },
      }),
    ListEvents: (...[, done]: Unary) => done(null, { events, pmus: [{ name: "cpu", type: 4 }] }),
    ListHandlers: (...[, done]: Unary) => done(null, { handlers: [HANDLER] }),
    WatchHandlers: (call: ServerWritableStream<object, object>) => {
      call.write({ kind: "ADDED", handler: HANDLER });
      call.write({ kind: "SYNCHRONIZED" });
      call.end();
    },
  });
  const statusText = (await run(server, "status")).stdout;
  assert.match(statusText, /^source: +replay, A STAND-IN: CAP_PERFMON is missing$/m);
  assert.match(statusText, /^cpu-clock at 997 Hz .* 50 %$/m);
  assert.match(statusText, /^cycles at 997 Hz, LOWERED: at 499 Hz +0/m);
  assert.match(statusText, /^faults each 10, LOWERED: each 20 +0/m);
  assert.match(statusText, /^clock at 9 Hz, LOWERED BY THE KERNEL: at 8 Hz +0/m);
  assert.match(statusText, /^refused now: +clock, which goes on all the same: paranoid is 4$/m);
  assert.match(statusText, /^kernel: +perf_event_paranoid -1, perf_event_max_sample_rate 50000$/m);
  assert.match(
    statusText,
    /^CPUs: +0-1,5, 9 changes since the start; CPU 7 went 1970-01-01T00:16:40\.500Z; CPU 5 went and came back 1970-01-01T00:33:21\.000Z, not sampled since 1970-01-01T00:33:20\.000Z$/m,
  );
  assert.match(statusText, /^overload: +OVERLOADED for 2\.5 s, 7 samples lost by the kernel: why$/m);
  assert.match(statusText, /^0 +0-2,8-10 +3-4 .* 97 % +100 %$/m);
  assert.match(statusText, /^0 +0-2,8-10 +3-4 +0 /m);
  assert.match(statusText, /^1 +- +- +7 /m);
  const listed = (await run(server, "events")).stdout;
  assert.match(listed, /^cpu-clock +software +cpu_clock +yes$/m);
  assert.match(listed, /^cycles +hardware +no: this machine has no PMU$/m);
  assert.match(listed, /^cpu +4 +all$/m);
  assert.doesNotMatch((await run(server, "events", "CPU")).stdout, /cycles/);
  assert.doesNotMatch((await run(server, "events", "c*s")).stdout, /cpu-clock +soft/);
  assert.equal(
    JSON.parse((await run(server, "events", "cycles", "--json")).stdout).events[0].config,
    String(2n ** 63n),
  );
  const row =
    /^196609 +evil\?\[2J +ACTIVE +cpu-clock at 997 Hz +30 +20 +10 +2\.0 KiB of 1\.0 MiB +0 ns +lease 9\.5 s$/m;
  assert.match((await run(server, "handlers")).stdout, row);
  assert.match(
    (await run(server, "watch")).stdout,
    /^ADDED +196609 .* matched 30, delivered 20, lost 10 .*\nSYNCHRONIZED\n$/,
  );
  assert.deepEqual(jsonLines((await run(server, "watch", "--json")).stdout)[1], {
    kind: "SYNCHRONIZED",
    handler: null,
  });
  assert.equal(
    (await run(server, "deregister", "196609", "--timeout", "100")).stdout,
    "matched 12, delivered 8, lost 4 (QUEUE_FULL 4), last sequence 12, waited 1.5 us\n",
  );
});

test("failures are one line and exit code 1", async () => {
  await using server = await startTestServer({
    Register: (...[, done]: Unary) => done({ code: status.INVALID_ARGUMENT, details: "frequency_hz: too\nfast" }),
    GetStatus: (...[, done]: Unary) => done({ code: status.INTERNAL, details: "broken" }),
  });
  const nobody = { address: `unix:${join(server.directory, "nobody.sock")}` };
  const cases: [Pick<TestServer, "address">, string[], RegExp][] = [
    [server, ["subscribe"], /^nmictl: Register: INVALID_ARGUMENT: frequency_hz: too; fast\n$/],
    [server, ["status"], /^nmictl: GetStatus: INTERNAL: broken\n$/],
    [
      nobody,
      ["status"],
      /^nmictl: no daemon answers at unix:.*nobody\.sock: start it with `npm start`, or check --address.*\n$/,
    ],
    [{ address: "nowhere" }, ["status"], /^nmictl: address "nowhere" is neither unix:PATH nor HOST:PORT\n$/],
    [server, ["subscribe", "-F", "1", "-c", "1"], /^nmictl: option '-F.*cannot be used with option '-c.*\n$/],
    [
      server,
      ["subscribe", "-F", "0"],
      /^nmictl: option '-F, --frequency <hz>' argument '0' is invalid\. Not above 0\.\n$/,
    ],
    [server, ["subscribe", "-C", "3-1"], /^nmictl: .*"3-1" is no range of CPUs\.\n$/],
    [server, ["deregister", "x"], /^nmictl: .*'x' is invalid.*\n$/],
    [server, ["nonsense"], /^nmictl: unknown command 'nonsense'\n$/],
  ];
  for (const [target, args, expected] of cases) {
    const { code, stdout, stderr } = await run(target, ...args);
    assert.match(stderr, expected);
    assert.equal(stdout, "");
    assert.equal(code, 1, args.join(" "));
  }
});
