/**
 * Subscribers as profilers would be: each takes every batch and looks at where its samples come from.
 * Arguments: ADDRESS NAME EVENT FREQUENCY_HZ COUNT. Registers when it is told to ("go"), so that nobody's samples have to
 * wait for a process that starts; deregisters at the end of its input and prints what each received.
 */
import { once } from "node:events";
import { type BrokerClient, connect, type SampleBatch } from "../clients/typescript/index.js";
import type { Consumption } from "./lib/load.js";

const CPUS_MAX = 4096;
/** A benchmark may leave the daemon hardly any CPU: that is for it to find out, and nothing to give up for. */
const PATIENCE_MS = 55_000;

function print(type: string, value: object = {}): void {
  process.stdout.write(`${JSON.stringify({ type, ...value })}\n`);
}

/** On a connection of its own, as it would have in a process of its own. */
class Subscriber {
  readonly started: Promise<void>;
  readonly streaming: Promise<void>;
  readonly #client: BrokerClient;
  readonly #name: string;
  readonly #perCpu = new Uint32Array(CPUS_MAX);
  #handlerId = 0;
  #received = 0;
  #firstTime = 0n;
  #lastTime = 0n;
  #onStarted = () => {};
  #onStreaming = () => {};

  constructor(address: string, name: string) {
    this.#client = connect(address, {
      timeoutMs: PATIENCE_MS,
      channelOptions: { "grpc.use_local_subchannel_pool": 1 },
    });
    this.#name = name;
    this.started = new Promise((resolve) => {
      this.#onStarted = resolve;
    });
    this.streaming = new Promise((resolve) => {
      this.#onStreaming = resolve;
    });
  }

  async connect(): Promise<void> {
    await this.#client.getStatus();
  }

  async register(event: string, frequencyHz: number): Promise<void> {
    const { handlerId } = await this.#client.register({
      name: this.#name,
      events: [{ event, frequencyHz }],
      leaseMs: PATIENCE_MS,
    });
    this.#handlerId = handlerId;
  }

  async deregister(): Promise<void> {
    await this.#client.deregister(this.#handlerId, { timeoutMs: PATIENCE_MS });
  }

  /** Reads to the end. */
  async read(): Promise<Consumption> {
    for await (const delivery of this.#client.subscribe(this.#handlerId)) {
      if (delivery.kind === "started") this.#onStarted();
      else if (delivery.kind === "samples") this.#take(delivery);
      else if (delivery.kind === "end") {
        this.#client.close();
        const { matched, delivered, lost } = delivery;
        return {
          consumer: this.#name,
          received: this.#received,
          seconds: Number(this.#lastTime - this.#firstTime) / 1e9,
          perCpu: Object.fromEntries([...this.#perCpu.entries()].filter(([, count]) => count > 0)),
          books: { matched, delivered, lost },
        };
      }
    }
    throw new Error(`${this.#name}: the stream ended without end`);
  }

  #take(batch: SampleBatch): void {
    if (this.#received === 0) {
      this.#firstTime = batch.time[0] ?? 0n;
      this.#onStreaming();
    }
    this.#lastTime = batch.time[batch.length - 1] ?? this.#lastTime;
    this.#received += batch.length;
    for (let i = 0; i < batch.length; i++) this.#perCpu[batch.cpu[i]]++;
  }
}

const [address = "", name = "", event = "", frequencyHz = "", count = ""] = process.argv.slice(2);
const subscribers = Array.from({ length: Number(count) }, (_, i) => new Subscriber(address, `${name}-${i}`));
await Promise.all(subscribers.map((subscriber) => subscriber.connect()));
print("connected");
await once(process.stdin, "data");
const reading = subscribers.map(async (subscriber) => {
  await subscriber.register(event, Number(frequencyHz));
  return subscriber.read();
});
void Promise.all(subscribers.map(({ started }) => started)).then(() => print("started"));
void Promise.all(subscribers.map(({ streaming }) => streaming)).then(() => print("streaming"));
process.stdin.resume().once("end", () => void Promise.all(subscribers.map((subscriber) => subscriber.deregister())));
const consumers = await Promise.all(reading);
const { user, system } = process.cpuUsage();
const cpuSeconds = (user + system) / 1e6 / consumers.length;
print("books", { consumers: consumers.map((consumer) => ({ ...consumer, cpuSeconds })) });
