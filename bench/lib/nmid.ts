/** One daemon and its subscribers, each in a process of its own. */
import { fileURLToPath } from "node:url";
import { connect } from "../../clients/typescript/index.js";
import { type RunningDaemon, spawnDaemon } from "../../test/support/daemon.js";
import type { Consumption, Load } from "./load.js";
import { type BenchProcess, killOnExit, startProcess } from "./processes.js";

const READER = fileURLToPath(new URL("../reader.js", import.meta.url));

/** `count` subscribers on `event` of a daemon that is started for the phase with `daemonArgs`. */
export function nmid(count: number, event: string, frequencyHz: number, daemonArgs: readonly string[]): Load {
  return {
    name: `nmid, ${count} subscribers`,
    start: async () => {
      const daemon = await spawnDaemon({ args: ["--log-level", "info", ...daemonArgs] });
      killOnExit(daemon.pid, daemon.exited);
      const readers = Array.from({ length: count }, (_, i) =>
        startProcess(`subscriber ${i}`, process.execPath, [
          READER,
          daemon.address,
          `bench-${i}`,
          event,
          String(frequencyHz),
        ]),
      );
      const stop = () => stopAll(daemon, readers);
      try {
        await Promise.all(readers.map((reader) => reader.line(/"type":"started"/)));
      } catch (error) {
        const log = daemon.logs.join("\n");
        await stop().catch(() => {});
        throw new Error(`subscribers could not start; log of the daemon:\n${log}`, { cause: error });
      }
      return {
        consumerPids: readers.map((reader) => reader.pid),
        daemonPid: daemon.pid,
        sampling: async () => {
          await Promise.all(readers.map((reader) => reader.line(/"type":"streaming"/)));
        },
        stop,
      };
    },
  };
}

async function stopAll(daemon: RunningDaemon, readers: readonly BenchProcess[]): Promise<Consumption[]> {
  try {
    const kernelLost = await readKernelLost(daemon.address);
    // The end of its input asks a reader to deregister and print its books.
    const finished = await Promise.allSettled(readers.map((reader) => reader.stop()));
    for (const outcome of finished) if (outcome.status === "rejected") throw outcome.reason;
    const reports = await Promise.all(readers.map((reader) => reader.line(/"type":"books"/)));
    return reports.map((report) => ({ ...(JSON.parse(report) as Consumption), kernelLost }));
  } finally {
    await daemon.stop();
  }
}

async function readKernelLost(address: string): Promise<number> {
  const client = connect(address);
  try {
    return (await client.getStatus()).totals?.kernelLost ?? 0;
  } finally {
    client.close();
  }
}
