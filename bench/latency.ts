/**
 * How old a sample is when a client gets it, at 1 kHz and without waiting for company: through nmid, and through the
 * least that does the same in C (bench/latency.c). One CPU is loaded; its samples count. Rounds are interleaved.
 */
import path from "node:path";
import { fileURLToPath } from "node:url";
import { REPOSITORY, type RunningDaemon } from "../test/support/daemon.js";
import type { LatencyRound } from "./latency-reader.js";
import { atMost, below, formatAims } from "./lib/aim.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { liveRefusal, withDaemon } from "./lib/daemon.js";
import { onlineCpus } from "./lib/machine.js";
import { type BenchProcess, runToEnd, startProcess, withScratch } from "./lib/processes.js";
import { quantile } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";
import { cpuSeconds, machineCpuSeconds } from "./lib/usage.js";
import { compileVictim, startVictims } from "./lib/victim.js";

const EVENT = "cpu-clock";
const FREQUENCY_HZ = 1000;
/** The client's code and the daemon's are compiled in here. */
const WARM_UP_MS = 1000;
/** For a round, besides what it measures. */
const PATIENCE_MS = 30_000;
const P50_TIMES_C_AIM = 3;
const P99_MS_AIM = 2;
const READER = fileURLToPath(new URL("./latency-reader.js", import.meta.url));

interface Latencies {
  readonly count: number;
  readonly p50Ns: number;
  readonly p99Ns: number;
  readonly p999Ns: number;
  readonly maxNs: number;
}

interface Round {
  readonly what: "nmid" | "C";
  readonly latencies: Latencies;
  readonly otherCpus: number;
}

function summarize(latenciesNs: readonly number[]): Latencies {
  const sorted = Float64Array.from(latenciesNs).sort();
  return {
    count: sorted.length,
    p50Ns: quantile(sorted, 0.5),
    p99Ns: quantile(sorted, 0.99),
    p999Ns: quantile(sorted, 0.999),
    maxNs: quantile(sorted, 1),
  };
}

/** One round of the C program, sampler and collector in processes of their own. */
async function roundOfC(program: string, directory: string, cpu: number, seconds: number): Promise<number[]> {
  const socket = path.join(directory, `latency-${process.hrtime.bigint()}.sock`);
  const durationMs = Math.round(seconds * 1000);
  const collect = ["collect", socket, cpu, WARM_UP_MS, durationMs].map(String);
  const collector = startProcess("collector in C", program, collect);
  let sampler: BenchProcess | null = null;
  try {
    await collector.line(/^ready$/);
    sampler = startProcess("sampler in C", program, ["sample", socket, FREQUENCY_HZ, ...onlineCpus()].map(String));
    const answer = await collector.line(/^latencies/, WARM_UP_MS + durationMs + PATIENCE_MS);
    return answer.split(" ").slice(1).map(Number);
  } finally {
    await sampler?.stop();
    await collector.stop("SIGTERM");
  }
}

async function roundOfNmid(reader: BenchProcess, round: number, seconds: number): Promise<LatencyRound> {
  const answer = reader.line(new RegExp(`^round ${round} `), WARM_UP_MS + seconds * 1000 + PATIENCE_MS);
  reader.write(`${round}\n`);
  const line = await answer;
  const result = JSON.parse(line.slice(line.indexOf("{"))) as LatencyRound;
  const { matched, delivered, lost, received } = result;
  if (delivered !== received || matched !== delivered + lost) {
    throw new Error(`books are wrong: received ${received}, matched ${matched}, delivered ${delivered}, lost ${lost}`);
  }
  return result;
}

/** CPU seconds a second of everything but these processes, while `measure` runs. */
async function withOthers<T>(pids: readonly number[], measure: () => Promise<T>) {
  const others = () => machineCpuSeconds() - cpuSeconds(pids);
  const [startMs, before] = [performance.now(), others()];
  const value = await measure();
  return { value, cpus: Math.max(0, ((others() - before) / (performance.now() - startMs)) * 1000) };
}

