/** What a connection may not do, with frames made by hand: each is refused, counted, and bothers nobody else. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { gzipSync } from "node:zlib";
import { type ServerUnaryCall, type sendUnaryData, status } from "@grpc/grpc-js";
import { seededRandom } from "../../pmu/software/random.js";
import type { ConnectionLimits } from "../config/config.js";
import { goAway } from "./connections.js";
import {
  ACK,
  callHeaders,
  END_HEADERS,
  END_STREAM,
  FRAME,
  type Frame,
  frame,
  headerBlock,
  PING,
  PREFACE,
  RawConnection,
  SETTINGS,
} from "./frames.test-support.js";
import type { RefusalReason } from "./refusals.js";
import type { GrpcServer, GrpcServerOptions } from "./server.js";
import { startTestServer, TEST_LIMITS } from "./server.test-support.js";

const STATUS_PATH = "/nmi.v1.Broker/GetStatus";
const ENHANCE_YOUR_CALM = 11;
const CANCEL = 8;
const EMPTY_MESSAGE = Buffer.alloc(5);

interface Stage {
  readonly path: string;
  readonly server: GrpcServer;
  readonly warnings: readonly string[];
  readonly calls: { count: number };
  refused(reason: RefusalReason): number;
}

async function stage(
  t: TestContext,
  limits: Partial<ConnectionLimits> = {},
  more: Partial<GrpcServerOptions> = {},
): Promise<Stage> {
  const dir = mkdtempSync(join(tmpdir(), "nmid-connections-"));
  const path = join(dir, "s");
  const warnings: string[] = [];
  const calls = { count: 0 };
  const server = await startTestServer(
    [
      { kind: "unix", path },
      { kind: "tcp", host: "127.0.0.1", port: 0 },
    ],
    {
      GetStatus: (_call: ServerUnaryCall<unknown, object>, callback: sendUnaryData<object>) => {
        calls.count++;
        callback(null, {});
      },
      // Never answered: calls stay open.
      ListEvents: () => {},
    },
    { limits: { ...TEST_LIMITS, ...limits }, log: (_level, _fields, message) => warnings.push(message), ...more },
  );
  t.after(async () => {
    await server.close(0);
    rmSync(dir, { recursive: true });
  });
  const refused = (reason: RefusalReason): number =>
    server.stats().refused.find((entry) => entry.reason === reason)?.count ?? 0;
  return { path, server, warnings, calls, refused };
}

function call(stream: number, path = STATUS_PATH): Buffer {
  return Buffer.concat([
    frame(FRAME.HEADERS, END_HEADERS, stream, callHeaders(path)),
    frame(FRAME.DATA, END_STREAM, stream, EMPTY_MESSAGE),
  ]);
}

/** Whether a call on a connection of its own is answered. */
async function isServed({ path, calls }: Stage): Promise<boolean> {
  const before = calls.count;
  const connection = await RawConnection.open(path);
  connection.send(call(1));
  await connection.frame(FRAME.HEADERS);
  connection.socket.destroy();
  return calls.count === before + 1;
}

/** Of an answer that is status alone: HPACK, in which nothing of ours is compressed beyond recognition but by Huffman. */
function answered(frames: readonly Frame[], stream: number): boolean {
  return frames.some((received) => received.stream === stream && received.type === FRAME.HEADERS);
}

