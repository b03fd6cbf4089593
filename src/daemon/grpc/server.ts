/** The gRPC server: the broker's service, health and reflection, on every configured address. */
import { existsSync, lstatSync, mkdirSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { dirname } from "node:path";
import { Server, ServerCredentials, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation, protoPath as healthProtoPath } from "grpc-health-check";
import { formatListenAddress, type ListenAddress } from "../config/address.js";
import { serializeEncoded } from "./call-stream.js";
import { brokerService, packageDefinition } from "./proto.js";

export class ListenError extends Error {
  override readonly name = "ListenError";
}

const SERVICE_NAME = "nmi.v1.Broker";
/** Connecting to a socket whose owner is dead fails at once; a live one answers at once. */
const PROBE_MS = 2000;
/** Owner and group may connect. */
const SOCKET_UMASK = 0o117;

export interface GrpcServer {
  /** As bound: port 0 has become a number. */
  readonly addresses: readonly string[];
  /** Refuses new calls, then ends what is left after `timeoutMs`. Removes the socket files. */
  close(timeoutMs: number): Promise<void>;
}

export async function startGrpcServer(
  listen: readonly ListenAddress[],
  implementation: UntypedServiceImplementation,
  messageMaxBytes: number,
): Promise<GrpcServer> {
  const server = new Server({ "grpc.max_receive_message_length": messageMaxBytes });
  const definition = {
    ...brokerService,
    Subscribe: { ...brokerService.Subscribe, responseSerialize: serializeEncoded },
  };
  server.addService(definition, implementation);
  const health = new HealthImplementation({ "": "SERVING", [SERVICE_NAME]: "SERVING" });
  health.addToServer(server);
  new ReflectionService({ ...packageDefinition, ...loadSync(healthProtoPath, { keepCase: true }) }).addToServer(server);
  const sockets: string[] = [];
  const addresses: string[] = [];
  try {
    for (const address of listen) {
      addresses.push(await bind(server, address));
      if (address.kind === "unix") sockets.push(address.path);
    }
  } catch (error) {
    server.forceShutdown();
    throw error;
  }
  return {
    addresses,
    close: async (timeoutMs) => {
      health.setStatus("", "NOT_SERVING");
      health.setStatus(SERVICE_NAME, "NOT_SERVING");
      await new Promise<void>((resolve) => {
        const timer = setTimeout(() => {
          server.forceShutdown();
          resolve();
        }, timeoutMs);
        server.tryShutdown(() => {
          clearTimeout(timer);
          resolve();
        });
      });
      for (const path of sockets) rmSync(path, { force: true });
    },
  };
}

async function bind(server: Server, address: ListenAddress): Promise<string> {
  const text = formatListenAddress(address);
  if (address.kind === "unix") {
    mkdirSync(dirname(address.path), { recursive: true, mode: 0o755 });
    await removeDeadSocket(address.path);
  }
  const umask = process.umask(SOCKET_UMASK);
  try {
    const port = await new Promise<number>((resolve, reject) => {
      server.bindAsync(text, ServerCredentials.createInsecure(), (error, bound) =>
        error ? reject(error) : resolve(bound),
      );
    });
    return address.kind === "unix" ? text : formatListenAddress({ ...address, port });
  } catch (error) {
    throw new ListenError(
      `cannot listen on ${text}: ${(error as Error).message}. Is another program using it? Give --listen another address.`,
      { cause: error },
    );
  } finally {
    process.umask(umask);
  }
}

/** What a daemon that died has left is taken over; what a live one holds is not. */
async function removeDeadSocket(path: string): Promise<void> {
  if (!existsSync(path)) return;
  if (!lstatSync(path).isSocket())
    throw new ListenError(`${path} exists and is no socket: remove it, or give --listen another path.`);
  if (await answers(path)) {
    throw new ListenError(
      `another process listens on ${path}: stop it, or give this daemon its own --listen, --runtime-dir and --metrics.`,
    );
  }
  rmSync(path, { force: true });
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const done = (alive: boolean): void => {
      socket.destroy();
      resolve(alive);
    };
    socket.setTimeout(PROBE_MS, () => done(true));
    socket.once("connect", () => done(true));
    // ECONNREFUSED: the file is there, nobody listens.
    socket.once("error", (error: NodeJS.ErrnoException) =>
      done(error.code !== "ECONNREFUSED" && error.code !== "ENOENT"),
    );
  });
}
