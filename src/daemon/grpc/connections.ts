/**
 * The way of a connection: accepted by the daemon's own listeners, known by its peer, held to limits, and only then handed
 * to grpc-js; and of each call on it, which grpc-js gets to see when the peer may make it.
 */
import { constants, type Http2Server, type ServerHttp2Session, type ServerHttp2Stream } from "node:http2";
import { isIPv6, type Socket } from "node:net";
import { status } from "@grpc/grpc-js";
import { describePeer, type Peer, peerKey, setSessionPeer, unixPeer } from "../auth/peer.js";
import type { NsClock } from "../clock.js";
import type { ConnectionLimits } from "../config/config.js";
import { type Admitted, PeerTable, type Refusal } from "./limits.js";
import { ReceiveWatch } from "./receive-watch.js";
import type { RefusalReason, Refusals } from "./refusals.js";
import { SessionGuard, type SessionLimits } from "./session-guard.js";

export interface ConnectionsParts {
  readonly http2: Http2Server;
  /** Hands a connection to grpc-js. */
  readonly inject: (socket: Socket) => void;
  readonly limits: ConnectionLimits;
  readonly refusals: Refusals;
  readonly now: NsClock;
  /** ReceiveWatch's and unixPeer, but for tests. */
  readonly receiveLookMs?: number;
  readonly credentials?: (fd: number) => Peer;
}

/** What is said where. */
export interface ConnectionCounts {
  readonly open: Readonly<Record<Peer["kind"], number>>;
  readonly accepted: number;
}

interface Connection {
  readonly peer: Peer;
  readonly admitted: Admitted;
  /** It need not be watched any more for a client that does not begin. */
  spoken(): void;
}

interface Injected extends Connection {
  readonly socket: Socket;
  guard?: SessionGuard;
}

/** Read back from a session's socket, which Node shows through a proxy. */
const CONNECTION = Symbol("nmid connection");
type Marked = { [CONNECTION]?: Injected };

/** A stream of Http2Server's, and headers and flags, which are handed on as they are. */
type StreamListener = (stream: ServerHttp2Stream, ...rest: unknown[]) => void;

export class Connections {
  readonly #parts: ConnectionsParts;
  readonly #peers: PeerTable;
  readonly #receiveWatch: ReceiveWatch;
  readonly #bySession = new WeakMap<object, Injected>();
  readonly #open: Record<Peer["kind"], number> = { unix: 0, tls: 0, tcp: 0 };
  #accepted = 0;

  constructor(parts: ConnectionsParts) {
    this.#parts = parts;
    this.#peers = new PeerTable(parts.limits, parts.now);
    this.#receiveWatch = new ReceiveWatch(parts.limits.receiveBytesPerSecondMax, parts.receiveLookMs);
    const { http2 } = parts;
    // Before grpc-js sees a call, whatever method it names: health and reflection, too, and those that there are not.
    const [answer] = http2.listeners("stream") as [StreamListener];
    http2.removeAllListeners("stream");
    http2.on("stream", (stream: ServerHttp2Stream, ...rest: unknown[]) => {
      if (this.#mayCall(stream)) answer(stream, ...rest);
    });
    http2.on("session", (session: ServerHttp2Session) => this.#began(session));
    http2.on("sessionError", (error: NodeJS.ErrnoException, session: ServerHttp2Session) => {
      // What nghttp2 made of the frames; a connection that merely broke has an errno.
      if (error.code !== "ERR_HTTP2_ERROR") return;
      const connection = this.#bySession.get(session);
      this.#refused("protocol", connection, error.message);
    });
  }

  get counts(): ConnectionCounts {
    return { open: { ...this.#open }, accepted: this.#accepted };
  }

  /** A connection to a Unix socket. */
  acceptUnix(socket: Socket): void {
    const peer = this.#unixPeer(socket);
    if (peer === null) return;
    const connection = this.#admit(socket, peer, true);
    if (connection !== null) this.#inject(socket, connection);
  }

  /** A plain one over TCP. */
  acceptTcp(socket: Socket): void {
    const address = remoteAddress(socket);
    if (address === null) return void socket.destroy();
    const connection = this.#admit(socket, { kind: "tcp", address }, true);
    if (connection !== null) this.#inject(socket, connection);
  }

  /**
   * One over TCP that is to speak TLS. `secure` takes the socket, and calls back with what came of it when the client has
   * shown its certificate. Until then the connection counts for its address.
   */
  acceptTls(socket: Socket, secure: (secured: (tls: Socket, peer: Peer) => void) => void): void {
    const address = remoteAddress(socket);
    if (address === null) return void socket.destroy();
    const connection = this.#admit(socket, { kind: "tls", address, commonName: "", names: [], fingerprint: "" }, false);
    if (connection !== null) secure((tls, peer) => this.#inject(tls, { ...connection, peer }));
  }

  #unixPeer(socket: Socket): Peer | null {
    try {
      // net.Socket has no public way to its file descriptor.
      const fd = (socket as { _handle?: { fd?: unknown } })._handle?.fd;
      if (typeof fd !== "number" || fd < 0) throw new Error("Node does not say what its file descriptor is");
      return (this.#parts.credentials ?? unixPeer)(fd);
    } catch (error) {
      this.#parts.refusals.count(
        "unknown_peer",
        "unix",
        `who connected cannot be found out: ${(error as Error).message}`,
      );
      socket.destroy();
      return null;
    }
  }

  #admit(socket: Socket, peer: Peer, plain: boolean): Connection | null {
    const { refusals, limits } = this.#parts;
    // Whoever takes the socket over listens, too.
    socket.on("error", () => {});
    const admitted = this.#peers.admit(peerKey(peer));
    if ("reason" in admitted) {
      refusals.count(admitted.reason, describePeer(peer), admitted.detail);
      if (plain) socket.end(goAway(admitted.detail), () => socket.destroy());
      else socket.destroy();
      return null;
    }
    this.#accepted++;
    this.#open[peer.kind]++;
    const late = setTimeout(() => {
      const detail = `HTTP/2 was not spoken within ${limits.handshakeTimeoutMs} ms, limits.handshake_timeout_ms.`;
      refusals.count("handshake_timeout", describePeer(peer), detail);
      socket.destroy();
    }, limits.handshakeTimeoutMs).unref();
    socket.once("close", () => {
      clearTimeout(late);
      this.#open[peer.kind]--;
      admitted.release();
    });
    return { peer, admitted, spoken: () => clearTimeout(late) };
  }

  #inject(socket: Socket, connection: Connection): void {
    (socket as Marked)[CONNECTION] = { ...connection, socket };
    this.#parts.inject(socket);
  }

  #began(session: ServerHttp2Session): void {
    const connection = (session.socket as Marked)[CONNECTION];
    if (connection === undefined || session.destroyed) {
      session.destroy();
      return;
    }
    const { limits, now } = this.#parts;
    const { peer, socket } = connection;
    this.#bySession.set(session, connection);
    setSessionPeer(session, peer);
    const { keepaliveIntervalMs: intervalMs, keepaliveTimeoutMs: timeoutMs } = limits;
    const sessionLimits: SessionLimits = {
      controlFramesPerSecondMax: limits.controlFramesPerSecondMax,
      keepalive: peer.kind === "unix" ? null : { intervalMs, timeoutMs },
    };
    connection.guard = new SessionGuard(session, {
      limits: sessionLimits,
      now,
      receiveWatch: this.#receiveWatch,
      bytesRead: () => socket.bytesRead,
      bytesWritten: () => socket.bytesWritten,
      bytesQueued: () => (socket as { _handle?: { writeQueueSize?: number } })._handle?.writeQueueSize,
      onSpoken: () => connection.spoken(),
      onRefused: (reason, detail) => this.#refused(reason, connection, detail),
    });
  }

  #mayCall(stream: ServerHttp2Stream): boolean {
    const connection = stream.session === undefined ? undefined : this.#bySession.get(stream.session);
    if (connection === undefined) {
      const detail = "whose connection this is could not be found out.";
      this.#refused("unknown_peer", connection, detail);
      refuseCall(stream, status.UNAUTHENTICATED, detail);
      return false;
    }
    connection.guard?.watchStream(stream);
    const refusal: Refusal | null = connection.admitted.openStream();
    if (refusal === null) {
      stream.once("close", () => connection.admitted.closeStream());
      return true;
    }
    this.#refused(refusal.reason, connection, refusal.detail);
    refuseCall(stream, status.RESOURCE_EXHAUSTED, refusal.detail);
    connection.guard?.streamRefused();
    return false;
  }

