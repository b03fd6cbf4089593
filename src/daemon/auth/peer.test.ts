/** Whose call it is, over real sockets; and what that relies on in Node and grpc-js. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { Client, credentials, Server, ServerCredentials, type ServiceError, type sendUnaryData } from "@grpc/grpc-js";
import { http2ServerBelow } from "../grpc/below-server.js";
import type { EncodedCall } from "../grpc/call-stream.js";
import { Connections } from "../grpc/connections.js";
import { Refusals } from "../grpc/refusals.js";
import { startTestServer, TEST_LIMITS } from "../grpc/server.test-support.js";
import { describePeer, type Peer, peerKey, peerOf, UnknownPeerError } from "./peer.js";

const REMEDY = "see docs/decisions/own-listening.md and peerOf in src/daemon/auth/peer.ts";
const bytes = (buffer: Buffer): Buffer => buffer;

function socketPath(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), "nmid-peer-"));
  t.after(() => rmSync(dir, { recursive: true }));
  return join(dir, "s");
}

function connect(t: TestContext, target: string): Client {
  const client = new Client(target, credentials.createInsecure());
  t.after(() => client.close());
  return client;
}

function unary(client: Client, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, bytes, bytes, Buffer.alloc(0), (error: ServiceError | null) =>
      error === null ? resolve() : reject(error),
    );
  });
}

describe("the peer of a call", () => {
  it("is who connected, of unary calls and of streams", async (t) => {
    const path = socketPath(t);
    const peers: Peer[] = [];
    const server = await startTestServer(
      [
        { kind: "unix", path },
        { kind: "tcp", host: "127.0.0.1", port: 0 },
      ],
      {
        GetStatus: (call: object, callback: sendUnaryData<object>) => {
          peers.push(peerOf(call));
          callback(null, {});
        },
        Subscribe: (call: EncodedCall) => {
          peers.push(peerOf(call));
          call.end();
        },
      },
    );
    t.after(() => server.close(0));
    for (const target of [`unix:${path}`, server.addresses[1] as string]) {
      const client = connect(t, target);
      await unary(client, "/nmi.v1.Broker/GetStatus");
      await new Promise((resolve) => {
        const stream = client.makeServerStreamRequest("/nmi.v1.Broker/Subscribe", bytes, bytes, Buffer.alloc(0));
        stream.on("data", () => {}).on("end", resolve);
      });
    }
    const [uid, gid] = [process.getuid?.(), process.getgid?.()];
    const [one, two, three, four] = peers;
    assert(one?.kind === "unix", REMEDY);
    assert.deepEqual([one.uid, one.gid, one.pid], [uid, gid, process.pid], REMEDY);
    assert.deepEqual(new Set(one.groups), new Set([gid, ...(process.getgroups?.() ?? [])]));
    assert.equal(two, one, "a connection has one peer");
    assert(three?.kind === "tcp", REMEDY);
    assert.match(three.address, /^127\.0\.0\.1:\d+$/);
    assert.equal(four, three);
  });

  it("is nobody where grpc-js keeps the stream elsewhere", () => {
    for (const call of [{}, { call: {} }, { call: { stream: {} } }, { call: { stream: { session: {} } } }]) {
      assert.throws(() => peerOf(call), UnknownPeerError);
    }
  });

  it("and a connection whose credentials cannot be had is closed, with nothing served", async (t) => {
    const path = socketPath(t);
    const warnings: string[] = [];
    const grpc = new Server();
    const injector = grpc.createConnectionInjector(ServerCredentials.createInsecure());
    t.after(() => grpc.forceShutdown());
    const refusals = new Refusals(
      () => 0,
      (_fields, message) => warnings.push(message),
    );
    const connections = new Connections({
      http2: http2ServerBelow(grpc),
      inject: (socket) => injector.injectConnection(socket),
      limits: TEST_LIMITS,
      refusals,
      now: () => 0,
      credentials: () => {
        throw new Error("ENOPROTOOPT");
      },
    });
    const listener = createServer((socket) => connections.acceptUnix(socket)).listen(path);
    t.after(() => listener.close());
    await assert.rejects(unary(connect(t, `unix:${path}`), "/nmi.v1.Broker/GetStatus"), { code: 14 });
    assert.match(warnings.join(), /who connected cannot be found out: ENOPROTOOPT/);
    assert(refusals.countOf("unknown_peer") >= 1);
  });

  it("and a server that is not as expected does not start", () => {
    assert.throws(() => http2ServerBelow(new Server()), /HTTP\/2 server elsewhere than expected/);
    assert.throws(() => http2ServerBelow({} as Server), /HTTP\/2 server elsewhere than expected/);
  });
});

describe("a peer", () => {
  const unix: Peer = { kind: "unix", uid: 1000, gid: 1, pid: 4711, groups: [1] };
  const tls = { kind: "tls", address: "[::1]:7", commonName: "c", names: ["n"], fingerprint: "ab".repeat(32) } as const;

  it("is described for logs", () => {
    assert.equal(describePeer(unix), "uid=1000 pid=4711");
    assert.equal(describePeer({ kind: "tcp", address: "10.0.0.1:5" }), "10.0.0.1:5");
    assert.equal(describePeer(tls), "cn=c [::1]:7");
    assert.equal(describePeer({ ...tls, commonName: "" }), "cn=n [::1]:7");
    assert.equal(describePeer({ ...tls, commonName: "", names: [] }), `cn=${"ab".repeat(8)} [::1]:7`);
  });

  it("counts as a user, or as an address whatever its port", () => {
    assert.equal(peerKey(unix), "uid=1000");
    for (const [host, key] of [
      ["::1", "0:0:0:0::/64"],
      ["2001:db8::1", "2001:db8:0:0::/64"],
      ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
      ["2001:db8:1:2::", "2001:db8:1:2::/64"],
      ["fe80::1%eth0", "fe80:0:0:0::/64"],
    ]) {
      assert.equal(peerKey({ ...tls, address: `[${host}]:7` }), key);
    }
    assert.equal(peerKey({ kind: "tcp", address: "10.0.0.1:5" }), "10.0.0.1");
  });
});
