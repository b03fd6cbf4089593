/** `npm run soak -- [--minutes N] [--seed S] [--chapter-seconds N] [--handlers N]`. */
import { parseArgs } from "node:util";
import { type SoakOptions, soak } from "./soak.js";

const LIMITS: Readonly<Record<string, readonly [min: number, max: number]>> = {
  minutes: [0.1, 100_000],
  seed: [0, 2 ** 31],
  "chapter-seconds": [1, 3600],
  handlers: [1, 100],
};

function usage(complaint: string): never {
  console.error(`soak: ${complaint}`);
  console.error("usage: npm run soak -- [--minutes N] [--seed S] [--chapter-seconds N] [--handlers N]");
  process.exit(2);
}

function readOptions(): Omit<SoakOptions, "say" | "signal"> {
  const string = { type: "string" } as const;
  let values: Record<string, string | undefined>;
  try {
    ({ values } = parseArgs({ options: Object.fromEntries(Object.keys(LIMITS).map((name) => [name, string])) }));
  } catch (error) {
    usage((error as Error).message);
  }
  const number = (name: string, otherwise: number): number => {
    const value = values[name] === undefined ? otherwise : Number(values[name]);
    const [min, max] = LIMITS[name];
    return value >= min && value <= max ? value : usage(`--${name} ${values[name]}: from ${min} to ${max}`);
  };
  return {
    minutes: number("minutes", 10),
    seed: number("seed", Date.now() % 2 ** 31),
    chapterSeconds: number("chapter-seconds", 15),
    handlers: number("handlers", 11),
  };
}

const options = readOptions();
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stop.abort());
console.log(`soak: ${options.minutes} min, --seed ${options.seed}`);
const report = await soak({ ...options, say: (line) => console.log(line), signal: stop.signal });
console.log(`${report.chapters.length} chapters on ${report.source}`);
for (const problem of report.problems) console.log(`PROBLEM: ${problem}`);
console.log(
  report.problems.length === 0
    ? "all books balance, memory is bounded, and flat once warm, open files are flat"
    : `FAILED: seed ${options.seed}`,
);
process.exitCode = report.problems.length === 0 ? 0 : 1;
