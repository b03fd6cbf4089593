/** From a daemon that works to one that is reached: policy, handlers taken up, health and metrics, gRPC, in this order. */
import { Authority } from "./auth/authority.js";
import { peerOf } from "./auth/peer.js";
import { revokeHandlers } from "./auth/revoke.js";
import type { DaemonConfig } from "./config/config.js";
import type { LiveConfig } from "./config/live.js";
import type { Daemon } from "./daemon.js";
import { CallStreams } from "./grpc/call-stream.js";
import type { FramePool } from "./grpc/frame-pool.js";
import { listeningSocket, type PassedSocket, passedFds } from "./grpc/listen-fds.js";
import { NO_CONNECTIONS, startGrpcServer } from "./grpc/server.js";
import { brokerImplementation } from "./grpc/service.js";
import { type CollectParts, collect, handlerSnapshot } from "./observe/collect.js";
import { type DaemonPhase, Health } from "./observe/health.js";
import { startMetricsServer } from "./observe/http.js";
import type { LivenessWatch } from "./observe/liveness.js";
import type { Logger } from "./observe/log.js";
import { createMetrics } from "./observe/metrics.js";
import type { ConnectionsSnapshot } from "./observe/snapshot.js";
import type { OpenTable } from "./open-table.js";
import type { Undo } from "./undo.js";

const STOP_SERVER_MS = 1000;
const NS_PER_MS = 1e6;

export interface ServeParts {
  readonly config: DaemonConfig;
  readonly live: LiveConfig;
  readonly log: Logger;
  readonly undo: Undo;
  /** Ends streams or leaves handlers to the next daemon. Idempotent. */
  readonly stopBroker: () => Promise<void>;
  readonly liveness: LivenessWatch;
  readonly frames: FramePool;
  readonly opened: Pick<OpenTable, "recovered" | "wasKilled">;
  /** Where what status and metrics tell is counted. */
  readonly counted: Omit<CollectParts, "connections">;
}

/** What it starts is stopped by `undo`. Rejects with PolicyError, ListenError, CertificateError or MetricsListenError. */
export async function serve(parts: ServeParts): Promise<Pick<Daemon, "listen" | "metrics" | "status">> {
  const { config, live, log, undo, liveness, frames, opened, counted } = parts;
  const { broker, source, fallbackReason, armedEvents, now } = counted;
  const { recovered, wasKilled } = opened;
  let connections = (): ConnectionsSnapshot => NO_CONNECTIONS;
  const snapshot = () => collect({ ...counted, connections });
  const onFault = (error: Error): void => log.error({ err: error }, "internal error");
  const authority: Authority = new Authority({
    path: config.policy,
    insecure: config.insecure,
    audit: (record) => log.warn(record, "request denied"),
    peerOf,
    onChange: () => void revokeHandlers(broker, authority).catch(onFault),
  });
  live.onReload(authority);
  if (recovered.length > 0) {
    const { gapNsMax, ...counts } = await broker.restore(recovered);
    const restored = { ...counts, gap_ms_max: Math.round(gapNsMax / NS_PER_MS), killed: wasKilled };
    log.info(restored, "handlers of the daemon before this one");
    // The policy may be another by now.
    await revokeHandlers(broker, authority);
  }
  let phase: DaemonPhase = "starting";
  const health = new Health({
    liveness,
    source,
    fallbackReason,
    armed: () => armedEvents.all.length,
    phase: () => phase,
    now,
  });
  const scraped = createMetrics(() => {
    liveness.look();
    return snapshot();
  }, now);
  const metrics = config.metrics === null ? null : await startMetricsServer(config.metrics, scraped, health, log);
  if (metrics !== null) undo.push(() => metrics.close());
  const addresses = { listen: [] as readonly string[], metrics: metrics?.address ?? "" };
  const implementation = brokerImplementation({
    authority,
    broker,
    source,
    snapshot,
    snapshotHandler: (handler) => handlerSnapshot(handler, counted),
    addresses: () => addresses,
    runtimeDir: config.runtimeDir,
    streams: new CallStreams({
      frames,
      onFallback: (problem) =>
        log.warn({ problem }, "grpc-js is not as expected: samples are sent through it, which is slower"),
    }),
    onFault,
  });
  const server = await startGrpcServer({
    ...config,
    passed: passedSockets(log),
    implementation,
    mayReflect: (call, rpc) => authority.identify(call, rpc).requireRule(),
    onFault,
    messageMaxBytes: config.limits.messageMaxBytes,
    limits: config.connectionLimits,
    now,
    log: (level, fields, message) => log[level](fields, message),
  });
  addresses.listen = server.addresses;
  connections = () => server.stats();
  undo.push(() => server.close(STOP_SERVER_MS));
  // Before the server closes; the other time is for a server that could not be had.
  undo.push(parts.stopBroker);
  phase = "serving";
  undo.push(() => {
    phase = "stopping";
  });

  if (fallbackReason !== null) {
    log.warn({ reason: fallbackReason }, "NO LIVE SAMPLES: the kernel refused; serving a recording instead");
  }
  for (const warning of source.warnings ?? []) log.warn({ source: source.description }, warning);
  log.info(
    {
      source: source.description,
      fallback: fallbackReason !== null,
      listen: server.addresses,
      metrics: addresses.metrics,
    },
    "ready",
  );
  live.onReload({
    prepare:
      ({ logLevel }) =>
      () => {
        log.level = logLevel;
      },
  });
  const serving = fallbackReason === null ? source.description : `${source.description} (NO LIVE SAMPLES)`;
  return {
    listen: server.addresses,
    metrics: addresses.metrics,
    status: () => `${serving}, ${count(broker.handlers.length, "handler")}, on ${server.addresses.join(" ")}`,
  };
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

/** What systemd has opened for this process, once: whom this one starts has nothing of it. */
function passedSockets(log: Logger): PassedSocket[] {
  const passed = passedFds(process.env, process.pid);
  for (const name of ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]) delete process.env[name];
  return passed.flatMap((fd) => {
    const socket = listeningSocket(fd);
    if (socket === null) log.info(fd, "passed by the service manager, and no socket to listen on");
    return socket ?? [];
  });
}
