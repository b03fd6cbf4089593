import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Case, problem, problems } from "./load.test-support.js";

describe("bad input names its place and the remedy", () => {
  const cases: [name: string, input: Case, expected: RegExp][] = [
    [
      "unknown flag",
      { argv: ["--dispatcher", "3"] },
      /^flag --dispatcher: unknown flag; did you mean --dispatchers\?$/,
    ],
    ["unknown flag with =", { argv: ["--runtimedir=/x"] }, /^flag --runtimedir: .*did you mean --runtime-dir\?$/],
    ["argument", { argv: ["start"] }, /^argument start: nmid takes no arguments; see nmid --help$/],
    ["flag without value", { argv: ["--metrics"] }, /^flags: option '--metrics <address>' argument missing; see/],
    [
      "unknown variable",
      { env: { NMID_LOGLEVEL: "x" } },
      /^NMID_LOGLEVEL: unknown variable; did you mean NMID_LOG_LEVEL\?$/,
    ],
    ["service link", { env: { NMID_PORT_9810_TCP: "x" } }, /^NMID_PORT_9810_TCP: .*enableServiceLinks: false$/],
    ["unknown key", { file: "listn: 1" }, /^f\.yaml:1 key listn: unknown key; did you mean listen\?$/],
    ["flag's spelling in the file", { file: "runtime-dir: /x" }, /did you mean runtime_dir\?$/],
    ["a limit outside limits", { file: "\nlease_max: 5" }, /^f\.yaml:2 key lease_max: .* limits\.lease_max_ms\?$/],
    [
      "unknown limit",
      { file: "limits:\n  queue_max: 1" },
      /^f\.yaml:2 key limits\.queue_max: .* limits\.queue_max_bytes\?$/,
    ],
    [
      "dotted limit",
      { file: "limits.lease_max_ms: 1" },
      /^f\.yaml:1 key limits\.lease_max_ms: unknown key; did you mean limits\.lease_max_ms\?$/,
    ],
    ["not a mapping", { file: "- a\n- b\n" }, /^f\.yaml:1: is not a mapping; write one key: value a line$/],
    ["limits not a mapping", { file: "capacity: 1\nlimits: 7\n" }, /^f\.yaml:2 key limits: is not a mapping/],
    ["no value", { file: "listen:\n" }, /^f\.yaml:1 key listen: has no value; give unix:PATH or HOST:PORT/],
    ["duplicate key", { file: "capacity: 1\ncapacity: 2\n" }, /^f\.yaml:2: Map keys must be unique/],
    [
      "YAML syntax",
      { file: "listen: [::1]:50051\n" },
      /^f\.yaml:1: .*quote values that begin with a special character/,
    ],
    ["alias of nothing", { file: "capacity: *x\n" }, /^f\.yaml:1.*Unresolved alias/],
    [
      "text for a number",
      { file: 'capacity: "12"' },
      /key capacity: "12" is not a whole number; give a whole number from 1/,
    ],
    ["fraction", { argv: ["--capacity", "1.5"] }, /^flag --capacity: "1\.5" is not a whole number/],
    ["below", { argv: ["--dispatchers", "0"] }, /^flag --dispatchers: 0 is below 1; give a whole number from 1 to 64$/],
    [
      "above",
      { env: { NMID_DISPATCHERS: "65" } },
      /^NMID_DISPATCHERS: 65 is above 64; give a whole number from 1 to 64$/,
    ],
    [
      "no power of two",
      { file: "ring_kib: 500" },
      /key ring_kib: 500 is not a power of two; give a power of two from 8 to 65536$/,
    ],
    [
      "small ring",
      { env: { NMID_RING_KIB: "4" } },
      /^NMID_RING_KIB: 4 is below 8; give a power of two from 8 to 65536$/,
    ],
    [
      "log level",
      { argv: ["--log-level", "loud"] },
      /^flag --log-level: "loud" is no log level; give one of trace, debug/,
    ],
    [
      "overload",
      { argv: ["--overload", "panic"] },
      /^flag --overload: "panic" is no policy for overload; give report or lower$/,
    ],
    ["restart", { argv: ["--restart", "no"] }, /^flag --restart: "no" is no policy for restarts; give keep or end$/],
    ["empty list", { file: "listen: []" }, /key listen: names no address/],
    ["list of numbers", { file: "listen: [1]" }, /key listen: 1 is not text/],
    ["map for a list", { file: "listen: {a: 1}" }, /key listen: \{"a":1\} is not an address or a list of addresses/],
    [
      "empty element",
      { env: { NMID_LISTEN: "unix:/a," } },
      /^NMID_LISTEN: "" is not an address; give unix:PATH or HOST:PORT/,
    ],
    ["empty directory", { argv: ["--runtime-dir", ""] }, /^flag --runtime-dir: "" is not a path; give a directory$/],
    [
      "exposed gRPC",
      { argv: ["--listen", "0.0.0.0:50051"] },
      /^flag --listen: "0\.0\.0\.0:50051" is reachable from other machines, and plain TCP protects neither samples nor control; listen on a Unix socket/,
    ],
    ["source", { argv: ["--source", "kernel"] }, /^flag --source: "kernel" is no source; give auto, perf, replay:FILE/],
    [
      "CPUs",
      { argv: ["--dispatcher-cpus", "all"] },
      /^flag --dispatcher-cpus: "all" has "all" for dispatcher 0; give off, auto, or a list of CPUs for each dispatcher/,
    ],
    ["CPUs as a list", { file: "dispatcher_cpus: [0, 1]" }, /key dispatcher_cpus: \[0,1\] is not text; give off, auto/],
    [
      "fewer CPU lists than dispatchers",
      { argv: ["--dispatcher-cpus", "0-3"], env: { NMID_DISPATCHERS: "2" } },
      /^flag --dispatcher-cpus and NMID_DISPATCHERS: dispatcher_cpus has CPUs for 1 dispatcher and dispatchers is 2; give as many lists, separated by ";", as there are dispatchers, or set dispatchers to 1$/,
    ],
    [
      "more CPU lists than dispatchers",
      { file: "dispatcher_cpus: 0;1" },
      /^f\.yaml:1 key dispatcher_cpus and default: dispatcher_cpus has CPUs for 2 dispatchers and dispatchers is 1; /,
    ],
    [
      "same address twice",
      { argv: ["--listen", "unix:a", "--listen", "unix:/some dir/a"] },
      /^flag --listen: unix:\/some dir\/a is given twice/,
    ],
    [
      "metrics on gRPC's port",
      { argv: ["--listen", "[::1]:9"], env: { NMID_METRICS: "[::1]:9" } },
      /^NMID_METRICS and flag --listen: gRPC and metrics both listen on \[::1\]:9/,
    ],
    [
      "queue relation",
      { file: "limits:\n  queue_max_bytes: 65536\n" },
      /^default and f\.yaml:2 key limits\.queue_max_bytes: limits\.queue_default_bytes \(4194304\) is above limits\.queue_max_bytes \(65536\): a handler .*; lower /,
    ],
    [
      "dispatchers relation",
      { argv: ["--dispatchers", "17"], file: "limits: {queue_default_bytes: 1048576}" },
      /dispatchers \(17\), times 65536, is above limits\.queue_default_bytes \(1048576\): a queue has a region for each/,
    ],
    [
      "flush relation",
      { file: "limits: {flush_interval_max_ms: 50}" },
      /flush_interval_default_max_ms \(2000\) is above/,
    ],
    [
      "flush default relation",
      { file: "limits: {flush_interval_default_ms: 3000}" },
      /\(3000\) is above limits.flush_interval_default_max_ms/,
    ],
    [
      "lease relation",
      { file: "limits: {lease_default_ms: 3600001}" },
      /lease_default_ms \(3600001\) is above limits\.lease_max_ms/,
    ],
    [
      "filter relation",
      { file: "limits: {message_max_bytes: 4096}" },
      /filter_entries_max \(1024\), times 5, is above limits\.message_max_bytes \(4096\)/,
    ],
  ];
  for (const [name, input, expected] of cases) test(name, () => assert.match(problem(input), expected));

  test("all problems are told at once", () => {
    const found = problems({
      argv: ["--metrics", "9810", "--bogus", "x", "--other"],
      env: { NMID_SOURCE: "replay:", NMID_X: "1" },
      file: "capacity: 0\nlimits:\n  lease_max_ms: 1\n  nonsense: 2\n",
    });
    assert.deepEqual(found.map(({ origin }) => origin).sort(), [
      "NMID_SOURCE",
      "NMID_X",
      "default and f.yaml:3 key limits.lease_max_ms",
      "f.yaml:1 key capacity",
      "f.yaml:4 key limits.nonsense",
      "flag --bogus",
      "flag --metrics",
      "flag --other",
    ]);
  });

  test("a relation is not judged on a value that was refused", () => {
    assert.match(problem({ file: "limits: {lease_max_ms: 0}" }), /lease_max_ms: 0 is below 1/);
  });
});
