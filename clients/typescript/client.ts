import { fileURLToPath } from "node:url";
import { type ChannelOptions, Client, type ClientReadableStream, credentials } from "@grpc/grpc-js";
import { loadSync, type MethodDefinition, type ServiceDefinition } from "@grpc/proto-loader";
import { type ControlDelivery, decodeDelivery, type TimeSpan } from "./decode.js";
import { NmiError, toRpcError } from "./errors.js";
import { isThisHost, LatencyHistogram, monotonicNs } from "./latency.js";
import type {
  Delivery,
  DeregisterResponse,
  GetStatusResponse,
  HandlerChange,
  ListEventsResponse,
  ListHandlersResponse,
  RegisterRequest,
  RegisterResponse,
} from "./messages.js";
import { resuming } from "./resume.js";
import { type TlsOptions, tlsCredentials } from "./tls.js";

const PROTO_FILE = fileURLToPath(new URL("../../../proto/nmi.proto", import.meta.url));
const MESSAGE_BYTES_MAX = 64 * 1024 * 1024;
const FLOW_CONTROL_WINDOW_BYTES = 2 * 1024 * 1024;
const TIMEOUT_MS_DEFAULT = 10_000;
// The daemon's own default for a removal, which a caller that names none waits for, is below this.
const REMOVAL_TIMEOUT_MS_DEFAULT = 60_000;

/** 64-bit fields whose values may well be above 2^53. */
const BIGINT_FIELDS = new Set([
  ...["config", "config1", "config2", "config3", "sampleRegsUser", "sampleRegsIntr", "readFormat", "branchSampleType"],
  "sampleType",
  ...["firstTime", "lastTime", "periodDelivered", "periodLost", "periodCarried"],
  ...["time", "addr", "len", "pgoff", "ino", "inoGeneration", "id", "dev", "inode", "hwId", "offset", "flags"],
]);

export interface ConnectOptions {
  /** The longest a unary call may take, 10 s unless told. Streams have no such limit. */
  readonly timeoutMs?: number;
  /** Speak TLS. The daemon's certificate must name the host of the address; without this the connection is plain. */
  readonly tls?: TlsOptions;
  /** Further options of grpc-js's channel. */
  readonly channelOptions?: ChannelOptions;
}

export interface StreamOptions {
  /** Aborting ends the stream; the iteration then throws the signal's reason. */
  readonly signal?: AbortSignal;
}

export interface SubscribeOptions extends StreamOptions {
  /**
   * False: a stream that breaks ends the iteration with an error. Unless told it is resumed in another one for as long as the
   * handler's lease lasts, across a restart of the daemon, too: another `started` comes, then what happened meanwhile.
   */
  readonly resume?: boolean;
}

export interface DeregisterOptions {
  /** How long the daemon may wait for dispatchers and the stream; left out means the daemon's default. */
  readonly timeoutMs?: number;
  /** Count what is still queued as lost instead of writing it to the stream. */
  readonly discard?: boolean;
}

/** A stream of deliveries. */
export interface Subscription extends AsyncIterableIterator<Delivery> {
  /**
   * From a sample's time to when the iteration gives it out: the ages of each batch's oldest and newest sample, two
   * records a batch however many samples it holds. Grows as batches come. Empty where the two clocks are not the same:
   * the samples' is a recording's, or not CLOCK_MONOTONIC, or the daemon is not reached through a Unix socket or loopback.
   */
  readonly latency: LatencyHistogram;
  /** Streams that have brought `started`: above 1 when it was resumed. */
  readonly streams: number;
}

/** Every method throws RpcError where the daemon refuses or cannot be reached. */
export interface BrokerClient extends Disposable {
  listEvents(): Promise<ListEventsResponse>;
  register(request: RegisterRequest): Promise<RegisterResponse>;
  /** What the handler is still owed is written to its stream first: keep reading it until `end`. */
  deregister(handlerId: number, options?: DeregisterOptions): Promise<DeregisterResponse>;
  listHandlers(): Promise<ListHandlersResponse>;
  getStatus(): Promise<GetStatusResponse>;
  /** The whole table, then SYNCHRONIZED, then each change. The call starts with the first pull. */
  watchHandlers(options?: StreamOptions): AsyncIterableIterator<HandlerChange>;
  /**
   * What the handler is owed, from `started` to `end`. The call starts with the first pull. At most 16 messages are
   * read ahead of the consumer: one that stops pulling makes the daemon queue, and then lose, this handler's samples.
   * Leaving the loop breaks the stream; the handler lives on for its lease. Throws MalformedMessageError too.
   * A stream that breaks by itself is resumed: SubscribeOptions.resume.
   */
  subscribe(handlerId: number, options?: SubscribeOptions): Subscription;
  close(): void;
}

/**
 * A client of the daemon at `unix:PATH` or `HOST:PORT`. It connects with the first call.
 * Throws NmiError INVALID_ADDRESS or TLS_FILE.
 */
