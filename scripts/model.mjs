// `npm run model [-- --only NAME,NAME] [-- --trail NAME]`: checks model/handler-table.pml with spin. Every configuration
// must hold, in all its states; every refuted variant must break the property it is named for. model/README.md explains.
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const model = path.join(path.dirname(fileURLToPath(import.meta.url)), "..", "model", "handler-table.pml");
const memoryMaxMb = 1800;
const runMaxMs = 240_000;
const depthMax = 1_000_000;
const aptMaxMs = 300_000;

/** Searched to the end: no property may break, and with `everyStep` no step of the model may be out of reach. */
const configurations = [
  { name: "three-owners-two-slots", defines: ["OWNERS=3"] },
  { name: "two-lives", defines: ["LIVES=2"] },
  { name: "kept-and-abandoned", defines: ["LIVES=2", "KEPT=2", "ABANDONED=1"] },
  { name: "one-death", defines: ["LIVES=2", "DEATHS=1"] },
  { name: "two-deaths", defines: ["DEATHS=2"] },
  { name: "deadlines", defines: ["LIVES=2", "DEADLINES=2"] },
  { name: "all-together", defines: ["DEATHS=1", "DEADLINES=1", "KEPT=1", "ABANDONED=1"] },
  { name: "three-owners-three-slots", defines: ["DISPATCHERS=1", "OWNERS=3", "SLOTS=3"] },
  { name: "three-dispatchers", defines: ["DISPATCHERS=3"] },
  { name: "six-lives-one-slot", defines: ["OWNERS=1", "SLOTS=1", "LIVES=6"] },
  {
    name: "every-step",
    defines: ["DISPATCHERS=1", "LIVES=2", "DEATHS=1", "DEADLINES=1", "KEPT=1", "ABANDONED=1"],
    everyStep: true,
  },
  { name: "tso", defines: ["TSO", "LIVES=2"] },
  { name: "reset-in-claimed", defines: ["RESET_IN_CLAIMED", "LIVES=2"] },
];

const smallest = ["DISPATCHERS=1", "OWNERS=1", "SLOTS=1"];
const twoOwners = ["DISPATCHERS=1", "OWNERS=2"];

/** Searched breadth first, so that the counterexample is a shortest one. */
const refutations = [
  { name: "seed-order", defines: ["SEED_ORDER", ...smallest], breaks: "dispatch_after_removal" },
  {
    name: "reset-running-on-reuse",
    defines: ["RESET_RUNNING_ON_REUSE", "LIVES=2", ...smallest],
    breaks: "dispatch_after_removal",
  },
  {
    name: "free-before-drained",
    defines: ["FREE_BEFORE_DRAINED", ...twoOwners, "SLOTS=1"],
    breaks: "slot_reused_while_inside",
  },
  {
    name: "seed-reuse",
    defines: ["FREE_BEFORE_DRAINED", "RESET_IN_CLAIMED", ...twoOwners, "SLOTS=1"],
    breaks: "dispatch_after_removal",
  },
  { name: "notify-before-clear", defines: ["NOTIFY_BEFORE_CLEAR", ...smallest], breaks: "lost_wakeup" },
  { name: "plain-announce", defines: ["TSO", "PLAIN_ANNOUNCE", ...smallest], breaks: "dispatch_after_removal" },
  { name: "plain-retract", defines: ["TSO", "PLAIN_RETRACT", ...smallest], breaks: "lost_wakeup" },
  { name: "value-after-look", defines: ["VALUE_AFTER_LOOK", ...smallest], breaks: "lost_wakeup" },
  { name: "no-generation", defines: ["NO_GENERATION", "LIVES=2", ...smallest], breaks: "dispatch_after_removal" },
  {
    name: "retract-while-alive",
    defines: ["RETRACT_WHILE_ALIVE", "DEATHS=1", ...smallest],
    breaks: "dispatch_after_removal",
  },
  { name: "silent-supervisor", defines: ["SILENT_SUPERVISOR", "DEATHS=1", ...smallest], breaks: "lost_wakeup" },
  { name: "take-by-store", defines: ["TAKE_BY_STORE", "LIVES=2", ...twoOwners], breaks: "slot_owned_twice" },
  { name: "link-by-store", defines: ["LINK_BY_STORE", ...twoOwners], breaks: "list_broken" },
  { name: "head-before-next", defines: ["HEAD_BEFORE_NEXT", ...twoOwners], breaks: "list_broken" },
  { name: "first-claimer", defines: ["FIRST_CLAIMER", ...twoOwners], breaks: "registration_lost" },
];

