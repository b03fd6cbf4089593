/** The handlers' last words as the table has them: what WatchHandlers says of each when it has gone. */
import { type BrokerClient, type Handler, type HandlerChange, RpcError } from "../../typescript/index.js";
import { patiently } from "../patience.js";

type Changes = AsyncIterableIterator<HandlerChange>;

/** A lease and a removal are over by then, or something hangs. */
const REMOVED_MS_MAX = 60_000;

export class Removals implements Disposable {
  readonly #removed = new Map<number, Handler>();
  readonly #waiting = new Map<number, (handler: Handler | null) => void>();
  readonly #abort = new AbortController();
  /** Handlers that are to be waited for, and those among them that went while the watch was broken. */
  readonly #expected = new Set<number>();
  readonly #unseen = new Set<number>();
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
    void removals.#follow(client, await removals.#begin(client));
    return removals;
  }

  /** Resolves when the table is known. */
  async #begin(client: BrokerClient): Promise<Changes> {
    const changes = client.watchHandlers({ signal: this.#abort.signal });
    const present = new Set<number>();
    for (;;) {
      const { done, value } = await changes.next();
      if (done || value.kind === "SYNCHRONIZED") break;
      if (value.handler !== null) present.add(value.handler.handlerId);
    }
    for (const handlerId of this.#expected) if (!present.has(handlerId)) this.#miss(handlerId);
    return changes;
  }

  /** A daemon that is restarted ends the watch: another one begins with the table that it has then. */
  async #follow(client: BrokerClient, first: Changes): Promise<void> {
    try {
      for (let changes = first; ; changes = await patiently(() => this.#begin(client))) await this.#read(changes);
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  async #read(changes: Changes): Promise<void> {
    try {
      for await (const { kind, handler } of changes) {
        if (kind === "REMOVED" && handler?.name.startsWith(this.#prefix)) this.#remove(handler);
      }
    } catch (error) {
      const isBroken = error instanceof RpcError && ["UNAVAILABLE", "CANCELLED", "INTERNAL"].includes(error.code);
      if (this.#abort.signal.aborted || !isBroken) throw error;
    }
  }

  /** Of a handler that is registered: should it go while the watch is broken, `of` will say so. */
  expect(handlerId: number): void {
    this.#expected.add(handlerId);
  }

  #miss(handlerId: number): void {
    this.#expected.delete(handlerId);
    if (this.#removed.has(handlerId)) return;
    this.#unseen.add(handlerId);
    this.#waiting.get(handlerId)?.(null);
  }

  #remove(handler: Handler): void {
    this.#expected.delete(handler.handlerId);
    const waiting = this.#waiting.get(handler.handlerId);
    if (waiting === undefined) this.#removed.set(handler.handlerId, handler);
    else waiting(handler);
  }

  #fail(error: Error): void {
    this.#failure = error;
    for (const waiting of this.#waiting.values()) waiting(null);
  }

  /** The handler as it was when it went; null where that happened while the daemon was restarted. Throws when it does not go, or when the watch has failed. */
  async of(handlerId: number): Promise<Handler | null> {
    if (this.#unseen.has(handlerId)) return null;
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
    if (this.#unseen.has(handlerId)) return null;
    throw this.#failure ?? new Error(`handler ${handlerId} was not removed within ${REMOVED_MS_MAX / 1000} s`);
  }

  [Symbol.dispose](): void {
    this.#abort.abort();
  }
}
