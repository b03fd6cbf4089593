/**
 * The metrics address: what Prometheus scrapes and what supervisors probe, and nothing else. Bounded, so that no client
 * can hold it open.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Probe, Probes } from "./health.js";
import type { Logger } from "./log.js";

export interface MetricsEndpoint {
  readonly contentType: string;
  render(): Promise<string>;
}

export interface MetricsServer {
  /** host:port as bound; an IPv6 host is in brackets. */
  readonly address: string;
  /** Stops listening and ends open connections at once. Idempotent. */
  close(): Promise<void>;
}

export type MetricsListenErrorCode = "METRICS_ADDRESS_IN_USE" | "METRICS_ADDRESS_UNUSABLE";

/** The metrics address cannot be bound. The message names the address and the remedy. */
export class MetricsListenError extends Error {
  override readonly name = "MetricsListenError";
  readonly code: MetricsListenErrorCode;
  readonly address: string;
  constructor(code: MetricsListenErrorCode, address: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.address = address;
  }
}

/** Far more than the scrapers of one host; what comes on top is refused. */
const CONNECTIONS_MAX = 32;
const HEADER_BYTES_MAX = 8192;
/** Node checks it every 30 s by default; more often would wake an idle daemon. */
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 10_000;
/** Silence within a request or response. */
const SOCKET_TIMEOUT_MS = 10_000;
/** Above Prometheus' default scrape interval of 60 s, so that its connection is reused. */
const KEEP_ALIVE_TIMEOUT_MS = 75_000;

const TEXT = "text/plain; charset=utf-8";
const INDEX =
  "nmid\n\n/metrics  Prometheus text format\n/healthz  200 while the daemon and its dispatchers live\n/readyz   200 while it can serve\n";

interface Answer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

type Routes = ReadonlyMap<string, () => Answer | Promise<Answer>>;

/**
 * Serves `metrics` on GET and HEAD /metrics, `probes` on /healthz and /readyz, and an index on /. Port 0 binds a free port.
 * Rejects with MetricsListenError.
 */
export async function startMetricsServer(
  listen: { readonly host: string; readonly port: number },
  metrics: MetricsEndpoint,
  probes: Probes,
  logger: Pick<Logger, "error">,
): Promise<MetricsServer> {
  const routes: Routes = new Map<string, () => Answer | Promise<Answer>>([
    ["/", () => ({ status: 200, contentType: TEXT, body: INDEX })],
    ["/metrics", async () => ({ status: 200, contentType: metrics.contentType, body: await metrics.render() })],
    ["/healthz", async () => probeAnswer(await probes.live())],
    ["/readyz", async () => probeAnswer(await probes.ready())],
  ]);
  const server = createServer(
    {
      maxHeaderSize: HEADER_BYTES_MAX,
      headersTimeout: HEADERS_TIMEOUT_MS,
      requestTimeout: REQUEST_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_TIMEOUT_MS,
    },
    (request, response) => {
      answer(request, response, routes).catch((error: unknown) => {
        logger.error({ err: error }, "a request to the metrics address failed");
        reply(response, { status: 500, contentType: TEXT, body: "it failed; the daemon's log says why\n" });
      });
    },
  );
  server.maxConnections = CONNECTIONS_MAX;
  server.timeout = SOCKET_TIMEOUT_MS;
  await bind(server, listen.host, listen.port);
  server.on("error", (error) => logger.error({ err: error }, "metrics server failed"));

  const bound = server.address() as AddressInfo;
  let closed: Promise<void> | undefined;
  return {
    address: joinHostPort(bound.address, bound.port),
    close() {
      closed ??= new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      return closed;
    },
  };
}

async function answer(request: IncomingMessage, response: ServerResponse, routes: Routes): Promise<void> {
  const route = routes.get((request.url ?? "/").split("?", 1)[0]);
  if (route === undefined) {
    reply(response, { status: 404, contentType: TEXT, body: "not found; metrics are at /metrics\n" });
  } else if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    // The body of a POST need not be read to its end.
    response.setHeader("connection", "close");
    reply(response, { status: 405, contentType: TEXT, body: "method not allowed\n" });
  } else {
    reply(response, await route());
  }
}

function probeAnswer({ ok, text }: Probe): Answer {
  return { status: ok ? 200 : 503, contentType: TEXT, body: text };
}

/** Node leaves the body out where the request is a HEAD. */
function reply(response: ServerResponse, { status, contentType, body }: Answer): void {
  response.writeHead(status, { "content-type": contentType, "content-length": Buffer.byteLength(body) });
  response.end(body);
}

function bind(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: NodeJS.ErrnoException) => reject(listenError(joinHostPort(host, port), error));
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
}

function listenError(address: string, cause: NodeJS.ErrnoException): MetricsListenError {
  const remedy = "choose another with --metrics HOST:PORT, or --metrics off";
  return cause.code === "EADDRINUSE"
    ? new MetricsListenError(
        "METRICS_ADDRESS_IN_USE",
        address,
        `metrics address ${address} is taken by another process (another nmid?): ${remedy}`,
        { cause },
      )
    : new MetricsListenError(
        "METRICS_ADDRESS_UNUSABLE",
        address,
        `metrics address ${address} cannot be bound (${cause.message}): ${remedy}`,
        { cause },
      );
}

function joinHostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
