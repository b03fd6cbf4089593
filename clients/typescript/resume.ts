/** A handler's stream that goes on in another one when it breaks: when the daemon is restarted, or the connection is lost. */
import { setTimeout as delay } from "node:timers/promises";
import { RpcError } from "./errors.js";
import type { Delivery } from "./messages.js";

/** What a stream breaks with while its handler lives on. */
const BREAKS = new Set(["UNAVAILABLE", "CANCELLED", "ABORTED", "INTERNAL"]);
const RETRY_MS_MIN = 20;
const RETRY_MS_MAX = 200;

/**
 * Everything that `open`'s streams bring, each from its `started` on. The next one is asked for until the handler's lease has
 * run out, which is known from the last `started`: before the first one nothing is tried again.
 */
export async function* resuming(
  open: () => AsyncIterable<Delivery>,
  signal: AbortSignal | undefined,
): AsyncGenerator<Delivery, void, undefined> {
  let leaseMs = 0;
  let broken: { readonly error: RpcError; readonly atMs: number } | null = null;
  let retryMs = RETRY_MS_MIN;
  for (;;) {
    try {
      for await (const delivery of open()) {
        if (delivery.kind === "started") {
          leaseMs = delivery.leaseMs;
          broken = null;
          retryMs = RETRY_MS_MIN;
        }
        yield delivery;
      }
      return;
    } catch (error) {
      if (signal?.aborted || leaseMs === 0 || !(error instanceof RpcError)) throw error;
      if (broken === null) {
        if (!BREAKS.has(error.code)) throw error;
        broken = { error, atMs: performance.now() };
      } else if (!isPassing(error)) {
        // The handler has gone: with the daemon that was restarted, or because it was removed while its stream was cut.
        throw broken.error.code === "UNAVAILABLE" ? error : broken.error;
      }
      if (performance.now() - broken.atMs + retryMs > leaseMs) throw outOfTime(leaseMs, broken.error);
    }
    await delay(retryMs, undefined, { signal }).catch(() => signal?.throwIfAborted());
    retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
  }
}

/** No daemon yet, or one that has not noticed yet that the last stream is gone. */
function isPassing({ code, details }: RpcError): boolean {
  return code === "UNAVAILABLE" || (code === "FAILED_PRECONDITION" && details.includes("has a live stream"));
}

function outOfTime(leaseMs: number, { method, code, details }: RpcError): RpcError {
  return new RpcError(
    method,
    code,
    `the handler's lease of ${leaseMs} ms ran out before its stream was resumed: ${details}`,
  );
}
