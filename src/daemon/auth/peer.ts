/** Who is at the other end of a connection. Found out once, when it is accepted; every call of it has the same peer. */
import { Errno, socketOption } from "../../pmu/ffi.js";

export type Peer =
  | {
      readonly kind: "unix";
      readonly uid: number;
      readonly gid: number;
      readonly pid: number;
      /** Primary and supplementary groups, at the time of connecting. */
      readonly groups: readonly number[];
    }
  | {
      readonly kind: "tls";
      /** HOST:PORT, IPv6 hosts in brackets. */
      readonly address: string;
      /** Of the certificate, which the configured authority has signed; empty where it has none, or several. */
      readonly commonName: string;
      /** Its alternative names: host names, addresses, URIs and mail addresses, without saying which is what. */
      readonly names: readonly string[];
      /** SHA-256 of the certificate, hexadecimal. */
      readonly fingerprint: string;
    }
  /** Nobody knows who: loopback, or `insecure: true`. */
  | { readonly kind: "tcp"; readonly address: string };

/** The daemon cannot tell whose call it is, and so does nothing for it. */
export class UnknownPeerError extends Error {
  override readonly name = "UnknownPeerError";
}

/** By HTTP/2 session, which is what grpc-js has of a connection. */
const peers = new WeakMap<object, Peer>();

/** For whoever accepts connections: from now on calls of this session are this peer's. */
export function setSessionPeer(session: object, peer: Peer): void {
  peers.set(session, peer);
}

export function sessionPeer(session: unknown): Peer | undefined {
  return typeof session === "object" && session !== null ? peers.get(session) : undefined;
}

/**
 * Whose call it is. grpc-js keeps the HTTP/2 stream below a call to itself, and the stream's session is what the peer is
 * known by. Throws UnknownPeerError where either is not where it was: a call of nobody's is refused, whoever it is.
 */
export function peerOf(call: object): Peer {
  const { stream } = (call as { call?: { stream?: { session?: unknown } } }).call ?? {};
  const peer = sessionPeer(stream?.session);
  if (peer !== undefined) return peer;
  throw new UnknownPeerError(
    "the peer of a call is not known: its connection is gone, or this version of grpc-js keeps it elsewhere.",
  );
}

/** For logs and for people: "uid=1000 pid=4711", "cn=collector 10.0.0.7:4711", "127.0.0.1:4711". */
export function describePeer(peer: Peer): string {
  switch (peer.kind) {
    case "unix":
      return `uid=${peer.uid} pid=${peer.pid}`;
    case "tls":
      return `cn=${peer.commonName || (peer.names[0] ?? peer.fingerprint.slice(0, 16))} ${peer.address}`;
    case "tcp":
      return peer.address;
  }
}

/**
 * Whom limits are counted for: a user of this machine, whatever it calls itself; beyond it an address, without the port,
 * or a network of IPv6.
 * A certificate may be shared by a fleet, and one host of it must not use up what the others may have.
 */
export function peerKey(peer: Peer): string {
  if (peer.kind === "unix") return `uid=${peer.uid}`;
  const host = peer.address.slice(0, peer.address.lastIndexOf(":"));
  return host.startsWith("[") ? network64(host.slice(1, -1)) : host;
}

/** An IPv6 host may take any of the 2^64 addresses of its network, one for each connection. */
function network64(host: string): string {
  const [head = "", tail] = host.split("%", 1)[0]?.split("::") ?? [];
  const groups = head === "" ? [] : head.split(":");
  const rest = tail === undefined || tail === "" ? 0 : tail.split(":").length;
  const zeroes = tail === undefined ? 0 : Math.max(0, 8 - groups.length - rest);
  const all = [...groups, ...new Array<string>(zeroes).fill("0"), ...(tail?.split(":") ?? [])];
  return `${all.slice(0, 4).join(":")}::/64`;
}

/** asm-generic/socket.h */
const SO_PEERCRED = 17;
const SO_PEERGROUPS = 59;
/** struct ucred: pid, uid, gid. */
const UCRED_WORDS = 3;
const GROUPS_GUESS = 64;
/** NGROUPS_MAX of limits.h: no process has more. */
const GROUPS_MAX = 65_536;

/** The credentials of who connected, as the kernel noted them then. Throws Errno. */
export function unixPeer(fd: number): Peer {
  const credentials = new Uint32Array(UCRED_WORDS);
  if (socketOption(fd, SO_PEERCRED, credentials) !== credentials.byteLength) {
    throw new UnknownPeerError("SO_PEERCRED: the kernel's answer is not a struct ucred.");
  }
  const [pid = 0, uid = 0, gid = 0] = credentials;
  return { kind: "unix", uid, gid, pid, groups: [...new Set([gid, ...supplementaryGroups(fd)])] };
}

function supplementaryGroups(fd: number): Uint32Array {
  try {
    return groupsInto(fd, new Uint32Array(GROUPS_GUESS));
  } catch (error) {
    if (!(error instanceof Errno && error.code === "ERANGE")) throw error;
    return groupsInto(fd, new Uint32Array(GROUPS_MAX));
  }
}

function groupsInto(fd: number, groups: Uint32Array): Uint32Array {
  return groups.subarray(0, socketOption(fd, SO_PEERGROUPS, groups) / Uint32Array.BYTES_PER_ELEMENT);
}
