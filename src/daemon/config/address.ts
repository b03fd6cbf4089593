/** Addresses as operators write them: `unix:PATH`, `HOST:PORT`, IPv6 hosts in brackets. Pure: nothing is resolved. */
import { BlockList, isIPv4, isIPv6 } from "node:net";
import { SOCKET_PATH_BYTES_MAX } from "./limits.js";

export interface TcpAddress {
  /** An IP address without brackets, or a name. */
  readonly host: string;
  /** 0 lets the kernel choose. */
  readonly port: number;
}

export type ListenAddress =
  | { readonly kind: "unix"; readonly path: string }
  | { readonly kind: "tcp"; readonly host: string; readonly port: number };

/** What a parser makes of a text: a value, or what is wrong with it and what to write instead. */
export type Parsed<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly what: string; readonly remedy: string };

export function accept<T>(value: T): Parsed<T> {
  return { ok: true, value };
}

export function reject(text: string, complaint: string, remedy: string): Parsed<never> {
  return { ok: false, what: `${JSON.stringify(text)} ${complaint}`, remedy };
}

const LISTEN_REMEDY = "give unix:PATH or HOST:PORT";
const HOST_NAME = /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\.?$/i;
const HOST_NAME_LENGTH_MAX = 253;

const loopback = new BlockList();
loopback.addSubnet("127.0.0.0", 8, "ipv4");
loopback.addAddress("::1", "ipv6");

export function isLoopback(host: string): boolean {
  if (isIPv4(host)) return loopback.check(host, "ipv4");
  if (isIPv6(host)) return loopback.check(host, "ipv6");
  return host.toLowerCase() === "localhost"; // RFC 6761: never leaves the machine
}

/** Parses HOST:PORT. */
export function parseTcpAddress(text: string): Parsed<TcpAddress> {
  const colon = text.lastIndexOf(":");
  if (colon < 0) return reject(text, "has no port", "give HOST:PORT");
  const bracketed = /^\[(.*)\]$/.exec(text.slice(0, colon));
  const host = bracketed?.[1] ?? text.slice(0, colon);
  const portText = text.slice(colon + 1);
  if (bracketed && !isIPv6(host)) {
    return reject(text, "holds no IPv6 address between its brackets", "give [IPV6]:PORT, such as [::1]:9810");
  }
  if (!bracketed && host.includes(":")) {
    return reject(text, "is not HOST:PORT", "put IPv6 addresses in brackets, such as [::1]:9810");
  }
  if (host === "") return reject(text, "has no host", `give one, such as 127.0.0.1${text}`);
  if (!bracketed && !isIPv4(host) && !isHostName(host)) {
    return reject(text, `has ${JSON.stringify(host)} for a host, neither a name nor an address`, "give HOST:PORT");
  }
  const port = Number(portText);
  if (!/^\d{1,5}$/.test(portText) || port > 65_535) {
    return reject(text, `has ${JSON.stringify(portText)} for a port`, "give a port from 0 to 65535");
  }
  return accept({ host, port });
}

function isHostName(host: string): boolean {
  // A name that ends in digits is an address gone wrong, 127.0.0.300 or 127.1: resolvers disagree on what it means.
  return host.length <= HOST_NAME_LENGTH_MAX && HOST_NAME.test(host) && !/(^|\.)\d+\.?$/.test(host);
}

/** Parses an address for gRPC. What may be reached from other machines is judged where TLS is known of. */
export function parseListenAddress(text: string): Parsed<ListenAddress> {
  if (text.startsWith("unix:")) return parseSocketPath(text);
  if (text.startsWith("/")) return reject(text, "is a path without a scheme", `write unix:${text}`);
  const parsed = parseTcpAddress(text);
  if (!parsed.ok) return reject(text, "is not an address", `${LISTEN_REMEDY}; IPv6 in brackets, such as [::1]:50051`);
  return accept({ kind: "tcp", ...parsed.value });
}

/** null where connections to the address may be plain: without TLS, unless `insecure` says that it may be anyone. */
export function plainTcpProblem(address: ListenAddress): { readonly what: string; readonly remedy: string } | null {
  if (address.kind === "unix" || isLoopback(address.host)) return null;
  return {
    what: `${JSON.stringify(formatListenAddress(address))} is reachable from other machines, and plain TCP protects neither samples nor control`,
    remedy:
      "listen on a Unix socket (unix:PATH) or on loopback (127.0.0.1:PORT or [::1]:PORT), set tls.cert, tls.key and " +
      "tls.client_ca, or set insecure: true to let anyone in who can reach it",
  };
}

function parseSocketPath(text: string): Parsed<ListenAddress> {
  const path = text.replace(/^unix:(\/\/(?=\/))?/, ""); // gRPC writes absolute paths as unix:///PATH, too
  if (path === "" || path.endsWith("/")) return reject(text, "names no socket file", "give unix:PATH");
  if (path.startsWith("@")) {
    return reject(text, "is an abstract socket, which no file permission guards", "give unix:PATH with a path");
  }
  if (path.includes("\0")) return reject(text, "holds a NUL byte", "give unix:PATH");
  return accept({ kind: "unix", path });
}

/** Checked once relative paths are resolved: the kernel's limit is on what is bound. */
export function checkSocketPath(path: string): Parsed<string> {
  const bytes = Buffer.byteLength(path);
  if (bytes <= SOCKET_PATH_BYTES_MAX) return accept(path);
  return reject(
    path,
    `has ${bytes} bytes, and the kernel takes ${SOCKET_PATH_BYTES_MAX} for a socket's path`,
    "choose a shorter one",
  );
}

export function formatTcpAddress({ host, port }: TcpAddress): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/** As the operator would write it; also what gRPC takes. */
export function formatListenAddress(address: ListenAddress): string {
  return address.kind === "unix" ? `unix:${address.path}` : formatTcpAddress(address);
}
