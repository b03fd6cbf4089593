/** Calls that outlast a restart of the daemon. */
import { setTimeout as delay } from "node:timers/promises";
import { RpcError } from "../typescript/index.js";

const RETRY_MS = 100;
/** As long as a handler lives without a stream, unless it asked for something else. */
const PATIENCE_MS = 10_000;

/** Tries again while nobody answers, or the daemon says that it is stopping. */
export async function patiently<T>(call: () => Promise<T>, patienceMs = PATIENCE_MS): Promise<T> {
  const giveUpAt = performance.now() + patienceMs;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const isPassing = error instanceof RpcError && error.code === "UNAVAILABLE";
      if (!isPassing || performance.now() > giveUpAt) throw error;
    }
    await delay(RETRY_MS);
  }
}