  #refused(reason: RefusalReason, connection: Connection | undefined, detail: string): void {
    this.#parts.refusals.count(reason, connection === undefined ? "unknown" : describePeer(connection.peer), detail);
  }
}

function remoteAddress({ remoteAddress: host, remotePort }: Socket): string | null {
  // Gone before it was looked at.
  if (host === undefined || remotePort === undefined) return null;
  return hostAndPort(host, remotePort);
}

/** Where one socket listens for both, IPv4 comes as IPv6. */
export function hostAndPort(host: string, port: number): string {
  const v4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(host)?.[1];
  return v4 === undefined && isIPv6(host) ? `[${host}]:${port}` : `${v4 ?? host}:${port}`;
}

/** An answer of status and message alone, as gRPC's protocol over HTTP/2 has it. */
function refuseCall(stream: ServerHttp2Stream, code: status, message: string): void {
  stream.on("error", () => {});
  if (stream.destroyed || stream.closed) return;
  const trailersOnly = {
    [constants.HTTP2_HEADER_STATUS]: constants.HTTP_STATUS_OK,
    [constants.HTTP2_HEADER_CONTENT_TYPE]: "application/grpc+proto",
    "grpc-status": String(code),
    "grpc-message": encodeURI(message),
  };
  stream.respond(trailersOnly, { endStream: true });
  // What the client still sends is of no use.
  stream.resume();
  // Not before the answer is written, which the event loop does by itself first: Node 26 would send the reset alone.
  setImmediate(() => stream.close(constants.NGHTTP2_NO_ERROR));
}

const FRAME_HEADER_BYTES = 9;
const SETTINGS = 4;
const GOAWAY = 7;
const GOAWAY_BYTES = 8;

/** What a client is told whose connection is refused: a server's empty SETTINGS, and GOAWAY with the reason as debug data. */
export function goAway(detail: string): Buffer {
  const text = Buffer.from(detail);
  const bytes = Buffer.alloc(2 * FRAME_HEADER_BYTES + GOAWAY_BYTES + text.length);
  bytes[3] = SETTINGS;
  bytes.writeUIntBE(GOAWAY_BYTES + text.length, FRAME_HEADER_BYTES, 3);
  bytes[FRAME_HEADER_BYTES + 3] = GOAWAY;
  bytes.writeUInt32BE(constants.NGHTTP2_ENHANCE_YOUR_CALM, 2 * FRAME_HEADER_BYTES + 4);
  text.copy(bytes, 2 * FRAME_HEADER_BYTES + GOAWAY_BYTES);
  return bytes;
}
