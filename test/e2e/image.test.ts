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

const BOUNDED = { timeout: 500_000 };
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
}

function npmEnvironment(): Record<string, string> {
  const registry = execFileSync("npm", ["config", "get", "registry"], { encoding: "utf8" }).trim();
  return { npm_config_registry: registry, npm_config_cache: "/tmp/npm", HOME: "/root" };
}

/** Kilobytes that a directory's files take. */
function sizeKb(root: string): number {
  return Number.parseInt(execFileSync("du", ["-skx", root], { encoding: "utf8" }), 10);
}

/** Starts the image's command as its user, with CAP_PERFMON in the bounding set or with nothing, as a runtime does. */
async function start(t: TestContext, root: string, config: ImageConfig, bounding: string) {
  const [uid, gid] = config.user.split(":");
  const setup = `
mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && mount --rbind /sys "$0/sys" && mount -t tmpfs -o "mode=755,uid=${uid},gid=${gid}" none "$0/run/nmid" &&
ip link set lo up 2>/dev/null
cd "$0" && exec setpriv --bounding-set "${bounding}" --reuid ${uid} --regid ${gid} --clear-groups --inh-caps -all chroot-as "$@"`;
  // setpriv first would leave no right to chroot: chroot sets the user itself, and setpriv, inside, only narrows.
  const narrowed = setup.replace(
    /cd "\$0" && exec .*$/s,
    `exec chroot "$0" setpriv --bounding-set "${bounding}" --inh-caps=-all --reuid ${uid} --regid ${gid} --clear-groups "$@"`,
  );
  const child = spawn(
    "unshare",
    [
      "--mount",
      "--net",
      "--pid",
      "--fork",
      "--kill-child",
      "sh",
      "-c",
      narrowed,
      root,
      ...config.entrypoint,
      ...config.cmd,
    ],
    { env: { PATH: "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", ...config.env }, stdio: ["ignore", "pipe", "pipe"] },
  );
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data) => (log += data));
  const exited = once(child, "exit");
  t.after(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const pid = await poll("nmid in the image", () => {
    if (child.exitCode !== null) throw new Error(`it exited with ${child.exitCode}: ${log}`);
    return /"msg":"ready"/.test(log) ? daemonBelow(child.pid as number) : undefined;
  });
  return { pid, log: () => log };
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

test("the image builds, and its nmid has CAP_PERFMON where it is given and runs where not", BOUNDED, async (t) => {
  const reason = missing();
  if (reason !== null) return t.skip(reason);
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-image-"));
  t.after(() => fs.rmSync(scratch, { recursive: true, force: true }));
  const { root, config } = build({
    dockerfile: path.join(REPOSITORY, "deploy/docker/Dockerfile"),
    context: REPOSITORY,
    scratch,
    from,
    env: npmEnvironment(),
  });
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
    assert.match(log(), /CAP_PERFMON/);
  });
  await t.test("the health check fails where nmid does not run", () => {
    const { status } = runIn(root, config.healthcheck, { env: {}, workdir: "/" });
    assert.notEqual(status, 0);
  });
});
