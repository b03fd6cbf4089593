/** Many subscribers in a few processes, and what they receive in a period of time. */
import { fileURLToPath } from "node:url";
import type { RegisterRequest } from "../../clients/typescript/index.js";
import type { SubscribersOrder, SubscribersResult, SubscribersSnapshot } from "../subscribers.js";
import { type BenchProcess, startProcess } from "./processes.js";
import { sum } from "./stats.js";
import { openFilesMax } from "./usage.js";

const PROGRAM = fileURLToPath(new URL("../subscribers.js", import.meta.url));
/** A thousand processes do not fit a small machine; more than one, so that the reading is no bottleneck of its own. */
const PROCESSES_MAX = 2;
/** A thousand registrations with a daemon that is busy, and a thousand queues that are written out, take their time. */
const TIMEOUT_MS = 180_000;
/** What a process has open besides its connections. */
const FILES_BESIDES = 100;

export interface SubscribersOptions {
  readonly address: string;
  readonly count: number;
  readonly register: Omit<RegisterRequest, "name"> | null;
  readonly nothingMatches?: boolean;
  readonly subscribe?: boolean;
}

/** A second, all subscribers together. */
export interface Throughput {
  readonly samples: number;
  readonly bytes: number;
  readonly messages: number;
}

/** Throws where the limit on open files does not allow that many connections to one server. */
export function checkOpenFiles(connections: number): void {
  const limit = openFilesMax();
  if (connections + FILES_BESIDES <= limit) return;
  throw new Error(
    `${connections} connections do not fit the limit of ${limit} open files: raise it (ulimit -n), or give --subscribers`,
  );
}

/** The daemon was too busy to register them all within a minute each. */
export class TooBusyError extends Error {
  override readonly name = "TooBusyError";
}

export class Subscribers {
  readonly pids: readonly number[];
  readonly #processes: readonly BenchProcess[];
  #snapshots = 0;

  private constructor(processes: readonly BenchProcess[]) {
    this.#processes = processes;
    this.pids = processes.map((process) => process.pid);
  }

  /** Resolves when every one has registered, or has its stream's first message. Rejects with TooBusyError, too. */
  static async start({ count, ...options }: SubscribersOptions): Promise<Subscribers> {
    checkOpenFiles(count);
    const share = Math.ceil(count / Math.min(count, PROCESSES_MAX));
    const processes: BenchProcess[] = [];
    for (let first = 0; first < count; first += share) {
      const order: SubscribersOrder = {
        nothingMatches: false,
        subscribe: true,
        ...options,
        first,
        count: Math.min(share, count - first),
      };
      processes.push(startProcess("subscribers", process.execPath, [PROGRAM, JSON.stringify(order)]));
    }
    const subscribers = new Subscribers(processes);
    try {
      const opened = await Promise.all(processes.map((process) => process.line(/"type":"(ready|late)"/, TIMEOUT_MS)));
      if (opened.some((line) => line.includes("late"))) throw new TooBusyError(`${count} subscribers, not registered`);
    } catch (error) {
      await subscribers.kill();
      throw error;
    }
    return subscribers;
  }

  async snapshot(): Promise<SubscribersSnapshot[]> {
    const id = ++this.#snapshots;
    const answers = this.#processes.map((process) => process.line(new RegExp(`"type":"snapshot ${id}"`)));
    for (const process of this.#processes) process.write(`snapshot ${id}\n`);
    return (await Promise.all(answers)).map((line) => JSON.parse(line) as SubscribersSnapshot);
  }

  /** Ends all streams; the daemon's handlers are deregistered and their books checked. */
  async finish(): Promise<SubscribersResult> {
    const answers = this.#processes.map((process) => process.line(/"type":"finished"/, TIMEOUT_MS));
    for (const process of this.#processes) process.write("finish\n");
    const results = (await Promise.all(answers)).map((line) => JSON.parse(line) as SubscribersResult);
    await Promise.all(this.#processes.map((process) => process.stop()));
    const total = (key: Exclude<keyof SubscribersResult, "exact">) => sum(results.map((result) => result[key]));
    return {
      samples: total("samples"),
      bytes: total("bytes"),
      messages: total("messages"),
      matched: total("matched"),
      delivered: total("delivered"),
      lost: total("lost"),
      exact: results.every(({ exact }) => exact),
    };
  }

  /** Ends the processes, whatever they are doing. */
  async kill(): Promise<void> {
    await Promise.allSettled(this.#processes.map((process) => process.stop("SIGKILL")));
  }
}

/** What was received between two snapshots. Each process has its own clock of when it was asked. */
export function throughput(before: readonly SubscribersSnapshot[], after: readonly SubscribersSnapshot[]): Throughput {
  const rate = (key: keyof Throughput) =>
    sum(
      after.map((end, i) => {
        const start = before[i] as SubscribersSnapshot;
        return ((end[key] - start[key]) / (end.atNs - start.atNs)) * 1e9;
      }),
    );
  return { samples: rate("samples"), bytes: rate("bytes"), messages: rate("messages") };
}
