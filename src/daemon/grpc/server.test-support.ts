/** For tests: the gRPC server with whatever a test does not care for. */
import type { UntypedServiceImplementation } from "@grpc/grpc-js";
import { monotonicClock } from "../clock.js";
import type { ListenAddress } from "../config/address.js";
import type { ConnectionLimits } from "../config/config.js";
import { type GrpcServer, type GrpcServerOptions, startGrpcServer } from "./server.js";

/** Larger than any test that is not about limits can reach. */
export const TEST_LIMITS: ConnectionLimits = {
  connectionsMax: 1000,
  connectionsPerPeerMax: 1000,
  streamsPerConnectionMax: 1000,
  streamsPerPeerMax: 10_000,
  requestsPerSecondMax: 100_000,
  controlFramesPerSecondMax: 1000,
  receiveBytesPerSecondMax: 2 ** 30,
  handshakeTimeoutMs: 60_000,
  keepaliveIntervalMs: 60_000,
  keepaliveTimeoutMs: 60_000,
};

export function startTestServer(
  listen: readonly ListenAddress[],
  implementation: UntypedServiceImplementation,
  options: Partial<GrpcServerOptions> = {},
): Promise<GrpcServer> {
  return startGrpcServer({
    listen,
    listenIsDefault: false,
    passed: [],
    socketMode: 0o660,
    socketGroup: null,
    tls: null,
    insecure: false,
    implementation,
    mayReflect: () => {},
    onFault: (error) => {
      throw error;
    },
    messageMaxBytes: 2 ** 20,
    limits: TEST_LIMITS,
    now: monotonicClock(),
    log: () => {},
    ...options,
  });
}
