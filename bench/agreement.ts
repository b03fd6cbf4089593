/**
 * Whether `nmictl record` tells the same of a program as `perf record`, beside it at the same time, and both what the
 * program knows of itself (bench/hotspots.c): same functions in the same order, shares within sampling error. That the
 * tests can fail is shown by a workload with shares that are shifted, which they must tell from the first.
 *
 * The tests need independent samples. A sample's function says nothing of the next one's, since between two samples lie
 * some hundred calls in pseudo-random order; that is tested, too. Nor do the recorders' samples depend on each other, but
 * where both fall into one call: their rates are different so that the phases drift, and a call is a hundredth of a period.
 */
import fs from "node:fs";
import path from "node:path";
import { REPOSITORY } from "../test/support/daemon.js";
import { type Aim, atLeast, below, formatAims } from "./lib/aim.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { type ChiSquareTest, chiSquareCritical, goodnessOfFit, homogeneity, pooled } from "./lib/chi-square.js";
import { liveRefusal, withDaemon } from "./lib/daemon.js";
import { onlineCpus } from "./lib/machine.js";
import { GROWTH_BYTES } from "./lib/perf-record.js";
import { type BenchProcess, runToEnd, startProcess, withScratch } from "./lib/processes.js";
import { nmictlRecord, perfRecordPid, symbolsOf, untilGrown } from "./lib/recorders.js";
import { sum } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";

/** The kernel's own work for the interrupts is in neither the truth nor the profiles. */
const EVENT = "cpu-clock:u";
const NMICTL_HZ = 4_987;
const PERF_HZ = 5_003;
const FUNCTIONS = 8;
/** Of the first function's weight, to the fourth. */
const SHIFT_PERCENT = 10;
/** Of each test over all rounds: one run in a thousand rejects what is true. */
const LEVEL = 0.001;
/** The program asks for CPU time, and may have to wait for it. */
const RUN_TIMEOUT_MS = 300_000;

interface Profile {
  /** Samples by hot function. */
  readonly counts: readonly number[];
  /** Whether a sample's function depends on that of the sample before it. */
  readonly independence: ChiSquareTest;
}

/** One workload under both recorders. */
interface Observation {
  readonly nmictl: Profile;
  readonly perf: Profile;
  /** TSC ticks by function, measured by the program. */
  readonly truth: readonly number[];
  readonly calls: number;
  readonly interrupted: number;
}

interface Round {
  readonly plain: Observation;
  readonly shifted: Observation;
}

interface NamedTest {
  readonly what: string;
  readonly test: ChiSquareTest;
  /** What the statistic must stay below, or must exceed. */
  readonly critical: number;
  readonly rejected: boolean;
  /** Whether it should be. */
  readonly different: boolean;
}

function profileOf(file: string): Profile {
  const functions = symbolsOf(file).flatMap((symbol) => {
    const number = /^hot_(\d)$/.exec(symbol)?.[1];
    return number === undefined ? [] : [Number(number)];
  });
  const counts = new Array<number>(FUNCTIONS).fill(0);
  const followers = Array.from({ length: FUNCTIONS }, () => new Array<number>(FUNCTIONS).fill(0));
  for (const [i, own] of functions.entries()) {
    counts[own] = (counts[own] as number) + 1;
    // Pairs that do not overlap.
    const [row, after] = [followers[own] as number[], functions[i + 1]];
    if (i % 2 === 0 && after !== undefined) row[after] = (row[after] as number) + 1;
  }
  return { counts, independence: homogeneity(...followers) };
}

async function observe(program: string, shift: number, address: string, directory: string, seconds: number) {
  const cpu = onlineCpus().at(-1) as number;
  const files = { nmictl: path.join(directory, "nmictl.data"), perf: path.join(directory, "perf.data") };
  const workload = startProcess("hotspots", program, [String(cpu), String(shift)]);
  const recorders: BenchProcess[] = [];
  try {
    await workload.line(/^ready$/);
    const nmictl = nmictlRecord(address, EVENT, NMICTL_HZ, workload.pid, files.nmictl);
    recorders.push(nmictl);
    const perf = perfRecordPid(EVENT, PERF_HZ, workload.pid, files.perf);
    recorders.push(perf);
    await Promise.all([untilGrown(nmictl, files.nmictl, GROWTH_BYTES), untilGrown(perf, files.perf, GROWTH_BYTES)]);
    workload.write(`run ${Math.round(seconds * 1e9)}\n`);
    const [calls = 0, interrupted = 0, ...truth] = (await workload.line(/^done /, RUN_TIMEOUT_MS))
      .split(" ")
      .slice(1)
      .map(Number);
    await Promise.all(recorders.splice(0).map((recorder) => recorder.stop("SIGINT")));
    return {
      nmictl: profileOf(files.nmictl),
      perf: profileOf(files.perf),
      truth,
      calls,
      interrupted,
    } satisfies Observation;
  } finally {
    await Promise.allSettled([...recorders, workload].map((process) => process.stop("SIGKILL")));
    for (const file of Object.values(files)) fs.rmSync(file, { force: true });
  }
}

function named(what: string, tests: readonly ChiSquareTest[], different = false): NamedTest {
  const test = pooled(tests);
  const critical = chiSquareCritical(LEVEL, test.degreesOfFreedom);
  return { what, test, critical, rejected: test.p < LEVEL, different };
}

