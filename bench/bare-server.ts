/**
 * The least that a grpc-js server can do for a stream: the same prepared message again and again, passed through its
 * serializer, as fast as the reader takes it or once in a while. What the daemon's fan-out is compared with.
 * Arguments: SOCKET MESSAGE_BYTES [INTERVAL_MS]. It begins when it is told to ("go"), so that streams are opened quickly;
 * until then each gets one empty message.
 */
import { Server, ServerCredentials, type ServerWritableStream } from "@grpc/grpc-js";
import { prepareMessage } from "./lib/prepared-message.js";
import { subscribeMethod } from "./lib/raw-stream.js";

const [socket = "", messageBytes = "", intervalMs] = process.argv.slice(2);
const message = prepareMessage(Number(messageBytes));
const EMPTY = Buffer.alloc(0);
const calls = new Set<ServerWritableStream<object, Buffer>>();

function pump(call: ServerWritableStream<object, Buffer>): void {
  while (calls.has(call) && call.write(message));
}

function subscribe(call: ServerWritableStream<object, Buffer>): void {
  const gone = () => calls.delete(call);
  call.on("cancelled", gone);
  call.on("error", gone);
  calls.add(call);
  call.write(EMPTY);
}

function begin(): void {
  if (intervalMs === undefined) {
    for (const call of calls) {
      call.on("drain", () => pump(call));
      pump(call);
    }
    return;
  }
  // One timer for all: the cheapest there is.
  setInterval(() => {
    for (const call of calls) call.write(message);
  }, Number(intervalMs));
}

// As the daemon's server.
const server = new Server({ "grpc.max_receive_message_length": 1024 * 1024 });
const { path, requestStream, responseStream } = subscribeMethod();
const passThrough = (bytes: Buffer) => bytes;
const Subscribe = {
  path,
  requestStream,
  responseStream,
  requestSerialize: passThrough,
  requestDeserialize: passThrough,
  responseSerialize: passThrough,
  responseDeserialize: passThrough,
};
server.addService({ Subscribe }, { Subscribe: subscribe });
await new Promise<void>((resolve, reject) => {
  server.bindAsync(`unix:${socket}`, ServerCredentials.createInsecure(), (error) =>
    error ? reject(error) : resolve(),
  );
});
process.stdout.write("ready\n");
process.stdin.once("data", begin).once("end", () => process.exit());
