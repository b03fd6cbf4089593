/** What one handler's delivery is made with, and what it writes to. */
import type { SlotCounters } from "../../registry/counters.js";
import type { NsClock } from "../clock.js";
import type { ControlDelivery } from "../grpc/proto.js";
import type { LatencyHistogram } from "../observe/histogram.js";
import type { CarriedBooks } from "./carried-books.js";
import type { FlushRule, FlushTimes } from "./flush.js";
import type { StreamMemory } from "./memory.js";
import type { WireMessage } from "./message.js";
import type { OutboxReader } from "./outbox-reader.js";
import type { SettledBooks } from "./settled-books.js";

/** A gRPC stream as delivery sees it. */
export interface DeliveryStream {
  /** Messages that may be on their way at once, at least one. */
  readonly writesMax: number;
  /** Copies `message` before it returns; calls `written` once the transport has taken it, in order, never after `broken`. */
  write(message: WireMessage, written: () => void): void;
  /** Ends the stream with OK, after what was written. */
  end(): void;
  /** Breaks the stream, after what was written: its handler goes on in the next daemon. */
  suspend(): void;
  /** Ends the stream at once, whatever is still on its way. */
  abort(): void;
}

export type Overflow = "DROP_NEWEST" | "DROP_OLDEST" | "DISCONNECT";

export interface DeliveryOptions {
  readonly slot: number;
  readonly readers: readonly OutboxReader[];
  readonly events: number;
  readonly counters: SlotCounters;
  readonly overflow: Overflow;
  readonly flush: FlushRule;
  readonly flushTimes: FlushTimes;
  readonly now: NsClock;
  readonly encode: (message: ControlDelivery) => Uint8Array;
  readonly memory: StreamMemory;
  /** What the handler brings from the daemon before this one. */
  readonly carried?: CarriedBooks | null;
  /** Where what its streams have taken outlives this daemon. */
  readonly settled?: SettledBooks;
  /** From dispatch to stream. */
  readonly latency: LatencyHistogram;
  /** From sample to stream; null where their times cannot be compared with `now`. */
  readonly sampleLatency: LatencyHistogram | null;
  /** The outbox has overflowed and the handler asked to be disconnected. Called once. */
  readonly onOverflow: () => void;
  /** The stream, or writing it, has thrown: it has been broken and aborted, and the handler waits for another. */
  readonly onFault: (error: Error) => void;
  /** Makes what a stream must know of tasks before its first sample: complete messages. Null: none are wanted. */
  readonly snapshot: (() => AsyncIterator<WireMessage>) | null;
  /** Bytes of AUX data that the stream has taken, and such as are lost. */
  readonly onAux: (delivered: number, lost: number) => void;
  /** Task records that the outbox had no room for, or that were dropped from it. */
  readonly onTasksLost: (records: number) => void;
}
