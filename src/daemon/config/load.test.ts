import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { Environment } from "./environment.js";
import { loadConfig, processIo } from "./load.js";
import { type Case, print, problem, run } from "./load.test-support.js";

describe("defaults", () => {
  test("of root", () => {
    const config = run({ env: { XDG_RUNTIME_DIR: "/run/user/0", HOME: "/root" } });
    assert.deepEqual(config, {
      listen: [{ kind: "unix", path: "/run/nmid/nmid.sock" }],
      listenIsDefault: true,
      socketMode: 0o660,
      socketGroup: null,
      tls: null,
      insecure: false,
      metrics: { host: "127.0.0.1", port: 9810 },
      policy: null,
      runtimeDir: "/run/nmid",
      source: { kind: "auto" },
      dispatchers: 1,
      dispatcherCpus: { kind: "off" },
      capacity: 256,
      logLevel: "info",
      overload: "report",
      restart: "keep",
      ringKib: 512,
      limits: {
        queueMaxBytes: 67_108_864,
        queueDefaultBytes: 4_194_304,
        flushIntervalDefaultMs: 400,
        flushIntervalDefaultMaxMs: 2000,
        flushIntervalMaxMs: 60_000,
        memoryMaxBytes: 536_870_912,
        slowDispatchUs: 1024,
        overloadRateFloorHz: 100,
        overloadRaiseAfterMs: 10_000,
        leaseDefaultMs: 10_000,
        leaseMaxMs: 3_600_000,
        deregisterTimeoutDefaultMs: 5_000,
        messageMaxBytes: 1_048_576,
        filterEntriesMax: 1024,
        eventsPerHandlerMax: 63,
      },
      connectionLimits: {
        connectionsMax: 4096,
        connectionsPerPeerMax: 1024,
        streamsPerConnectionMax: 1024,
        streamsPerPeerMax: 4096,
        requestsPerSecondMax: 2000,
        controlFramesPerSecondMax: 1000,
        receiveBytesPerSecondMax: 8_388_608,
        handshakeTimeoutMs: 10_000,
        keepaliveIntervalMs: 60_000,
        keepaliveTimeoutMs: 20_000,
      },
    });
  });

  test("of a user, with and without a usable XDG_RUNTIME_DIR", () => {
    const xdg = run({ uid: 1000, env: { XDG_RUNTIME_DIR: "/run/user/1000" } });
    assert.deepEqual(xdg.listen, [{ kind: "unix", path: "/run/user/1000/nmid/nmid.sock" }]);
    assert.equal(xdg.runtimeDir, "/run/user/1000/nmid");
    for (const env of [{}, { XDG_RUNTIME_DIR: "relative" }, { XDG_RUNTIME_DIR: "" }]) {
      const bare = run({ uid: 1000, env });
      assert.deepEqual(bare.listen, [{ kind: "unix", path: "/tmp/nmid-1000/nmid.sock" }]);
      assert.equal(bare.runtimeDir, "/tmp/nmid-1000");
    }
  });

  test("of a service, whoever it runs as: systemd's RuntimeDirectory=", () => {
    for (const uid of [0, 997]) {
      const config = run({ uid, env: { RUNTIME_DIRECTORY: "/run/a:/run/b", XDG_RUNTIME_DIR: "/run/user/997" } });
      assert.deepEqual(config.listen, [{ kind: "unix", path: "/run/a/nmid.sock" }]);
      assert.equal(config.runtimeDir, "/run/a");
    }
    assert.equal(run({ uid: 997, env: { RUNTIME_DIRECTORY: "" } }).runtimeDir, "/tmp/nmid-997");
  });

  test("that do not fit are told with their origin", () => {
    const text = problem({ uid: 1000, env: { XDG_RUNTIME_DIR: `/${"x".repeat(100)}` } });
    assert.match(text, /^default from XDG_RUNTIME_DIR: .* has 116 bytes, and the kernel takes 107/);
  });

  test("are frozen all the way down", () => {
    const config = run({});
    for (const part of [config, config.listen, config.listen[0], config.metrics, config.source, config.limits]) {
      assert(Object.isFrozen(part));
    }
  });
});

describe("precedence", () => {
  const file = "dispatchers: 2\ncapacity: 2\nmetrics: off\nlog_level: debug\nlisten: unix:/file\n";

  test("flag before environment before file before default", () => {
    const env = { NMID_DISPATCHERS: "3", NMID_CAPACITY: "3", NMID_LISTEN: "unix:/env" };
    const config = run({ argv: ["--dispatchers", "4"], env, file });
    assert.equal(config.dispatchers, 4);
    assert.equal(config.capacity, 3);
    assert.equal(config.logLevel, "debug");
    assert.equal(config.metrics, null);
    assert.deepEqual(config.listen, [{ kind: "unix", path: "/env" }]);
    assert.equal(config.ringKib, 512);
  });

  test("lists replace one another and do not add up", () => {
    const config = run({ argv: ["--listen", "unix:/a", "--listen=127.0.0.1:1"], file });
    assert.deepEqual(config.listen, [
      { kind: "unix", path: "/a" },
      { kind: "tcp", host: "127.0.0.1", port: 1 },
    ]);
  });

  test("an overridden value is still checked", () => {
    const text = problem({ argv: ["--capacity", "8"], file: "capacity: none\n" });
    assert.match(text, /^f\.yaml:1 key capacity: "none" is not a whole number; give a whole number from 1 to 65536$/);
  });

  test("--config goes before NMID_CONFIG", () => {
    assert.equal(run({ env: { NMID_CONFIG: "/absent" }, file: "capacity: 9" }).capacity, 9);
    assert.match(problem({ env: { NMID_CONFIG: "/absent" } }), /^\/absent: cannot be read: ENOENT/);
  });
});

