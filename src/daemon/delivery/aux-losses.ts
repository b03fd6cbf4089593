/** What a handler has lost of AUX data: in no books of samples, told by the event, and counted for the daemon's totals. */
import type { LossReason } from "./books.js";
import type { DeliveryOptions } from "./delivery-options.js";
import type { Losses } from "./losses.js";
import { REFUSAL, REFUSAL_REASONS } from "./outbox.js";

export class AuxLosses {
  readonly #options: Pick<DeliveryOptions, "readers" | "onAux">;
  readonly #losses: Losses;
  /** Bytes that dispatchers could not queue, by event and refusal. */
  readonly #seen: readonly number[][];

  constructor(options: Pick<DeliveryOptions, "readers" | "events" | "onAux">, losses: Losses) {
    this.#options = options;
    this.#losses = losses;
    this.#seen = Array.from({ length: options.events }, () => REFUSAL_REASONS.map(() => 0));
  }

  /** Looks for bytes that dispatchers could not queue. */
  noticeLost(): void {
    for (const [event, seen] of this.#seen.entries()) {
      for (const refusal of Object.values(REFUSAL)) {
        const lost = this.#options.readers.reduce((sum, reader) => sum + reader.auxLost(event, refusal), 0);
        this.lose(event, REFUSAL_REASONS[refusal], lost - seen[refusal]);
        seen[refusal] = lost;
      }
    }
  }

  /** Dispatchers could not queue some. */
  get wasRefused(): boolean {
    return this.#seen.some((lost) => lost.some((bytes) => bytes > 0));
  }

  lose(event: number, reason: LossReason, bytes: number): void {
    if (bytes === 0) return;
    this.#options.onAux(0, bytes);
    this.#losses.noteGap(event, reason, bytes, "aux");
  }
}
