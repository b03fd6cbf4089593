/** A runtime directory that outlives the daemons in it. */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";

export interface LastingDir {
  readonly dir: string;
  readonly socket: string;
  /** Flags for a daemon in it. */
  readonly args: readonly string[];
}

/** Removed after the test. */
export function makeRuntimeDir(t: TestContext): LastingDir {
  const home = fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir();
  const dir = fs.mkdtempSync(path.join(home, "nmid-"));
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const socket = path.join(dir, "nmid.sock");
  return { dir, socket, args: ["--runtime-dir", dir, "--listen", `unix:${socket}`] };
}