function testsOf(rounds: readonly Round[]): NamedTest[] {
  const all = rounds.flatMap(({ plain, shifted }) => [plain, shifted]);
  const each = (test: (observation: Observation) => ChiSquareTest) => all.map(test);
  const across = (test: (round: Round) => ChiSquareTest) => rounds.map(test);
  return [
    named(
      "nmictl and perf",
      each(({ nmictl, perf }) => homogeneity(nmictl.counts, perf.counts)),
    ),
    named(
      "nmictl and the truth",
      each(({ nmictl, truth }) => goodnessOfFit(nmictl.counts, truth)),
    ),
    named(
      "perf and the truth",
      each(({ perf, truth }) => goodnessOfFit(perf.counts, truth)),
    ),
    named(
      "nmictl, successive samples",
      each(({ nmictl }) => nmictl.independence),
    ),
    named(
      "perf, successive samples",
      each(({ perf }) => perf.independence),
    ),
    // Of each round alone: the weakest has to see it.
    ...[
      across(({ plain, shifted }) => homogeneity(plain.nmictl.counts, shifted.perf.counts)),
      across(({ plain, shifted }) => goodnessOfFit(plain.nmictl.counts, shifted.truth)),
      across(({ plain, shifted }) => goodnessOfFit(plain.perf.counts, shifted.truth)),
    ].map((tests, i) => {
      const weakest = tests.reduce((least, test) => (test.statistic < least.statistic ? test : least));
      const who = ["nmictl and perf", "nmictl and the truth", "perf and the truth"][i];
      return named(`${who}, shifted (weakest round)`, [weakest], true);
    }),
  ];
}

function order(weights: readonly number[]): string {
  const functions = Array.from({ length: FUNCTIONS }, (_, i) => i);
  return functions.sort((a, b) => (weights[b] as number) - (weights[a] as number)).join(" ");
}

/** All rounds of the workload as it is, added up. */
function total(rounds: readonly Round[], of: (observation: Observation) => readonly number[]): number[] {
  return Array.from({ length: FUNCTIONS }, (_, i) => sum(rounds.map(({ plain }) => of(plain)[i] as number)));
}

function report(rounds: readonly Round[]): { tests: NamedTest[]; sameOrder: boolean; aims: Aim[] } {
  const columns = [
    total(rounds, ({ truth }) => truth),
    total(rounds, ({ nmictl }) => nmictl.counts),
    total(rounds, ({ perf }) => perf.counts),
  ];
  const shares = columns.map((column) => column.map((value) => ((100 * value) / sum(column)).toFixed(2)));
  const rows = Array.from({ length: FUNCTIONS }, (_, i) => [`hot_${i}`, ...shares.map((share) => share[i] as string)]);
  const samples = columns.slice(1).map((column) => String(sum(column)));
  console.log(renderTable([["% of the time", "truth", "nmictl", "perf"], ...rows, ["samples", "", ...samples]]));
  const tests = testsOf(rounds);
  const lines = tests.map(({ what, test, critical, rejected }) => [
    what,
    test.statistic.toFixed(1),
    String(test.degreesOfFreedom),
    critical.toFixed(1),
    test.p.toPrecision(2),
    rejected ? "different" : "the same",
  ]);
  console.log(`\n${renderTable([["tested", "chi-square", "df", `critical, ${LEVEL}`, "p", "verdict"], ...lines])}`);
  const sameOrder = new Set(columns.map(order)).size === 1;
  const aims = [
    atLeast(
      "orders of the functions that agree with the truth's",
      columns.slice(1).filter((column) => order(column) === order(columns[0] as number[])).length,
      2,
    ),
    ...tests.map(({ what, test, different }) =>
      different ? below(`p of ${what}`, test.p, LEVEL) : atLeast(`p of ${what}`, test.p, LEVEL),
    ),
  ];
  return { tests, sameOrder, aims };
}

async function run({ seconds, rounds: count }: BenchmarkOptions): Promise<object> {
  const refusal = await liveRefusal();
  if (refusal !== null) {
    console.log(`skipped, the kernel refuses live samples: ${refusal}`);
    return { skipped: refusal };
  }
  return withScratch(async (directory) => {
    const program = path.join(directory, "hotspots");
    runToEnd("cc", ["-O2", "-o", program, path.join(REPOSITORY, "bench", "hotspots.c")]);
    const rounds = await withDaemon(["--source", "perf"], async ({ address }) => {
      const done: Round[] = [];
      for (let round = 0; round < count; round++) {
        const plain = await observe(program, 0, address, directory, seconds);
        const shifted = await observe(program, SHIFT_PERCENT, address, directory, seconds);
        done.push({ plain, shifted });
      }
      return done;
    });
    console.log(
      `${EVENT}, nmictl at ${NMICTL_HZ} Hz, perf at ${PERF_HZ} Hz; ${count} rounds of ${seconds} s of CPU time\n`,
    );
    const { tests, sameOrder, aims } = report(rounds);
    console.log(`\n${formatAims(aims)}`);
    return { rounds, tests, sameOrder, aims };
  });
}

export const agreement: Benchmark = {
  description: "profiles of nmictl record, perf record and the program itself, compared by chi-square tests",
  seconds: 4,
  rounds: 3,
  run,
};
