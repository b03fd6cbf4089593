/**
 * What many consumers of one event cost the machine: a victim's speed alone, beside one `perf record`, beside eight, and
 * beside nmid with 1 to 64 subscribers. Phases are interleaved, so that what changes slowly changes all of them.
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Aim, atLeast, below, formatAims } from "./lib/aim.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { type Consumption, type Load, nothing, type RunningLoad } from "./lib/load.js";
import { onlineCpus, samplingLimits } from "./lib/machine.js";
import { nmid, nmidName } from "./lib/nmid.js";
import { perfRecord } from "./lib/perf-record.js";
import { withScratch } from "./lib/processes.js";
import { median, type Spread, spread, sum } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";
import { cpuSeconds, machineCpuSeconds } from "./lib/usage.js";
import { compileVictim, speed, startVictims, type VictimResult } from "./lib/victim.js";

const WARM_UP_MS = 8000;
const EVENT = "cpu-clock";
const FREQUENCY_HZ = 10_000;
const CONSUMERS = [1, 8, 16, 64];
/** More of them would only say more loudly what eight say. */
const PERF_RECORDS = 8;
const LOSS_GROWTH_AIM = 0.1;
/** Speed beside so many consumers, of that beside one `perf record`. */
const OF_ONE_PERF_AIMS = [
  [8, 0.95],
  [64, 0.85],
] as const;
const BASELINE = "one perf record";

interface Scenario {
  readonly name: string;
  readonly victimCpus: readonly number[];
}

/** One phase in one round. */
interface Measurement {
  readonly phase: string;
  readonly round: number;
  readonly victims: readonly VictimResult[];
  /** Blocks of work a second, all victims. */
  readonly speed: number;
  /** CPU seconds a second while the victims were timed. */
  readonly consumerCpus: number;
  readonly daemonCpus: number;
  /** What neither victims nor tools used: a figure taken beside a busy neighbour says little. */
  readonly otherCpus: number;
  readonly consumers: readonly Consumption[];
}

interface PhaseSummary {
  readonly phase: string;
  /** Medians, least and greatest of the rounds' ratios. */
  readonly ofAlone: Spread;
  readonly ofOnePerf: Spread;
  readonly consumerCpus: number;
  readonly daemonCpus: number;
  readonly otherCpus: number;
}

interface ScenarioResult extends Scenario {
  readonly measurements: readonly Measurement[];
  readonly summary: readonly PhaseSummary[];
}

function usage({ consumerPids, daemonPid }: RunningLoad, victimPids: readonly number[]) {
  const consumers = cpuSeconds(consumerPids);
  const daemon = daemonPid === undefined ? 0 : cpuSeconds([daemonPid]);
  return { consumers, daemon, others: machineCpuSeconds() - consumers - daemon - cpuSeconds(victimPids) };
}

async function measure(load: Load, round: number, program: string, cpus: readonly number[], seconds: number) {
  const running = await load.start();
  let consumers: readonly Consumption[] = [];
  let measured: Pick<Measurement, "victims" | "consumerCpus" | "daemonCpus" | "otherCpus">;
  try {
    const victims = await startVictims(program, cpus);
    try {
      await running.sampling();
      // Consumers run for hours: what an engine takes to compile their first messages is not what they cost.
      await delay(WARM_UP_MS);
      const before = usage(running, victims.pids);
      const results = await victims.measure(seconds);
      const after = usage(running, victims.pids);
      measured = {
        victims: results,
        consumerCpus: (after.consumers - before.consumers) / seconds,
        daemonCpus: (after.daemon - before.daemon) / seconds,
        otherCpus: Math.max(0, after.others - before.others) / seconds,
      };
    } finally {
      await victims.stop();
    }
  } finally {
    consumers = await running.stop();
  }
  return { phase: load.name, round, ...measured, speed: speed(measured.victims), consumers } satisfies Measurement;
}

function summarize(phases: readonly string[], measurements: readonly Measurement[]): PhaseSummary[] {
  const of = (phase: string) => measurements.filter((measurement) => measurement.phase === phase);
  const ratios = (phase: string, base: string) => {
    const bases = of(base);
    return of(phase).map((measurement, round) => measurement.speed / (bases[round]?.speed ?? Number.NaN));
  };
  return phases.map((phase) => ({
    phase,
    ofAlone: spread(ratios(phase, nothing.name)),
    ofOnePerf: spread(ratios(phase, BASELINE)),
    consumerCpus: median(of(phase).map((measurement) => measurement.consumerCpus)),
    daemonCpus: median(of(phase).map((measurement) => measurement.daemonCpus)),
    otherCpus: median(of(phase).map((measurement) => measurement.otherCpus)),
  }));
}

function formatSummary(summary: readonly PhaseSummary[]): string {
  const ratio = ({ median: middle, min, max }: Spread) => `${middle.toFixed(3)} (${min.toFixed(3)}-${max.toFixed(3)})`;
  return renderTable([
    ["phase", "of speed alone", "of one perf record", "CPUs used by consumers", "by the daemon", "by others"],
    ...summary.map(({ phase, ofAlone, ofOnePerf, consumerCpus, daemonCpus, otherCpus }) => [
      phase,
      ratio(ofAlone),
      ratio(ofOnePerf),
      consumerCpus.toFixed(2),
      daemonCpus.toFixed(2),
      otherCpus.toFixed(2),
    ]),
  ]);
}

