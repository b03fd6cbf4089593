/** What goes wrong around a daemon: each fault is done to one that runs, and over when it resolves. */
import { once } from "node:events";
import fs from "node:fs";
import http2 from "node:http2";
import net from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type { Random } from "../../clients/nmictl/verify/random.js";
import { connect } from "../../clients/typescript/index.js";
import type { RunningDaemon } from "../support/daemon.js";
import { NMICTL_MAIN, RunningProcess } from "../support/process.js";

export interface World {
  readonly daemon: RunningDaemon;
  readonly random: Random;
}

export interface Fault {
  readonly name: string;
  /** Has handlers of its own, so that the daemon's totals are not those of one client alone. */
  readonly registers: boolean;
  readonly inflict: (world: World) => Promise<void>;
}

const VANISHING = 50;
const SHORT_LEASE_MS = 100;
const CLOSED_MS_MAX = 5000;
const HTTP2_PREFACE = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/** Length-prefixed-message: not compressed, three bytes that are no protobuf message. */
const MALFORMED = Buffer.from([0, 0, 0, 0, 3, 0xff, 0xff, 0xff]);

const socketOf = ({ address }: RunningDaemon): string => address.replace(/^unix:/, "");

/** Whole, `high` excluded. */
function whole(random: Random, low: number, high: number): number {
  return Math.floor(random.between(low, high));
}

function bytes(random: Random, count: number): Buffer {
  return Buffer.from(Array.from({ length: count }, () => whole(random, 0, 256)));
}

/** Writes to a socket of its own and goes; whether the daemon closes it is the daemon's affair. */
async function write({ daemon }: World, data: Buffer): Promise<void> {
  const socket = net.connect(socketOf(daemon));
  socket.on("error", () => {});
  const closed = once(socket, "close");
  socket.end(data);
  socket.resume();
  await Promise.race([closed, delay(CLOSED_MS_MAX, undefined, { ref: false })]);
  socket.destroy();
  await closed;
}

async function stopDaemon({ daemon, random }: World): Promise<void> {
  process.kill(daemon.pid, "SIGSTOP");
  try {
    await delay(random.between(20, 300));
  } finally {
    process.kill(daemon.pid, "SIGCONT");
  }
}

/** A frame of each type and of none, with flags and streams as they come. */
async function writeFrames(world: World): Promise<void> {
  const { random } = world;
  const frames = Array.from({ length: 20 }, () => {
    const payload = bytes(random, whole(random, 0, 40));
    const head = Buffer.from([0, 0, payload.length, whole(random, 0, 12), whole(random, 0, 256), 0, 0, 0, 0]);
    head.writeUInt32BE(whole(random, 0, 10), 5);
    return Buffer.concat([head, payload]);
  });
  await write(world, Buffer.concat([Buffer.from(HTTP2_PREFACE), ...frames]));
}

/** A well-formed call whose message is none. */
async function callMalformed({ daemon, random }: World): Promise<void> {
  const session = http2.connect("http://nmid", { createConnection: () => net.connect(socketOf(daemon)) });
  session.on("error", () => {});
  try {
    const method = random.pick(["Register", "Subscribe", "Deregister", "ListHandlers", "GetStatus", "Nonsense"]);
    const headers = {
      ":method": "POST",
      ":path": `/nmi.v1.Broker/${method}`,
      "content-type": "application/grpc",
      te: "trailers",
    };
    const stream = session.request(headers);
    stream.on("error", () => {});
    stream.end(MALFORMED);
    stream.resume();
    await Promise.race([once(stream, "close"), delay(CLOSED_MS_MAX, undefined, { ref: false })]);
  } finally {
    session.destroy();
  }
}

/** Each registers on a connection of its own and is gone. */
async function vanish({ daemon, random }: World): Promise<void> {
  const one = async (number: number): Promise<void> => {
    const client = connect(daemon.address, { channelOptions: { "grpc.use_local_subchannel_pool": 1 } });
    try {
      const name = `vanishing-${number}-${whole(random, 0, 1e9)}`;
      const { handlerId } = await client.register({ name, events: [], leaseMs: SHORT_LEASE_MS });
      if (random.chance(0.5))
        void client
          .subscribe(handlerId)
          [Symbol.asyncIterator]()
          .next()
          .catch(() => {});
    } catch {
      // The table may be full of those that came before: that, too, must leave nothing behind.
    } finally {
      client.close();
    }
  };
  await Promise.all(Array.from({ length: VANISHING }, (_, number) => one(number)));
}

async function subscriber({ daemon }: World): Promise<RunningProcess> {
  const args = [NMICTL_MAIN, "--address", daemon.address, "subscribe", "--lease", String(SHORT_LEASE_MS)];
  const client = new RunningProcess(process.execPath, args);
  // Its first line is there when it is subscribed; where the table is full it ends.
  await client.line(/./).catch(() => {});
  return client;
}

async function killClient(world: World): Promise<void> {
  const client = await subscriber(world);
  client.kill("SIGKILL");
  await client.exited;
}

async function freezeClient(world: World): Promise<void> {
  const client = await subscriber(world);
  try {
    client.kill("SIGSTOP");
    await delay(world.random.between(200, 1500));
  } finally {
    client.kill("SIGKILL");
    await client.exited;
  }
}

export const FAULTS: readonly Fault[] = [
  { name: "the daemon is stopped for a while", registers: false, inflict: stopDaemon },
  { name: "bytes that are no HTTP/2", registers: false, inflict: (world) => write(world, bytes(world.random, 500)) },
  { name: "frames that make no sense", registers: false, inflict: writeFrames },
  { name: "a call whose message is malformed", registers: false, inflict: callMalformed },
  { name: `${VANISHING} that register and vanish`, registers: true, inflict: vanish },
  { name: "a client that is killed", registers: true, inflict: killClient },
  { name: "a client that is frozen", registers: true, inflict: freezeClient },
];

/** What a process has open. */
export function openFiles(pid: number): number {
  return fs.readdirSync(`/proc/${pid}/fd`).length;
}

/** VmRSS of /proc/PID/status. */
export function residentBytes(pid: number): number {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}
