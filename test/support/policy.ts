/** Policies for daemons that tests start. */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import type { TestContext } from "node:test";

export interface PolicyFile {
  /** Flags that make a daemon use it. */
  readonly args: readonly string[];
  /** `rules` are those of docs/policy.md, a list in YAML. */
  write(rules: string): void;
}

/** It is removed after the test. */
export function policyFile(t: TestContext, rules: string): PolicyFile {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-policy-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const file = path.join(dir, "policy.yaml");
  const write = (text: string): void => fs.writeFileSync(file, `version: 1\nrules:\n${text}\n`, { mode: 0o644 });
  write(rules);
  return { args: ["--policy", file], write };
}

/** Everybody may do everything, also over plain TCP and with any certificate. */
export const EVERYBODY = `  - name: everybody
    match: { any_local_user: true, plaintext: true, certificates: ["sha256=*"] }
    allow: everything`;
