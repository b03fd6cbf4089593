/** For tests: the loader with everything it reads given as values. */
import assert from "node:assert/strict";
import type { DaemonConfig } from "./config.js";
import type { Environment } from "./environment.js";
import { ConfigError, type Problem } from "./errors.js";
import { type ConfigIo, loadConfig } from "./load.js";

export interface Case {
  readonly argv?: readonly string[];
  readonly env?: Environment;
  /** The text of f.yaml, which --config then names. */
  readonly file?: string;
  readonly uid?: number;
}

export function load({ argv = [], env = {}, file, uid = 0 }: Case) {
  const io: ConfigIo = {
    uid,
    cwd: "/some dir",
    version: "1.2.3",
    readTextFile: (path) => {
      if (path === "/some dir/f.yaml" && file !== undefined) return file;
      throw new Error(`ENOENT: no such file or directory, open '${path}'`);
    },
  };
  return loadConfig(file === undefined ? argv : ["--config", "f.yaml", ...argv], env, io);
}

export function run(input: Case): DaemonConfig {
  const result = load(input);
  assert(result.action === "run");
  return result.config;
}

export function print(input: Case): string {
  const result = load(input);
  assert(result.action === "print");
  return result.text;
}

export function problems(input: Case): readonly Problem[] {
  try {
    load(input);
  } catch (error) {
    assert(error instanceof ConfigError);
    assert.equal(error.code, "CONFIG_INVALID");
    for (const { origin, what, remedy } of error.problems) {
      assert(error.message.includes(`${origin}: ${what}; ${remedy}`));
    }
    return error.problems;
  }
  assert.fail("accepted");
}

/** The one problem of `input`, as the operator reads it. */
export function problem(input: Case): string {
  const found = problems(input);
  assert.equal(found.length, 1, JSON.stringify(found));
  const [{ origin, what, remedy } = { origin: "", what: "", remedy: "" }] = found;
  return `${origin}: ${what}; ${remedy}`;
}
