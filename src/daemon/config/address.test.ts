import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  checkSocketPath,
  formatListenAddress,
  formatTcpAddress,
  isLoopback,
  parseListenAddress,
  parseTcpAddress,
  plainTcpProblem,
} from "./address.js";

describe("HOST:PORT", () => {
  const good: [text: string, host: string, port: number][] = [
    ["127.0.0.1:9810", "127.0.0.1", 9810],
    ["0.0.0.0:0", "0.0.0.0", 0],
    ["[::1]:65535", "::1", 65_535],
    ["[2001:db8::7]:1", "2001:db8::7", 1],
    ["[fe80::1%eth0]:1", "fe80::1%eth0", 1],
    ["metrics.example-7.org:80", "metrics.example-7.org", 80],
    ["localhost:1", "localhost", 1],
  ];
  for (const [text, host, port] of good) {
    test(`${text} is taken and written back`, () => {
      assert.deepEqual(parseTcpAddress(text), { ok: true, value: { host, port } });
      assert.equal(formatTcpAddress({ host, port }), text);
    });
  }

  const bad: [text: string, complaint: RegExp][] = [
    ["9810", /has no port/],
    [":9810", /has no host.*give one, such as 127\.0\.0\.1:9810/],
    ["::1:9810", /put IPv6 addresses in brackets/],
    ["[::1]", /is not HOST:PORT.*brackets|put IPv6/],
    ["[localhost]:1", /no IPv6 address between its brackets/],
    ["[127.0.0.1]:1", /no IPv6 address between its brackets/],
    ["[]:1", /no IPv6 address between its brackets/],
    ["127.0.0.1:", /"" for a port/],
    ["127.0.0.1:65536", /"65536" for a port.*0 to 65535/],
    ["127.0.0.1:-1", /"-1" for a port/],
    ["127.0.0.1:0x50", /"0x50" for a port/],
    ["127.0.0.300:1", /neither a name nor an address/],
    ["127.1:1", /neither a name nor an address/],
    ["a_b:1", /neither a name nor an address/],
    ["-a:1", /neither a name nor an address/],
    ["a b:1", /neither a name nor an address/],
    [`${"a.".repeat(130)}a:1`, /neither a name nor an address/],
  ];
  for (const [text, complaint] of bad) {
    test(`${text.slice(0, 30)} is refused`, () => {
      const result = parseTcpAddress(text);
      assert(!result.ok);
      assert.match(`${result.what}; ${result.remedy}`, complaint);
    });
  }
});

test("loopback is 127.0.0.0/8, ::1, their mapped forms, and localhost", () => {
  for (const host of [
    "127.0.0.1",
    "127.255.0.9",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "localhost",
    "LOCALHOST",
  ]) {
    assert(isLoopback(host), host);
  }
  for (const host of ["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "::ffff:10.0.0.1", "localhost.example.org", "host"]) {
    assert(!isLoopback(host), host);
  }
});

describe("gRPC addresses", () => {
  test("sockets, in both of gRPC's spellings", () => {
    for (const text of ["unix:/run/x.sock", "unix:///run/x.sock"]) {
      assert.deepEqual(parseListenAddress(text), { ok: true, value: { kind: "unix", path: "/run/x.sock" } });
    }
    assert.deepEqual(parseListenAddress("unix:x.sock"), { ok: true, value: { kind: "unix", path: "x.sock" } });
    assert.equal(formatListenAddress({ kind: "unix", path: "/run/x.sock" }), "unix:/run/x.sock");
    assert.equal(formatListenAddress({ kind: "tcp", host: "::1", port: 5 }), "[::1]:5");
  });

  const bad: [text: string, complaint: RegExp][] = [
    ["unix:", /names no socket file/],
    ["unix:/run/", /names no socket file/],
    ["unix:@name", /abstract socket/],
    ["unix:a\0b", /NUL byte/],
    ["/run/x.sock", /write unix:\/run\/x\.sock/],
    ["nonsense", /is not an address; give unix:PATH or HOST:PORT/],
  ];
  for (const [text, complaint] of bad) {
    test(`${JSON.stringify(text)} is refused`, () => {
      const result = parseListenAddress(text);
      assert(!result.ok);
      assert.match(`${result.what}; ${result.remedy}`, complaint);
    });
  }

  test("a socket's path is measured in bytes", () => {
    assert(checkSocketPath("x".repeat(107)).ok);
    assert(!checkSocketPath("x".repeat(108)).ok);
    assert(!checkSocketPath("ü".repeat(54)).ok);
  });

  test("plain TCP is for this machine", () => {
    for (const text of ["[::]:1", "192.168.1.2:1", "example.org:1"]) {
      const address = parseListenAddress(text);
      assert(address.ok);
      const problem = plainTcpProblem(address.value);
      assert.match(
        `${problem?.what}; ${problem?.remedy}`,
        /reachable from other machines.*listen on a Unix socket.*tls/,
      );
    }
    assert.equal(plainTcpProblem({ kind: "tcp", host: "127.0.0.1", port: 1 }), null);
    assert.equal(plainTcpProblem({ kind: "unix", path: "/x" }), null);
  });
});