describe("connections", () => {
  it("speak HTTP/2 within the time-out, or are closed", async (t) => {
    const here = await stage(t, { handshakeTimeoutMs: 50 });
    const silent = new RawConnection(here.path);
    const halfWay = new RawConnection(here.path);
    halfWay.send(PREFACE.subarray(0, 10));
    const noSettings = new RawConnection(here.path);
    noSettings.send(PREFACE);
    await Promise.all([silent.closed, halfWay.closed, noSettings.closed]);
    assert.equal(here.refused("handshake_timeout"), 3);
    assert.match(here.warnings.join(), /limits\.handshake_timeout_ms/);
    assert(await untilServed(here));
  });

  it("and one that speaks it stays", async (t) => {
    const here = await stage(t, { handshakeTimeoutMs: 50 });
    const [talks, silent] = [await RawConnection.open(here.path), new RawConnection(here.path)];
    // It came later than the one that is to stay, so that one's time is over, too.
    await silent.closed;
    talks.send(call(1));
    await talks.frame(FRAME.HEADERS);
    talks.socket.destroy();
  });

  it("beyond the limit are told why, and closed", async (t) => {
    const here = await stage(t, { connectionsMax: 3, connectionsPerPeerMax: 2 });
    const [one] = [await RawConnection.open(here.path), await RawConnection.open(here.path)];
    const third = new RawConnection(here.path);
    await third.closed;
    assert.equal(third.goAway()?.code, ENHANCE_YOUR_CALM);
    assert.match(third.goAway()?.text ?? "", /^uid=\d+ has 2 connections, limits\.connections_per_peer_max: /);
    assert.equal(here.refused("connections_of_peer"), 1);

    const port = Number(/\d+$/.exec(here.server.addresses[1] ?? "")?.[0]);
    await RawConnection.open({ host: "127.0.0.1", port });
    const fourth = new RawConnection({ host: "127.0.0.1", port });
    await fourth.closed;
    assert.equal(here.refused("connections"), 1);
    assert.deepEqual(here.server.stats().open, { unix: 2, tls: 0, tcp: 1 });
    one?.socket.destroy();
  });

  it("are counted until they are gone", async (t) => {
    const here = await stage(t, { connectionsPerPeerMax: 1 });
    for (let i = 0; i < 20; i++) assert(await untilServed(here));
    assert.equal(here.server.stats().accepted, 20);
  });

  it("over TCP whose peer does not answer pings are closed", async (t) => {
    const here = await stage(t, { keepaliveIntervalMs: 20, keepaliveTimeoutMs: 20 });
    const port = Number(/\d+$/.exec(here.server.addresses[1] ?? "")?.[0]);
    const mute = await RawConnection.open({ host: "127.0.0.1", port });
    const local = await RawConnection.open(here.path);
    await mute.closed;
    assert.equal(mute.frames.filter(({ type }) => type === FRAME.PING).length, 1);
    assert.equal(here.refused("keepalive"), 1);
    assert.equal(local.frames.filter(({ type }) => type === FRAME.PING).length, 0, "the kernel tells of those");
  });

  it("over TCP whose peer answers stay", async (t) => {
    const here = await stage(t, { keepaliveIntervalMs: 10, keepaliveTimeoutMs: 60_000 });
    const port = Number(/\d+$/.exec(here.server.addresses[1] ?? "")?.[0]);
    const alive = await RawConnection.open({ host: "127.0.0.1", port });
    for (let i = 1; i <= 3; i++) {
      const count = (): number => alive.frames.filter(({ type }) => type === FRAME.PING).length;
      const { payload } = await alive.frame(FRAME.PING, () => count() >= i);
      alive.send(frame(FRAME.PING, 1, 0, alive.frames.findLast(({ type }) => type === FRAME.PING)?.payload ?? payload));
    }
    assert.equal(here.refused("keepalive"), 0);
    alive.socket.destroy();
  });
});

