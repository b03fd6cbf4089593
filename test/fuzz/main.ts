/** `npm run fuzz`: guided by coverage, for as long as it is told, each target in its turn. */
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { corpusOf, describeFailure, save } from "./corpus.js";
import { loadTarget } from "./load-target.js";
import { supervise } from "./supervisor.js";
import { TARGETS, type TargetName } from "./target.js";

const USAGE = `usage: npm run fuzz -- [--minutes N] [--target ${TARGETS.join("|")}] [--seed N] [--save] [--input FILE]
  --minutes  altogether (default 5)
  --seed     of the mutations; what coverage keeps depends on the machine as well
  --save     keeps what reached new code in the corpus, where it is short
  --input    runs one input of --target, and nothing else`;

/** Of inputs that --save keeps. */
const SAVED_BYTES_MAX = 1024;

const isTarget = (name: string): name is TargetName => (TARGETS as readonly string[]).includes(name);

async function fuzz(target: TargetName, seed: number, minutes: number, saves: boolean): Promise<boolean> {
  const corpus = corpusOf(target).map(({ bytes }) => bytes);
  console.log(`fuzz: ${target} for ${minutes.toFixed(1)} min, seed ${seed}, from ${corpus.length} inputs`);
  let kept = 0;
  let reached = 0;
  const { runs, failure } = await supervise(
    { target, seed, runs: Number.POSITIVE_INFINITY, corpus, guided: true },
    {
      stop: AbortSignal.timeout(Math.round(minutes * 60_000)),
      onKept: (input, blocks) => {
        kept++;
        reached = blocks;
        if (saves && input.length <= SAVED_BYTES_MAX) save(target, "new", input);
      },
    },
  );
  console.log(`fuzz: ${target}: ${runs} inputs, ${kept} reached what none before had (${reached} counted blocks)`);
  if (failure === null) return true;
  console.error(describeFailure(target, seed, failure.input, failure.message));
  return false;
}

async function main(): Promise<boolean> {
  const { values } = parseArgs({
    options: {
      ...{ minutes: { type: "string", default: "5" }, target: { type: "string" }, seed: { type: "string" } },
      ...{ save: { type: "boolean", default: false }, input: { type: "string" }, help: { type: "boolean" } },
    },
  });
  const minutes = Number(values.minutes);
  const seed = Number(values.seed ?? randomInt(2 ** 31));
  const names = values.target === undefined ? TARGETS : [values.target].filter(isTarget);
  if (values.help || names.length === 0 || !(minutes > 0) || !Number.isSafeInteger(seed)) {
    console.log(USAGE);
    return values.help === true;
  }
  if (values.input !== undefined) {
    for (const name of names) (await loadTarget(name)).run(new Uint8Array(readFileSync(values.input)));
    console.log("fuzz: the input does no harm");
    return true;
  }
  let sound = true;
  for (const name of names) sound = (await fuzz(name, seed, minutes / names.length, values.save)) && sound;
  return sound;
}

process.exitCode = (await main()) ? 0 : 1;
