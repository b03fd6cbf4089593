/** Child processes that cannot outlive the test that started them. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
import { Conditions } from "./conditions.js";
import { REPOSITORY, type RunningDaemon } from "./daemon.js";

export const NMICTL_MAIN = path.join(REPOSITORY, "dist", "clients", "nmictl", "main.js");

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class RunningProcess {
  readonly pid: number;
  /** Lines of standard output and standard error in order of arrival. */
  readonly lines: string[] = [];
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #conditions: Conditions;

  constructor(command: string, args: readonly string[], env?: NodeJS.ProcessEnv) {
    this.#child = spawn(command, args, { cwd: REPOSITORY, env, stdio: ["ignore", "pipe", "pipe"] });
    this.pid = this.#child.pid as number;
    this.#conditions = new Conditions(() => `output of ${command} ${args.join(" ")}:\n${this.lines.join("\n")}`);
    const stdout = this.#collect(this.#child.stdout);
    const stderr = this.#collect(this.#child.stderr);
    this.exited = once(this.#child, "close").then(([code, signal]) => {
      this.#conditions.over(new Error("the process has ended"));
      return { code, signal, stdout: stdout.join("\n"), stderr: stderr.join("\n") };
    });
    // Where the command is missing; whoever awaits it sees it.
    this.exited.catch((error: Error) => this.#conditions.over(error));
  }

  /** Resolves with the first line, past or to come, that matches. */
  async line(pattern: RegExp): Promise<string> {
    await this.#conditions.until(`a line like ${pattern}`, () => this.lines.some((line) => pattern.test(line)));
    return this.lines.find((line) => pattern.test(line)) as string;
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  #collect(stream: ChildProcess["stdout"]): string[] {
    const own: string[] = [];
    if (stream === null) return own;
    createInterface({ input: stream }).on("line", (line) => {
      own.push(line);
      this.lines.push(line);
      this.#conditions.changed();
    });
    return own;
  }
}

/** Starts a process; it is killed after the test if it still runs then. */
export function startProcess(t: TestContext, command: string, args: readonly string[]): RunningProcess {
  const child = new RunningProcess(command, args);
  t.after(async () => {
    child.kill("SIGCONT");
    child.kill("SIGKILL");
    await child.exited;
  });
  return child;
}

/** `nmictl` for this daemon. */
export function startNmictl(t: TestContext, daemon: RunningDaemon, ...args: string[]): RunningProcess {
  return startProcess(t, process.execPath, [NMICTL_MAIN, "--address", daemon.address, ...args]);
}

/** Whether a command is installed. */
export function hasCommand(name: string): boolean {
  return (process.env.PATH ?? "").split(":").some((dir) => fs.existsSync(path.join(dir, name)));
}
