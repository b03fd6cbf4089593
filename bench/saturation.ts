/**
 * Samples as fast as the kernel makes them, on every CPU at once: how many reach four consumers of nmid and one
 * `perf record`, and how many the kernel had no room for. nmid is measured as it starts, and when it has run for ten
 * seconds. The CPUs are loaded so that there are samples, by programs that let the tools have what they want. Rounds are
 * interleaved.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { liveRefusal } from "./lib/daemon.js";
import type { Consumption, Load } from "./lib/load.js";
import { onlineCpus, samplingLimits } from "./lib/machine.js";
import { nmid } from "./lib/nmid.js";
import { perfRecord } from "./lib/perf-record.js";
import { withScratch } from "./lib/processes.js";
import { median, type Spread, spread, sum } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";
import { cpuSeconds } from "./lib/usage.js";
import { compileVictim, LEAST_URGENT, startVictims } from "./lib/victim.js";

const EVENT = "cpu-clock";
const CONSUMERS = 4;
/** A daemon runs for weeks: what its engine compiles in its first seconds is measured apart. */
const FIRST_HZ = 5_000;
const FIRST_MS = 10_000;

interface Measurement {
  readonly phase: string;
  readonly round: number;
  /** The rate asked for, and what the kernel allowed at the end. */
  readonly frequencyHz: number;
  readonly maxSampleRateAfter: number;
  /** Of each consumer on average, all CPUs. */
  readonly received: number;
  readonly receivedPerSecond: number;
  /** By the kernel's rings, and by the consumers' queues on average. */
  readonly kernelLost: number;
  readonly queueLost: number;
  /** Of all samples that the kernel took. */
  readonly kernelLostShare: number;
  readonly exact: boolean;
  /** CPU seconds a second, the daemon's among them. */
  readonly toolCpus: number;
  readonly consumers: readonly Consumption[];
}

async function measure(load: Load, round: number, frequencyHz: number, program: string, seconds: number) {
  const tool = await load.start();
  let consumers: readonly Consumption[] = [];
  let toolCpus = 0;
  try {
    // Only now, and gone before the tool stops: what starts and stops under such a load takes minutes.
    const victims = await startVictims(program, onlineCpus(), LEAST_URGENT);
    try {
      await tool.sampling();
      if (tool.raise !== undefined) {
        await delay(FIRST_MS);
        await tool.raise();
        await tool.sampling();
      }
      const pids = [...tool.consumerPids, ...(tool.daemonPid === undefined ? [] : [tool.daemonPid])];
      const before = cpuSeconds(pids);
      const startMs = performance.now();
      await delay(seconds * 1000);
      toolCpus = ((cpuSeconds(pids) - before) / (performance.now() - startMs)) * 1000;
    } finally {
      await victims.stop();
    }
  } finally {
    consumers = await tool.stop();
  }
  return summarize(load.name, round, frequencyHz, consumers, toolCpus);
}

function summarize(
  phase: string,
  round: number,
  frequencyHz: number,
  consumers: readonly Consumption[],
  toolCpus: number,
): Measurement {
  const mean = (of: (consumer: Consumption) => number) => sum(consumers.map(of)) / consumers.length;
  const received = mean((consumer) => consumer.received);
  const kernelLost = consumers[0]?.kernelLost ?? Number.NaN;
  const queueLost = mean(({ books }) => books?.lost ?? 0);
  return {
    phase,
    round,
    frequencyHz,
    maxSampleRateAfter: samplingLimits().maxSampleRate,
    received,
    receivedPerSecond: mean((consumer) => consumer.received / consumer.seconds),
    kernelLost,
    queueLost,
    kernelLostShare: kernelLost / (received + queueLost + kernelLost),
    exact: consumers.every(
      ({ received: got, books }) =>
        books === undefined || (books.delivered === got && books.matched === books.delivered + books.lost),
    ),
    toolCpus,
    consumers,
  };
}

