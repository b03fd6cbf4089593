// `npm test [-- PART_OF_A_PATH… | --test-name-pattern=REGEXP]`: sets up, then runs the tests with Node's own runner.
import path from "node:path";
import { Readable } from "node:stream";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { parseArgs } from "node:util";
import { listSources, outputOf, root, setupOrExit } from "./setup.mjs";
import { installTestPackages } from "./test-packages.mjs";

/** End-to-end tests load the CPUs and look at what the kernel makes of it: one file at a time. */
const endToEnd = `test${path.sep}e2e${path.sep}`;
const closingCount = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) (\d+(?:\.\d+)?)$/;

/** Passes events on but for the counts that close a run, which are added up over runs, and notes what is skipped. */
async function* tally(events, counts, skipped) {
  for await (const event of events) {
    const { type, data } = event;
    // Only the runner's own diagnostics belong to no file.
    const own = type === "test:diagnostic" && data.nesting === 0 && data.file === undefined;
    const [, name, count] = (own && closingCount.exec(data.message)) || [];
    if (name !== undefined) {
      counts.set(name, (counts.get(name) ?? 0) + Number(count));
      continue;
    }
    if (type === "test:pass" && data.skip !== undefined) skipped.push(data);
    yield event;
  }
}

async function runFiles(sources, options, counts, skipped) {
  if (sources.length === 0) return;
  const events = run({ files: sources.map((source) => path.join(root, outputOf(source))), ...options });
  for await (const text of Readable.from(tally(events, counts, skipped)).pipe(new spec())) process.stdout.write(text);
}

function printSummary(counts, skipped) {
  if (skipped.length > 0) console.log("\nskipped:");
  for (const { name, file, skip } of skipped) {
    // With source maps Node names the source itself.
    const source = path.relative(root, file ?? "").replace(/^dist\/(.*)\.js$/, "$1.ts");
    console.log(`  ${source}: ${name}: ${typeof skip === "string" && skip !== "" ? skip : "no reason given"}`);
  }
  console.log();
  for (const [name, count] of counts) console.log(`ℹ ${name} ${count}`);
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { "test-name-pattern": { type: "string", multiple: true } },
});

await setupOrExit();
installTestPackages();

const tests = listSources()
  .filter((source) => source.endsWith(".test.ts"))
  .filter((source) => positionals.length === 0 || positionals.some((part) => source.includes(part)));
if (tests.length === 0) {
  console.error(`test: no test file's path holds ${positionals.join(" or ")}`);
  process.exit(1);
}

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => stop.abort());
const options = { signal: stop.signal, testNamePatterns: values["test-name-pattern"] };
const counts = new Map();
const skipped = [];
const together = tests.filter((source) => !source.startsWith(endToEnd));
const alone = tests.filter((source) => source.startsWith(endToEnd));
await runFiles(together, { ...options, concurrency: true }, counts, skipped);
await runFiles(alone, { ...options, concurrency: false }, counts, skipped);
printSummary(counts, skipped);
const succeeded = counts.get("fail") === 0 && counts.get("cancelled") === 0 && !stop.signal.aborted;
process.exitCode = succeeded ? 0 : 1;
