/**
 * A broker that hands everything on to a real one, and changes on the way what a test wants changed: a daemon whose books
 * are wrong in one place.
 */
import type { TestContext } from "node:test";
import {
  Client,
  type ClientReadableStream,
  credentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type sendUnaryData,
} from "@grpc/grpc-js";
import type { MethodDefinition } from "@grpc/proto-loader";
import { loadBroker, startTestServer } from "../../clients/typescript/broker.test-support.js";
import type { RunningDaemon } from "./daemon.js";

/** A message of nmi.proto as proto-loader gives it: camelCase, 64-bit integers as numbers. */
export type Message = Record<string, unknown>;

export interface Tampering {
  /** Gets each answer of these methods and each change of WatchHandlers, to change it in place. */
  readonly Deregister?: (answer: Message) => void;
  readonly GetStatus?: (answer: Message) => void;
  readonly WatchHandlers?: (change: Message) => void;
  /** Each message of a stream that tells of losses or of the end: false withholds it. */
  readonly control?: (delivery: Message) => boolean;
  /** Each message of a stream that holds samples, in bytes, to change in place: false withholds it. */
  readonly samples?: (bytes: Buffer) => boolean;
}

/** Delivery.samples, field 2. */
const SAMPLES_TAG = 0x12;

type Unary = [ServerUnaryCall<object, object>, sendUnaryData<object>];

/** Resolves with its address. It is stopped after the test. */
export async function startTamperingProxy(
  t: TestContext,
  daemon: RunningDaemon,
  tampering: Tampering,
): Promise<{ readonly address: string }> {
  const service = loadBroker();
  const upstream = new Client(daemon.address, credentials.createInsecure(), {
    "grpc.max_receive_message_length": -1,
    "grpc.default_authority": "localhost",
    "grpc.use_local_subchannel_pool": 1,
  });
  const method = (name: string) => service[name] as MethodDefinition<object, object>;

  const unary =
    (name: string, tamper: (answer: Message) => void = () => {}) =>
    (...[call, done]: Unary): void => {
      const { path, requestSerialize, responseDeserialize } = method(name);
      upstream.makeUnaryRequest(path, requestSerialize, responseDeserialize, call.request, (error, answer) => {
        if (answer !== undefined) tamper(answer as Message);
        done(error, answer);
      });
    };

  /** `pass` turns what comes into what goes on; undefined withholds it. */
  const stream =
    <Item>(name: string, pass: (bytes: Buffer) => Item | undefined) =>
    (call: ServerWritableStream<object, Item>): void => {
      const { path, requestSerialize } = method(name);
      const source: ClientReadableStream<Buffer> = upstream.makeServerStreamRequest(
        path,
        requestSerialize,
        (bytes) => bytes,
        call.request,
      );
      call.on("cancelled", () => source.cancel());
      source.on("error", (error) => call.emit("error", error));
      source.on("end", () => call.end());
      source.on("data", (bytes: Buffer) => {
        const item = pass(bytes);
        if (item === undefined || call.write(item)) return;
        source.pause();
        call.once("drain", () => source.resume());
      });
    };

  const { responseSerialize, responseDeserialize } = method("Subscribe");
  const passDelivery = (bytes: Buffer): Buffer | undefined => {
    if (bytes[0] === SAMPLES_TAG) return tampering.samples?.(bytes) === false ? undefined : bytes;
    if (tampering.control === undefined) return bytes;
    const delivery = responseDeserialize(bytes) as Message;
    return tampering.control(delivery) ? responseSerialize(delivery) : undefined;
  };
  const passChange = (bytes: Buffer): object => {
    const change = method("WatchHandlers").responseDeserialize(bytes) as Message;
    tampering.WatchHandlers?.(change);
    return change;
  };

  const server = await startTestServer({
    Register: unary("Register"),
    Deregister: unary("Deregister", tampering.Deregister),
    GetStatus: unary("GetStatus", tampering.GetStatus),
    ListHandlers: unary("ListHandlers"),
    Subscribe: stream("Subscribe", passDelivery),
    WatchHandlers: stream("WatchHandlers", passChange),
  });
  t.after(async () => {
    upstream.close();
    await server[Symbol.asyncDispose]();
  });
  return { address: server.address };
}
