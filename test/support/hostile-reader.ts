/** A client that does not read as it should: HTTP/2 of its own over a socket that it can leave alone. */
import { once } from "node:events";
import http2 from "node:http2";
import { connect, type Socket } from "node:net";
import { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

/**
 * `window`: what it would take at once, all there can be, so that nothing but its socket holds the daemon up. `stream`:
 * it reads its socket, and never lets its stream have more than HTTP/2 gives it at first. `trickle`: like `window`, and
 * reads a byte now and then. `half-closed`: it closes its side of the connection and reads no more.
 */
export const HOSTILE_KINDS = ["window", "stream", "trickle", "half-closed"] as const;
export type HostileKind = (typeof HOSTILE_KINDS)[number];

const WINDOW_BYTES_MAX = 2 ** 31 - 1;
const TRICKLE_MS = 20;
const STARTED_MAX_MS = 30_000;
/** SubscribeRequest.handler_id: field 1, varint. */
const HANDLER_ID_TAG = 1 << 3;

/** A socket whose reading can be stopped beneath HTTP/2. */
class Gate extends Duplex {
  readonly socket: Socket;
  #open = true;

  constructor(socket: Socket) {
    super();
    this.socket = socket;
    socket.on("data", (chunk) => {
      if (this.#open && !this.push(chunk)) socket.pause();
    });
    socket.on("close", () => this.destroy());
    socket.on("error", () => this.destroy());
  }

  close(): void {
    this.#open = false;
    this.socket.pause();
    this.socket.removeAllListeners("data");
  }

  override _read(): void {
    if (this.#open) this.socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.socket.write(chunk, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.socket.destroy();
    done(error);
  }
}

function subscribeFrame(handlerId: number): Buffer {
  const message = [HANDLER_ID_TAG];
  let rest = BigInt(handlerId);
  for (; rest > 0x7fn; rest >>= 7n) message.push(Number(rest & 0x7fn) | 0x80);
  message.push(Number(rest));
  return Buffer.from([0, 0, 0, 0, message.length, ...message]);
}

export class HostileReader {
  readonly kind: HostileKind;
  readonly handlerId: number;
  readonly #gate: Gate;
  readonly #session: http2.ClientHttp2Session;
  #closed = false;

  private constructor(kind: HostileKind, handlerId: number, gate: Gate, session: http2.ClientHttp2Session) {
    this.kind = kind;
    this.handlerId = handlerId;
    this.#gate = gate;
    this.#session = session;
  }

  /** Subscribes to the handler at `address`, a Unix socket; resolves when the stream has begun, and is not read any more. */
  static async subscribe(address: string, handlerId: number, kind: HostileKind): Promise<HostileReader> {
    const gate = new Gate(connect(address.replace(/^unix:/, "")));
    const settings = kind === "stream" ? {} : { initialWindowSize: WINDOW_BYTES_MAX };
    const session = http2.connect("http://localhost", { createConnection: () => gate, settings });
    // Whatever ends it: what is looked at is the daemon.
    session.on("error", () => {});
    await once(session, "connect");
    if (kind !== "stream") session.setLocalWindowSize(WINDOW_BYTES_MAX);
    const stream = session.request({
      ":method": "POST",
      ":path": "/nmi.v1.Broker/Subscribe",
      "content-type": "application/grpc+proto",
      te: "trailers",
    });
    stream.on("error", () => {});
    stream.end(subscribeFrame(handlerId));
    const reader = new HostileReader(kind, handlerId, gate, session);
    await once(stream, "response", { signal: AbortSignal.timeout(STARTED_MAX_MS) });
    // A stream that nobody listens to is not read, nor is its window opened.
    if (kind !== "stream") gate.close();
    if (kind === "half-closed") gate.socket.end();
    if (kind === "trickle") void reader.#trickle();
    return reader;
  }

  async #trickle(): Promise<void> {
    while (!this.#closed) {
      this.#gate.socket.read(1);
      await sleep(TRICKLE_MS);
    }
  }

  close(): void {
    this.#closed = true;
    this.#session.destroy();
    this.#gate.destroy();
  }
}
