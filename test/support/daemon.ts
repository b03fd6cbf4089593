/** The real daemon as a child process, for tests and benchmarks. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import { within } from "./within.js";

/** The clone's root, seen from dist/test/support. */
export const REPOSITORY = fileURLToPath(new URL("../../../", import.meta.url));
export const DAEMON_MAIN = path.join(REPOSITORY, "dist", "src", "daemon", "main.js");

const READY_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 20_000;
/** What a failure shows of the log. */
const LOG_LINES_SHOWN = 60;

export interface DaemonOptions {
  /** Flags. --listen, --metrics, --runtime-dir and --log-level are given by default: a Unix socket, port 0, "debug". */
  readonly args?: readonly string[];
  /** Added to this process's environment, less its NMID_* variables. */
  readonly env?: Readonly<Record<string, string>>;
  readonly readyTimeoutMs?: number;
  /** Told of the process as soon as there is one, for who must end it should this process end before it is ready. */
  readonly onSpawn?: (spawned: Pick<RunningDaemon, "pid" | "runtimeDir" | "exited">) => void;
}

export interface RunningDaemon {
  readonly pid: number;
  /** The first gRPC address it listens on, as clients take it. */
  readonly address: string;
  readonly addresses: readonly string[];
  /** HOST:PORT of /metrics. */
  readonly metricsAddress: string;
  /** What it said of its source when it was ready. */
  readonly source: string;
  /** A fresh directory on tmpfs with the socket and the handler table; it is removed with the daemon. */
  readonly runtimeDir: string;
  /** All lines so far, stdout (the log) and stderr in order of arrival. */
  readonly logs: readonly string[];
  /** Resolves when the process has ended, to its exit code, or null when a signal ended it. */
  readonly exited: Promise<number | null>;
  /** Sends `signal` and resolves like `exited`. Idempotent. Rejects when it had to be killed, with the log in the message. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

/** A daemon that did not do what it was asked to; the message holds the end of its log. */
export class DaemonError extends Error {
  override readonly name = "DaemonError";
  /** Exit code where the daemon has exited. */
  readonly exitCode: number | null;
  readonly logs: readonly string[];

  constructor(message: string, logs: readonly string[], exitCode: number | null) {
    super(`${message}\n${tail(logs)}`);
    this.logs = logs;
    this.exitCode = exitCode;
  }
}

/** startDaemon() without a test around it: the caller stops the daemon, whatever happens. Rejects with DaemonError. */
export async function spawnDaemon(options: DaemonOptions = {}): Promise<RunningDaemon> {
  const runtimeDir = fs.mkdtempSync(path.join(scratchRoot(), "nmid-"));
  const child = spawn(
    process.execPath,
    ["--enable-source-maps", DAEMON_MAIN, ...flags(options.args ?? [], runtimeDir)],
    {
      cwd: REPOSITORY,
      env: { ...environment(), ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  const logs: string[] = [];
  const ready = collect(child, logs);
  const exited = ended(child).finally(() => fs.rmSync(runtimeDir, { recursive: true, force: true }));

  options.onSpawn?.({ pid: child.pid as number, runtimeDir, exited });

  const timeoutMs = options.readyTimeoutMs ?? READY_TIMEOUT_MS;
  const outcome = await within(timeoutMs, Promise.race([ready, exited.then((code) => ({ code }))]));
  if (outcome === undefined || "code" in outcome) {
    child.kill("SIGKILL");
    const code = await exited;
    const what = outcome === undefined ? `was not ready after ${timeoutMs} ms` : `exited with code ${outcome.code}`;
    throw new DaemonError(`the daemon ${what}`, logs, code);
  }
  const stop = async (signal: NodeJS.Signals = "SIGTERM"): Promise<number | null> => {
    child.kill(signal);
    const code = await within(
      STOP_TIMEOUT_MS,
      exited.then((value) => ({ value })),
    );
    if (code !== undefined) return code.value;
    child.kill("SIGKILL");
    await exited;
    throw new DaemonError(`the daemon did not stop within ${STOP_TIMEOUT_MS} ms of ${signal}`, logs, null);
  };
  return {
    pid: child.pid as number,
    address: outcome.listen[0] as string,
    addresses: outcome.listen,
    metricsAddress: outcome.metrics,
    source: outcome.source,
    runtimeDir,
    logs,
    exited,
    stop,
  };
}

/**
 * Starts dist/src/daemon/main.js and waits until it is ready. It is stopped after the test; where the test failed, its
 * log is printed. Rejects with DaemonError.
 */
export async function startDaemon(t: TestContext, options: DaemonOptions = {}): Promise<RunningDaemon> {
  const daemon = await spawnDaemon(options);
  // Node has it since 20.12, its types do not.
  const context: TestContext & { readonly passed?: boolean } = t;
  t.after(async () => {
    try {
      await daemon.stop();
    } finally {
      if (context.passed !== true) console.error(`log of the daemon (pid ${daemon.pid}):\n${tail(daemon.logs)}`);
    }
  });
  return daemon;
}

interface ReadyLine {
  readonly msg: "ready";
  readonly source: string;
  readonly listen: readonly string[];
  readonly metrics: string;
}

/** The handler table belongs on tmpfs, and a Unix socket's path must be short. */
function scratchRoot(): string {
  return fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir();
}

function flags(args: readonly string[], runtimeDir: string): string[] {
  const defaults: readonly (readonly [string, string])[] = [
    ["--listen", `unix:${path.join(runtimeDir, "nmid.sock")}`],
    ["--metrics", "127.0.0.1:0"],
    ["--runtime-dir", runtimeDir],
    ["--log-level", "debug"],
  ];
  const given = (flag: string) => args.some((arg) => arg === flag || arg.startsWith(`${flag}=`));
  return [...defaults.filter(([flag]) => !given(flag)).flat(), ...args];
}

/** A developer's own settings must not change what a test tests. */
function environment(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("NMID_")));
}

/** Appends every line to `logs`; resolves with the ready line. */
function collect(child: ChildProcess, logs: string[]): Promise<ReadyLine> {
  return new Promise((resolve) => {
    for (const stream of [child.stdout, child.stderr]) {
      if (stream === null) continue;
      createInterface({ input: stream }).on("line", (line) => {
        logs.push(line);
        const ready = parseReady(line);
        if (ready !== undefined) resolve(ready);
      });
    }
  });
}

function parseReady(line: string): ReadyLine | undefined {
  if (!line.startsWith("{")) return undefined;
  try {
    const record = JSON.parse(line) as ReadyLine | { readonly msg?: unknown };
    return record.msg === "ready" ? (record as ReadyLine) : undefined;
  } catch {
    return undefined;
  }
}

async function ended(child: ChildProcess): Promise<number | null> {
  // "close" rather than "exit": by then the last lines of the log have been read.
  const [code] = (await once(child, "close")) as [number | null];
  return code;
}

function tail(lines: readonly string[]): string {
  return lines.slice(-LOG_LINES_SHOWN).join("\n");
}
