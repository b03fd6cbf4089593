/** `npm run bench -- NAME`: the benchmarks by name. */
import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { agreement } from "./agreement.js";
import { decode } from "./decode.js";
import { dispatch } from "./dispatch.js";
import { fanout } from "./fanout.js";
import { latency } from "./latency.js";
import type { Benchmark } from "./lib/benchmark.js";
import { describeMachine, formatLimits, formatMachine, samplingLimits } from "./lib/machine.js";
import { perfdata } from "./perfdata.js";
import { removal } from "./removal.js";
import { restart } from "./restart.js";
import { saturation } from "./saturation.js";
import { scale } from "./scale.js";
import { sharing } from "./sharing.js";

const benchmarks: Readonly<Record<string, Benchmark>> = {
  sharing,
  fanout,
  latency,
  scale,
  saturation,
  decode,
  dispatch,
  removal,
  restart,
  perfdata,
  agreement,
};

function usage(): never {
  console.error("usage: npm run bench -- NAME [--json FILE] [--seconds N] [--rounds N] [--subscribers N]\n");
  for (const [name, { description }] of Object.entries(benchmarks)) console.error(`  ${name}: ${description}`);
  process.exit(2);
}

function positive(text: string | undefined, otherwise: number): number {
  const value = text === undefined ? otherwise : Number(text);
  return value > 0 && Number.isFinite(value) ? value : usage();
}

function parse() {
  const string = { type: "string" } as const;
  try {
    return parseArgs({
      allowPositionals: true,
      options: { json: string, seconds: string, rounds: string, subscribers: string },
    });
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    return usage();
  }
}

const { values, positionals } = parse();
const [name = ""] = positionals;
const benchmark = Object.hasOwn(benchmarks, name) ? benchmarks[name] : undefined;
if (benchmark === undefined || positionals.length !== 1) usage();

const options = {
  seconds: positive(values.seconds, benchmark.seconds),
  rounds: Math.ceil(positive(values.rounds, benchmark.rounds)),
  subscribersMax: values.subscribers === undefined ? Number.POSITIVE_INFINITY : positive(values.subscribers, 1),
};
const machine = describeMachine();
const limitsBefore = samplingLimits();
console.log(formatMachine(machine));
console.log(formatLimits("before", limitsBefore));
const result = await benchmark.run(options);
const limitsAfter = samplingLimits();
console.log(formatLimits("\nafter", limitsAfter));
if (values.json !== undefined) {
  const report = {
    benchmark: name,
    date: new Date().toISOString(),
    machine,
    options,
    limitsBefore,
    limitsAfter,
    result,
  };
  writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`);
}
