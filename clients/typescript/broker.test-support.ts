/** A gRPC server of the real contract on a Unix socket, for tests: each test answers the methods it needs itself. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Server, ServerCredentials, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { loadSync, type ServiceDefinition } from "@grpc/proto-loader";

const PROTO_FILE = fileURLToPath(new URL("../../../proto/nmi.proto", import.meta.url));

export interface TestServer extends AsyncDisposable {
  readonly address: string;
  /** Holds the socket, and is removed with the server. */
  readonly directory: string;
}

/** The contract as a reference encoder and decoder see it. */
export function loadBroker(): ServiceDefinition {
  const definition = loadSync(PROTO_FILE, { enums: String, longs: Number, defaults: true, oneofs: true });
  return definition["nmi.v1.Broker"] as ServiceDefinition;
}

/** Subscribe's messages are passed through: `write` takes a whole Delivery in bytes. */
export async function startTestServer(implementation: UntypedServiceImplementation): Promise<TestServer> {
  const directory = mkdtempSync(join(tmpdir(), "nmi-client-"));
  const address = `unix:${join(directory, "nmid.sock")}`;
  const server = new Server();
  const broker = loadBroker();
  server.addService(
    { ...broker, Subscribe: { ...broker.Subscribe, responseSerialize: (bytes: object) => bytes as Buffer } },
    implementation,
  );
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(address, ServerCredentials.createInsecure(), (error) => (error ? reject(error) : resolve()));
  });
  return {
    address,
    directory,
    async [Symbol.asyncDispose]() {
      server.forceShutdown();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}
