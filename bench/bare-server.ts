/**
 * The least that a grpc-js server can do for a stream: the same prepared message again and again, passed through its
 * serializer, as fast as the reader takes it or once in a while. What the daemon's fan-out is compared with.
 * Arguments: SOCKET MESSAGE_BYTES [INTERVAL_MS].
 */
import { Server, ServerCredentials, type ServerWritableStream } from "@grpc/grpc-js";
import { prepareMessage } from "./lib/prepared-message.js";
import { subscribeMethod } from "./lib/raw-stream.js";

const [socket = "", messageBytes = "", intervalMs] = process.argv.slice(2);
const message = prepareMessage(Number(messageBytes));
const calls = new Set<ServerWritableStream<object, Buffer>>();

function pump(call: ServerWritableStream<object, Buffer>): void {
  while (calls.has(call) && call.write(message));
}

function subscribe(call: ServerWritableStream<object, Buffer>): void {
  const gone = () => calls.delete(call);
  call.on("cancelled", gone);
  call.on("error", gone);
  calls.add(call);
  if (intervalMs !== undefined) return;
  call.on("drain", () => pump(call));
  pump(call);
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
if (intervalMs !== undefined) {
  // One timer for all: the cheapest there is.
  setInterval(() => {
    for (const call of calls) call.write(message);
  }, Number(intervalMs));
}
process.stdout.write("ready\n");
process.stdin.resume().once("end", () => process.exit());