/** Each consumer's samples a second on the victims' CPUs; over all CPUs where it does not tell them apart. */
function rates(consumers: readonly Consumption[], cpus: readonly number[]): Spread {
  return spread(
    consumers.map(({ received, perCpu, seconds }) => {
      const told = Object.keys(perCpu).length > 0;
      return (told ? sum(cpus.map((cpu) => perCpu[cpu] ?? 0)) / cpus.length : received) / seconds;
    }),
  );
}

function formatConsumers(measurement: Measurement, cpus: readonly number[]): string {
  const { consumers } = measurement;
  if (consumers.length === 0) return "";
  const { min, max } = rates(consumers, cpus);
  const where = consumers[0]?.books === undefined ? "samples/s, all CPUs" : "samples/s on each victim's CPU";
  const rate = `${Math.round(min)}-${Math.round(max)} ${where}`;
  const books = consumers.flatMap((consumer) => consumer.books ?? []);
  if (books.length === 0) return rate;
  const exact = consumers.every(
    ({ received, books: told }) => told?.delivered === received && told.matched === told.delivered + told.lost,
  );
  const total = (key: "matched" | "delivered" | "lost") => sum(books.map((book) => book[key]));
  return (
    `${rate}; matched ${total("matched")} = delivered ${total("delivered")} + lost ${total("lost")}, ` +
    `${exact ? "books exact" : "BOOKS WRONG"}; kernel lost ${consumers[0]?.kernelLost ?? 0}`
  );
}

async function runScenario(
  scenario: Scenario,
  loads: readonly Load[],
  program: string,
  { seconds, rounds }: BenchmarkOptions,
): Promise<ScenarioResult> {
  console.log(`\n${scenario.name}`);
  const measurements: Measurement[] = [];
  for (let round = 1; round <= rounds; round++) {
    for (const load of loads) {
      const measurement = await measure(load, round, program, scenario.victimCpus, seconds);
      measurements.push(measurement);
      const blocks = Math.round(measurement.speed).toString();
      const told = formatConsumers(measurement, scenario.victimCpus);
      console.log(`  round ${round}  ${load.name.padEnd(20)} ${blocks.padStart(8)} blocks/s  ${told}`.trimEnd());
    }
  }
  const phases = loads.map((load) => load.name);
  const summary = summarize(phases, measurements);
  console.log(`\n${formatSummary(summary)}`);
  return { ...scenario, measurements, summary };
}

/** Loss of speed to 64 consumers beside that to one, and what is left of one `perf record`'s speed. */
function aimsOf({ victimCpus, summary }: ScenarioResult): Aim[] {
  const of = (count: number) => summary.find(({ phase }) => phase === nmidName(count)) as PhaseSummary;
  if (victimCpus.length === 1) {
    const loss = (count: number) => 1 - of(count).ofAlone.median;
    return [below("one victim, growth of its loss from 1 to 64 consumers", loss(64) / loss(1) - 1, LOSS_GROWTH_AIM)];
  }
  return OF_ONE_PERF_AIMS.map(([count, aim]) =>
    atLeast(`a victim on every CPU, ${count} consumers, of one perf record`, of(count).ofOnePerf.median, aim),
  );
}

async function run(options: BenchmarkOptions): Promise<object> {
  return withScratch(async (directory) => {
    const frequencyHz = Math.min(FREQUENCY_HZ, samplingLimits().maxSampleRate);
    console.log(`${EVENT} at ${frequencyHz} Hz; ${options.rounds} rounds of ${options.seconds} s`);
    const program = compileVictim(directory);
    const loads = [
      nothing,
      perfRecord(1, EVENT, frequencyHz, directory),
      perfRecord(PERF_RECORDS, EVENT, frequencyHz, directory),
      ...CONSUMERS.map((count) => nmid({ count, event: EVENT, frequencyHz, daemonArgs: ["--source", "perf"] })),
    ];
    const cpus = onlineCpus();
    const scenarios: Scenario[] = [
      { name: `one victim, on CPU ${cpus.at(-1)}; the tools may use every CPU`, victimCpus: cpus.slice(-1) },
      { name: `a victim on each of ${cpus.length} CPUs; their work summed`, victimCpus: cpus },
    ];
    const results: ScenarioResult[] = [];
    for (const scenario of scenarios) results.push(await runScenario(scenario, loads, program, options));
    const aims = results.flatMap(aimsOf);
    console.log(`\n${formatAims(aims)}`);
    return { event: EVENT, frequencyHz, scenarios: results, aims };
  });
}

export const sharing: Benchmark = {
  description: "a victim's speed beside nmid with 1 to 64 subscribers, and beside perf record",
  seconds: 3,
  rounds: 5,
  run,
};
