/**
 * What dispatchers and main thread share besides the handler table, the rings and the outboxes, in one SharedArrayBuffer:
 *
 *   removal bell │ sleeper │ dispatcher 0: signal, dirty bits │ its statistics │ dispatcher 1: …
 *   any of them    any       it and the main thread             it alone
 *
 * Between the parts, and before the first and behind the last, lies a line that nobody uses. V8 takes buffers from malloc,
 * which aligns them to 16 bytes and puts them next to each other: where lines begin in one is not known, and no matter.
 */
import { LINE_BYTES } from "../../registry/layout.js";
import { AtomicDoorbell } from "../../registry/words.js";
import { DeliveryBell } from "./delivery-bell.js";
import { DispatcherStats, STATS_BYTES } from "./stats.js";

export interface SharedPart {
  readonly name: string;
  /** Bytes from the buffer's start. */
  readonly at: number;
  readonly bytes: number;
}

export interface SharedLayout {
  readonly bytes: number;
  readonly removalBell: SharedPart;
  readonly sleeper: SharedPart;
  readonly dispatchers: readonly { readonly signal: SharedPart; readonly stats: SharedPart }[];
}

const WORD_BYTES = 4;
/** The words of a dispatcher's signal: whether there are dirty bits, then the bits. */
const DIRTY_WORD = 1;
const BITS_IN_WORD = 32;

export function sharedLayout(capacity: number, dispatchers: number): SharedLayout {
  let end = 0;
  const part = (name: string, bytes: number): SharedPart => {
    const at = alignUp(end + LINE_BYTES);
    end = at + bytes;
    return { name, at, bytes };
  };
  const signalBytes = (DIRTY_WORD + Math.ceil(capacity / BITS_IN_WORD)) * WORD_BYTES;
  return {
    removalBell: part("removal bell", WORD_BYTES),
    sleeper: part("sleeper", WORD_BYTES),
    dispatchers: Array.from({ length: dispatchers }, (_, d) => ({
      signal: part(`signal ${d}`, signalBytes),
      stats: part(`statistics ${d}`, STATS_BYTES),
    })),
    bytes: alignUp(end + LINE_BYTES),
  };
}

function alignUp(bytes: number): number {
  return Math.ceil(bytes / LINE_BYTES) * LINE_BYTES;
}

/** One thread's view of it. */
export class SharedMemory {
  readonly buffer: SharedArrayBuffer;
  readonly #layout: SharedLayout;

  /** Without a buffer: a new one, zeroed. */
  constructor(capacity: number, dispatchers: number, buffer?: SharedArrayBuffer) {
    this.#layout = sharedLayout(capacity, dispatchers);
    this.buffer = buffer ?? new SharedArrayBuffer(this.#layout.bytes);
  }

  /** Removals wait here for dispatchers to leave a handler. */
  removalBell(): AtomicDoorbell {
    return new AtomicDoorbell(this.buffer, this.#layout.removalBell.at / WORD_BYTES);
  }

  deliveryBell(): DeliveryBell {
    const { sleeper, dispatchers } = this.#layout;
    const words = new Int32Array(this.buffer);
    return new DeliveryBell(
      words,
      sleeper.at / WORD_BYTES,
      dispatchers.map(({ signal }) => signal.at / WORD_BYTES),
    );
  }

  /** Bit s % 32 of word s / 32: slot s has something to deliver. Or-ed by the dispatcher, exchanged by the main thread. */
  dirty(dispatcher: number): Int32Array<SharedArrayBuffer> {
    const { at, bytes } = this.#layout.dispatchers[dispatcher].signal;
    return new Int32Array(this.buffer, at + DIRTY_WORD * WORD_BYTES, bytes / WORD_BYTES - DIRTY_WORD);
  }

  stats(dispatcher: number): DispatcherStats {
    return new DispatcherStats(this.buffer, this.#layout.dispatchers[dispatcher].stats.at);
  }
}
