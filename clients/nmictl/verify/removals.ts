/** The handlers' last words as the table has them: what WatchHandlers says of each when it has gone. */
import type { BrokerClient, Handler } from "../../typescript/index.js";

/** A lease and a removal are over by then, or something hangs. */
const REMOVED_MS_MAX = 60_000;

export class Removals implements Disposable {
  readonly #removed = new Map<number, Handler>();
  readonly #waiting = new Map<number, (handler: Handler | null) => void>();
  readonly #abort = new AbortController();
  #failure: Error | null = null;

  readonly #prefix: string;

  private constructor(prefix: string) {
    this.#prefix = prefix;
  }

  /**
   * Of the handlers whose names start with `prefix`. Resolves when the table is known: no removal after that is missed.
   * Throws RpcError.
   */
  static async watch(client: BrokerClient, prefix: string): Promise<Removals> {
    const removals = new Removals(prefix);
    const changes = client.watchHandlers({ signal: removals.#abort.signal });
    for (;;) {
      const { done, value } = await changes.next();
      if (done || value.kind === "SYNCHRONIZED") break;
    }
    void removals.#read(changes);
    return removals;
  }

  async #read(changes: AsyncIterable<{ readonly kind: string; readonly handler: Handler | null }>): Promise<void> {
    try {
      for await (const { kind, handler } of changes) {
        if (kind === "REMOVED" && handler?.name.startsWith(this.#prefix)) this.#remove(handler);
      }
      this.#fail(new Error("the watch has ended"));
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #remove(handler: Handler): void {
    const waiting = this.#waiting.get(handler.handlerId);
    if (waiting === undefined) this.#removed.set(handler.handlerId, handler);
    else waiting(handler);
  }

  #fail(error: Error): void {
    this.#failure = error;
    for (const waiting of this.#waiting.values()) waiting(null);
  }

  /** The handler as it was when it went. Throws when it does not go, or when the watch has failed. */
  async of(handlerId: number): Promise<Handler> {
    const removed = this.#removed.get(handlerId);
    if (removed !== undefined) {
      this.#removed.delete(handlerId);
      return removed;
    }
    if (this.#failure !== null) throw this.#failure;
    let timer: NodeJS.Timeout | undefined;
    const handler = await new Promise<Handler | null>((resolve) => {
      this.#waiting.set(handlerId, resolve);
      timer = setTimeout(resolve, REMOVED_MS_MAX, null);
    });
    clearTimeout(timer);
    this.#waiting.delete(handlerId);
    if (handler !== null) return handler;
    throw this.#failure ?? new Error(`handler ${handlerId} was not removed within ${REMOVED_MS_MAX / 1000} s`);
  }

  [Symbol.dispose](): void {
    this.#abort.abort();
  }
}
