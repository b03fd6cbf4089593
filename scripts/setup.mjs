// Brings a clone to the point where the daemon can run: dependencies, build, executable bins.
// Does nothing when nothing changed, and prints nothing then: `npm start` and `npm test` call it every time.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { withLock } from "./lock.mjs";

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const stateDir = path.join(root, ".setup");
const buildStamp = path.join(stateDir, "build");
const dist = path.join(root, "dist");
const nodeMinimum = [20, 19];

/** A failure whose message is all the user needs. */
export class SetupError extends Error {}

function readJson(file) {
  try {
    return JSON.parse(fs.readFileSync(file, "utf8"));
  } catch {
    return undefined;
  }
}

export function checkPlatform() {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major < nodeMinimum[0] || (major === nodeMinimum[0] && minor < nodeMinimum[1])) {
    throw new SetupError(
      `Node ${process.versions.node} is too old: nmid needs Node ${nodeMinimum.join(".")} or later (see https://nodejs.org).`,
    );
  }
  if (process.platform !== "linux" || process.arch !== "x64") {
    throw new SetupError(
      `nmid runs on Linux on x86-64 only (perf_event_open): this is ${process.platform} on ${process.arch}.`,
    );
  }
}

/**
 * Whether node_modules holds what package-lock.json asks for. Compares npm's own record of what it installed, so that
 * an install by hand counts, too.
 */
export function dependenciesCurrent() {
  const wanted = readJson(path.join(root, "package-lock.json"))?.packages;
  const installed = readJson(path.join(root, "node_modules", ".package-lock.json"))?.packages;
  if (wanted === undefined || installed === undefined) return false;
  for (const [name, entry] of Object.entries(wanted)) {
    if (name === "") continue;
    const found = installed[name];
    // Optional packages for other platforms are in the lock file and not on the disk.
    if (found === undefined && entry.optional) continue;
    if (found?.version !== entry.version || found?.integrity !== entry.integrity) return false;
  }
  return Object.keys(installed).every((name) => wanted[name] !== undefined);
}

/** The directories tsc compiles. */
const sourceDirs = ["src", "clients", "bench", "test"];

function walk(dir, keep, found = []) {
  if (!fs.existsSync(dir)) return found;
  for (const entry of fs.readdirSync(dir, { withFileTypes: true })) {
    const file = path.join(dir, entry.name);
    if (entry.isDirectory()) walk(file, keep, found);
    else if (keep(entry.name)) found.push(file);
  }
  return found;
}

/** All TypeScript sources, relative to the root, sorted. */
export function listSources() {
  return sourceDirs
    .flatMap((dir) => walk(path.join(root, dir), (name) => name.endsWith(".ts") && !name.endsWith(".d.ts")))
    .map((file) => path.relative(root, file))
    .sort();
}

/** Where tsc puts what it makes of a source; both relative to the root. */
export function outputOf(source) {
  return path.join("dist", source.replace(/\.ts$/, ".js"));
}

function hashOfSources(sources) {
  const hash = createHash("sha256");
  // The lock file stands for the compiler's version and the types of the dependencies.
  for (const file of ["tsconfig.json", "package.json", "package-lock.json", ...sources]) {
    hash
      .update(`${file}\0`)
      .update(fs.readFileSync(path.join(root, file)))
      .update("\0");
  }
  return hash.digest("hex");
}

function buildState() {
  const sources = listSources();
  const hash = hashOfSources(sources);
  const missing = sources.some((source) => !fs.existsSync(path.join(root, outputOf(source))));
  const stamp = fs.existsSync(buildStamp) ? fs.readFileSync(buildStamp, "utf8") : "";
  return { sources, hash, missing, current: !missing && stamp === hash };
}

/** Output is on stderr: the daemon's log has stdout for itself. */
function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: ["ignore", 2, 2] });
  if (result.error) throw new SetupError(`cannot run ${command}: ${result.error.message}`);
  if (result.status !== 0) {
    throw new SetupError(
      `\`${[command, ...args].join(" ")}\` failed (${result.signal ?? `exit code ${result.status}`}).`,
    );
  }
}

function install() {
  process.stderr.write("setup: installing dependencies (npm ci)\n");
  // --include=dev: the compiler is one, and NODE_ENV=production would leave it out.
  run("npm", ["ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"]);
}

/** Files of sources that are gone would still run as tests. */
function removeStaleOutputs(sources) {
  const expected = new Set(sources.map(outputOf));
  for (const dir of sourceDirs) {
    for (const file of walk(path.join(dist, dir), (name) => /\.js(\.map)?$/.test(name))) {
      if (!expected.has(path.relative(root, file).replace(/\.map$/, ""))) fs.rmSync(file);
    }
  }
}

function build({ sources, hash, missing }) {
  process.stderr.write("setup: building (tsc)\n");
  // An incremental tsc does not notice that an output was deleted.
  if (missing) fs.rmSync(path.join(dist, "tsconfig.tsbuildinfo"), { force: true });
  run(process.execPath, [path.join("node_modules", "typescript", "bin", "tsc"), "-p", "tsconfig.json"]);
  removeStaleOutputs(sources);
  for (const bin of Object.values(readJson(path.join(root, "package.json"))?.bin ?? {})) {
    fs.chmodSync(path.join(root, bin), 0o755);
  }
  // The hash from before the build: what was edited meanwhile is built next time.
  fs.writeFileSync(buildStamp, hash);
}

/** Idempotent, and safe when several run at once. Throws SetupError. */
export async function setup() {
  checkPlatform();
  if (dependenciesCurrent() && buildState().current) return;
  fs.mkdirSync(stateDir, { recursive: true });
  await withLock(path.join(stateDir, "lock"), () => {
    if (!dependenciesCurrent()) install();
    const state = buildState();
    if (!state.current) build(state);
  });
}

/** setup() for scripts: a SetupError is printed without its stack and ends the process with exit code 1. */
export async function setupOrExit() {
  try {
    await setup();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    process.stderr.write(`setup: ${error.message}\n`);
    process.exit(1);
  }
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(fs.realpathSync(process.argv[1])).href) {
  await setupOrExit();
}
