/**
 * One handler's way out: takes what the dispatchers left in its outbox, writes it to its stream, and keeps its books.
 * Runs on the main thread; never waits for a slow reader, only stops taking from that reader's outbox.
 */
import type { SlotCounters } from "../../registry/counters.js";
import type { NsClock } from "../clock.js";
import type { ControlDelivery } from "../grpc/proto.js";
import type { LatencyHistogram } from "../observe/histogram.js";
import { type Books, HandlerBooks, type LossReason } from "./books.js";
import { endMessage, lossMessage } from "./control-messages.js";
import { MESSAGE_BYTES, STREAM_BYTES_MIN, type StreamMemory } from "./memory.js";
import { SampleMessage, type WireMessage } from "./message.js";
import { ENTRY, REFUSAL_REASONS } from "./outbox.js";
import type { Entry, OutboxReader } from "./outbox-reader.js";

/** A gRPC stream as delivery sees it. */
export interface DeliveryStream {
  /** Messages that may be on their way at once, at least one. */
  readonly writesMax: number;
  /** Copies `message` before it returns; calls `written` once the transport has taken it, in order, never after `broken`. */
  write(message: WireMessage, written: () => void): void;
  /** Ends the stream with OK, after what was written. */
  end(): void;
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
  readonly flushIntervalMs: number;
  readonly now: NsClock;
  readonly encode: (message: ControlDelivery) => Uint8Array;
  readonly memory: StreamMemory;
  /** From dispatch to stream. */
  readonly latency: LatencyHistogram;
  /** From sample to stream; null where their times cannot be compared with `now`. */
  readonly sampleLatency: LatencyHistogram | null;
  /** The outbox has overflowed and the handler asked to be disconnected. Called once. */
  readonly onOverflow: () => void;
}

/** Nor does anything wait in an outbox filled to this share: it would overflow meanwhile. */
const DUE_ABOVE = 1 / 4;
/** DROP_OLDEST makes room ahead of need, since it is the reader who drops and the dispatchers do not wait for it. */
const DROP_ABOVE = 3 / 4;
const DROP_TO = 1 / 2;
const NS_PER_MS = 1_000_000;

interface Untold {
  readonly event: number;
  readonly reason: LossReason;
  count: number;
  period: number;
  readonly firstNs: number;
  lastNs: number;
}

interface InFlight {
  /** Samples and periods of the message that the transport has not taken yet, by event. */
  readonly event: number;
  samples: number;
  period: number;
  /** Of the message. */
  readonly bytes: number;
  /** The message tells of this loss: its samples are booked already. */
  readonly told: Untold | null;
  /** The message tells of this event-wide loss, which is in no books. */
  readonly gap: Gap | null;
}

interface Gap {
  readonly event: number;
  readonly reason: LossReason;
  count: number;
}

/** A message that is in no books. */
const CONTROL: Omit<InFlight, "bytes"> = { event: 0, samples: 0, period: 0, told: null, gap: null };

type Finish = { readonly reason: string; readonly resolve: (books: Books) => void };

/** Shared by all handlers: the transport has copied a message before the next one is begun. */
const message = new SampleMessage();

export class HandlerDelivery {
  readonly #options: DeliveryOptions;
  readonly #books: HandlerBooks;
  #stream: DeliveryStream | null = null;
  /** What the transport has not taken yet, oldest first. */
  #inFlight: InFlight[] = [];
  #inFlightBytes = 0;
  /** The last message is on its way. */
  #ending = false;
  /** Control messages that go before anything else. */
  #urgent: WireMessage[] = [];
  /** Event-wide losses that no stream has been told of. */
  #gaps: Gap[] = [];
  #untold: Untold[] = [];
  #sequence = 0;
  #flushAtNs = 0;
  /** Whose outbox comes first: another one for each message, or a full one would starve the rest. */
  #turn = 0;
  #timer: NodeJS.Timeout | null = null;
  #finish: Finish | null = null;
  #overflowed = false;
  #pendingTaken = false;

  constructor(options: DeliveryOptions) {
    this.#options = options;
    this.#books = new HandlerBooks(options.events, options.slot, options.counters);
  }

  get subscribed(): boolean {
    return this.#stream !== null;
  }

  get nextSequence(): number {
    return this.#sequence;
  }

  get queuedBytes(): number {
    return this.#options.readers.reduce((sum, reader) => sum + reader.usedBytes, 0);
  }

  get queueMaxBytes(): number {
    return this.#options.readers.reduce((sum, reader) => sum + reader.capacityBytes, 0);
  }

