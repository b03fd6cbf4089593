/** One daemon and its subscribers, in processes of their own. */
import { fileURLToPath } from "node:url";
import type { RunningDaemon } from "../../test/support/daemon.js";
import { lossesOf, startDaemon } from "./daemon.js";
import type { Consumption, Load } from "./load.js";
import { type BenchProcess, startProcess } from "./processes.js";

const READER = fileURLToPath(new URL("../reader.js", import.meta.url));
/** A process each for so many; more share them, each on a connection of its own. */
const PROCESSES_MAX = 8;

export interface NmidOptions {
  readonly count: number;
  readonly event: string;
  readonly frequencyHz: number;
  readonly daemonArgs: readonly string[];
  /** What the subscribers ask for first, so that daemon and subscribers have run for a while: RunningLoad.raise ends it. */
  readonly firstHz?: number;
}

export function nmidName(count: number): string {
  return `nmid, ${count} subscriber${count === 1 ? "" : "s"}`;
}

/** `count` subscribers of a daemon that is started for the phase. */
export function nmid({ count, event, frequencyHz, daemonArgs, firstHz }: NmidOptions): Load {
  const processes = Math.min(count, PROCESSES_MAX);
  return {
    name: nmidName(count) + (firstHz === undefined ? "" : ", warm"),
    start: async () => {
      const daemon = await startDaemon(daemonArgs);
      const readers = Array.from({ length: processes }, (_, i) => {
        const share = Math.floor(count / processes) + (i < count % processes ? 1 : 0);
        const args = [daemon.address, `bench-${i}`, event, share].map(String);
        return startProcess(`reader ${i}`, process.execPath, [READER, ...args]);
      });
      const all = (line: string) => Promise.all(readers.map((reader) => reader.line(new RegExp(`"type":"${line}"`))));
      let registrations = 0;
      const register = async (hz: number) => {
        registrations++;
        for (const reader of readers) reader.write(`${hz}\n`);
        await all(`started ${registrations}`);
      };
      let lostBefore = 0;
      const stop = () => stopAll(daemon, readers, lostBefore);
      const raise = async () => {
        lostBefore = (await lossesOf(daemon)).kernelLost;
        await register(frequencyHz);
      };
      try {
        await all("connected");
        await register(firstHz ?? frequencyHz);
      } catch (error) {
        const log = daemon.logs.join("\n");
        await stop().catch(() => {});
        throw new Error(`subscribers could not start; log of the daemon:\n${log}`, { cause: error });
      }
      return {
        consumerPids: readers.map((reader) => reader.pid),
        daemonPid: daemon.pid,
        sampling: async () => {
          await all(`streaming ${registrations}`);
        },
        stop,
        ...(firstHz === undefined ? {} : { raise }),
      };
    },
  };
}

async function stopAll(
  daemon: RunningDaemon,
  readers: readonly BenchProcess[],
  lostBefore: number,
): Promise<Consumption[]> {
  try {
    const kernelLost = (await lossesOf(daemon)).kernelLost - lostBefore;
    // The end of its input asks a reader to deregister and print its books.
    const finished = await Promise.allSettled(readers.map((reader) => reader.stop()));
    for (const outcome of finished) if (outcome.status === "rejected") throw outcome.reason;
    const reports = await Promise.all(readers.map((reader) => reader.line(/"type":"books"/)));
    return reports.flatMap((report) =>
      (JSON.parse(report) as { consumers: Consumption[] }).consumers.map((consumer) => ({ ...consumer, kernelLost })),
    );
  } finally {
    await daemon.stop();
  }
}
