/** The gRPC server: the broker's service, health and reflection, on every configured address. */
import type { Socket } from "node:net";
import { Server, ServerCredentials, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { ReflectionService } from "@grpc/reflection";
import { HealthImplementation, protoPath as healthProtoPath } from "grpc-health-check";
import type { NsClock } from "../clock.js";
import { type ListenAddress, plainTcpProblem } from "../config/address.js";
import type { ConnectionLimits, TlsFiles } from "../config/config.js";
import type { ConnectionsSnapshot } from "../observe/snapshot.js";
import { http2ServerBelow } from "./below-server.js";
import { serializeEncoded } from "./call-stream.js";
import { Connections } from "./connections.js";
import { guardedServer, type MayCall } from "./guard.js";
import {
  ListenError,
  type Listener,
  type ListenOn,
  listenPassed,
  listenTcp,
  listenUnix,
  planListening,
} from "./listen.js";
import type { PassedSocket } from "./listen-fds.js";
import { roomForConnections } from "./open-files.js";
import { brokerService, packageDefinition } from "./proto.js";
import { REFUSAL_REASONS, Refusals } from "./refusals.js";
import { TlsDoor } from "./tls.js";

const SERVICE_NAME = "nmi.v1.Broker";

export interface GrpcServerOptions {
  readonly listen: readonly ListenAddress[];
  /** Nobody has said where to listen: what was passed is enough. */
  readonly listenIsDefault: boolean;
  /** Listening sockets that a service manager has opened. */
  readonly passed: readonly PassedSocket[];
  readonly socketMode: number;
  readonly socketGroup: string | null;
  readonly tls: TlsFiles | null;
  readonly insecure: boolean;
  readonly implementation: UntypedServiceImplementation;
  /** Who may ask what there is to call. */
  readonly mayReflect: MayCall;
  readonly onFault: (error: Error) => void;
  readonly messageMaxBytes: number;
  readonly limits: ConnectionLimits;
  /** For tests. */
  readonly receiveLookMs?: number;
  readonly now: NsClock;
  readonly log: (level: "info" | "warn" | "error", fields: object, message: string) => void;
}

/** What there is to show before anything listens. */
export const NO_CONNECTIONS: ConnectionsSnapshot = {
  open: { unix: 0, tls: 0, tcp: 0 },
  accepted: 0,
  refused: REFUSAL_REASONS.map((reason) => ({ reason, count: 0 })),
  certificateExpiresAt: null,
};

export interface GrpcServer {
  /** As bound: port 0 has become a number. */
  readonly addresses: readonly string[];
  stats(): ConnectionsSnapshot;
  /** Refuses new calls, then ends what is left after `timeoutMs`. Removes the socket files. */
  close(timeoutMs: number): Promise<void>;
}

/** Rejects with ListenError, CertificateError or BelowGrpcError. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  const { now, log } = options;
  const { problem, connectionsMax } = roomForConnections(options.limits.connectionsMax);
  if (problem !== null) log("warn", {}, problem);
  const limits = { ...options.limits, connectionsMax };
  const { server, health } = grpcServer(options);
  const injector = server.createConnectionInjector(ServerCredentials.createInsecure());
  const refusals = new Refusals(now, (fields, message) => log("warn", fields, message));
  const connections = new Connections({
    http2: http2ServerBelow(server),
    inject: (socket) => injector.injectConnection(socket),
    limits,
    refusals,
    receiveLookMs: options.receiveLookMs,
    now,
  });
  const door = options.tls === null ? null : tlsDoor(options.tls, options, refusals);
  const listeners: Listener[] = [];
  const stopListening = (): void => {
    for (const listener of listeners.splice(0)) listener.close();
  };
  try {
    for (const at of planListening(options.listen, options.listenIsDefault, options.passed)) {
      const { kind } = "fd" in at ? at.address : at;
      if (kind === "tcp" && door === null) checkPlain("fd" in at ? at.address : at, options);
      const accept = (socket: Socket): void => {
        if (kind === "unix") connections.acceptUnix(socket);
        else if (door === null) connections.acceptTcp(socket);
        else door.accept(socket, connections);
      };
      const onError = (error: Error): void => refusals.count("accept", "unknown", `not accepted: ${error.message}`);
      listeners.push(await listen(at, { accept, onError }, options));
    }
  } catch (error) {
    stopListening();
    server.forceShutdown();
    throw error;
  }
  return {
    addresses: listeners.map(({ address }) => address),
    stats: () => ({
      ...connections.counts,
      refused: refusals.counts,
      certificateExpiresAt: door?.expiresAt ?? null,
    }),
    close: async (timeoutMs) => {
      health.setStatus("", "NOT_SERVING");
      health.setStatus(SERVICE_NAME, "NOT_SERVING");
      stopListening();
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
    },
  };
}

function grpcServer({ messageMaxBytes, limits, implementation, mayReflect, onFault }: GrpcServerOptions) {
  const server = new Server({
    "grpc.max_receive_message_length": messageMaxBytes,
    "grpc.max_concurrent_streams": limits.streamsPerConnectionMax,
  });
  const definition = {
    ...brokerService,
    Subscribe: { ...brokerService.Subscribe, responseSerialize: serializeEncoded },
  };
  server.addService(definition, implementation);
  const health = new HealthImplementation({ "": "SERVING", [SERVICE_NAME]: "SERVING" });
  health.addToServer(server);
  // Health is for whoever may connect: probes have no rights, and learn one word. What there is to call is not.
  const reflection = new ReflectionService({ ...packageDefinition, ...loadSync(healthProtoPath, { keepCase: true }) });
  reflection.addToServer(guardedServer(server, mayReflect, onFault));
  return { server, health };
}

function tlsDoor(files: TlsFiles, { limits, log }: GrpcServerOptions, refusals: Refusals): TlsDoor {
  return new TlsDoor({
    files,
    refusals,
    handshakeTimeoutMs: limits.handshakeTimeoutMs,
    onRenewed: ({ fingerprint, expiresAt }) =>
      log("info", { fingerprint, expires: new Date(expiresAt * 1000).toISOString() }, "certificate renewed"),
    onProblem: (error) => log("error", { err: error }, `the certificate in use stays in use: ${error.message}`),
  });
}

/** The configuration has been checked; what systemd passes has not. */
function checkPlain(address: ListenAddress, { insecure, log }: GrpcServerOptions): void {
  const problem = plainTcpProblem(address);
  if (problem === null) return;
  if (!insecure) throw new ListenError(`${problem.what}: ${problem.remedy}.`);
  log(
    "warn",
    { address },
    "INSECURE: plain TCP beyond this machine, insecure: true. Anyone who can reach it reads samples and steers the daemon",
  );
}

function listen(
  at: ListenAddress | PassedSocket,
  on: ListenOn,
  { socketMode: mode, socketGroup: group, log }: GrpcServerOptions,
): Promise<Listener> {
  if ("fd" in at) return listenPassed(at, on);
  if (at.kind === "tcp") return listenTcp(at, on);
  return listenUnix(at.path, { mode, group }, on, (message) => log("warn", {}, message));
}
