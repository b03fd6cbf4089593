/** The command that is recorded: started, and held before it does anything until it is let go. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants as fsConstants, statSync } from "node:fs";
import os from "node:os";
import { join } from "node:path";
import type { Writable } from "node:stream";
import { NmiError } from "../../typescript/index.js";

/** The shell's own, for a command that is not there, and one that may not be executed. */
export const EXIT_NOT_FOUND = 127;
/** A shell's, of what a signal ended. */
export function exitStatusOf(signal: NodeJS.Signals): number {
  return 128 + os.constants.signals[signal];
}

/** Of descriptors: where the shell waits for its word. */
const GATE_FD = 3;

function isExecutable(path: string): boolean {
  try {
    accessSync(path, fsConstants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

function find(command: string): boolean {
  if (command.includes("/")) return isExecutable(command);
  return (process.env.PATH ?? "").split(":").some((directory) => isExecutable(join(directory || ".", command)));
}

export class Workload {
  readonly #child: ChildProcess;
  readonly #gate: Writable;
  /** Its exit status, as a shell has it: 128 and the signal's number where a signal ended it. */
  readonly exited: Promise<number>;

  /** Throws NmiError COMMAND_NOT_FOUND. */
  constructor(command: readonly string[]) {
    if (!find(command[0])) {
      throw new NmiError(
        "COMMAND_NOT_FOUND",
        `cannot run "${command[0]}": there is no such command, or it may not be executed`,
      );
    }
    // exec keeps the pid, so that who is recorded is known before the command runs.
    const script = `read -r go <&${GATE_FD} && [ "$go" = go ] || exit ${EXIT_NOT_FOUND}; exec "$@" ${GATE_FD}<&-`;
    this.#child = spawn("/bin/sh", ["-c", script, "sh", ...command], {
      stdio: ["inherit", "inherit", "inherit", "pipe"],
    });
    this.#gate = this.#child.stdio[GATE_FD] as Writable;
    // The command may have gone before it was let go.
    this.#gate.on("error", () => {});
    this.exited = once(this.#child, "exit").then(([code, signal]: (number | NodeJS.Signals | null)[]) =>
      typeof code === "number" ? code : exitStatusOf(signal as NodeJS.Signals),
    );
  }

  get pid(): number {
    return this.#child.pid as number;
  }

  letGo(): void {
    this.#gate.end("go\n");
  }

  /** Does nothing to one that has ended. */
  kill(): void {
    this.#child.kill("SIGTERM");
  }
}