describe("each place", () => {
  test("every flag", () => {
    const argv = [
      "--metrics",
      "0.0.0.0:0",
      "--runtime-dir",
      "rel",
      "--source",
      "replay:r.data",
      "--log-level",
      "silent",
      "--overload",
      "lower",
    ];
    const config = run({
      argv: [...argv, "--listen", "unix:s", "--capacity", "1", "--dispatchers=64", "--dispatcher-cpus", "auto"],
    });
    assert.deepEqual(config.metrics, { host: "0.0.0.0", port: 0 });
    assert.equal(config.runtimeDir, "/some dir/rel");
    assert.deepEqual(config.source, { kind: "replay", file: "/some dir/r.data", speed: 1, loop: false });
    assert.equal(config.logLevel, "silent");
    assert.equal(config.overload, "lower");
    assert.deepEqual(config.listen, [{ kind: "unix", path: "/some dir/s" }]);
    assert.equal(config.capacity, 1);
    assert.equal(config.dispatchers, 64);
    assert.deepEqual(config.dispatcherCpus, { kind: "auto" });
  });

  test("every variable; an empty one is not set, and the client's is not the daemon's", () => {
    const env: Environment = {
      NMID_LISTEN: "unix:/a, [::1]:50051",
      NMID_METRICS: "[::]:9810",
      NMID_RUNTIME_DIR: "/r",
      NMID_SOURCE: "synthetic:1000,cpus=2",
      NMID_DISPATCHERS: "2",
      NMID_DISPATCHER_CPUS: "0-2,9; 4",
      NMID_CAPACITY: "",
      NMID_LOG_LEVEL: "warn",
      NMID_RING_KIB: "8",
      NMID_OVERLOAD: "lower",
      NMID_ADDRESS: "whatever",
      OTHER: "x",
    };
    const config = run({ env });
    assert.deepEqual(config.listen, [
      { kind: "unix", path: "/a" },
      { kind: "tcp", host: "::1", port: 50051 },
    ]);
    assert.deepEqual(config.metrics, { host: "::", port: 9810 });
    assert.equal(config.runtimeDir, "/r");
    assert.deepEqual(config.source, { kind: "synthetic", ratePerSecond: 1000, cpus: 2, seed: 1 });
    assert.equal(config.dispatchers, 2);
    assert.deepEqual(config.dispatcherCpus, { kind: "lists", lists: [[0, 1, 2, 9], [4]] });
    assert.equal(config.capacity, 256);
    assert.equal(config.logLevel, "warn");
    assert.equal(config.ringKib, 8);
    assert.equal(config.overload, "lower");
  });

  test("the file's limits, and a file with nothing in it", () => {
    const config = run({ file: "limits:\n  lease_max_ms: 20000\n  flush_interval_default_ms: 0\n" });
    assert.equal(config.limits.leaseMaxMs, 20_000);
    assert.equal(config.limits.flushIntervalDefaultMs, 0);
    for (const file of ["", "# nothing\n", "---\n", "limits:\n"]) assert.deepEqual(run({ file }), run({}));
  });

  test("in the file one CPU is a number, and several are text", () => {
    assert.deepEqual(run({ file: "dispatcher_cpus: 3" }).dispatcherCpus, { kind: "lists", lists: [[3]] });
    const two = run({ file: "dispatchers: 2\ndispatcher_cpus: 7,0-1;5 # two\n" });
    assert.deepEqual(two.dispatcherCpus, { kind: "lists", lists: [[0, 1, 7], [5]] });
  });

  test("a real file through the process's own io", () => {
    const dir = mkdtempSync(join(tmpdir(), "nmid-config-"));
    try {
      const path = join(dir, "nmid.yaml");
      writeFileSync(path, "capacity: 7\n");
      const result = loadConfig(["--config", path], {}, processIo("1.2.3"));
      assert(result.action === "run");
      assert.equal(result.config.capacity, 7);
      assert.throws(() => loadConfig(["--config", dir], {}, processIo("1.2.3")), /cannot be read: EISDIR/);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});

describe("what is printed", () => {
  test("--help names every flag with its default, --version the version, whatever else is wrong", () => {
    const help = print({ argv: ["--bogus", "--help"], uid: 7 });
    for (const flag of [
      "config",
      "listen",
      "socket-mode",
      "socket-group",
      "metrics",
      "runtime-dir",
      "source",
      "dispatchers",
      "dispatcher-cpus",
      "capacity",
      "log-level",
      "overload",
      "restart",
    ]) {
      assert(help.includes(`--${flag} <`), flag);
    }
    for (const text of ["--check-config", "unix:/tmp/nmid-7/nmid.sock", "127.0.0.1:9810"]) assert(help.includes(text));
    assert.equal(print({ argv: ["--version"] }), "1.2.3\n");
  });

  test("--check-config round-trips through the loader", () => {
    const inputs: Case[] = [
      {},
      { uid: 1000, env: { XDG_RUNTIME_DIR: "/run/user/1000" } },
      { argv: ["--metrics", "off", "--listen", "[::1]:0", "--listen", "unix:odd, name: #1", "--source", "perf"] },
      {
        argv: ["--source", "replay:a b#c.data", "--metrics", "[::]:1"],
        file: "log_level: trace\nring_kib: 64\noverload: lower\n",
      },
      { argv: ["--dispatchers", "2", "--dispatcher-cpus", "4,0-2;3"] },
      { argv: ["--dispatcher-cpus", "5"] },
      { argv: ["--dispatcher-cpus", "auto"] },
      { argv: ["--source", "synthetic:5,seed=9,cpus=3"], file: "limits: {lease_max_ms: 10001}\n" },
      { argv: ["--listen", "[::]:1"], file: "tls: {cert: a, key: /b, client_ca: c d}\n" },
      { argv: ["--listen", "[::]:1", "--socket-mode", "0600", "--socket-group", "adm"], file: "insecure: true\n" },
      { file: "limits: {connections_max: 7, connections_per_peer_max: 7, keepalive_interval_ms: 9}\n" },
    ];
    for (const input of inputs) {
      const text = print({ ...input, argv: [...(input.argv ?? []), "--check-config"] });
      // What is printed has been said by someone.
      assert.deepEqual(run({ file: text, uid: 4242 }), { ...run(input), listenIsDefault: false });
    }
  });

  test("--check-config says where each value came from", () => {
    const argv = ["--check-config", "--dispatchers", "2"];
    const text = print({ argv, env: { NMID_CAPACITY: "3" }, file: "limits:\n  lease_max_ms: 20000\n" });
    assert.match(text, /^listen: \["?unix:\/run\/nmid\/nmid\.sock"?\] # default$/m);
    assert.match(text, /^dispatchers: 2 # flag --dispatchers$/m);
    assert.match(text, /^capacity: 3 # NMID_CAPACITY$/m);
    assert.match(text, /^ {2}lease_max_ms: 20000 # f\.yaml:2 key limits\.lease_max_ms$/m);
  });

  test("--check-config reports problems like any other start", () => {
    assert.match(problem({ argv: ["--check-config", "--capacity", "x"] }), /^flag --capacity/);
  });
});

describe("connections", () => {
  test("files of TLS are taken from the working directory, and open TCP to other machines", () => {
    const { tls, listen } = run({ file: "listen: '0.0.0.0:1'\ntls: {cert: c.pem, key: /k, client_ca: ca.pem}\n" });
    assert.deepEqual(tls, { cert: "/some dir/c.pem", key: "/k", clientCa: "/some dir/ca.pem" });
    assert.deepEqual(listen, [{ kind: "tcp", host: "0.0.0.0", port: 1 }]);
  });

  test("all three or none", () => {
    assert.match(
      problem({ file: "tls: {cert: c, key: k}\n" }),
      /^f\.yaml:1 key tls\.cert: tls\.client_ca is missing: both sides must show a certificate/,
    );
    assert.match(problem({ file: "tls: {client_ca: k}\n" }), /tls\.cert and tls\.key are missing/);
  });

  test("insecure is said in so many words, and not beside TLS", () => {
    assert.equal(run({ argv: ["--listen", "0.0.0.0:1"], env: { NMID_INSECURE: "true" } }).insecure, true);
    assert.match(
      problem({ file: "insecure: yes please\n" }),
      /"yes please" is neither true nor false; give true or false/,
    );
    assert.match(
      problem({ file: "insecure: true\ntls: {cert: c, key: k, client_ca: a}\n" }),
      /^f\.yaml:1 key insecure: insecure has no meaning beside tls/,
    );
  });

  test("a socket's mode is octal, and in quotes", () => {
    assert.equal(run({ argv: ["--socket-mode", "600"] }).socketMode, 0o600);
    assert.equal(run({ file: 'socket_mode: "0666"\n' }).socketMode, 0o666);
    for (const mode of ["0660", "0o660", '"0999"', '"4755"', "rw"]) {
      assert.match(problem({ file: `socket_mode: ${mode}\n` }), /give three octal digits in quotes, such as "0660"$/);
    }
    assert.match(problem({ argv: ["--socket-group", "a b"] }), /no name of a group/);
  });

  test("where to listen is a default until someone says it", () => {
    assert.equal(run({}).listenIsDefault, true);
    assert.equal(run({ uid: 1000, env: { XDG_RUNTIME_DIR: "/run/user/1000" } }).listenIsDefault, true);
    assert.equal(run({ env: { NMID_LISTEN: "unix:/run/nmid/nmid.sock" } }).listenIsDefault, false);
  });
});