function say(round: number, { what, latencies, otherCpus }: Round): void {
  const { count, p50Ns, p99Ns, p999Ns, maxNs } = latencies;
  const [p50, p99, p999, max] = [p50Ns, p99Ns, p999Ns, maxNs].map((ns) => (ns / 1000).toFixed(1));
  console.log(
    `  round ${round}  ${what.padEnd(5)} ${count} samples: p50 ${p50} us, p99 ${p99} us, p99.9 ${p999} us, most ${max} us; ` +
      `CPUs used by others ${otherCpus.toFixed(2)}`,
  );
}

interface Measured {
  readonly rounds: readonly Round[];
  readonly nmid: Latencies;
  readonly c: Latencies;
  readonly lost: number;
}

async function measure(
  daemon: RunningDaemon,
  directory: string,
  { seconds, rounds }: BenchmarkOptions,
): Promise<Measured> {
  const cpu = onlineCpus().at(-1) as number;
  const program = path.join(directory, "latency");
  runToEnd("cc", ["-O2", "-o", program, path.join(REPOSITORY, "bench", "latency.c")]);
  const victims = await startVictims(compileVictim(directory), [cpu]);
  const args = [daemon.address, EVENT, FREQUENCY_HZ, cpu, WARM_UP_MS, Math.round(seconds * 1000)].map(String);
  const reader = startProcess("client of nmid", process.execPath, [READER, ...args]);
  const all = { nmid: [] as number[], c: [] as number[] };
  const done: Round[] = [];
  let lost = 0;
  const note = (round: number, what: Round["what"], latenciesNs: readonly number[], otherCpus: number) => {
    done.push({ what, latencies: summarize(latenciesNs), otherCpus });
    say(round, done[done.length - 1]);
  };
  try {
    await reader.line(/^ready$/);
    for (let round = 1; round <= rounds; round++) {
      // The C program's own share, two short-lived processes', is too small to tell apart.
      const c = await withOthers(victims.pids, () => roundOfC(program, directory, cpu, seconds));
      all.c.push(...c.value);
      note(round, "C", c.value, c.cpus);
      const own = [...victims.pids, daemon.pid, reader.pid];
      const nmid = await withOthers(own, () => roundOfNmid(reader, round, seconds));
      all.nmid.push(...nmid.value.latenciesNs);
      lost += nmid.value.lost;
      note(round, "nmid", nmid.value.latenciesNs, nmid.cpus);
    }
  } finally {
    await reader.stop("SIGTERM");
    await victims.stop();
  }
  return { rounds: done, nmid: summarize(all.nmid), c: summarize(all.c), lost };
}

function format({ nmid, c }: Measured): string {
  const us = (ns: number) => (ns / 1000).toFixed(1);
  const row = ({ count, p50Ns, p99Ns, p999Ns, maxNs }: Latencies) => [
    String(count),
    ...[p50Ns, p99Ns, p999Ns, maxNs].map(us),
  ];
  const keys = ["p50Ns", "p99Ns", "p999Ns", "maxNs"] as const;
  return renderTable([
    ["from sample to client", "samples", "p50 us", "p99 us", "p99.9 us", "most us"],
    ["nmid", ...row(nmid)],
    ["C", ...row(c)],
    ["times C", "", ...keys.map((key) => (nmid[key] / c[key]).toFixed(2))],
  ]);
}

async function run(options: BenchmarkOptions): Promise<object> {
  const refusal = await liveRefusal();
  if (refusal !== null) {
    console.log(`skipped, the kernel refuses live samples: ${refusal}`);
    return { skipped: refusal };
  }
  console.log(`${EVENT} at ${FREQUENCY_HZ} Hz, flush_interval_ms 0; ${options.rounds} rounds of ${options.seconds} s`);
  return withScratch((directory) =>
    withDaemon(["--source", "perf"], async (daemon) => {
      const measured = await measure(daemon, directory, options);
      const { nmid, c } = measured;
      const aims = [
        atMost("p50, of the C program's", nmid.p50Ns / c.p50Ns, P50_TIMES_C_AIM),
        below("p99 in ms", nmid.p99Ns / 1e6, P99_MS_AIM),
      ];
      console.log(`\n${format(measured)}\n\nlost ${measured.lost}\n\n${formatAims(aims)}`);
      return { event: EVENT, frequencyHz: FREQUENCY_HZ, ...measured, aims };
    }),
  );
}

export const latency: Benchmark = {
  description: "the age of a sample when a client gets it, beside the least that does the same in C",
  seconds: 5,
  rounds: 3,
  run,
};
