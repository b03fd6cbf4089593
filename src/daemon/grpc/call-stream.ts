/** A grpc-js server stream as delivery sees it. */
import { type ServerWritableStream, status } from "@grpc/grpc-js";
import type { DeliveryStream } from "../delivery/delivery.js";
import type { WireMessage } from "../delivery/message.js";
import { FramePool } from "./frame-pool.js";

/** http2.constants.NGHTTP2_CANCEL */
const HTTP2_CANCEL = 8;
/** Compressed flag and length: github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message". */
const FRAME_HEADER_BYTES = 5;

const DIRECT_WRITES_MAX = 4;

const frames = new FramePool();

/** What grpc-js keeps to itself: the HTTP/2 stream below a call, as node:http2 has it. */
interface Http2Stream {
  readonly headersSent: boolean;
  readonly writable: boolean;
  write(frame: Uint8Array, written: (error?: Error | null) => void): boolean;
  close(code: number): void;
}

/**
 * The stream of Subscribe carries encoded messages. The first one goes through grpc-js, which sends the headers with it;
 * the others are framed here and written to the HTTP/2 stream below, in buffers that are used again (frame-pool.ts), which
 * grpc-js has no way to ask for. Where a version of grpc-js should hide that stream, all go through it.
 */
export class CallStream implements DeliveryStream {
  readonly #call: ServerWritableStream<unknown, PassThrough>;
  /** Dropped with the stream's end, so that a call whose client never lets go of it holds nothing but itself. */
  #onBroken: (() => void) | null = null;

  constructor(call: ServerWritableStream<unknown, PassThrough>) {
    this.#call = call;
    // A client that cancels, and a connection that breaks. After end() and abort() there is nothing to break.
    const broken = (): void => this.#onBroken?.();
    call.on("cancelled", broken);
    call.on("error", broken);
  }

  /** Called when the stream goes without having been ended here. */
  onBroken(listener: () => void): void {
    this.#onBroken = listener;
  }

  /** Some on their way keep the transport busy while the next is made. grpc-js itself must be done with one before. */
  get writesMax(): number {
    return this.#below?.headersSent === true ? DIRECT_WRITES_MAX : 1;
  }

  get #below(): Http2Stream | undefined {
    return (this.#call as unknown as { call?: { stream?: Http2Stream } }).call?.stream;
  }

  write(message: WireMessage, written: () => void): void {
    const below = this.#below;
    if (below?.headersSent === true) writeFrame(below, message, written);
    else this.#writeThrough(message, written);
  }

  #writeThrough(message: WireMessage, written: () => void): void {
    const passed: PassThrough = { message, serialized: false };
    this.#call.write(passed, (error: Error | null | undefined) => {
      if (!error) written();
    });
    // The message's memory is used again at once, so grpc-js must have framed (and copied) it by now. It has, as long as
    // one message is written at a time; should a version of it come that has not, stop here, not in the data.
    if (!passed.serialized && !this.#call.cancelled) throw new Error("grpc-js did not serialize the message at once");
  }

  end(): void {
    this.#onBroken = null;
    this.#call.end();
  }

  abort(): void {
    this.#onBroken = null;
    this.#call.emit("error", { code: status.ABORTED, details: "removed while the stream's reader was stuck." });
    // The status waits behind data that the reader does not take. grpc-js has no way to reset a stream, so reach for the
    // HTTP/2 stream below it: otherwise what is queued stays in memory for as long as the connection lives.
    this.#below?.close(HTTP2_CANCEL);
  }
}

function writeFrame(below: Http2Stream, message: WireMessage, written: () => void): void {
  // Ended by a deadline, or destroyed: whoever listens is told that it is broken, if not yet, then at once.
  if (!below.writable) return;
  const length = message.byteLength;
  const frame = frames.take(FRAME_HEADER_BYTES + length);
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

export interface PassThrough {
  readonly message: WireMessage;
  serialized: boolean;
}

/**
 * grpc-js frames what this returns by its byteLength and its copy(target, at), and touches nothing else of it: that lets
 * a message gather its parts straight into the frame.
 */
export function serializePassThrough(passed: PassThrough): Buffer {
  passed.serialized = true;
  return passed.message as Buffer;
}
