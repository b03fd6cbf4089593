/** What the Dockerfile says, done step by step without a container runtime; then the image's nmid runs as its user. */
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { poll } from "../support/conditions.js";
import { REPOSITORY } from "../support/daemon.js";
import { build, type ImageConfig, runIn } from "../support/image.js";
import { TREES } from "../support/machine.js";
import { hasCommand } from "../support/process.js";

const BOUNDED = { timeout: 900_000 };
const CAP_PERFMON = 1n << 38n;
const COMMANDS = ["unshare", "nsenter", "setpriv", "npm", "mount"];
/** Megabytes beyond the base image: Node, and nmid with what it needs. */
const ADDED_MB_MAX = 160;

function missing(): string | null {
  if (process.getuid?.() !== 0) return "a chroot needs root";
  const commands = COMMANDS.filter((command) => !hasCommand(command));
  if (commands.length > 0) return `not installed: ${commands.join(", ")}`;
  if (!fs.existsSync(TREES.debian)) return `${TREES.debian} is missing: scripts/test-packages.mjs makes it`;
  return null;
}

/** Node and npm where their image has them; the host's, since Debian's npm is hundreds of packages. */
function addNode(root: string): void {
  fs.copyFileSync(fs.realpathSync(process.execPath), path.join(root, "usr/local/bin/node"));
  fs.chmodSync(path.join(root, "usr/local/bin/node"), 0o755);
  const modules = execFileSync("npm", ["root", "--global"], { encoding: "utf8" }).trim();
  fs.cpSync(path.join(modules, "npm"), path.join(root, "usr/local/lib/node_modules/npm"), { recursive: true });
  fs.symlinkSync("../lib/node_modules/npm/bin/npm-cli.js", path.join(root, "usr/local/bin/npm"));
}

/** Debian's tree stands in for both base images. Copied without Debian's own Node: the image brings another. */
function from(image: string, root: string): void {
  assert.equal(spawnSync("cp", ["-a", `${TREES.debian}/.`, root]).status, 0);
  fs.rmSync(path.join(root, "usr/bin/node"), { force: true });
  if (image.startsWith("node:")) addNode(root);
  const extra = certificates();
  if (extra !== undefined) fs.copyFileSync(extra, path.join(root, CERTIFICATES));
}

/** The host's certificates, where the client of the package registry is told to trust more than its own. */
const CERTIFICATES = "/usr/local/share/certificates.pem";

function npmConfig(name: string): string | undefined {
  const value = execFileSync("npm", ["config", "get", name], { encoding: "utf8" }).trim();
  return value === "null" || value === "" ? undefined : value;
}

function certificates(): string | undefined {
  return process.env.NODE_EXTRA_CA_CERTS ?? npmConfig("cafile");
}

/** npm in the image asks where npm on the host does. */
function npmEnvironment(): Record<string, string> {
  return {
    HOME: "/root",
    npm_config_registry: npmConfig("registry") ?? "",
    npm_config_cache: "/tmp/npm",
    npm_config_fetch_retries: "1",
    ...(certificates() === undefined ? {} : { NODE_EXTRA_CA_CERTS: CERTIFICATES }),
  };
}

/** Kilobytes that a tree's files take, without apt's caches, which the base image is set up not to keep. */
function sizeKb(root: string): number {
  return Number.parseInt(execFileSync("du", ["-skx", "--exclude=var/cache", root], { encoding: "utf8" }), 10);
}