/** A connection that was closed on this side may still be open on the other for a moment. */
async function untilServed(here: Stage): Promise<boolean> {
  for (;;) {
    const { unix, tcp } = here.server.stats().open;
    if (unix + tcp === 0) return isServed(here);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

describe("calls", () => {
  it("beyond the rate are refused with a status, and the rest of the daemon's clients are not", async (t) => {
    const here = await stage(t, { requestsPerSecondMax: 1 });
    const connection = await RawConnection.open(here.path);
    connection.send(call(1), call(3), call(5));
    await connection.frame(FRAME.HEADERS, ({ stream }) => stream === 5);
    assert.equal(here.calls.count, 1, "the connection itself was the other one");
    assert.equal(here.refused("request_rate"), 2);
    assert(answered(connection.frames, 3));
    connection.socket.destroy();
  });

  it("beyond what a peer may have open are refused, whatever method they name", async (t) => {
    const here = await stage(t, { streamsPerPeerMax: 2 });
    const connection = await RawConnection.open(here.path);
    connection.send(call(1, "/nmi.v1.Broker/ListEvents"), call(3, "/nmi.v1.Broker/ListEvents"), call(5, "/no/such"));
    await connection.frame(FRAME.HEADERS, ({ stream }) => stream === 5);
    assert.equal(here.refused("streams_of_peer"), 1);
    connection.send(frame(FRAME.RST_STREAM, 0, 1, Buffer.of(0, 0, 0, CANCEL)), call(7));
    await connection.frame(FRAME.HEADERS, ({ stream }) => stream === 7);
    assert.equal(here.refused("streams_of_peer"), 1, "one has ended");
    connection.socket.destroy();
  });

  it("are no more on a connection than HTTP/2's settings said", async (t) => {
    const here = await stage(t, { streamsPerConnectionMax: 2 });
    const connection = await RawConnection.open(here.path);
    const [first] = connection.frames;
    // SETTINGS_MAX_CONCURRENT_STREAMS
    assert(first?.payload.toString("hex").includes("000300000002"));
    connection.send(call(1, "/nmi.v1.Broker/ListEvents"), call(3, "/nmi.v1.Broker/ListEvents"), call(5));
    await Promise.race([connection.closed, connection.frame(FRAME.RST_STREAM)]);
    assert.equal(here.calls.count, 0);
    connection.socket.destroy();
  });

  it("carry no more metadata than a call has use for", async (t) => {
    const here = await stage(t);
    const connection = await RawConnection.open(here.path);
    // The second settings frame, which says so, and is acknowledged at once.
    await connection.frame(FRAME.SETTINGS, ({ payload }) => payload.toString("hex").includes("000600004000"));
    const block = callHeaders(STATUS_PATH, [
      ["x-large", "x".repeat(15_000)],
      ["x-more", "y".repeat(5_000)],
    ]);
    connection.send(
      frame(FRAME.HEADERS, END_STREAM, 1, block.subarray(0, 16_000)),
      frame(FRAME.CONTINUATION, END_HEADERS, 1, block.subarray(16_000)),
    );
    const { payload } = await connection.frame(FRAME.RST_STREAM);
    assert.equal(payload.readUInt32BE(0), ENHANCE_YOUR_CALM);
    assert.equal(here.calls.count, 0);
    connection.socket.destroy();
  });
});

describe("requests", () => {
  const request = (stream: number, headers: readonly (readonly [string, string])[], message: Buffer): Buffer => {
    const frames = [frame(FRAME.HEADERS, END_HEADERS, stream, callHeaders(STATUS_PATH, headers))];
    for (let at = 0; at < message.length; at += 16_384) {
      const last = at + 16_384 >= message.length;
      frames.push(frame(FRAME.DATA, last ? END_STREAM : 0, stream, message.subarray(at, at + 16_384)));
    }
    return Buffer.concat(frames);
  };
  const prefixed = (compressed: number, length: number, payload: Buffer): Buffer => {
    const prefix = Buffer.of(compressed, 0, 0, 0, 0);
    prefix.writeUInt32BE(length, 1);
    return Buffer.concat([prefix, payload]);
  };
  const bomb = gzipSync(Buffer.alloc(20 * 2 ** 20));

  const tooLarge: readonly (readonly [string, Buffer])[] = [
    ["say that they are", request(1, [], prefixed(0, 2 ** 31, Buffer.alloc(10)))],
    ["become, decompressed,", request(1, [["grpc-encoding", "gzip"]], prefixed(1, bomb.length, bomb))],
  ];
  for (const [how, bytes] of tooLarge) {
    it(`that ${how} too large are refused before anyone sees them`, async (t) => {
      const here = await stage(t);
      const connection = await RawConnection.open(here.path);
      connection.send(bytes);
      await connection.frame(FRAME.HEADERS, ({ stream }) => stream === 1);
      assert.equal(here.calls.count, 0);
      connection.send(call(3));
      await connection.frame(FRAME.HEADERS, ({ stream }) => stream === 3);
      assert.equal(here.calls.count, 1, "the connection goes on");
      connection.socket.destroy();
    });
  }
});

describe("a flood", () => {
  const floods: readonly (readonly [string, RefusalReason, (i: number) => Uint8Array])[] = [
    ["of PING", "control_frames", () => PING],
    ["of SETTINGS", "control_frames", () => SETTINGS],
    [
      "of calls that are reset at once",
      "resets",
      (i) =>
        Buffer.concat([
          frame(FRAME.HEADERS, END_HEADERS, 2 * i + 1, callHeaders("/nmi.v1.Broker/ListEvents")),
          frame(FRAME.RST_STREAM, 0, 2 * i + 1, Buffer.of(0, 0, 0, CANCEL)),
        ]),
    ],
    [
      "of CONTINUATION",
      "protocol",
      (i) =>
        i === 0
          ? frame(FRAME.HEADERS, 0, 1, callHeaders(STATUS_PATH))
          : frame(FRAME.CONTINUATION, 0, 1, headerBlock([["x", "y"]])),
    ],
    ["of frames that make no sense", "protocol", (i) => frame(FRAME.WINDOW_UPDATE, 0, 0, Buffer.of(0, 0, 0, i & 0))],
  ];
  for (const [what, reason, make] of floods) {
    it(`${what} ends its own connection alone`, async (t) => {
      const here = await stage(t, { controlFramesPerSecondMax: 20 });
      const neighbour = await RawConnection.open(here.path);
      const connection = await RawConnection.open(here.path);
      await connection.flood(make);
      assert(here.refused(reason) >= 1, JSON.stringify(here.server.stats().refused));
      neighbour.send(call(1));
      await neighbour.frame(FRAME.HEADERS);
      neighbour.socket.destroy();
      assert(await isServed(here));
    });
  }

  const idle: readonly (readonly [string, Uint8Array])[] = [
    ["WINDOW_UPDATE", frame(FRAME.WINDOW_UPDATE, 0, 0, Buffer.of(0, 0, 0, 1))],
    ["PRIORITY", frame(2, 0, 1, Buffer.of(0, 0, 0, 0, 1))],
    ["frames of a type that nobody knows", frame(200, 0, 0, Buffer.alloc(100))],
  ];
  for (const [what, bytes] of idle) {
    it(`of ${what}, which nobody tells of, ends its own connection`, async (t) => {
      const here = await stage(t, { receiveBytesPerSecondMax: 100_000 }, { receiveLookMs: 50 });
      const neighbour = await RawConnection.open(here.path);
      const many = Buffer.concat(new Array<Uint8Array>(1000).fill(bytes));
      const connection = await RawConnection.open(here.path);
      await connection.flood(() => many);
      // Later versions of nghttp2 have had enough of some of these before.
      assert(here.refused("receive_rate") + here.refused("protocol") >= 1);
      neighbour.send(call(1));
      await neighbour.frame(FRAME.HEADERS);
      neighbour.socket.destroy();
    });
  }

  it("of refused calls ends its own connection", async (t) => {
    const here = await stage(t, { requestsPerSecondMax: 1 });
    const connection = await RawConnection.open(here.path);
    await connection.flood((i) => call(2 * i + 1));
    assert(here.refused("request_rate") > 1000);
    assert(here.calls.count < 100);
  });

  it("of PING whose answers are not read stands still, and the daemon's other clients do not", async (t) => {
    const here = await stage(t, { controlFramesPerSecondMax: 1_000_000 });
    const connection = await RawConnection.open(here.path);
    connection.socket.pause();
    let sent = 0;
    const flood = connection.flood((i) => {
      sent = i;
      return PING;
    });
    let before = -1;
    while (!connection.socket.writableNeedDrain || sent !== before) {
      before = sent;
      assert(await isServed(here));
    }
    assert(sent < 1_000_000, "Node reads no more where what it writes is not read");
    connection.socket.destroy();
    await flood;
  });
});

describe("nonsense", () => {
  it("after which nghttp2 gives the session up does not leave it open", async (t) => {
    const here = await stage(t, {}, { receiveLookMs: 10 });
    const connection = await RawConnection.open(here.path);
    // RST_STREAM has four bytes of payload.
    connection.send(frame(FRAME.RST_STREAM, 0, 1, Buffer.alloc(6)));
    await connection.frame(FRAME.GOAWAY);
    await connection.closed;
    assert.equal(here.refused("protocol"), 1);
  });

  it("and a client that says nothing is asked once, and left alone", async (t) => {
    const here = await stage(t, {}, { receiveLookMs: 10 });
    const pings = ({ frames }: RawConnection): number => frames.filter(({ type }) => type === FRAME.PING).length;
    const [frozen, quiet] = [await RawConnection.open(here.path), await RawConnection.open(here.path)];
    quiet.send(frame(FRAME.PING, ACK, 0, (await quiet.frame(FRAME.PING)).payload));
    await frozen.frame(FRAME.PING);
    // Another one that comes later, and has been found out by the time that these would have been.
    const faulty = await RawConnection.open(here.path);
    faulty.send(frame(FRAME.RST_STREAM, 0, 1, Buffer.alloc(6)));
    await faulty.closed;
    assert.deepEqual([pings(frozen), pings(quiet)], [1, 1]);
    assert.equal(here.server.stats().open.unix, 2);
    frozen.socket.destroy();
    quiet.socket.destroy();
  });

  const seed = Number(process.env.NMID_TEST_SEED ?? Date.now() % 2 ** 32);

  it(`of any kind, broken off anywhere, leaves nothing behind (seed ${seed})`, async (t) => {
    const here = await stage(t, { keepaliveIntervalMs: 1, keepaliveTimeoutMs: 2 }, { receiveLookMs: 1 });
    const port = Number(/\d+$/.exec(here.server.addresses[1] ?? "")?.[0]);
    const random = seededRandom(seed);
    const below = (bound: number): number => Math.floor(random() * bound);
    const one = async (): Promise<void> => {
      const connection = new RawConnection(below(2) === 0 ? here.path : { host: "127.0.0.1", port });
      connection.send(PREFACE, SETTINGS);
      for (let i = below(6); i >= 0; i--) {
        const good = [call(2 * i + 1), PING, SETTINGS, frame(FRAME.RST_STREAM, 0, 1, Buffer.of(0, 0, 0, below(14)))];
        const bytes = Buffer.from(good[below(good.length)] as Buffer);
        for (let flips = below(4); flips > 0; flips--) bytes[below(bytes.length)] ^= 1 << below(8);
        connection.send(bytes.subarray(0, below(8) === 0 ? below(bytes.length) : bytes.length));
        if (below(3) === 0) await new Promise((resolve) => setImmediate(resolve));
      }
      if (below(2) === 0) connection.socket.destroy();
      else connection.socket.end();
      connection.socket.setTimeout(20, () => connection.socket.destroy());
      await connection.closed;
    };
    for (let round = 0; round < 40; round++) await Promise.all(Array.from({ length: 25 }, one));
    assert(await untilServed(here));
    assert.equal(here.server.stats().open.tcp, 0);
  });
});

describe("GOAWAY", () => {
  it("is two frames, and its text whole", () => {
    const bytes = goAway("why");
    assert.deepEqual(bytes.subarray(0, 9), frame(FRAME.SETTINGS, 0, 0));
    assert.deepEqual(
      bytes.subarray(9),
      frame(FRAME.GOAWAY, 0, 0, Buffer.from([0, 0, 0, 0, 0, 0, 0, status.UNAVAILABLE - 3, ...Buffer.from("why")])),
    );
  });
});
