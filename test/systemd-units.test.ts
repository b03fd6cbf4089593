/** What can be said of the units without a systemd that runs; test/e2e/systemd.test.ts has the rest. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { REPOSITORY } from "./support/daemon.js";
import { hasCommand } from "./support/process.js";

const UNIT = path.join(REPOSITORY, "systemd", "nmid.service");
/** Of 10; systemd-analyze takes it tenfold. */
const EXPOSURE_MAX = 1.5;

interface Finding {
  readonly set: boolean;
  readonly name: string;
  readonly exposure: string | null;
}

function security(...flags: string[]) {
  return spawnSync("systemd-analyze", ["security", "--offline=yes", "--no-pager", ...flags, UNIT], {
    encoding: "utf8",
  });
}

function hasAnalyze(t: TestContext): boolean {
  if (hasCommand("systemd-analyze")) return true;
  t.skip("systemd-analyze is not installed");
  return false;
}

test(`nmid.service is exposed to at most ${EXPOSURE_MAX}`, (t) => {
  if (!hasAnalyze(t)) return;
  const { status, stdout, stderr } = security(`--threshold=${EXPOSURE_MAX * 10}`);
  assert.equal(status, 0, stdout + stderr);
  const overall = /exposure level for nmid.service: (\d+\.\d)/.exec(stdout)?.[1];
  assert.ok(Number(overall) <= EXPOSURE_MAX, overall);
  // A limit that it does not keep to is told.
  assert.notEqual(security("--threshold=1").status, 0);
});

test("the unit says why of each directive that it does without", (t) => {
  if (!hasAnalyze(t)) return;
  const findings = JSON.parse(security("--json=short").stdout) as Finding[];
  const without = findings.filter(({ set, exposure }) => !set && exposure !== null).map(({ name }) => name);
  assert.ok(without.includes("PrivateUsers="), without.join(" "));
  const [, reasons = ""] = fs.readFileSync(UNIT, "utf8").split("# --- What cannot be had, and why");
  for (const name of without) {
    const directive = name.split("/")[0].replace(/=.*$/, "=");
    assert.ok(reasons.includes(directive) || reasons.includes(directive.slice(0, -1)), `no reason for ${name}`);
  }
});

test("the unit grants one capability, and drop-ins name what they add", () => {
  const grants = (file: string): string[] =>
    fs
      .readFileSync(file, "utf8")
      .split("\n")
      .filter((line) => /^(CapabilityBoundingSet|AmbientCapabilities)=/.test(line));
  assert.deepEqual(grants(UNIT), ["CapabilityBoundingSet=CAP_PERFMON", "AmbientCapabilities=CAP_PERFMON"]);
  const dropIns = `${UNIT}.d`;
  const granting = fs.readdirSync(dropIns).filter((name) => grants(path.join(dropIns, name)).length > 0);
  assert.deepEqual(granting, ["symbolization.conf.example"]);
});
