/** Handlers that did not come back after a restart: whoever asks for one within its lease is told why, with its last books. */
import type { Books } from "../delivery/books.js";
import { type CarriedBooks, finalBooks } from "../delivery/carried-books.js";
import { endMessage } from "../delivery/control-messages.js";
import type { DeliveryStream } from "../delivery/delivery-options.js";
import { gapMessage, untoldMessage } from "../delivery/losses.js";
import { settledSequence } from "../delivery/settled-books.js";
import { type ControlDelivery, encodeDelivery, type StartedMessage } from "../grpc/proto.js";

export interface DepartedHandler {
  readonly id: number;
  readonly name: string;
  /** Whose it was. */
  readonly principal: string;
  /** What keeps it from going on, and what to do. */
  readonly reason: string;
  readonly carried: CarriedBooks;
  readonly everSubscribed: boolean;
}

export class Departed {
  readonly #byId = new Map<number, DepartedHandler>();
  readonly #timers = new Map<number, NodeJS.Timeout>();

  /** Known for as long as its lease would have lasted. */
  add(handler: DepartedHandler, leaseMs: number): void {
    this.#byId.set(handler.id, handler);
    this.#timers.set(handler.id, setTimeout(() => this.take(handler.id), leaseMs).unref());
  }

  get(id: number): DepartedHandler | undefined {
    return this.#byId.get(id);
  }

  take(id: number): DepartedHandler | undefined {
    const handler = this.#byId.get(id);
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
    this.#byId.delete(id);
    return handler;
  }

  clear(): void {
    for (const id of [...this.#byId.keys()]) this.take(id);
  }
}

export function booksOf({ carried }: DepartedHandler): Books {
  return finalBooks(carried);
}

/** From `started` to `end`, one message after the other. */
export function tellDeparted(
  handler: DepartedHandler,
  stream: DeliveryStream,
  facts: Pick<StartedMessage, "clock" | "source" | "fallback">,
): void {
  const { id, carried, reason, everSubscribed } = handler;
  const messages: ControlDelivery[] = [
    {
      started: {
        handler_id: id,
        events: [],
        next_sequence: settledSequence(carried.settled),
        resumed: everSubscribed,
        lease_ms: 0,
        ...facts,
      },
    },
    ...carried.gaps.map(gapMessage),
    ...carried.untold.map(untoldMessage),
    { end: endMessage(booksOf(handler), "NOT_REARMED", reason) },
  ];
  const next = (): void => {
    const message = messages.shift();
    if (message === undefined) stream.end();
    else stream.write(encodeDelivery(message) as Buffer, next);
  };
  next();
}