  /** Starts writing to `stream`, `started` first. */
  attach(stream: DeliveryStream, started: ControlDelivery): void {
    this.#stream = stream;
    this.#urgent = [this.#options.encode(started) as Buffer];
    this.#flushAtNs = 0;
    this.pump();
  }

  /** The stream is gone. What it was being written counts as lost; the rest waits for the next stream. */
  broken(): void {
    if (this.#stream === null) return;
    this.#stream = null;
    this.#urgent = [];
    this.#stopWriting();
    if (this.#finish !== null) this.discard("DISCARDED");
  }

  /** A dispatcher has left something in the outbox. */
  wake(): void {
    const { counters, slot, overflow } = this.#options;
    if (overflow === "DROP_OLDEST") this.#makeRoom();
    if (overflow === "DISCONNECT" && !this.#overflowed && counters.refused(slot) > 0) {
      this.#overflowed = true;
      this.#options.onOverflow();
    }
    this.pump();
  }

  /** Samples of the event that were lost before anyone could match them: told to the stream, not in the books. */
  eventWideLoss(event: number, reason: LossReason, count: number): void {
    this.#noteGap(event, reason, count);
    this.pump();
  }

  #noteGap(event: number, reason: LossReason, count: number): void {
    // Joined until a stream can be told, which may be the next one.
    const gap = this.#gaps.find((other) => other.event === event && other.reason === reason);
    if (gap === undefined) this.#gaps.push({ event, reason, count });
    else gap.count += count;
  }

  /** Dispatcher `d` died: what it had matched for the handler and not delivered is lost. Its thread is gone. */
  abandoned(d: number): void {
    const { readers, counters, slot } = this.#options;
    const { unaccounted, matched, refused } = readers[d].abandon();
    const [queueFull, memory] = refused;
    counters.amend(slot, d, matched, queueFull, memory);
    unaccounted.forEach(({ samples, period }, event) => {
      if (samples === 0) return;
      this.#books.lose(event, "DISPATCHER_DIED", samples, period);
      this.#untold.push({ event, reason: "DISPATCHER_DIED", count: samples, period, firstNs: 0, lastNs: 0 });
    });
    this.pump();
  }

  /** Calls `count` for each of dispatcher `d`'s segments that waits for the stream. */
  countSegments(d: number, count: (segment: number) => void): void {
    this.#options.readers[d].countSegments(count);
  }

  /**
   * Writes what is left, the end of the story, and ends the stream. Only when no dispatcher is inside the handler and
   * none will be. Without a stream everything left is lost as DISCARDED, or as `discardAs` says. Resolves with the final books, when
   * the transport has taken the last message.
   */
  finish(reason: string, discardAs: LossReason | null): Promise<Books> {
    return new Promise((resolve) => {
      this.#finish = { reason, resolve };
      if (discardAs !== null || this.#stream === null) this.#loseQueue(discardAs ?? "DISCARDED");
      this.pump();
    });
  }

  /** Cuts a finish short: what is queued is lost for `reason`, and a write that does not end is given up. */
  discard(reason: LossReason): void {
    this.#loseQueue(reason);
    if (this.#ending || this.#inFlight.length > 0) {
      const stream = this.#stream;
      this.#stream = null;
      stream?.abort();
      this.#stopWriting();
    }
    this.pump();
  }

  /** Exact once finished; before, what is queued is matched but neither delivered nor lost. */
  books(): Books {
    return this.#books.balance(this.#options.readers, this.#sequence);
  }

  /** Writes what there is to write, as far as the stream takes it and its time has come. */
  pump(): void {
    while (this.#step());
  }

  /** Writes one message, or finds out what the next one is; false when nothing is to be done now. */
  #step(): boolean {
    if (this.#ending) return false;
    if (this.#stream === null) {
      if (this.#finish !== null) this.#close();
      return false;
    }
    if (this.#inFlight.length >= this.#stream.writesMax) return false;
    const urgent = this.#urgent.shift();
    if (urgent !== undefined) {
      this.#write(urgent, CONTROL);
      return true;
    }
    const gap = this.#gaps.shift();
    if (gap !== undefined) {
      this.#tellGap(gap);
      return true;
    }
    const untold = this.#untold.shift();
    if (untold !== undefined) {
      this.#tell(untold);
      return true;
    }
    return this.#stepQueue();
  }

  #stepQueue(): boolean {
    const reader = this.#nextReader();
    this.#options.counters.setQueueBytes(this.#options.slot, this.queuedBytes);
    if (reader === undefined) {
      // The end tells the final books: what is on its way must have been taken.
      return this.#finish !== null && this.#inFlight.length === 0 && this.#writeEnd();
    }
    if (!this.#isDue()) return false;
    if (reader.entry.kind === ENTRY.LOSS) {
      while (reader.peek() && reader.entry.kind === ENTRY.LOSS) this.#takeLoss(reader);
      return true;
    }
    if (reader.entry.kind === ENTRY.GAP) {
      const { event, samples } = reader.entry;
      reader.take();
      this.#noteGap(event, "DISPATCHER_DIED", samples);
      return true;
    }
    return this.#writeChunks(reader.entry.event);
  }

  #tellGap(gap: Gap): void {
    const loss = lossMessage(gap.event, gap.reason, gap.count, 0, 0, 0);
    const bytes = this.#options.encode({ loss: { ...loss, event_wide: true } });
    this.#write(bytes as Buffer, { ...CONTROL, gap });
  }

  #nextReader(): OutboxReader | undefined {
    const { readers } = this.#options;
    for (let i = 0; i < readers.length; i++) {
      const reader = readers[(this.#turn + i) % readers.length];
      if (reader.peek()) return reader;
    }
    return undefined;
  }

  #isDue(): boolean {
    if (this.#finish !== null || this.#options.readers.some(isFilling)) return true;
    // The more a message takes along the better: a second one is not written beside the first for a few samples.
    if (this.#inFlight.length > 0) return false;
    const now = this.#options.now();
    if (now >= this.#flushAtNs) return true;
    this.#timer ??= setTimeout(
      () => {
        this.#timer = null;
        this.pump();
      },
      Math.ceil((this.#flushAtNs - now) / NS_PER_MS),
    );
    return false;
  }

  /** One message of one event's samples, from all dispatchers; false when there is no memory for another one now. */
  #writeChunks(event: number): boolean {
    const { now, flushIntervalMs, memory, readers } = this.#options;
    const nowNs = now();
    const bytesMax = memory.messageBytesMax(this.#inFlightBytes);
    if (bytesMax < STREAM_BYTES_MIN) return false;
    const inFlight = { ...CONTROL, event };
    message.begin();
    for (let i = 0; i < readers.length; i++) {
      const reader = readers[(this.#turn + i) % readers.length];
      while (message.bodyBytes < bytesMax && reader.peek()) {
        const { entry } = reader;
        if (entry.kind !== ENTRY.CHUNK || entry.event !== event) break;
        if (message.bodyBytes > 0 && message.bodyBytes + entry.segmentBytes > bytesMax) break;
        inFlight.samples += entry.samples;
        inFlight.period += entry.period;
        this.#recordLatency(entry, nowNs);
        reader.take();
        message.add(reader.segments, entry.segment);
      }
    }
    this.#turn = (this.#turn + 1) % readers.length;
    // A tenth early is on time: dispatchers drain at the same interval, and must not be missed by a hair.
    this.#flushAtNs = nowNs + flushIntervalMs * NS_PER_MS * 0.9;
    message.finish(event, this.#sequence);
    this.#sequence += inFlight.samples;
    try {
      this.#write(message, inFlight);
    } finally {
      message.release();
    }
    return true;
  }

  #recordLatency({ samples, firstNs, lastNs, dispatchNs }: Entry, nowNs: number): void {
    const { latency, sampleLatency } = this.#options;
    latency.record(nowNs - dispatchNs, samples);
    if (sampleLatency === null) return;
    // A chunk's samples are spread between its first and its last, about evenly: half of them count as each.
    const half = samples >>> 1;
    if (half > 0) sampleLatency.record(nowNs - firstNs, half);
    sampleLatency.record(nowNs - lastNs, samples - half);
  }

  #write(bytes: WireMessage, what: Omit<InFlight, "bytes">): void {
    const stream = this.#stream as DeliveryStream;
    const inFlight: InFlight = { ...what, bytes: bytes.byteLength };
    this.#inFlight.push(inFlight);
    this.#inFlightBytes += inFlight.bytes;
    this.#options.memory.take(this.#inFlightBytes, inFlight.bytes);
    stream.write(bytes, () => {
      if (this.#stream !== stream) return;
      this.#settle(this.#inFlight.shift() as InFlight);
      if (inFlight.told === null && inFlight.gap === null && inFlight.samples > 0)
        this.#books.deliver(inFlight.event, inFlight.samples, inFlight.period);
      this.pump();
    });
  }

  #settle({ bytes }: InFlight): void {
    this.#options.memory.give(this.#inFlightBytes, bytes);
    this.#inFlightBytes -= bytes;
  }

  /** The stream is gone, and what was being written with it. */
  #stopWriting(): void {
    this.#ending = false;
    // The last first: what is told of them takes the numbers back, and goes before what is told of those after them.
    for (let last = this.#inFlight.pop(); last !== undefined; last = this.#inFlight.pop()) {
      this.#settle(last);
      this.#loseInFlight(last);
    }
  }

  /** What was being written may or may not have arrived. It is told as lost, or told again, under the numbers it had. */
  #loseInFlight({ event, samples, period, told, gap }: InFlight): void {
    if (gap !== null) {
      this.#gaps.unshift(gap);
      return;
    }
    this.#sequence -= samples;
    if (told !== null) {
      this.#untold.unshift(told);
      return;
    }
    if (samples === 0) return;
    this.#books.lose(event, "STREAM_BROKEN", samples, period);
    this.#untold.unshift({ event, reason: "STREAM_BROKEN", count: samples, period, firstNs: 0, lastNs: 0 });
  }

  /** True when there was something to tell before the end. */
  #writeEnd(): boolean {
    const { reason } = this.#finish as Finish;
    this.#untold = this.#takePendingLosses();
    if (this.#untold.length > 0) return true;
    const books = this.books();
    const stream = this.#stream as DeliveryStream;
    this.#ending = true;
    stream.write(this.#options.encode({ end: endMessage(books, reason) }) as Buffer, () => {
      if (this.#stream !== stream) return;
      this.#ending = false;
      this.#stream = null;
      stream.end();
      this.#close();
    });
    return false;
  }

  /** The books are final. */
  #close(): void {
    const finish = this.#finish as Finish;
    for (const pending of this.#takePendingLosses()) this.#number(pending);
    for (const untold of this.#untold.splice(0)) this.#number(untold);
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#finish = null;
    this.#options.counters.setQueueBytes(this.#options.slot, 0);
    finish.resolve(this.books());
  }

  /** Losses the dispatchers could not put into the full outbox. Only when none of them is inside. */
  #takePendingLosses(): Untold[] {
    if (this.#pendingTaken) return [];
    this.#pendingTaken = true;
    const losses: Untold[] = [];
    for (const reader of this.#options.readers) {
      for (let event = 0; event < this.#options.events; event++) {
        for (const { refusal, samples, period, firstNs, lastNs } of reader.pendingLosses(event)) {
          const reason = REFUSAL_REASONS[refusal];
          this.#books.lose(event, reason, samples, period);
          losses.push({ event, reason, count: samples, period, firstNs, lastNs });
        }
      }
    }
    return losses;
  }

  #tell(loss: Untold): void {
    const { event, reason, count, period, firstNs, lastNs } = loss;
    this.#number(loss);
    const bytes = this.#options.encode({ loss: lossMessage(event, reason, count, period, firstNs, lastNs) });
    this.#write(bytes as Buffer, { event, samples: count, period, told: loss, gap: null });
  }

  /** Lost samples are numbered where they are told, so that a gap in the sequence is as long as the losses say. */
  #number(loss: Untold): void {
    this.#sequence += loss.count;
  }

  #takeLoss(reader: OutboxReader): void {
    this.#lose(reader.entry, "QUEUE_FULL");
    reader.drop();
  }

  #makeRoom(): void {
    for (const reader of this.#options.readers) {
      if (reader.fill <= DROP_ABOVE) continue;
      while (reader.fill > DROP_TO && reader.peek()) {
        this.#lose(reader.entry, "QUEUE_DROPPED_OLDEST");
        reader.drop();
      }
    }
  }

  #loseQueue(reason: LossReason): void {
    for (const reader of this.#options.readers) {
      while (reader.peek()) {
        this.#lose(reader.entry, reason);
        reader.drop();
      }
    }
  }

  /** Books the entry as lost and remembers to tell it, joined with the loss before it where that is the same story. */
  #lose(entry: Entry, chunkReason: LossReason): void {
    if (entry.kind === ENTRY.GAP) return;
    const reason = entry.kind === ENTRY.LOSS ? REFUSAL_REASONS[entry.refusal] : chunkReason;
    this.#books.lose(entry.event, reason, entry.samples, entry.period);
    const last = this.#untold.find((loss) => loss.event === entry.event && loss.reason === reason);
    if (last !== undefined) {
      last.count += entry.samples;
      last.period += entry.period;
      last.lastNs = entry.lastNs;
    } else {
      const { event, samples: count, period, firstNs, lastNs } = entry;
      this.#untold.push({ event, reason, count, period, firstNs, lastNs });
    }
  }
}

function isFilling(reader: OutboxReader): boolean {
  return reader.usedBytes >= MESSAGE_BYTES || reader.fill >= DUE_ABOVE;
}