function onPath(command) {
  return (process.env.PATH ?? "").split(path.delimiter).some((dir) => fs.existsSync(path.join(dir, command)));
}

/** What is still missing after an attempt to install it, which only continuous integration makes. */
function missingTools() {
  const missing = () => ["spin", "cc"].filter((tool) => !onPath(tool));
  if (missing().length === 0 || process.env.CI !== "true" || process.getuid() !== 0 || !onPath("apt-get")) {
    return missing();
  }
  const packages = { spin: ["spin"], cc: ["gcc", "libc6-dev"] };
  const apt = (...args) =>
    spawnSync("apt-get", args, {
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
      stdio: ["ignore", "ignore", "inherit"],
      timeout: aptMaxMs,
    });
  apt("update", "-qq");
  apt("install", "-qq", "-y", "--no-install-recommends", ...missing().flatMap((tool) => packages[tool]));
  return missing();
}

/** Runs to the end or for `runMaxMs`; both streams in one string. */
function run(command, args, cwd) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      stdio: ["ignore", "pipe", "pipe"],
      timeout: runMaxMs,
      killSignal: "SIGKILL",
    });
    let output = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    }
    child.on("error", reject);
    child.on("close", (code, signal) => resolve({ code, signal, output }));
  });
}

/** Leaves ./pan in `cwd`; what went wrong, or undefined. */
async function build(entry, cwd) {
  const defines = entry.defines.map((define) => `-D${define}`);
  const isRefutation = entry.breaks !== undefined;
  const search = isRefutation ? ["-O0", "-DBFS"] : ["-O2"];
  const steps = [
    ["spin", ["-a", ...defines, model]],
    // Without partial order reduction: it saves little here, and is one thing less to trust.
    ["cc", ["-w", ...search, "-DSAFETY", "-DNOREDUCE", `-DMEMLIM=${memoryMaxMb}`, "-o", "pan", "pan.c"]],
  ];
  for (const [command, args] of steps) {
    const { code, signal, output } = await run(command, args, cwd);
    if (code !== 0) return `    ${command} failed (${signal ?? code})\n${output}`;
  }
  return undefined;
}

/** Why the run is not what it must be, or undefined. */
function objection(entry, { code, signal, output }) {
  if (signal !== null) return `stopped by ${signal} after ${runMaxMs / 1000} s: the search is not complete`;
  const errors = output.match(/errors: (\d+)/)?.[1];
  if (errors === undefined) return `no result (exit code ${code})\n${output}`;
  const complaint = output.match(/^pan:\d+: (.*)$/m)?.[1];
  if (entry.breaks !== undefined) {
    if (complaint === undefined) return `was not refuted: ${entry.breaks} should have been broken`;
    return complaint.includes(`assertion violated  !(${entry.breaks})`)
      ? undefined
      : `should break ${entry.breaks}, but: ${complaint}`;
  }
  if (errors !== "0" || complaint !== undefined) return complaint ?? `${errors} errors`;
  if (/truncated|too small|not completed|MEMLIM|out of memory/i.test(output)) return "the search is not complete";
  if (code !== 0) return `exit code ${code}`;
  const unreached = [...output.matchAll(/:(\d+), state \d+, "(.*)"$/gm)].filter(([, , step]) => step !== "-end-");
  if (entry.everyStep && unreached.length > 0) {
    return `steps never taken: ${unreached.map(([, line, step]) => `line ${line} ${step}`).join(", ")}`;
  }
  return undefined;
}

function figures({ output }) {
  const states = Number(output.match(/(\d+) states, stored/)?.[1] ?? 0);
  const depth = Number(output.match(/depth reached (\d+)/)?.[1] ?? 0);
  return `${states.toLocaleString("en").padStart(12)} states ${String(depth).padStart(5)} deep`;
}