export function connect(address: string, options: ConnectOptions = {}): BrokerClient {
  const timeoutMs = options.timeoutMs ?? TIMEOUT_MS_DEFAULT;
  const channelCredentials = options.tls === undefined ? credentials.createInsecure() : tlsCredentials(options.tls);
  const client = new Client(grpcTarget(address), channelCredentials, {
    "grpc.max_receive_message_length": MESSAGE_BYTES_MAX,
    // HTTP/2's own 64 KiB would stop the daemon several times within one message, and wake both sides for each.
    "grpc-node.flow_control_window": FLOW_CONTROL_WINDOW_BYTES,
    // A Unix path is no authority, and Node's HTTP/2 resets streams that carry one.
    ...(address.startsWith("unix:") ? { "grpc.default_authority": "localhost" } : {}),
    // A profiler's daemon is never behind the web proxy that http_proxy names.
    "grpc.enable_http_proxy": 0,
    // A daemon that is restarted is back within a second, which is what grpc-js would wait before it looks again.
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 200,
    ...options.channelOptions,
  });
  const service = loadService();

  function unary<Response>(name: string, request: object, deadlineMs = timeoutMs): Promise<Response> {
    const method = methodOf(service, name);
    return new Promise((resolve, reject) => {
      client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        (bytes) => fromLongs(method.responseDeserialize(bytes)) as Response,
        request,
        { deadline: Date.now() + deadlineMs },
        (error, response) => (error ? reject(toRpcError(name, error)) : resolve(response as Response)),
      );
    });
  }

  async function* stream<Item>(
    name: string,
    request: object,
    decode: (bytes: Buffer) => Item | undefined,
    { signal }: StreamOptions,
  ): AsyncGenerator<Item, void, undefined> {
    signal?.throwIfAborted();
    const method = methodOf(service, name);
    const call: ClientReadableStream<Buffer> = client.makeServerStreamRequest(
      method.path,
      method.requestSerialize,
      (bytes) => bytes,
      request,
    );
    // The iteration reports errors; one that comes after it has ended, as cancel() brings it, must find a listener.
    call.on("error", () => {});
    const cancel = () => call.cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    try {
      for await (const bytes of call) {
        signal?.throwIfAborted();
        const item = decode(bytes);
        if (item !== undefined) yield item;
      }
    } catch (error) {
      signal?.throwIfAborted();
      throw toRpcError(name, error);
    } finally {
      signal?.removeEventListener("abort", cancel);
      cancel();
    }
  }

  const decodeControl = (bytes: Uint8Array) =>
    fromLongs(methodOf(service, "Subscribe").responseDeserialize(Buffer.from(bytes))) as ControlDelivery;

  const sameHost = isThisHost(address);

  function subscribe(handlerId: number, { resume = true, ...streamOptions }: SubscribeOptions = {}): Subscription {
    const latency = new LatencyHistogram();
    const span: TimeSpan = { oldestNs: Number.NaN, newestNs: Number.NaN };
    let sameClock = false;
    const decode = (bytes: Buffer): Delivery | undefined => {
      const delivery = decodeDelivery(bytes, decodeControl, span);
      // A recording's clock may have the same name, and was another boot's.
      if (delivery?.kind === "started") {
        counts.streams++;
        sameClock = sameHost && delivery.clock === "CLOCK_MONOTONIC" && delivery.source !== "replay";
      }
      if (sameClock && delivery?.kind === "samples") {
        const nowNs = monotonicNs();
        latency.record(nowNs - span.oldestNs);
        latency.record(nowNs - span.newestNs);
      }
      return delivery;
    };
    const open = () => stream("Subscribe", { handlerId }, decode, streamOptions);
    const deliveries = resume ? resuming(open, streamOptions.signal) : open();
    const counts = Object.assign(deliveries, { latency, streams: 0 });
    return counts;
  }

  return {
    listEvents: () => unary("ListEvents", {}),
    register: (request) => unary("Register", request),
    deregister: (handlerId, { timeoutMs: removalMs = 0, discard = false } = {}) =>
      unary(
        "Deregister",
        { handlerId, timeoutMs: removalMs, discard },
        timeoutMs + (removalMs || REMOVAL_TIMEOUT_MS_DEFAULT),
      ),
    listHandlers: () => unary("ListHandlers", {}),
    getStatus: () => unary("GetStatus", {}),
    watchHandlers: (streamOptions = {}) => {
      const { responseDeserialize } = methodOf(service, "WatchHandlers");
      const decode = (bytes: Buffer) => fromLongs(responseDeserialize(bytes)) as HandlerChange;
      return stream("WatchHandlers", {}, decode, streamOptions);
    },
    subscribe,
    close: () => client.close(),
    [Symbol.dispose]: () => client.close(),
  };
}

function grpcTarget(address: string): string {
  if (/^unix:./.test(address)) return address;
  const port = /^(?:[^:/[\]]+|\[[0-9a-fA-F:.]+\]):(\d+)$/.exec(address)?.[1];
  if (port === undefined || Number(port) < 1 || Number(port) > 65_535) {
    throw new NmiError("INVALID_ADDRESS", `address "${address}" is neither unix:PATH nor HOST:PORT`);
  }
  // The scheme is named because grpc-js would take a host called "unix" or "dns" for one.
  return `dns:${address}`;
}

function loadService(): ServiceDefinition {
  // Without `longs`, 64-bit integers arrive as Long objects, which fromLongs() can tell from 32-bit numbers.
  const definition = loadSync(PROTO_FILE, { enums: String, defaults: true, arrays: true, oneofs: true });
  return definition["nmi.v1.Broker"] as ServiceDefinition;
}

function methodOf(service: ServiceDefinition, name: string): MethodDefinition<object, object> {
  return service[name];
}

/** Turns protobufjs's Long objects inside `value`, in place, into bigints where BIGINT_FIELDS says so, else numbers. */
function fromLongs(value: unknown, field = ""): unknown {
  if (typeof value !== "object" || value === null || ArrayBuffer.isView(value)) return value;
  if (isLong(value)) return BIGINT_FIELDS.has(field) ? BigInt(value.toString()) : Number(value.toString());
  if (Array.isArray(value)) return value.map((element) => fromLongs(element, field));
  const fields = value as Record<string, unknown>;
  for (const name of Object.keys(fields)) fields[name] = fromLongs(fields[name], name);
  return fields;
}

function isLong(value: object): boolean {
  return "low" in value && "high" in value && "unsigned" in value;
}
