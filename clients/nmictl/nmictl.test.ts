import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { type ServerWritableStream, status } from "@grpc/grpc-js";
import { startTestServer, type TestServer } from "../typescript/broker.test-support.js";
import { Broker, HANDLER, jsonLines, run, type Unary } from "./nmictl.test-support.js";

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
