/** The daemon under measurement. Whatever becomes of the benchmark, it ends with it. */
import { connect } from "../../clients/typescript/index.js";
import { DaemonError, type RunningDaemon, spawnDaemon } from "../../test/support/daemon.js";
import { killOnExit, removeOnExit } from "./processes.js";

/** What the daemon says when it is the kernel that refuses, and not the daemon that is broken. */
const REFUSED = /perf_event_paranoid|perf_event_mlock_kb/;

const LOG_LINES_SHOWN = 20;

/** Logs as operators have it, not as tests do. */
export function startDaemon(args: readonly string[]): Promise<RunningDaemon> {
  return spawnDaemon({
    args: ["--log-level", "info", ...args],
    onSpawn: ({ pid, runtimeDir, exited }) => {
      killOnExit(pid, exited);
      removeOnExit(runtimeDir);
    },
  });
}

/** Runs `use` with a daemon, and stops that behind it. */
export async function withDaemon<T>(args: readonly string[], use: (daemon: RunningDaemon) => Promise<T>): Promise<T> {
  const daemon = await startDaemon(args);
  let result: T;
  try {
    result = await use(daemon);
  } catch (error) {
    const log = daemon.logs.slice(-LOG_LINES_SHOWN).join("\n");
    await daemon.stop().catch(() => {});
    if (error instanceof Error) error.message += `\nlog of the daemon:\n${log}`;
    throw error;
  }
  await daemon.stop();
  return result;
}

/** Why the kernel grants no live samples here; null when it grants them. */
export async function liveRefusal(): Promise<string | null> {
  try {
    await withDaemon(["--source", "perf"], async () => {});
    return null;
  } catch (error) {
    const reason = error instanceof DaemonError ? error.logs.find((line) => REFUSED.test(line)) : undefined;
    if (reason === undefined) throw error;
    return reason;
  }
}

/** So far: of all handlers, and what the source's rings had no room for. */
export async function lossesOf(daemon: RunningDaemon): Promise<{ lost: number; kernelLost: number }> {
  using client = connect(daemon.address, { timeoutMs: 60_000 });
  const { totals } = await client.getStatus();
  return { lost: totals?.lost ?? 0, kernelLost: totals?.kernelLost ?? 0 };
}
