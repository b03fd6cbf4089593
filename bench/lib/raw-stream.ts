/** Subscribe as bytes: what a reader receives is counted and dropped, the same way from the daemon and the bare server. */
import { fileURLToPath } from "node:url";
import { type ChannelOptions, Client, type ClientReadableStream, credentials } from "@grpc/grpc-js";
import { loadSync, type MethodDefinition, type ServiceDefinition } from "@grpc/proto-loader";
import { countSamples } from "./delivery-bytes.js";

const PROTO_FILE = fileURLToPath(new URL("../../../proto/nmi.proto", import.meta.url));

/** As the client library's, but each client has a connection of its own, as clients in processes of their own have. */
const CHANNEL_OPTIONS: ChannelOptions = {
  "grpc.max_receive_message_length": 64 * 1024 * 1024,
  "grpc-node.flow_control_window": 2 * 1024 * 1024,
  "grpc.default_authority": "localhost",
  "grpc.enable_http_proxy": 0,
  "grpc.use_local_subchannel_pool": 1,
};

interface ControlMessage {
  readonly loss?: { readonly count: number; readonly event_wide: boolean };
  readonly end?: Books;
}

export interface Books {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
}

export interface Counts {
  samples: number;
  /** Of messages with samples. */
  bytes: number;
  messages: number;
}

export function subscribeMethod(): MethodDefinition<object, ControlMessage> {
  const definition = loadSync(PROTO_FILE, {
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
    keepCase: true,
  });
  const service = definition["nmi.v1.Broker"] as ServiceDefinition;
  return service.Subscribe as MethodDefinition<object, ControlMessage>;
}

/** One subscriber on a channel of its own. */
export class RawStream {
  readonly counts: Counts = { samples: 0, bytes: 0, messages: 0 };
  /** Told in the stream, of the handler's own samples. */
  lost = 0;
  end: Books | null = null;
  /** Resolves with the first message. */
  readonly begun: Promise<void>;
  /** Resolves when the stream has ended with OK; rejects when it broke. */
  readonly ended: Promise<void>;
  readonly #client: Client;
  readonly #call: ClientReadableStream<Buffer>;

  constructor(address: string, method: MethodDefinition<object, ControlMessage>, handlerId: number) {
    this.#client = new Client(address, credentials.createInsecure(), CHANNEL_OPTIONS);
    this.#call = this.#client.makeServerStreamRequest(method.path, method.requestSerialize, (bytes) => bytes, {
      handler_id: handlerId,
    });
    this.ended = new Promise((resolve, reject) => {
      this.#call.on("end", resolve);
      this.#call.on("error", reject);
    });
    this.begun = Promise.race([
      new Promise<void>((resolve) => this.#call.once("data", () => resolve())),
      this.ended.then(() => Promise.reject(new Error("a stream ended without a message"))),
    ]);
    // Whoever awaits them sees it.
    this.ended.catch(() => {});
    this.begun.catch(() => {});
    this.#call.on("data", (message: Buffer) => this.#take(message, method));
  }

  #take(message: Buffer, method: MethodDefinition<object, ControlMessage>): void {
    const samples = countSamples(message);
    if (samples >= 0) {
      this.counts.samples += samples;
      this.counts.bytes += message.length;
      this.counts.messages++;
      return;
    }
    const { loss, end } = method.responseDeserialize(message);
    if (loss && !loss.event_wide) this.lost += loss.count;
    if (end) this.end = end;
  }

  /** Breaks the stream if it has not ended. */
  close(): void {
    this.#call.cancel();
    this.#client.close();
  }
}
