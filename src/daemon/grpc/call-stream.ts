/** A grpc-js server stream as delivery sees it. */
import { type ServerWritableStream, status } from "@grpc/grpc-js";
import type { DeliveryStream } from "../delivery/delivery.js";

/** The stream of Subscribe carries encoded messages: its serializer only says that it was asked. */
export class CallStream implements DeliveryStream {
  readonly #call: ServerWritableStream<unknown, PassThrough>;

  constructor(call: ServerWritableStream<unknown, PassThrough>) {
    this.#call = call;
  }

  write(bytes: Uint8Array, written: () => void): void {
    const message: PassThrough = { bytes, serialized: false };
    this.#call.write(message, (error: Error | null | undefined) => {
      if (!error) written();
    });
    // The bytes are used again for the next message, so grpc-js must have framed (and copied) them by now. It has, as
    // long as one message is written at a time; should a version of it come that has not, stop here, not in the data.
    if (!message.serialized && !this.#call.cancelled) throw new Error("grpc-js did not serialize the message at once");
  }

  end(): void {
    this.#call.end();
  }

  abort(): void {
    this.#call.emit("error", { code: status.ABORTED, details: "removed while the stream's reader was stuck." });
  }
}

export interface PassThrough {
  readonly bytes: Uint8Array;
  serialized: boolean;
}

export function serializePassThrough(message: PassThrough): Buffer {
  message.serialized = true;
  return message.bytes as Buffer;
}
