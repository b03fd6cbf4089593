/** Sockets that the daemon listens on: its own, and those that systemd has opened for it. */

import { lookup } from "node:dns/promises";
import { chmodSync, chownSync, existsSync, lstatSync, mkdirSync, rmSync } from "node:fs";
import { type AddressInfo, connect, createServer, type ListenOptions, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import { groupId } from "../../pmu/ffi.js";
import { formatListenAddress, type ListenAddress, type TcpAddress } from "../config/address.js";
import { formatPassed, type PassedSocket } from "./listen-fds.js";

export class ListenError extends Error {
  override readonly name = "ListenError";
}

/** Connecting to a socket whose owner is dead fails at once; a live one answers at once. */
const PROBE_MS = 2000;
/** Nobody may connect until group and mode are what they should be. */
const NOBODY_UMASK = 0o777;
/** Where there is a group of this name, Unix sockets belong to it unless told otherwise. */
const DEFAULT_GROUP = "nmid";
/** What connects while the daemon is busy waits here. */
const BACKLOG = 511;
/** chown(2) leaves an id alone that is -1. */
const KEEP_ID = -1;

export interface SocketAccess {
  /** Permissions of the file, such as 0o660. */
  readonly mode: number;
  /** By name; null: nmid where there is one, else the daemon's own. */
  readonly group: string | null;
}

export interface Listener {
  /** As bound: port 0 has become a number. As clients take it. */
  readonly address: string;
  /** Accepts no more. What was accepted lives on. Removes a socket file that it has made. */
  close(): void;
}

export interface ListenOn {
  readonly accept: (socket: Socket) => void;
  /** A connection could not be accepted, for want of file descriptors or memory; those after it may. */
  readonly onError: (error: Error) => void;
}

/** Makes the directory where it is missing, and takes over the socket of a daemon that has died. Rejects with ListenError. */
export async function listenUnix(
  path: string,
  access: SocketAccess,
  on: ListenOn,
  warn: (message: string) => void,
): Promise<Listener> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  await removeDeadSocket(path);
  const address = formatListenAddress({ kind: "unix", path });
  const server = await open(address, on, { path }, NOBODY_UMASK);
  try {
    giveAccess(path, access, warn);
  } catch (error) {
    server.close();
    throw error;
  }
  return {
    address,
    close: () => {
      server.close();
      rmSync(path, { force: true });
    },
  };
}

function giveAccess(path: string, { mode, group }: SocketAccess, warn: (message: string) => void): void {
  const gid = groupId(group ?? DEFAULT_GROUP);
  if (gid === null && group !== null) {
    throw new ListenError(`socket_group: there is no group ${group}: create it, or name another.`);
  }
  if (gid !== null) {
    try {
      chownSync(path, KEEP_ID, gid);
    } catch (error) {
      const message = `cannot give ${path} to the group ${group ?? DEFAULT_GROUP}: ${(error as Error).message}: make the daemon's user a member of it`;
      if (group !== null) throw new ListenError(`socket_group: ${message}, or name another.`, { cause: error });
      warn(`${message}; it belongs to the daemon's own group`);
    }
  }
  chmodSync(path, mode);
}

/** Every address that the host's name stands for, on one port. Rejects with ListenError when there is none to be had. */
export async function listenTcp({ host, port }: TcpAddress, on: ListenOn): Promise<Listener> {
  const text = formatListenAddress({ kind: "tcp", host, port });
  const servers: Server[] = [];
  let problem: unknown = new Error("the name has no address");
  let bound = port;
  for (const { address } of await resolve(host, text)) {
    try {
      const server = await open(text, on, { host: address, port: bound }, null);
      servers.push(server);
      bound = (server.address() as AddressInfo).port;
    } catch (error) {
      problem = error;
    }
  }
  if (servers.length === 0) throw problem;
  return {
    address: formatListenAddress({ kind: "tcp", host, port: bound }),
    close: () => {
      for (const server of servers) server.close();
    },
  };
}

async function resolve(host: string, text: string): Promise<readonly { readonly address: string }[]> {
  try {
    return await lookup(host, { all: true });
  } catch (error) {
    throw listenError(text, error as Error);
  }
}

/** A socket that systemd has bound, and will bind again: nothing of it is changed or removed. */
export async function listenPassed(passed: PassedSocket, on: ListenOn): Promise<Listener> {
  const server = await open(formatPassed(passed), on, { fd: passed.fd } as ListenOptions, null);
  return { address: formatListenAddress(passed.address), close: () => server.close() };
}

function open(text: string, on: ListenOn, options: ListenOptions, umask: number | null): Promise<Server> {
  // What is accepted is handed to HTTP/2, which does not leave connections half open.
  const server = createServer({ noDelay: true }, on.accept);
  return new Promise((resolve, reject) => {
    const failed = (error: Error): void => reject(listenError(text, error));
    server.once("error", failed);
    server.once("listening", () => {
      server.off("error", failed);
      server.on("error", on.onError);
      resolve(server);
    });
    // Binding happens within the call.
    const before = umask === null ? null : process.umask(umask);
    try {
      server.listen({ ...options, backlog: BACKLOG });
    } finally {
      if (before !== null) process.umask(before);
    }
  });
}

function listenError(text: string, cause: Error): ListenError {
  return new ListenError(
    `cannot listen on ${text}: ${cause.message}. Is another program using it? Give --listen another address.`,
    { cause },
  );
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

/** Where to listen: what was passed in the place of what it is bound to; all of it, and the rest of what is configured. */
export function planListening(
  configured: readonly ListenAddress[],
  isDefault: boolean,
  passed: readonly PassedSocket[],
): readonly (ListenAddress | PassedSocket)[] {
  const bound = new Set(passed.map(({ address }) => formatListenAddress(address)));
  const own = isDefault && passed.length > 0 ? [] : configured;
  return [...passed, ...own.filter((address) => !bound.has(formatListenAddress(address)))];
}
