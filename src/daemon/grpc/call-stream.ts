/** A grpc-js server stream as delivery sees it. */
import { type ServerWritableStream, status } from "@grpc/grpc-js";
import type { DeliveryStream } from "../delivery/delivery.js";
import type { WireMessage } from "../delivery/message.js";

/** http2.constants.NGHTTP2_CANCEL */
const HTTP2_CANCEL = 8;

/** The stream of Subscribe carries encoded messages: its serializer only says that it was asked. */
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

  write(message: WireMessage, written: () => void): void {
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
    const { stream } = (this.#call as unknown as { call?: { stream?: Http2Resettable } }).call ?? {};
    stream?.close?.(HTTP2_CANCEL);
  }
}

interface Http2Resettable {
  close?(code: number): void;
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