function say(measurement: Measurement): void {
  const { round, phase, frequencyHz, maxSampleRateAfter, received, kernelLost, queueLost, exact } = measurement;
  console.log(
    `  round ${round}  ${phase.padEnd(20)} ${frequencyHz} Hz (${maxSampleRateAfter} afterwards): received ` +
      `${Math.round(received)} each, lost by the kernel ${kernelLost}, by queues ${Math.round(queueLost)} each` +
      `${exact ? "" : ", BOOKS WRONG"}`,
  );
}

interface PhaseSummary {
  readonly phase: string;
  readonly receivedPerSecond: Spread;
  readonly kernelLostShare: Spread;
  /** Received a second, of what `perf record` received. */
  readonly ofPerf: Spread;
  readonly toolCpus: number;
}

function summarizePhases(phases: readonly string[], measurements: readonly Measurement[]): PhaseSummary[] {
  const of = (phase: string) => measurements.filter((measurement) => measurement.phase === phase);
  const base = of(phases[0] as string);
  return phases.map((phase) => ({
    phase,
    receivedPerSecond: spread(of(phase).map(({ receivedPerSecond }) => receivedPerSecond)),
    kernelLostShare: spread(of(phase).map(({ kernelLostShare }) => kernelLostShare)),
    ofPerf: spread(
      of(phase).map(({ receivedPerSecond }, i) => receivedPerSecond / (base[i]?.receivedPerSecond ?? Number.NaN)),
    ),
    toolCpus: median(of(phase).map(({ toolCpus }) => toolCpus)),
  }));
}

function format(summary: readonly PhaseSummary[]): string {
  const percent = (share: number) => (share * 100).toFixed(2);
  return renderTable([
    ["phase", "samples/s to each", "of perf record's", "% lost by the kernel", "CPUs used by tools"],
    ...summary.map(({ phase, receivedPerSecond, kernelLostShare, ofPerf, toolCpus }) => [
      phase,
      Math.round(receivedPerSecond.median).toString(),
      `${ofPerf.median.toFixed(3)} (${ofPerf.min.toFixed(3)}-${ofPerf.max.toFixed(3)})`,
      `${percent(kernelLostShare.median)} (${percent(kernelLostShare.min)}-${percent(kernelLostShare.max)})`,
      toolCpus.toFixed(2),
    ]),
  ]);
}

async function run({ seconds, rounds }: BenchmarkOptions): Promise<object> {
  const refusal = await liveRefusal();
  if (refusal !== null) {
    console.log(`skipped, the kernel refuses live samples: ${refusal}`);
    return { skipped: refusal };
  }
  console.log(
    `${EVENT} at the kernel's highest rate, every CPU loaded at the lowest priority; ${rounds} rounds of ${seconds} s`,
  );
  return withScratch(async (directory) => {
    const program = compileVictim(directory);
    const nmidOptions = { count: CONSUMERS, event: EVENT, daemonArgs: ["--source", "perf"] };
    const measurements: Measurement[] = [];
    const phases = new Set<string>();
    for (let round = 1; round <= rounds; round++) {
      // The kernel may have lowered it meanwhile: both of a round are asked for the same.
      const frequencyHz = samplingLimits().maxSampleRate;
      for (const load of [
        perfRecord(1, EVENT, frequencyHz, directory),
        nmid({ ...nmidOptions, frequencyHz }),
        nmid({ ...nmidOptions, frequencyHz, firstHz: FIRST_HZ }),
      ]) {
        phases.add(load.name);
        const measurement = await measure(load, round, frequencyHz, program, seconds);
        measurements.push(measurement);
        say(measurement);
      }
    }
    const summary = summarizePhases([...phases], measurements);
    console.log(`\n${format(summary)}`);
    return { event: EVENT, consumers: CONSUMERS, measurements, summary };
  });
}

export const saturation: Benchmark = {
  description: "samples as fast as the kernel makes them to four consumers, beside perf record: what the kernel loses",
  seconds: 3,
  rounds: 3,
  run,
};
