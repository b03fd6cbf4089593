/** Messages that are made while others are written: one ahead, no more. */
import type { WireMessage } from "./message.js";

export class SnapshotFeed {
  readonly #messages: AsyncIterator<WireMessage>;
  readonly #onReady: () => void;
  #next: WireMessage | null = null;
  #done = false;
  #cancelled = false;

  /** `onReady` is called when there is a message to take, or there will be no more. */
  constructor(messages: AsyncIterator<WireMessage>, onReady: () => void) {
    this.#messages = messages;
    this.#onReady = onReady;
    void this.#advance();
  }

  async #advance(): Promise<void> {
    // Whoever makes the messages says itself when it fails.
    const result = await this.#messages.next().catch(() => ({ done: true, value: undefined }) as const);
    if (this.#cancelled) return;
    if (result.done === true) this.#done = true;
    else this.#next = result.value;
    this.#onReady();
  }

  /** The next message; null while it is being made, and behind the last. */
  take(): WireMessage | null {
    const message = this.#next;
    if (message === null) return null;
    this.#next = null;
    void this.#advance();
    return message;
  }

  /** All have been taken. */
  get isDone(): boolean {
    return this.#done;
  }

  cancel(): void {
    this.#cancelled = true;
    // What the snapshot was being read from may fail to be closed: nobody waits for it any more.
    this.#messages.return?.()?.catch(() => {});
  }
}
