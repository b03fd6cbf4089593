/** `nmictl verify` as tests run it. */
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import type { Report } from "../../clients/nmictl/verify/reconcile.js";
import type { RunningDaemon } from "./daemon.js";
import { startNmictl } from "./process.js";

/** The least that the daemon allows, or nearly: full within milliseconds. */
export const SMALL_RINGS = { NMID_RING_KIB: "8" } as const;

/** Starts `nmictl verify` and resolves with its report, in which all is balanced. */
export async function verify(t: TestContext, daemon: RunningDaemon, ...args: string[]): Promise<Report> {
  const command = startNmictl(t, daemon, "--json", "verify", ...args);
  const { code, stdout, stderr } = await command.exited;
  assert.notEqual(stdout, "", stderr);
  const report = JSON.parse(stdout) as Report;
  assert.deepEqual(report.imbalances, [], stderr);
  assert.ok(report.balanced);
  assert.equal(code, 0, stderr);
  return report;
}

/** By reason, what the handlers' books say. */
export function lossesOf(report: Report): Map<string, number> {
  return new Map(report.losses.map(({ reason, booked }) => [reason, booked]));
}
