/** Single values of what the daemon shows Prometheus. */
import { poll } from "./conditions.js";
import type { RunningDaemon } from "./daemon.js";

/** @param series as Prometheus writes it, with its labels. */
export async function metric(
  { metricsAddress }: Pick<RunningDaemon, "metricsAddress">,
  series: string,
): Promise<number> {
  const text = await (await fetch(`http://${metricsAddress}/metrics`)).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(`${series} `));
  if (line === undefined) throw new Error(`no series ${series}`);
  return Number(line.slice(series.length + 1));
}

/** Resolves once the series has come to at least `value`. */
export async function untilMetric(
  daemon: Pick<RunningDaemon, "metricsAddress">,
  series: string,
  value: number,
): Promise<void> {
  await poll(`${series} of ${value}`, async () => ((await metric(daemon, series)) >= value ? true : undefined));
}
