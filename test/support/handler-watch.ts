/** WatchHandlers, remembered. */
import type { BrokerClient, Handler, HandlerChange } from "../../clients/typescript/index.js";
import { Conditions } from "./conditions.js";

export class HandlerWatch implements Disposable {
  readonly changes: HandlerChange[] = [];
  readonly #abort = new AbortController();
  readonly #conditions = new Conditions(() =>
    this.changes.map(({ kind, handler }) => `${kind} ${handler?.name ?? ""} ${handler?.state ?? ""}`).join(", "),
  );

  private constructor(client: BrokerClient) {
    void this.#read(client);
  }

  /** Resolves when the whole table has come. */
  static async start(client: BrokerClient): Promise<HandlerWatch> {
    const watch = new HandlerWatch(client);
    await watch.#conditions.until("SYNCHRONIZED", () => watch.changes.some(({ kind }) => kind === "SYNCHRONIZED"));
    return watch;
  }

  /** Resolves with the first change, past or to come, of this handler that `is`. */
  async seen(
    what: string,
    handlerId: number,
    is: (change: HandlerChange, handler: Handler) => boolean,
  ): Promise<Handler> {
    let found: Handler | undefined;
    await this.#conditions.until(what, () => {
      const isWanted = (change: HandlerChange) =>
        change.handler !== null && change.handler.handlerId === handlerId && is(change, change.handler);
      found = this.changes.find(isWanted)?.handler ?? undefined;
      return found !== undefined;
    });
    return found as Handler;
  }

  removed(handlerId: number): Promise<Handler> {
    return this.seen("REMOVED", handlerId, ({ kind }) => kind === "REMOVED");
  }

  [Symbol.dispose](): void {
    this.#abort.abort();
  }

  async #read(client: BrokerClient): Promise<void> {
    try {
      for await (const change of client.watchHandlers({ signal: this.#abort.signal })) {
        this.changes.push(change);
        this.#conditions.changed();
      }
      this.#conditions.over(new Error("the watch has ended"));
    } catch (error) {
      this.#conditions.over(error as Error);
    }
  }
}