/** Starts the image's command as its user, with `bounding` as setpriv takes it, and no other right: as a runtime does. */
async function start(t: TestContext, root: string, config: ImageConfig, bounding: string) {
  const [uid, gid] = config.user.split(":");
  const privileges = `--bounding-set=${bounding} --inh-caps=-all --reuid=${uid} --regid=${gid} --clear-groups`;
  const script = `
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" &&
mount -t tmpfs -o mode=755,uid=${uid},gid=${gid} tmpfs "$0/run/nmid" && exec chroot "$0" setpriv ${privileges} "$@"`;
  const args = ["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script, root];
  const child = spawn("setpriv", ["--pdeathsig=KILL", "unshare", ...args, ...config.entrypoint, ...config.cmd], {
    env: { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", ...config.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let log = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (data) => {
      log += data;
    });
  }
  const exited = once(child, "exit");
  t.after(async () => {
    // Whoever changes its user loses the signal that unshare has it sent when it dies itself.
    const running = daemonBelow(child.pid as number);
    child.kill("SIGKILL");
    if (running !== undefined) process.kill(running, "SIGKILL");
    await exited;
  });
  const pid = await poll("nmid in the image", () => {
    if (child.exitCode !== null) throw new Error(`it exited with ${child.exitCode}: ${log}`);
    return log.includes('"msg":"ready"') ? daemonBelow(child.pid as number) : undefined;
  });
  return { pid, log };
}

function daemonBelow(pid: number): number | undefined {
  const { stdout } = spawnSync("ps", ["-o", "pid=,args=", "--ppid", String(pid)], { encoding: "utf8" });
  for (const [, child = "", args = ""] of stdout.matchAll(/^\s*(\d+) (.*)$/gm)) {
    if (args.includes("/usr/bin/nmid")) return Number(child);
    const found = daemonBelow(Number(child));
    if (found !== undefined) return found;
  }
  return undefined;
}

function capabilities(pid: number): bigint {
  return BigInt(`0x${/^CapEff:\s*(\w+)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]}`);
}

/** What npm and apt say where there is no network, which is no fault of the Dockerfile. */
const NO_NETWORK = /ENOTFOUND|ECONNREFUSED|EAI_AGAIN|ETIMEDOUT|Temporary failure resolving|Could not connect/;

function buildOrSkip(t: TestContext, scratch: string): ReturnType<typeof build> | undefined {
  try {
    return build({
      dockerfile: path.join(REPOSITORY, "deploy/docker/Dockerfile"),
      context: REPOSITORY,
      scratch,
      from,
      env: npmEnvironment(),
    });
  } catch (error) {
    const found = NO_NETWORK.exec(String(error));
    if (found === null) throw error;
    t.skip(`the registries cannot be reached: ${found[0]}`);
    return undefined;
  }
}

test("the image builds, and its nmid has CAP_PERFMON where it is given and runs where not", BOUNDED, async (t) => {
  const reason = missing();
  if (reason !== null) {
    t.skip(reason);
    return;
  }
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-image-"));
  t.after(() => fs.rmSync(scratch, { recursive: true, force: true }));
  const image = buildOrSkip(t, scratch);
  if (image === undefined) return;
  const { root, config } = image;
  const added = (sizeKb(root) - sizeKb(TREES.debian)) / 1024;
  assert.ok(added < ADDED_MB_MAX, `${added} MB`);
  assert.equal(fs.existsSync(path.join(root, "src")), false);

  await t.test("with CAP_PERFMON it samples, and the health check passes", async (subtest) => {
    const { pid } = await start(subtest, root, config, "-all,+perfmon");
    assert.equal(capabilities(pid), CAP_PERFMON);
    const status = spawnSync("nsenter", ["-t", String(pid), "-m", "-n", "-p", "-r", ...config.healthcheck], {
      encoding: "utf8",
      env: { PATH: "/usr/local/bin:/usr/bin:/bin" },
    });
    assert.equal(status.status, 0, status.stderr);
    assert.match(status.stdout, /^source: +perf/m);
  });
  await t.test("without, it says so and still runs", async (subtest) => {
    const { pid, log } = await start(subtest, root, config, "-all");
    assert.equal(capabilities(pid), 0n);
    assert.match(log, /CAP_PERFMON/);
  });
  await t.test("the health check fails where nmid does not run", () => {
    const { status } = runIn(root, config.healthcheck, { env: {}, workdir: "/" });
    assert.notEqual(status, 0);
  });
});
