/**
 * A machine with a real systemd for end-to-end tests: a container of a Debian tree that scripts/test-packages.mjs has
 * made, with this project's built tree deployed where its units expect it. Nothing it does is left on the host.
 */
import { execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import path from "node:path";
import type { TestContext } from "node:test";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { poll } from "./conditions.js";
import { REPOSITORY } from "./daemon.js";
import { hasCommand } from "./process.js";

const TREE = path.join(REPOSITORY, ".setup", "systemd-root");
const COMMANDS = ["systemd-nspawn", "setpriv", "unshare", "nsenter", "script", "mount", "ps"];
/** Should this process be killed, the machine dies with it: a signal to unshare, and by that to a whole pid namespace. */
const BOUND = [
  ...["setpriv", "--pdeathsig=KILL"],
  ...["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"],
];
const OUTPUT_BYTES_MAX = 1 << 24;

/** The overlay is in a mount namespace of its own, and is gone with it; script gives systemd-nspawn its terminal. */
const BOOT = `
mount -t overlay overlay -o "lowerdir=$DEPLOYED:$TREE,upperdir=$HOME_DIR/upper,workdir=$HOME_DIR/work" "$HOME_DIR/root" &&
exec script -qfec "systemd-nspawn --quiet --boot --register=no --keep-unit --private-network --machine=$NAME \
--capability=CAP_PERFMON --system-call-filter=perf_event_open --bind-ro=$NODE:/usr/bin/node -D $HOME_DIR/root" "$HOME_DIR/console"
`;

export interface Result {
  readonly code: number;
  /** Both streams, without the last line's end. */
  readonly stdout: string;
  readonly stderr: string;
}

export interface Machine {
  /** Runs a command in the machine as root. */
  run(command: string, ...args: string[]): Promise<Result>;
  /** Like run; rejects when it fails. */
  must(command: string, ...args: string[]): Promise<string>;
  /** A file of the machine, as this process sees it. */
  path(file: string): string;
  /** One property of a unit. */
  show(unit: string, property: string): Promise<string>;
  /** What the unit has logged since the machine was started. */
  journal(unit: string): Promise<string>;
}

/** Why there can be none here; null when there can. */
function missing(): string | null {
  if (process.getuid?.() !== 0) return "booting a container needs root";
  const commands = COMMANDS.filter((command) => !hasCommand(command));
  if (commands.length > 0) return `not installed: ${commands.join(", ")}`;
  if (!fs.existsSync(TREE)) return `${TREE} is missing: scripts/test-packages.mjs makes it with debootstrap`;
  return null;
}

/** Boots a machine, which is gone after the test. null where there can be none; the test is then skipped with the reason. */
export async function startMachine(t: TestContext): Promise<Machine | null> {
  const reason = missing();
  if (reason !== null) {
    t.skip(reason);
    return null;
  }
  const home = fs.mkdtempSync("/dev/shm/nmid-machine-");
  const deployed = path.join(home, "deployed");
  for (const dir of ["upper", "work", "root"]) fs.mkdirSync(path.join(home, dir));
  const script = pathToFileURL(path.join(REPOSITORY, "scripts", "deploy.mjs")).href;
  ((await import(script)) as { deploy: (destination: string) => void }).deploy(deployed);
  const env = {
    PATH: process.env.PATH,
    SYSTEMD_NSPAWN_UNIFIED_HIERARCHY: "1",
    DEPLOYED: deployed,
    TREE,
    HOME_DIR: home,
    NAME: path.basename(home),
    NODE: fs.realpathSync(process.execPath),
  };
  const console = spawn(BOUND[0], [...BOUND.slice(1), "sh", "-c", BOOT], {
    env,
    stdio: ["ignore", "ignore", "pipe"],
  });
  let complaints = "";
  console.stderr.on("data", (data) => {
    complaints += data;
  });
  const exited = once(console, "exit");
  let init: number | undefined;
  t.after(async () => {
    // The first process of a pid namespace takes the others with it.
    process.kill(init ?? (console.pid as number), "SIGKILL");
    await exited;
    fs.rmSync(home, { recursive: true, force: true });
  });
  const ended = exited.then(() => {
    throw new Error(`the machine did not start: ${complaints}${read(path.join(home, "console"))}`);
  });
  ended.catch(() => {});
  const booting = poll("the machine's systemd", () => descendant(console.pid as number, "systemd"));
  init = await Promise.race([booting, ended]);
  const machine = machineOf(init);
  await Promise.race([
    poll("systemd's bus", async () =>
      (await machine.run("systemctl", "is-system-running")).stdout !== "" ? true : undefined,
    ),
    ended,
  ]);
  await machine.run("systemctl", "is-system-running", "--wait");
  return machine;
}

function read(file: string): string {
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
}

/** A process of that name below `pid`. */
function descendant(pid: number, name: string): number | undefined {
  const { stdout } = spawnSync("ps", ["-o", "pid=,comm=", "--ppid", String(pid)], { encoding: "utf8" });
  for (const [, child = "", comm] of stdout.matchAll(/^\s*(\d+) (.*)$/gm)) {
    if (comm === name) return Number(child);
    const found = descendant(Number(child), name);
    if (found !== undefined) return found;
  }
  return undefined;
}

function machineOf(init: number): Machine {
  const execute = promisify(execFile);
  const machine: Machine = {
    async run(command, ...args) {
      const argv = ["-t", String(init), "-a", command, ...args];
      try {
        const { stdout, stderr } = await execute("nsenter", argv, {
          maxBuffer: OUTPUT_BYTES_MAX,
          env: { PATH: process.env.PATH },
        });
        return { code: 0, stdout: stdout.trimEnd(), stderr: stderr.trimEnd() };
      } catch (error) {
        const { code, stdout = "", stderr = "" } = error as { code?: unknown; stdout?: string; stderr?: string };
        if (typeof code !== "number") throw error;
        return { code, stdout: stdout.trimEnd(), stderr: stderr.trimEnd() };
      }
    },
    async must(command, ...args) {
      const { code, stdout, stderr } = await machine.run(command, ...args);
      if (code !== 0) throw new Error(`${[command, ...args].join(" ")}: exit code ${code}\n${stdout}\n${stderr}`);
      return stdout;
    },
    path: (file) => path.join("/proc", String(init), "root", file),
    show: (unit, property) => machine.must("systemctl", "show", "-P", property, unit),
    journal: (unit) => machine.must("journalctl", "--no-pager", "-o", "cat", "-u", unit),
  };
  return machine;
}
