/** Sockets that systemd has opened for the daemon: sd_listen_fds(3). */
import { socketName, socketOption } from "../../pmu/ffi.js";
import { formatTcpAddress, type ListenAddress } from "../config/address.js";

export interface PassedFd {
  readonly fd: number;
  /** FileDescriptorName= of the socket unit. */
  readonly name: string;
}

export interface PassedSocket extends PassedFd {
  /** What it is bound to. */
  readonly address: ListenAddress;
}

/** Fixed by sd_listen_fds(3): the first one behind standard input, output and error. */
const FIRST_FD = 3;
const FDS_MAX = 64;

/**
 * What the environment says was passed to the process `pid`; what it says of another one, a parent that handed its
 * environment on, is none of its business. Throws RangeError where it makes no sense.
 */
export function passedFds(env: Readonly<Record<string, string | undefined>>, pid: number): readonly PassedFd[] {
  if (env.LISTEN_PID !== String(pid) || env.LISTEN_FDS === undefined) return [];
  const count = Number(env.LISTEN_FDS);
  if (!/^\d+$/.test(env.LISTEN_FDS) || count > FDS_MAX) {
    throw new RangeError(`LISTEN_FDS is ${JSON.stringify(env.LISTEN_FDS)}: not a number from 0 to ${FDS_MAX}.`);
  }
  const names = env.LISTEN_FDNAMES?.split(":") ?? [];
  return Array.from({ length: count }, (_, i) => ({ fd: FIRST_FD + i, name: names[i] ?? "unknown" }));
}

/** asm-generic/socket.h, linux/socket.h */
const SO_TYPE = 3;
const SO_ACCEPTCONN = 30;
const SOCK_STREAM = 1;
const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
/** struct sockaddr_un, the longest of the three. */
const SOCKADDR_BYTES = 110;

/** null where it is no stream socket that connections come in on, such as what systemd stores for a restart. */
export function listeningSocket({ fd, name }: PassedFd): PassedSocket | null {
  try {
    if (option(fd, SO_TYPE) !== SOCK_STREAM || option(fd, SO_ACCEPTCONN) !== 1) return null;
  } catch {
    return null;
  }
  const address = parseSockaddr(socketName(fd, new Uint8Array(SOCKADDR_BYTES)));
  return address === null ? null : { fd, name, address };
}

function option(fd: number, name: number): number {
  const value = new Uint32Array(1);
  socketOption(fd, name, value);
  return value[0] ?? 0;
}

/** A sockaddr of unix(7), ip(7) or ipv6(7) as an address to listen on; null where it is of another family, or abstract. */
export function parseSockaddr(bytes: Uint8Array): ListenAddress | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const family = view.getUint16(0, true);
  if (family === AF_UNIX) {
    const path = Buffer.from(bytes.subarray(2)).toString().replace(/\0.*$/s, "");
    return path === "" ? null : { kind: "unix", path };
  }
  if (family === AF_INET) {
    return { kind: "tcp", port: view.getUint16(2), host: bytes.subarray(4, 8).join(".") };
  }
  if (family === AF_INET6) {
    const groups = Array.from({ length: 8 }, (_, i) => view.getUint16(8 + 2 * i).toString(16)).join(":");
    return { kind: "tcp", port: view.getUint16(2), host: shortest(groups) };
  }
  return null;
}

/** As people write it. */
function shortest(groups: string): string {
  return new URL(`http://[${groups}]`).hostname.slice(1, -1);
}

export function formatPassed({ address, fd, name }: PassedSocket): string {
  const text = address.kind === "unix" ? `unix:${address.path}` : formatTcpAddress(address);
  return `${text} (passed as fd ${fd}, ${name})`;
}
