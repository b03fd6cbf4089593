/** The bare server in a process of its own. */
import path from "node:path";
import { fileURLToPath } from "node:url";
import { type BenchProcess, startProcess, withScratch } from "./processes.js";

const PROGRAM = fileURLToPath(new URL("../bare-server.js", import.meta.url));

export interface BareServer {
  readonly pid: number;
  readonly address: string;
  /** Has it write to the streams that there are. */
  begin(): void;
}

/** Runs `use` with a server of messages of that size, one to each stream in `intervalMs` or as fast as they are taken. */
export function withBareServer<T>(
  messageBytes: number,
  intervalMs: number | null,
  use: (server: BareServer) => Promise<T>,
): Promise<T> {
  return withScratch(async (directory) => {
    const socket = path.join(directory, "bare.sock");
    const args = [PROGRAM, socket, String(messageBytes), ...(intervalMs === null ? [] : [String(intervalMs)])];
    const server: BenchProcess = startProcess("bare server", process.execPath, args);
    try {
      await server.line(/^ready$/);
      return await use({ pid: server.pid, address: `unix:${socket}`, begin: () => server.write("go\n") });
    } finally {
      await server.stop();
    }
  });
}
