/** `npm run torture -- [--seconds N] [--seed S] [--dispatchers D] [--registrars R] [--capacity C]`. */
import { parseArgs } from "node:util";
import { quantile, type TortureOptions, type TortureReport, torture } from "./torture.js";

const LIMITS: Readonly<Record<string, readonly [min: number, max: number]>> = {
  seconds: [0.1, 86_400],
  seed: [0, 2 ** 31],
  dispatchers: [1, 16],
  registrars: [1, 16],
  capacity: [1, 4096],
};

function usage(complaint: string): never {
  console.error(`torture: ${complaint}`);
  console.error("usage: npm run torture -- [--seconds N] [--seed S] [--dispatchers D] [--registrars R] [--capacity C]");
  process.exit(2);
}

function readOptions(): TortureOptions {
  const string = { type: "string" } as const;
  let values: Record<string, string | undefined>;
  try {
    ({ values } = parseArgs({
      options: { seconds: string, seed: string, dispatchers: string, registrars: string, capacity: string },
    }));
  } catch (error) {
    usage((error as Error).message);
  }
  const number = (name: string, otherwise: number): number => {
    const value = values[name] === undefined ? otherwise : Number(values[name]);
    const [min, max] = LIMITS[name];
    const whole = name === "seconds" || Number.isInteger(value);
    return value >= min && value <= max && whole ? value : usage(`--${name} ${values[name]}: from ${min} to ${max}`);
  };
  return {
    seconds: number("seconds", 10),
    seed: number("seed", Date.now() % 2 ** 31),
    dispatchers: number("dispatchers", 2),
    registrars: number("registrars", 2),
    capacity: number("capacity", 16),
  };
}

function print(options: TortureOptions, report: TortureReport): void {
  const sum = <T>(parts: readonly T[], of: (part: T) => number): number =>
    parts.reduce((total, part) => total + of(part), 0);
  const registrars = (of: (part: (typeof report.registrars)[number]) => number): number => sum(report.registrars, of);
  const us = (part: number): string => `${(quantile(report.waitsNs, part) / 1000).toFixed(1)} us`;
  const lines: [string, number | string][] = [
    ["dispatches", sum(report.dispatchers, ({ dispatches }) => dispatches)],
    ["passes", sum(report.dispatchers, ({ walks }) => walks)],
    ["registrations", registrars(({ registrations }) => registrations)],
    ["given up in CLAIMED", registrars(({ abandoned }) => abandoned)],
    ["refused: table full", registrars(({ refused }) => refused)],
    ["removals", registrars(({ removals }) => removals)],
    ["deadlines passed", registrars(({ deadlines }) => deadlines)],
    ["handlers read outside", report.reader.reads],
    ["reads overtaken", report.reader.overtaken],
    ["removal wait p50", us(0.5)],
    ["removal wait p99", us(0.99)],
    ["removal wait max", us(1)],
  ];
  const { seed, seconds, dispatchers, capacity } = options;
  console.log(
    `torture: seed ${seed}, ${seconds} s, ${dispatchers} dispatchers, ${options.registrars} registrars, 1 outside reader, ${capacity} slots`,
  );
  for (const [name, value] of lines) {
    console.log(
      `  ${name.padEnd(22)} ${(typeof value === "number" ? value.toLocaleString("en") : value).padStart(14)}`,
    );
  }
}

const options = readOptions();
const report = await torture(options);
print(options, report);
for (const violation of report.violations) console.error(`VIOLATION (--seed ${options.seed}): ${violation}`);
process.exit(report.violations.length === 0 ? 0 : 1);
