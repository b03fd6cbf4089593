/** What one stream's transport has not taken yet, oldest first, charged to the streams' memory. */

import { frameBytes } from "./frame-size.js";
import type { Gap, Untold } from "./losses.js";
import type { StreamMemory } from "./memory.js";

export interface InFlight {
  /** Samples and periods of the message that the transport has not taken yet, by event. */
  readonly event: number;
  samples: number;
  period: number;
  /** AUX data of the message, which are in no books. */
  readonly auxBytes: number;
  /** The message tells of this loss: its samples are booked already. */
  readonly told: Untold | null;
  /** The message tells of this event-wide loss, which is in no books. */
  readonly gap: Gap | null;
}

/** A message that is in no books. */
export const CONTROL: InFlight = { event: 0, samples: 0, period: 0, auxBytes: 0, told: null, gap: null };

export class InFlightQueue {
  readonly #memory: StreamMemory;
  readonly #messages: { readonly what: InFlight; readonly bytes: number }[] = [];
  #bytes = 0;

  constructor(memory: StreamMemory) {
    this.#memory = memory;
  }

  get length(): number {
    return this.#messages.length;
  }

  /** How large the columns of the stream's next message may be. */
  get messageBytesMax(): number {
    return this.#memory.messageBytesMax(this.#bytes);
  }

  /** A message of `messageBytes` goes to the transport: charged is the frame it takes there. */
  push(what: InFlight, messageBytes: number): void {
    const bytes = frameBytes(messageBytes);
    this.#messages.push({ what, bytes });
    this.#bytes += bytes;
    this.#memory.take(this.#bytes, bytes);
  }

  /** The transport has taken the oldest. */
  shift(): InFlight | undefined {
    return this.#settle(this.#messages.shift());
  }

  /** The stream is gone: the youngest is on its way no more. */
  pop(): InFlight | undefined {
    return this.#settle(this.#messages.pop());
  }

  #settle(message: { readonly what: InFlight; readonly bytes: number } | undefined): InFlight | undefined {
    if (message === undefined) return undefined;
    this.#memory.give(this.#bytes, message.bytes);
    this.#bytes -= message.bytes;
    return message.what;
  }
}
