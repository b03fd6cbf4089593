/**
 * Subscribers as profilers would be: each takes every batch and looks at where its samples come from.
 * Arguments: ADDRESS NAME EVENT COUNT. Registers when it is told to, by a line with the frequency in Hz, so that nobody's
 * samples have to wait for a process that starts; a further line has it deregister and register anew. Deregisters at the
 * end of its input and prints what each has received since the last line.
 */
import { createInterface } from "node:readline";
import { type BrokerClient, connect, type SampleBatch } from "../clients/typescript/index.js";
import type { Consumption } from "./lib/load.js";

const CPUS_MAX = 4096;
/** A benchmark may leave the daemon hardly any CPU: that is for it to find out, and nothing to give up for. */
const PATIENCE_MS = 55_000;

function print(type: string, value: object = {}): void {
  process.stdout.write(`${JSON.stringify({ type, ...value })}\n`);
}

/** One registration, from its first to its last sample. */
class Subscription {
  readonly started: Promise<void>;
  readonly streaming: Promise<void>;
  readonly ended: Promise<Consumption>;
  readonly #perCpu = new Uint32Array(CPUS_MAX);
  #received = 0;
  #firstTime = 0n;
  #lastTime = 0n;
  #onStarted = () => {};
  #onStreaming = () => {};

  constructor(client: BrokerClient, name: string, handlerId: number) {
    this.started = new Promise((resolve) => {
      this.#onStarted = resolve;
    });
    this.streaming = new Promise((resolve) => {
      this.#onStreaming = resolve;
    });
    this.ended = this.#read(client, name, handlerId);
  }

  async #read(client: BrokerClient, name: string, handlerId: number): Promise<Consumption> {
    for await (const delivery of client.subscribe(handlerId)) {
      if (delivery.kind === "started") this.#onStarted();
      else if (delivery.kind === "samples") this.#take(delivery);
      else if (delivery.kind === "end") {
        const { matched, delivered, lost } = delivery;
        return {
          consumer: name,
          received: this.#received,
          seconds: Number(this.#lastTime - this.#firstTime) / 1e9,
          perCpu: Object.fromEntries([...this.#perCpu.entries()].filter(([, count]) => count > 0)),
          books: { matched, delivered, lost },
        };
      }
    }
    throw new Error(`${name}: the stream ended without end`);
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

/** On a connection of its own, as it would have in a process of its own. */
class Subscriber {
  readonly #client: BrokerClient;
  readonly #name: string;
  #handlerId = 0;
  #subscription: Subscription | null = null;

  constructor(address: string, name: string) {
    this.#client = connect(address, {
      timeoutMs: PATIENCE_MS,
      channelOptions: { "grpc.use_local_subchannel_pool": 1 },
    });
    this.#name = name;
  }

  async connect(): Promise<void> {
    await this.#client.getStatus();
  }

  async subscribe(event: string, frequencyHz: number): Promise<Subscription> {
    await this.finish();
    const { handlerId } = await this.#client.register({
      name: this.#name,
      events: [{ event, frequencyHz }],
      leaseMs: PATIENCE_MS,
    });
    this.#handlerId = handlerId;
    this.#subscription = new Subscription(this.#client, this.#name, handlerId);
    return this.#subscription;
  }

  /** Reads to the end. */
  async finish(): Promise<Consumption | null> {
    const subscription = this.#subscription;
    if (subscription === null) return null;
    this.#subscription = null;
    await this.#client.deregister(this.#handlerId, { timeoutMs: PATIENCE_MS });
    return subscription.ended;
  }

  close(): void {
    this.#client.close();
  }
}

const [address = "", name = "", event = "", count = ""] = process.argv.slice(2);
const subscribers = Array.from({ length: Number(count) }, (_, i) => new Subscriber(address, `${name}-${i}`));
await Promise.all(subscribers.map((subscriber) => subscriber.connect()));
print("connected");
let registrations = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const nth = ++registrations;
  const subscriptions = await Promise.all(subscribers.map((subscriber) => subscriber.subscribe(event, Number(line))));
  void Promise.all(subscriptions.map(({ started }) => started)).then(() => print(`started ${nth}`));
  void Promise.all(subscriptions.map(({ streaming }) => streaming)).then(() => print(`streaming ${nth}`));
}
const ended = await Promise.all(subscribers.map((subscriber) => subscriber.finish()));
for (const subscriber of subscribers) subscriber.close();
const consumers = ended.filter((consumption) => consumption !== null);
const { user, system } = process.cpuUsage();
const cpuSeconds = (user + system) / 1e6 / consumers.length;
print("books", { consumers: consumers.map((consumer) => ({ ...consumer, cpuSeconds })) });
