/** `nmictl verify`: loads a live daemon for a while, and reconciles everything that both sides have counted. */
import type { TlsOptions } from "../../typescript/index.js";
import { formatTable, type Output, printable } from "../output.js";
import { type Report, reconcile } from "./reconcile.js";
import { type RunOptions, run } from "./run.js";

export interface VerifyOptions {
  readonly seconds: number;
  readonly handlers: number;
  readonly seed?: number;
  readonly event?: readonly string[];
  readonly frequency?: number;
}

export interface VerifyContext {
  readonly output: Output;
  readonly note: (line: string) => void;
  readonly json: boolean;
  readonly address: string;
  readonly tls?: TlsOptions;
  readonly signal: AbortSignal;
}

/** One mistake may well show in every handler. */
const IMBALANCES_SHOWN = 40;

/** Resolves with the process's exit code: 0 when everything balances. Throws RpcError where there is nothing to load. */
export async function verify(options: VerifyOptions, context: VerifyContext): Promise<number> {
  const { output, json, address, tls, signal, note } = context;
  const seed = options.seed ?? Math.floor(Math.random() * 2 ** 32);
  const runOptions: RunOptions = {
    address,
    tls,
    seconds: options.seconds,
    handlers: options.handlers,
    seed,
    events: options.event ?? [""],
    frequencyHz: options.frequency ?? 0,
    signal,
  };
  note(`${options.seconds} s, ${options.handlers} handlers at a time, --seed ${seed}`);
  const report = reconcile(await run(runOptions));
  await (json ? output.writeJson(report) : output.write(formatReport(report)));
  return report.balanced ? 0 : 1;
}

export function formatReport(report: Report): string {
  const roles = report.roles.map(({ role, handlers, matched, received, lost, unread }) =>
    [role, handlers, matched, received, lost, unread].map(String),
  );
  const losses = report.losses.map(({ reason, told, booked }) => [reason, told, booked].map(String));
  const checks = report.checks.map(({ what, left, right }) => [
    left === right ? "yes" : "NO",
    String(left),
    String(right),
    what,
  ]);
  const lines = [
    `${report.handlers} handlers in ${report.seconds.toFixed(1)} s on ${report.dispatchers} dispatchers, ${report.source}`,
    `streams: ${report.streamsBroken} broken off, ${report.streamsResumed} resumed; ended: ${counts(report.ends)}`,
    ...(report.restarts > 0
      ? [`the daemon was restarted ${report.restarts} times; nobody counted for ${report.gapMs} ms`]
      : []),
    `lost in the rings, for all: ${counts(report.eventWide)}; throttled: ${counts(report.throttled)}`,
    ...Object.entries(report.refused).map(([reason, count]) => `refused ${count} times: ${reason}`),
    ...report.unchecked.map((text) => `not checked: ${text}`),
  ];
  const shown = report.imbalances.slice(0, IMBALANCES_SHOWN).map((text) => `IMBALANCE: ${printable(text)}\n`);
  const more = report.imbalances.length - shown.length;
  if (more > 0) shown.push(`and ${more} more: --json shows all\n`);
  const verdict = report.balanced ? "balanced\n" : `${shown.join("")}NOT BALANCED: seed ${report.seed}\n`;
  return (
    `${formatTable(["ROLE", "HANDLERS", "MATCHED", "RECEIVED", "LOST", "UNREAD"], roles)}\n` +
    `${formatTable(["LOST FOR", "TOLD", "BOOKED"], losses)}\n` +
    `${formatTable(["EQUAL", "ONE SIDE", "OTHER SIDE", "WHAT"], checks)}\n` +
    `${lines.map((line) => `${printable(line)}\n`).join("")}${verdict}`
  );
}

function counts(of: Readonly<Record<string, number>>): string {
  const entries = Object.entries(of).map(([name, count]) => `${name} ${count}`);
  return entries.length === 0 ? "none" : entries.join(", ");
}
