/** A client that runs as whoever started it: a request a line in, an answer a line out. See as-user.ts. */
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import {
  type ClientReadableStream,
  credentials,
  loadPackageDefinition,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import type { Answer, Collected, Request } from "./as-user.js";
import type { RawDelivery } from "./raw-client.js";

const PROTO_FILE = fileURLToPath(new URL("../../../proto/nmi.proto", import.meta.url));
const definition = loadSync(PROTO_FILE, { longs: String, enums: String, defaults: true, oneofs: true, keepCase: true });

type Stub = Record<string, (request: unknown, done: (error: ServiceError | null, answer: object) => void) => void> & {
  Subscribe(request: unknown): ClientReadableStream<unknown>;
};
const { nmi } = loadPackageDefinition(definition) as unknown as {
  nmi: { v1: { Broker: new (address: string, of: ReturnType<typeof credentials.createInsecure>) => Stub } };
};
const stub = new nmi.v1.Broker(process.argv[2] as string, credentials.createInsecure());

function refused(error: unknown): Answer {
  const { code, details } = error as ServiceError;
  return { refused: { code: status[code] ?? String(error), details } };
}

async function answer(request: Request): Promise<Answer> {
  try {
    if (request.kind === "collect") return { collected: await collect(request.handlerId, request.until, request.pid) };
    const { method, message } = request;
    return {
      ok: await new Promise((resolve, reject) => {
        stub[method]?.call(stub, message, (error, done) => (error === null ? resolve(done) : reject(error)));
      }),
    };
  } catch (error) {
    return refused(error);
  }
}

/** Numbers are text of up to 64 bits here. */
type Text<T> = { readonly [Key in keyof T]: T[Key] extends readonly number[] ? readonly string[] : T[Key] };

async function collect(handlerId: string, until: number, pid: number): Promise<Collected> {
  const samplesOf: Record<number, number> = {};
  const found = { samples: 0, ips: [] as string[], frames: [] as string[], ended: false };
  const taskPids = new Set<number>();
  const records = new Set<string>();
  let wanted = 0;
  const stream = stub.Subscribe({ handler_id: handlerId });
  for await (const message of stream as AsyncIterable<RawDelivery>) {
    const samples = message.samples as Text<RawDelivery["samples"] & object> | undefined;
    for (const value of samples?.pid ?? []) {
      samplesOf[Number(value)] = (samplesOf[Number(value)] ?? 0) + 1;
      found.samples++;
      if (Number(value) === pid) wanted++;
    }
    found.ips.push(...(samples?.ip ?? []));
    found.frames.push(...(samples?.callchain ?? []));
    for (const { record, comm, mmap } of message.tasks?.records ?? []) {
      records.add(record);
      for (const part of [comm, mmap]) if (part) taskPids.add(part.pid);
    }
    found.ended ||= message.end !== undefined;
    if (until > 0 && wanted >= until) break;
  }
  stream.cancel();
  return {
    ...found,
    samplesOf,
    pids: Object.keys(samplesOf).map(Number),
    taskPids: [...taskPids],
    records: [...records],
  };
}

createInterface({ input: process.stdin }).on("line", (line) => {
  const { number, request } = JSON.parse(line) as { number: number; request: Request };
  void answer(request).then((done) => process.stdout.write(`${JSON.stringify({ number, answer: done })}\n`));
});
