/** The command line as a process of its own, against a server of the real contract. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { ServerUnaryCall, ServerWritableStream, sendUnaryData } from "@grpc/grpc-js";
import { loadBroker, type TestServer } from "../typescript/broker.test-support.js";

const MAIN = join(import.meta.dirname, "main.js");
export const HANDLER_ID = 3 * 65_536 + 1;
export const serialize = loadBroker().Subscribe.responseSerialize;

export type Unary = [ServerUnaryCall<object, object>, sendUnaryData<object>];
export type Stream = ServerWritableStream<object, Buffer>;

export const EVENT = { name: "cpu-clock", frequencyHz: 997, periodUnit: "ns" };
const BATCH = {
  sequence: 10,
  time: ["12345678901234", "12345678901235"],
  ip: [String(0xffff_ffff_8108_2390n), "4198400"],
  pid: [process.pid, 0],
  tid: [process.pid, 0],
  cpu: [0, 12],
  period: ["1003009", "9007199254740993"],
  callchain: [String(BigInt.asUintN(64, -512n)), "4198400", "5"],
  callchainLength: [2, 1],
};
export const HANDLER = {
  handlerId: HANDLER_ID,
  name: "evil\u001b[2J",
  state: "ACTIVE",
  events: [EVENT],
  matched: 30,
  delivered: 20,
  lost: 10,
  queueBytes: 2048,
  queueMaxBytes: 1_048_576,
  leaseRemainingMs: 9500,
};

/** A daemon with one handler: it streams `batches` batches, and ends the stream when the handler is deregistered. */
export class Broker {
  readonly batches: number;
  readonly registered: Record<string, unknown>[] = [];
  readonly deregistered: Record<string, unknown>[] = [];
  #stream: Stream | undefined;

  constructor(batches: number) {
    this.batches = batches;
  }

  readonly implementation = {
    Register: (...[call, done]: Unary) => {
      this.registered.push(call.request as Record<string, unknown>);
      done(null, { handlerId: HANDLER_ID, events: [EVENT] });
    },
    Subscribe: async (call: Stream) => {
      this.#stream = call;
      call.write(serialize({ started: { handlerId: HANDLER_ID, events: [EVENT], source: "perf" } }));
      call.write(serialize({ loss: { count: 4, reason: "QUEUE_FULL" } }));
      for (let i = 0; i < this.batches && this.deregistered.length === 0 && !call.cancelled; i++) {
        if (!call.write(serialize({ samples: BATCH }))) {
          await Promise.race([once(call, "drain"), once(call, "cancelled")]);
        }
      }
    },
    Deregister: (...[call, done]: Unary) => {
      this.deregistered.push(call.request as Record<string, unknown>);
      const books = { matched: 12, delivered: 8, lost: 4 };
      this.#stream?.write(serialize({ samples: BATCH }));
      this.#stream?.write(serialize({ end: { ...books, reason: "DEREGISTERED" } }));
      this.#stream?.end();
      done(null, { ...books, lastSequence: 12, waitedNs: 1500, losses: [{ reason: "QUEUE_FULL", count: 4 }] });
    },
  };
}

export interface Run {
  readonly child: ChildProcess;
  readonly done: Promise<{ code: number | null; stdout: string; stderr: string }>;
}

export function start(server: Pick<TestServer, "address">, args: readonly string[]): Run {
  const child = spawn(process.execPath, [MAIN, "--address", server.address, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
  });
  let stdout = "";
  let stderr = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  return { child, done: once(child, "close").then(([code]) => ({ code, stdout, stderr })) };
}

export const run = (server: Pick<TestServer, "address">, ...args: string[]) => start(server, args).done;
export const jsonLines = (text: string) =>
  text
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
