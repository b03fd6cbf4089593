import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "node:test";
import { formatPassed, listeningSocket, parseSockaddr, passedFds } from "./listen-fds.js";

describe("what the environment says was passed", () => {
  it("begins with fd 3, with names where there are some", () => {
    assert.deepEqual(passedFds({ LISTEN_PID: "7", LISTEN_FDS: "3", LISTEN_FDNAMES: "nmid.socket:tcp" }, 7), [
      { fd: 3, name: "nmid.socket" },
      { fd: 4, name: "tcp" },
      { fd: 5, name: "unknown" },
    ]);
  });

  it("is for the process that it names, and nobody else", () => {
    assert.deepEqual(passedFds({ LISTEN_PID: "7", LISTEN_FDS: "1" }, 8), []);
    assert.deepEqual(passedFds({ LISTEN_FDS: "1" }, 8), []);
    assert.deepEqual(passedFds({ LISTEN_PID: "8" }, 8), []);
    assert.deepEqual(passedFds({ LISTEN_PID: "8", LISTEN_FDS: "0" }, 8), []);
  });

  it("must make sense", () => {
    for (const fds of ["x", "-1", "1e3", "65", "1.5"]) {
      assert.throws(
        () => passedFds({ LISTEN_PID: "8", LISTEN_FDS: fds }, 8),
        /LISTEN_FDS is .*not a number from 0 to 64/,
      );
    }
  });
});

describe("addresses of sockets", () => {
  const sockaddr = (...bytes: number[]): Uint8Array => Uint8Array.from(bytes);
  it("are read as the kernel has them", () => {
    const path = [...Buffer.from("/run/x.sock")];
    assert.deepEqual(parseSockaddr(sockaddr(1, 0, ...path, 0)), { kind: "unix", path: "/run/x.sock" });
    assert.deepEqual(parseSockaddr(sockaddr(1, 0, ...path)), { kind: "unix", path: "/run/x.sock" });
    assert.equal(parseSockaddr(sockaddr(1, 0, 0, 65)), null, "abstract: no file permission guards it");
    assert.equal(parseSockaddr(sockaddr(1, 0)), null, "bound to nothing");
    assert.deepEqual(parseSockaddr(sockaddr(2, 0, 0x26, 0x52, 127, 0, 0, 1, ...new Array<number>(8).fill(0))), {
      kind: "tcp",
      host: "127.0.0.1",
      port: 9810,
    });
    const loopback6 = [...new Array<number>(15).fill(0), 1];
    assert.deepEqual(parseSockaddr(sockaddr(10, 0, 0x26, 0x52, 0, 0, 0, 0, ...loopback6, 0, 0, 0, 0)), {
      kind: "tcp",
      host: "::1",
      port: 9810,
    });
    assert.equal(parseSockaddr(sockaddr(16, 0, 0, 0)), null, "netlink");
  });

  it("and only sockets that listen are listened on", async () => {
    const dir = mkdtempSync(join(tmpdir(), "nmid-fds-"));
    try {
      for (const [listen, expected] of [
        [{ path: join(dir, "s") }, { kind: "unix", path: join(dir, "s") }],
        [
          { host: "127.0.0.1", port: 0 },
          { kind: "tcp", host: "127.0.0.1" },
        ],
        [
          { host: "::1", port: 0 },
          { kind: "tcp", host: "::1" },
        ],
      ] as const) {
        const server = createServer().listen(listen);
        await once(server, "listening");
        const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
        const passed = listeningSocket({ fd, name: "n" });
        assert.deepEqual({ ...passed?.address, ...expected }, passed?.address);
        assert(passed !== null);
        assert.match(formatPassed(passed), new RegExp(` \\(passed as fd ${fd}, n\\)$`));
        server.close();
      }
      assert.equal(listeningSocket({ fd: openSync("/dev/null", "r"), name: "n" }), null, "a file");
      assert.equal(listeningSocket({ fd: 1_000_000, name: "n" }), null, "nothing");
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
