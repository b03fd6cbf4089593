/** A grpc-js server stream as delivery sees it. */
import { Duplex } from "node:stream";
import { type ServerWritableStream, status } from "@grpc/grpc-js";
import type { DeliveryStream } from "../delivery/delivery-options.js";
import { FRAME_HEADER_BYTES } from "../delivery/frame-size.js";
import type { WireMessage } from "../delivery/message.js";
import type { FramePool } from "./frame-pool.js";

/** http2.constants.NGHTTP2_CANCEL */
const HTTP2_CANCEL = 8;

/** Promised to clients: what of them has arrived when the stream breaks is told as lost (Started, nmi.proto). */
const DIRECT_WRITES_MAX = 4;

/** A call whose messages are encoded already: its responseSerialize hands them on as they are. */
export type EncodedCall = ServerWritableStream<unknown, Buffer>;

/** The HTTP/2 stream below a call, as node:http2 has it. */
export interface Http2Stream {
  readonly headersSent: boolean;
  readonly writable: boolean;
  write(frame: Uint8Array, written: (error?: Error | null) => void): boolean;
  close(code: number): void;
}

/** Where grpc-js keeps the HTTP/2 stream below a call, which it keeps to itself. */
export function streamBelow(call: EncodedCall): unknown {
  return (call as unknown as { call?: { stream?: unknown } }).call?.stream;
}

/** Why frames cannot be written past grpc-js; null when they can. `below` is what was found after a first message. */
export function problemBelow(below: unknown): string | null {
  if (!(below instanceof Duplex)) return "the HTTP/2 stream of a call is not where it was";
  const stream: Partial<Http2Stream> = below as unknown as Http2Stream;
  if (typeof stream.close !== "function") return "what is below a call cannot be reset: it is no HTTP/2 stream";
  if (stream.headersSent !== true) return "the headers are not sent with the first message";
  return null;
}

export interface CallStreamsOptions {
  readonly frames: FramePool;
  /** Called once, when grpc-js is not as expected: from then on all messages go through it, which is slower. */
  readonly onFallback: (problem: string) => void;
  /** streamBelow, but for tests. */
  readonly below?: (call: EncodedCall) => unknown;
}

/** What the daemon's streams share. */
export class CallStreams {
  readonly frames: FramePool;
  readonly below: (call: EncodedCall) => unknown;
  readonly #onFallback: (problem: string) => void;
  #fellBack = false;

  constructor({ frames, onFallback, below = streamBelow }: CallStreamsOptions) {
    this.frames = frames;
    this.below = below;
    this.#onFallback = onFallback;
  }

  open(call: EncodedCall): CallStream {
    return new CallStream(call, this);
  }

  fallBack(problem: string): void {
    if (this.#fellBack) return;
    this.#fellBack = true;
    this.#onFallback(problem);
  }
}

/**
 * The stream of Subscribe carries encoded messages. The first one goes through grpc-js, which sends the headers with it;
 * the others are framed here and written to the HTTP/2 stream below, in buffers that are used again (frame-pool.ts), which
 * grpc-js has no way to ask for. Where a version of grpc-js hides that stream, or is otherwise not as expected, all go
 * through it, one at a time and with one more copy.
 */
export class CallStream implements DeliveryStream {
  readonly #call: EncodedCall;
  readonly #shared: CallStreams;
  /** Dropped with the stream's end, so that a call whose client never lets go of it holds nothing but itself. */
  #onBroken: (() => void) | null = null;
  #over = false;
  /** Known once grpc-js is done with the first message; null: everything goes through grpc-js. */
  #direct: Http2Stream | null = null;
  #looked = false;

  constructor(call: EncodedCall, shared: CallStreams) {
    this.#call = call;
    this.#shared = shared;
    // A client that cancels, and a connection that breaks. After end() and abort() there is nothing to break.
    const broken = (): void => this.#onBroken?.();
    call.on("cancelled", broken);
    call.on("error", broken);
  }

  /** Called when the stream goes without having been ended here. */
  onBroken(listener: () => void): void {
    if (!this.#over) this.#onBroken = listener;
  }

  /** Some on their way keep the transport busy while the next is made. grpc-js itself must be done with one before. */
  get writesMax(): number {
    return this.#direct === null ? 1 : DIRECT_WRITES_MAX;
  }

  write(message: WireMessage, written: () => void): void {
    if (this.#direct !== null) this.#writeFrame(this.#direct, message, written);
    else this.#writeThrough(message, written);
  }

  #writeThrough(message: WireMessage, written: () => void): void {
    this.#call.write(bytesOf(message), (error: Error | null | undefined) => {
      if (error) return;
      if (!this.#looked) this.#lookBelow();
      written();
    });
  }

  #lookBelow(): void {
    this.#looked = true;
    const below = this.#shared.below(this.#call);
    const problem = problemBelow(below);
    if (problem === null) this.#direct = below as Http2Stream;
    else if (!this.#call.cancelled) this.#shared.fallBack(problem);
  }

  #writeFrame(below: Http2Stream, message: WireMessage, written: () => void): void {
    // Ended by a deadline, or destroyed: whoever listens is told that it is broken, if not yet, then at once.
    if (!below.writable) return;
    const { frames } = this.#shared;
    const length = message.byteLength;
    const frame = frames.take(length);
    frame[0] = 0;
    frame.writeUInt32BE(length, 1);
    message.copy(frame, FRAME_HEADER_BYTES);
    below.write(frame.subarray(0, FRAME_HEADER_BYTES + length), (error) => {
      // After an error the frame may be on its way for as long as the stream is being destroyed: it is not used again.
      if (error) return;
      frames.give(frame);
      written();
    });
  }

  end(): void {
    this.#onBroken = null;
    this.#over = true;
    this.#call.end();
  }

  suspend(): void {
    this.#onBroken = null;
    this.#over = true;
    this.#call.emit("error", {
      code: status.UNAVAILABLE,
      details: "the daemon is stopping: subscribe again within the handler's lease, when there is another one.",
    });
  }

  abort(): void {
    this.#onBroken = null;
    this.#over = true;
    this.#call.emit("error", {
      code: status.ABORTED,
      details: "cut off: the stream's reader was stuck, or writing failed.",
    });
    // The status waits behind data that the reader does not take. grpc-js has no way to reset a stream, so reach for the
    // HTTP/2 stream below it: otherwise what is queued stays in memory for as long as the connection lives.
    const below = this.#shared.below(this.#call) as Partial<Http2Stream> | undefined;
    below?.close?.(HTTP2_CANCEL);
  }
}

/** A message's memory is used again as soon as it is written, which grpc-js need not know. */
function bytesOf(message: WireMessage): Buffer {
  if (Buffer.isBuffer(message)) return message;
  const bytes = Buffer.allocUnsafeSlow(message.byteLength);
  message.copy(bytes, 0);
  return bytes;
}

/** For the service's definition: Subscribe's messages are encoded already. */
export function serializeEncoded(bytes: Buffer): Buffer {
  return bytes;
}
