/** The program whose speed is measured, one a CPU. */
import os from "node:os";
import path from "node:path";
import { REPOSITORY } from "../../test/support/daemon.js";
import { type BenchProcess, runToEnd, startProcess } from "./processes.js";
import { sum } from "./stats.js";

/** From the request to the common start of all victims: they are told one after the other. */
const START_DELAY_NS = 100_000_000n;

export interface VictimResult {
  readonly cpu: number;
  readonly blocks: number;
  readonly elapsedNs: number;
}

export interface Victims {
  readonly pids: readonly number[];
  /** Blocks of work that each finishes in `seconds`, all in the same period of time. */
  measure(seconds: number): Promise<VictimResult[]>;
  stop(): Promise<void>;
}

/** Compiles bench/victim.c into `directory`; returns the program's path. */
export function compileVictim(directory: string): string {
  const program = path.join(directory, "victim");
  runToEnd("cc", ["-O2", "-o", program, path.join(REPOSITORY, "bench", "victim.c")]);
  return program;
}

/** For victims that only keep CPUs from idling, so that there are samples: whoever wants a CPU gets it. */
export const LEAST_URGENT = os.constants.priority.PRIORITY_LOW;

/** Pins a victim to each of the CPUs and loads it until stop(). `nice` as nice(1) takes it. */
export async function startVictims(program: string, cpus: readonly number[], nice = 0): Promise<Victims> {
  const victims = cpus.map((cpu) => startProcess(`victim on CPU ${cpu}`, program, [String(cpu)]));
  const stop = async () => {
    await Promise.all(victims.map((victim) => victim.stop("SIGTERM")));
  };
  try {
    await Promise.all(victims.map((victim) => victim.line(/^ready$/)));
    if (nice !== 0) for (const { pid } of victims) os.setPriority(pid, nice);
  } catch (error) {
    await stop();
    throw error;
  }
  const measure = (seconds: number) => {
    // Node's hrtime is CLOCK_MONOTONIC.
    const order = `run ${process.hrtime.bigint() + START_DELAY_NS} ${Math.round(seconds * 1e9)}\n`;
    for (const victim of victims) victim.write(order);
    return Promise.all(victims.map((victim, i) => result(victim, cpus[i] as number)));
  };
  return { pids: victims.map((victim) => victim.pid), measure, stop };
}

async function result(victim: BenchProcess, cpu: number): Promise<VictimResult> {
  const [, blocks, elapsedNs] = (await victim.line(/^done /)).split(" ").map(Number);
  return { cpu, blocks: blocks as number, elapsedNs: elapsedNs as number };
}

/** Blocks a second, summed over the victims. */
export function speed(results: readonly VictimResult[]): number {
  return sum(results.map(({ blocks, elapsedNs }) => (blocks / elapsedNs) * 1e9));
}
