/** For tests: HTTP/2 frames made by hand, as no client library would send them. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";

export const FRAME = {
  DATA: 0,
  HEADERS: 1,
  RST_STREAM: 3,
  SETTINGS: 4,
  PING: 6,
  GOAWAY: 7,
  WINDOW_UPDATE: 8,
  CONTINUATION: 9,
} as const;

const HEADER_BYTES = 9;
export const END_STREAM = 1;
export const END_HEADERS = 4;
export const ACK = 1;

export const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(HEADER_BYTES);
  header.writeUIntBE(payload.length, 0, 3);
  header[3] = type;
  header[4] = flags;
  header.writeUInt32BE(stream, 5);
  return Buffer.concat([header, payload]);
}

export const SETTINGS = frame(FRAME.SETTINGS, 0, 0);
export const PING = frame(FRAME.PING, 0, 0, Buffer.alloc(8));

/** HPACK without indexing and without Huffman: a literal name and value each. */
export function headerBlock(headers: readonly (readonly [string, string])[]): Buffer {
  const text = (value: string): Buffer => {
    const bytes = Buffer.from(value);
    if (bytes.length < 127) return Buffer.concat([Buffer.of(bytes.length), bytes]);
    const length: number[] = [127];
    let rest = bytes.length - 127;
    for (; rest >= 128; rest = rest >>> 7) length.push((rest & 127) | 128);
    return Buffer.concat([Buffer.of(...length, rest), bytes]);
  };
  return Buffer.concat(headers.flatMap(([name, value]) => [Buffer.of(0), text(name), text(value)]));
}

export function callHeaders(path: string, more: readonly (readonly [string, string])[] = []): Buffer {
  return headerBlock([
    [":method", "POST"],
    [":scheme", "http"],
    [":path", path],
    [":authority", "localhost"],
    ["content-type", "application/grpc"],
    ["te", "trailers"],
    ...more,
  ]);
}

export interface Frame {
  readonly type: number;
  readonly flags: number;
  readonly stream: number;
  readonly payload: Buffer;
}

/** A connection that sends what it is told to, and keeps what comes. One that is opened acknowledges settings. */
export class RawConnection {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  /** Resolves when the server has closed the connection. */
  readonly closed: Promise<unknown>;
  #rest = Buffer.alloc(0);
  #waiting: (() => void)[] = [];
  #speaks = false;

  constructor(to: string | { host: string; port: number }) {
    this.socket = typeof to === "string" ? connect(to) : connect(to);
    this.socket.on("error", () => {});
    this.closed = new Promise((resolve) => this.socket.once("close", resolve));
    this.socket.on("data", (bytes: Buffer) => this.#read(bytes));
    void this.closed.then(() => this.#changed());
  }

  static async open(to: string | { host: string; port: number }): Promise<RawConnection> {
    const connection = new RawConnection(to);
    connection.#speaks = true;
    connection.send(PREFACE, SETTINGS);
    await connection.frame(FRAME.SETTINGS);
    return connection;
  }

  send(...frames: readonly Uint8Array[]): void {
    if (this.socket.writable) this.socket.write(Buffer.concat(frames));
  }

  /** Repeats until the server has closed the connection. */
  async flood(make: (i: number) => Uint8Array): Promise<void> {
    for (let i = 0; !this.socket.destroyed; i++) {
      if (!this.socket.writable || this.socket.write(make(i))) {
        if (i % 256 === 0) await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      await Promise.race([once(this.socket, "drain").catch(() => {}), this.closed]);
    }
    await this.closed;
  }

  /** The first of its type that comes, or has come. Rejects when the connection ends without. */
  async frame(type: number, matches: (frame: Frame) => boolean = () => true): Promise<Frame> {
    for (;;) {
      const found = this.frames.find((frame) => frame.type === type && matches(frame));
      if (found !== undefined) return found;
      if (this.socket.destroyed) throw new Error(`closed without a frame of type ${type}`);
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
  }

  /** The error code of GOAWAY and its debug data; null where the server closed without one. */
  goAway(): { readonly code: number; readonly text: string } | null {
    const found = this.frames.findLast(({ type }) => type === FRAME.GOAWAY);
    if (found === undefined) return null;
    return { code: found.payload.readUInt32BE(4), text: found.payload.subarray(8).toString() };
  }

  #read(bytes: Buffer): void {
    this.#rest = Buffer.concat([this.#rest, bytes]);
    while (this.#rest.length >= HEADER_BYTES) {
      const end = HEADER_BYTES + this.#rest.readUIntBE(0, 3);
      if (this.#rest.length < end) break;
      const [type = 0, flags = 0] = this.#rest.subarray(3, 5);
      const received = {
        type,
        flags,
        stream: this.#rest.readUInt32BE(5),
        payload: this.#rest.subarray(HEADER_BYTES, end),
      };
      this.frames.push(received);
      this.#rest = this.#rest.subarray(end);
      if (this.#speaks && type === FRAME.SETTINGS && (flags & ACK) === 0) this.send(frame(FRAME.SETTINGS, ACK, 0));
    }
    this.#changed();
  }

  #changed(): void {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}
