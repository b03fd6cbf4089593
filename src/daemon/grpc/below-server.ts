/** Where grpc-js keeps the HTTP/2 server below a Server, which it keeps to itself. */
import { EventEmitter } from "node:events";
import type { Http2Server } from "node:http2";
import type { Server } from "@grpc/grpc-js";

/** grpc-js is not as expected: who would connect could not be told, nor held to limits, so nobody may. */
export class BelowGrpcError extends Error {
  override readonly name = "BelowGrpcError";
}

/** Of a server with one connection injector and no port. Throws BelowGrpcError. */
export function http2ServerBelow(server: Server): Http2Server {
  const { http2Servers } = server as unknown as { readonly http2Servers?: unknown };
  const servers: unknown[] = http2Servers instanceof Map ? [...http2Servers.keys()] : [];
  const [below] = servers;
  if (servers.length !== 1 || !(below instanceof EventEmitter) || below.listenerCount("stream") !== 1) {
    throw new BelowGrpcError(
      "grpc-js keeps its HTTP/2 server elsewhere than expected, so that peers cannot be told apart: use the version in package-lock.json.",
    );
  }
  return below as Http2Server;
}