/** The counterexample as the model's step names: one line for each turn a process takes. */
async function turns(entry, cwd) {
  const source = fs.readFileSync(model, "utf8").split("\n");
  const labelAt = [];
  let label;
  for (const [index, line] of source.entries()) {
    if (/\bproctype\b/.test(line)) label = "start";
    label = line.match(/^([a-z_]+):/)?.[1] ?? label;
    labelAt[index + 1] = label;
  }
  const trail = `${path.basename(model)}.trail`;
  const { output } = await run(
    "spin",
    ["-k", trail, "-p", ...entry.defines.map((define) => `-D${define}`), model],
    cwd,
  );
  const lines = [];
  let last;
  // Behind the trail spin lists where each process stands.
  for (const [, pid, name, line] of output
    .split("spin: trail ends")[0]
    .matchAll(/^ *\d+:\tproc +(\d+) \((\w+):\d+\) .*?:(\d+) \(state/gm)) {
    const step = labelAt[Number(line)];
    const who = `${name} (process ${pid})`;
    // Lines before the first process are the checker's own book-keeping.
    if (step === undefined || (last?.who === who && last.steps.at(-1) === step)) continue;
    if (last?.who !== who) {
      last = { who, steps: [] };
      lines.push(last);
    }
    last.steps.push(step);
  }
  return lines.map(({ who, steps }) => `    ${who}: ${steps.join(", ")}`).join("\n");
}

async function check(entry, { trail }) {
  const cwd = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-model-"));
  try {
    const failure = await build(entry, cwd);
    if (failure !== undefined) {
      console.log(`${entry.name.padEnd(26)} FAILED\n${failure}`);
      return false;
    }
    const startMs = performance.now();
    const result = await run("./pan", [`-m${depthMax}`, "-w24", ...(entry.everyStep ? [] : ["-n"])], cwd);
    const seconds = `${((performance.now() - startMs) / 1000).toFixed(1).padStart(6)} s`;
    const wrong = objection(entry, result);
    const verdict =
      wrong === undefined ? (entry.breaks === undefined ? "holds" : `refuted: ${entry.breaks}`) : "FAILED";
    console.log(`${entry.name.padEnd(26)} ${figures(result)} ${seconds}  ${verdict}`);
    if (wrong !== undefined) console.log(`    ${wrong}`);
    if (trail && entry.breaks !== undefined) console.log(await turns(entry, cwd));
    return wrong === undefined;
  } finally {
    fs.rmSync(cwd, { recursive: true, force: true });
  }
}

/** Two at a time, where there are two processors: each keeps one busy and needs up to `memoryMaxMb`. */
async function checkAll(entries, options) {
  const waiting = [...entries];
  let allRight = true;
  const worker = async () => {
    for (let entry = waiting.shift(); entry !== undefined; entry = waiting.shift()) {
      if (!(await check(entry, options))) allRight = false;
    }
  };
  await Promise.all(Array.from({ length: Math.min(2, os.availableParallelism()) }, worker));
  return allRight;
}

const { values } = parseArgs({ options: { only: { type: "string" }, trail: { type: "string" } } });
const wanted = [values.only, values.trail].flatMap((names) => names?.split(",") ?? []);
const known = [...configurations, ...refutations];
const unknown = wanted.filter((name) => !known.some((entry) => entry.name === name));
if (unknown.length > 0) {
  console.error(
    `model: no such configuration: ${unknown.join(", ")}. There are: ${known.map((e) => e.name).join(", ")}`,
  );
  process.exit(2);
}

const missing = missingTools();
if (missing.length > 0) {
  console.log(`model: skipped: ${missing.join(" and ")} not installed (Debian packages spin, gcc, libc6-dev)`);
  process.exit(0);
}

const chosen = wanted.length === 0 ? known : known.filter((entry) => wanted.includes(entry.name));
const startMs = performance.now();
const allRight = await checkAll(chosen, { trail: values.trail !== undefined });
const seconds = ((performance.now() - startMs) / 1000).toFixed(0);
console.log(`model: ${chosen.length} searches in ${seconds} s: ${allRight ? "all as they must be" : "FAILED"}`);
process.exit(allRight ? 0 : 1);
