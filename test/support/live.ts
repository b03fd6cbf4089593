/** What end-to-end tests need of a daemon that runs: clients of it, and live samples where the kernel grants them. */
import type { TestContext } from "node:test";
import { type BrokerClient, connect } from "../../clients/typescript/index.js";
import { DaemonError, type DaemonOptions, type RunningDaemon, startDaemon } from "./daemon.js";

/** What the daemon says when it is the kernel that refuses, and not the daemon that is broken. */
const REFUSED = /perf_event_paranoid|perf_event_mlock_kb/;

/** A daemon on live samples, or null where the kernel refuses them; the test is then skipped with the reason. */
export async function startLiveDaemon(t: TestContext, options: DaemonOptions = {}): Promise<RunningDaemon | null> {
  try {
    return await startDaemon(t, { ...options, args: ["--source", "perf", ...(options.args ?? [])] });
  } catch (error) {
    t.skip(whyRefused(error));
    return null;
  }
}

/** Why the kernel grants no live samples. Throws what is no such refusal. */
export function whyRefused(error: unknown): string {
  const reason = error instanceof DaemonError ? error.logs.find((line) => REFUSED.test(line)) : undefined;
  if (reason === undefined) throw error;
  return reason;
}

/** A client of the daemon; it is closed after the test. */
export function connectTo(t: TestContext, daemon: RunningDaemon): BrokerClient {
  const client = connect(daemon.address);
  t.after(() => client.close());
  return client;
}
