/**
 * Many subscribers in one process, each on a connection of its own, that count what they receive and drop it. Those of the
 * daemon and those of the bare server are the same code. The argument is a SubscribersOrder in JSON.
 *
 * On stdin: "snapshot ID" has the totals printed; "finish" ends all streams, the daemon's by deregistering, and has the
 * final totals printed. The end of the input ends the process. A server that is too busy to answer is "late", and that is all.
 */
import { createInterface } from "node:readline";
import { type BrokerClient, connect, type RegisterRequest, RpcError } from "../clients/typescript/index.js";
import { type Books, type Counts, RawStream, subscribeMethod } from "./lib/raw-stream.js";

export interface SubscribersOrder {
  readonly address: string;
  readonly count: number;
  /** Number of the first among all processes' subscribers: names and pids go by it. */
  readonly first: number;
  /** What each registers, with a name of its own; null where nothing is registered, as at the bare server. */
  readonly register: Omit<RegisterRequest, "name"> | null;
  /** Has each register for a process of its own that cannot exist, so that nothing matches. */
  readonly nothingMatches: boolean;
  /** Whether to subscribe what was registered. */
  readonly subscribe: boolean;
}

export interface SubscribersSnapshot extends Counts {
  /** CLOCK_MONOTONIC. */
  readonly atNs: number;
}

export interface SubscribersResult extends Counts, Books {
  /** Whether every subscriber's books agree with what it received: delivered, lost, and their sum. */
  readonly exact: boolean;
}

/** The kernel's PID_MAX_LIMIT: no process has this id or a higher one. */
const PID_NONE = 4_194_304;
const UNARY_TIMEOUT_MS = 60_000;
/** A server that is busy answers each after a round of all its streams. */
const OPENED_AT_A_TIME = 64;

interface Subscriber {
  readonly handlerId: number;
  readonly stream: RawStream | null;
}

function print(type: string, value: object = {}): void {
  process.stdout.write(`${JSON.stringify({ type, ...value })}\n`);
}

function requestOf(order: SubscribersOrder, index: number): RegisterRequest {
  const { register, nothingMatches, first } = order;
  const number = first + index;
  const filter = nothingMatches ? { filter: { pids: [PID_NONE + number] } } : {};
  return { events: [], ...register, ...filter, name: `bench-${number}` };
}

/** Each subscribes as soon as it is registered: its queue fills meanwhile. */
async function openAll(client: BrokerClient | null, order: SubscribersOrder): Promise<Subscriber[]> {
  const method = subscribeMethod();
  const subscribers: Subscriber[] = [];
  const open = async (index: number) => {
    const handlerId = client === null ? 0 : (await client.register(requestOf(order, index))).handlerId;
    const stream = order.subscribe ? new RawStream(order.address, method, handlerId) : null;
    subscribers[index] = { handlerId, stream };
    await stream?.begun;
  };
  let next = 0;
  const opener = async () => {
    while (next < order.count) await open(next++);
  };
  await Promise.all(Array.from({ length: OPENED_AT_A_TIME }, opener));
  return subscribers;
}

function totals(subscribers: readonly Subscriber[]): Counts {
  const sum: Counts = { samples: 0, bytes: 0, messages: 0 };
  for (const { stream } of subscribers) {
    if (stream === null) continue;
    sum.samples += stream.counts.samples;
    sum.bytes += stream.counts.bytes;
    sum.messages += stream.counts.messages;
  }
  return sum;
}

function agree(books: Books, stream: RawStream | null): boolean {
  if (books.matched !== books.delivered + books.lost) return false;
  if (stream === null) return true;
  const { end, counts, lost } = stream;
  return (
    end !== null &&
    (["matched", "delivered", "lost"] as const).every((key) => end[key] === books[key]) &&
    books.delivered === counts.samples &&
    books.lost === lost
  );
}

async function finish(client: BrokerClient | null, subscribers: readonly Subscriber[]): Promise<void> {
  const sum = { matched: 0, delivered: 0, lost: 0 };
  let exact = true;
  const deregister = async (broker: BrokerClient, { handlerId, stream }: Subscriber) => {
    const books = await broker.deregister(handlerId, { timeoutMs: UNARY_TIMEOUT_MS });
    await stream?.ended;
    sum.matched += books.matched;
    sum.delivered += books.delivered;
    sum.lost += books.lost;
    exact &&= agree(books, stream);
  };
  if (client !== null) await Promise.all(subscribers.map((subscriber) => deregister(client, subscriber)));
  const result: SubscribersResult = { ...totals(subscribers), ...sum, exact };
  for (const { stream } of subscribers) stream?.close();
  print("finished", result);
}

const order = JSON.parse(process.argv[2] ?? "") as SubscribersOrder;
const channelOptions = { "grpc.use_local_subchannel_pool": 1 };
const client = order.register === null ? null : connect(order.address, { timeoutMs: UNARY_TIMEOUT_MS, channelOptions });
const subscribers = await openAll(client, order).catch((error: unknown) => {
  if (!(error instanceof RpcError && error.code === "DEADLINE_EXCEEDED")) throw error;
  print("late");
  return process.exit();
});
print("ready");

for await (const line of createInterface({ input: process.stdin })) {
  const [command, id] = line.split(" ");
  if (command === "snapshot") {
    const snapshot: SubscribersSnapshot = { ...totals(subscribers), atNs: Number(process.hrtime.bigint()) };
    print(`snapshot ${id}`, snapshot);
  } else if (command === "finish") await finish(client, subscribers);
}
process.exit();
