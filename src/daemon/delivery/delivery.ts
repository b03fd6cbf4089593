/**
 * One handler's way out: takes what the dispatchers left in its outbox, writes it to its stream, and keeps its books.
 * Runs on the main thread; never waits for a slow reader, only stops taking from that reader's outbox.
 */
import type { ControlDelivery } from "../grpc/proto.js";
import { AuxLosses } from "./aux-losses.js";
import { type Books, HandlerBooks, type LossReason } from "./books.js";
import { type CarriedBooks, eventTotals, lossTotals, nothingCarried, refusedCounts } from "./carried-books.js";
import { endMessage } from "./control-messages.js";
import type { DeliveryOptions, DeliveryStream } from "./delivery-options.js";
import { FlushAlarm } from "./flush-alarm.js";
import { CONTROL, type InFlight, InFlightQueue } from "./in-flight.js";
import { gapMessage, Losses, type UnbookedLosses, type Untold, untoldMessage } from "./losses.js";
import { MESSAGE_BYTES_MIN } from "./memory.js";
import { SampleMessage, type WireMessage } from "./message.js";
import { ENTRY } from "./outbox.js";
import type { OutboxReader } from "./outbox-reader.js";
import { Queue } from "./queue.js";
import { SettledBooks, settledSequence } from "./settled-books.js";
import { TaskStream } from "./task-stream.js";

/** `reason` null: the handler is not over, but goes on in the next daemon. */
type Finish = { readonly reason: string | null; readonly resolve: (finished: Finished) => void };

export interface Finished {
  readonly books: Books;
  /** What the handler takes to the next daemon. */
  readonly carried: CarriedBooks;
}

/** Shared by all handlers: the transport has copied a message before the next one is begun. */
const message = new SampleMessage();

export class HandlerDelivery {
  readonly #options: DeliveryOptions;
  readonly #books: HandlerBooks;
  #stream: DeliveryStream | null = null;
  readonly #losses: Losses;
  readonly #queue: Queue;
  readonly #inFlight: InFlightQueue;
  readonly #tasks: TaskStream;
  readonly #aux: AuxLosses;
  readonly #flush: FlushAlarm;
  /** The last message is on its way. */
  #ending = false;
  /** Control messages that go before anything else. */
  #urgent: WireMessage[] = [];
  #sequence = 0;
  #finish: Finish | null = null;
  #overflowed = false;

  constructor(options: DeliveryOptions) {
    this.#options = options;
    const carried = options.carried ?? nothingCarried(options.events);
    this.#books = new HandlerBooks(carried, options.slot, options.counters, options.settled ?? new SettledBooks());
    const unbooked: UnbookedLosses = {
      onTasksLost: (reason, records) => this.#tasks.lose(reason, records),
      onAuxLost: (event, reason, bytes) => this.#aux.lose(event, reason, bytes),
    };
    this.#losses = new Losses(this.#books, options.readers, options.events, unbooked, carried);
    this.#sequence = settledSequence(carried.settled);
    carryMatched(options.readers[0], carried);
    this.#queue = new Queue(options.readers, options.latency, options.sampleLatency);
    this.#inFlight = new InFlightQueue(options.memory);
    this.#tasks = new TaskStream(options, this.#losses, () => this.pump());
    this.#aux = new AuxLosses(options, this.#losses);
    this.#flush = new FlushAlarm(options.flush, options.flushTimes, () => this.pump());
  }

  get subscribed(): boolean {
    return this.#stream !== null;
  }

  get nextSequence(): number {
    return this.#sequence;
  }

  /** How long samples wait for company now. */
  get flushIntervalMs(): number {
    return this.#options.flush.intervalMs;
  }

  get queuedBytes(): number {
    return this.#queue.usedBytes;
  }

  get queueMaxBytes(): number {
    return this.#queue.capacityBytes;
  }

  /**
   * Every way into delivery leads through here: whatever is thrown is this stream's fault, which is nobody else's. The
   * stream breaks; the handler, its books and what waits for it live on.
   */
  #guard(step: () => void): void {
    try {
      step();
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #fail(error: Error): void {
    const stream = this.#stream;
    this.#break();
    try {
      stream?.abort();
    } catch {
      // What has failed once may fail again; the first reason is the one to tell.
    }
    this.#options.onFault(error);
  }

  /** Starts writing to `stream`, `started` first. A stream that fails at once leaves `subscribed` false. */
  attach(stream: DeliveryStream, started: ControlDelivery): void {
    this.#guard(() => {
      this.#stream = stream;
      this.#options.flush.streamOpened();
      this.#urgent = [this.#options.encode(started) as Buffer];
      this.#flush.reset();
      this.#tasks.beginSnapshot();
      this.#pump();
    });
  }

  /** The stream is gone. What it was being written counts as lost; the rest waits for the next stream. */
  broken(): void {
    this.#guard(() => this.#break());
  }

  #break(): void {
    if (this.#detach() === null) return;
    this.#stopWriting();
    if (this.#finish !== null) this.#discard(this.#finish.reason === null ? "RESTART" : "DISCARDED");
  }

  /** Lets go of the stream, whatever becomes of it; null when there is none. */
  #detach(): DeliveryStream | null {
    const stream = this.#stream;
    if (stream !== null) this.#options.flush.streamClosed();
    this.#stream = null;
    this.#urgent = [];
    this.#tasks.cancelSnapshot();
    return stream;
  }

  /** A dispatcher has left something in the outbox. */
  wake(): void {
    this.#guard(() => {
      const { counters, slot, overflow } = this.#options;
      this.#tasks.noticeLost();
      this.#aux.noticeLost();
      if (overflow === "DROP_OLDEST") this.#losses.makeRoom();
      if (overflow === "DISCONNECT" && !this.#overflowed && (counters.refused(slot) > 0 || this.#aux.wasRefused)) {
        this.#overflowed = true;
        this.#options.onOverflow();
      }
      this.#pump();
    });
  }

  /** Samples of the event that were lost before anyone could match them: told to the stream, not in the books. */
  eventWideLoss(event: number, reason: LossReason, count: number): void {
    this.#losses.noteGap(event, reason, count);
    this.pump();
  }

  /** The daemon was not there between the two: told by the event, with a duration where the samples' clock is known. */
  restarted(event: number, firstNs: number, lastNs: number): void {
    this.#losses.noteRestart(event, firstNs, lastNs);
    this.pump();
  }

  /** The kernel had no room for so many task records: told to the stream, which is given a new snapshot. */
  tasksLost(count: number): void {
    if (this.#tasks.loseInKernel(count)) this.pump();
  }

  /** Dispatcher `d` died: what it had matched for the handler and not delivered is lost. Its thread is gone. */
  abandoned(d: number): void {
    const { readers, counters, slot } = this.#options;
    const { unaccounted, matched, refused } = readers[d].abandon();
    const [queueFull, memory] = refused;
    counters.amend(slot, d, matched, queueFull, memory);
    unaccounted.forEach(({ samples, period }, event) => {
      if (samples > 0) this.#losses.loseUnaccounted(event, samples, period);
    });
    this.pump();
  }

  /** Calls `count` for each of dispatcher `d`'s segments that waits for the stream. */
  countSegments(d: number, count: (segment: number) => void): void {
    this.#options.readers[d].countSegments(count);
  }

  /**
   * Writes what is left, the end of the story, and ends the stream. Only when no dispatcher is inside the handler and
   * none will be. Without a stream it is lost as `discardAs` says, or DISCARDED. Resolves with the books when all is taken.
   */
  async finish(reason: string, discardAs: LossReason | null): Promise<Books> {
    const { books } = await this.#finishFor(reason, discardAs);
    return books;
  }

  /**
   * As `finish`, of a handler that is to go on in the next daemon: writes what is left, and breaks the stream. What no stream
   * takes is lost with the reason RESTART, for the next daemon to tell.
   */
  suspend(): Promise<Finished> {
    return this.#finishFor(null, this.#stream === null ? "RESTART" : null);
  }

  #finishFor(reason: string | null, discardAs: LossReason | null): Promise<Finished> {
    return new Promise((resolve) => {
      this.#finish = { reason, resolve };
      if (discardAs !== null) this.#tasks.cancelSnapshot();
      if (discardAs !== null || this.#stream === null) this.#losses.loseQueue(discardAs ?? "DISCARDED");
      this.pump();
    });
  }

  /** Cuts a finish short: what is queued is lost for `reason`, and a write that does not end is given up. */
  discard(reason: LossReason): void {
    this.#guard(() => this.#discard(reason));
  }

  #discard(reason: LossReason): void {
    this.#tasks.cancelSnapshot();
    this.#losses.loseQueue(reason);
    if (this.#ending || this.#inFlight.length > 0) {
      const stream = this.#detach();
      this.#stopWriting();
      try {
        stream?.abort();
      } finally {
        this.#pump();
      }
    } else this.#pump();
  }

  /** Exact once finished; before, what is queued is matched but neither delivered nor lost. */
  books(): Books {
    return this.#books.balance(this.#options.readers, this.#sequence);
  }

  /** Writes what there is to write, as far as the stream takes it and its time has come. */
  pump(): void {
    this.#guard(() => this.#pump());
  }

  #pump(): void {
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
    const gap = this.#losses.nextGap();
    if (gap !== undefined) {
      this.#write(this.#options.encode(gapMessage(gap)) as Buffer, { ...CONTROL, gap });
      return true;
    }
    const untold = this.#losses.next();
    if (untold !== undefined) {
      this.#tell(untold);
      return true;
    }
    if (this.#finish === null) this.#tasks.resync();
    return this.#tasks.isInSnapshot ? this.#stepSnapshot() : this.#stepQueue();
  }

  #stepSnapshot(): boolean {
    const next = this.#tasks.takeSnapshot();
    if (next !== null) this.#write(next, CONTROL);
    // Without a message there is something to do only when that was the snapshot's end.
    return next !== null || !this.#tasks.isInSnapshot;
  }

  #stepQueue(): boolean {
    const reader = this.#queue.next();
    this.#options.counters.setQueueBytes(this.#options.slot, this.queuedBytes);
    if (reader === undefined) {
      // The end tells the final books: what is on its way must have been taken.
      return this.#finish !== null && this.#inFlight.length === 0 && this.#writeEnd();
    }
    if (!this.#isDue()) return false;
    if (reader.entry.kind === ENTRY.TASKS) return this.#writeTasks(reader);
    if (reader.entry.kind === ENTRY.AUX) return this.#writeAux(reader);
    if (reader.entry.kind !== ENTRY.CHUNK) {
      this.#losses.takeTold(reader);
      return true;
    }
    return this.#writeChunks(reader.entry.event);
  }

  /** One message of task records, of one dispatcher's and so in order; false when there is no memory for it now. */
  #writeTasks(reader: OutboxReader): boolean {
    const bytesMax = this.#inFlight.messageBytesMax;
    if (bytesMax < MESSAGE_BYTES_MIN) return false;
    this.#queue.gatherTasks(message, reader, bytesMax);
    message.finishTasks();
    return this.#writeMessage(CONTROL);
  }

  /** One piece of an AUX area; false when there is no memory for it now. */
  #writeAux(reader: OutboxReader): boolean {
    if (this.#inFlight.messageBytesMax < MESSAGE_BYTES_MIN) return false;
    const { event, samples: auxBytes } = this.#queue.takeAux(message, reader);
    return this.#writeMessage({ ...CONTROL, event, auxBytes });
  }

  /** Lost samples are numbered where they are told, so that a gap in the sequence is as long as the losses say. */
  #tell(told: Untold): void {
    const { event, count: samples, period } = told;
    this.#sequence += samples;
    this.#write(this.#options.encode(untoldMessage(told)) as Buffer, { ...CONTROL, event, samples, period, told });
  }

  #isDue(): boolean {
    if (this.#finish !== null || this.#queue.isFilling) return true;
    // The more a message takes along the better: a second one is not written beside the first for a few samples.
    if (this.#inFlight.length > 0) return false;
    return this.#flush.isDue(this.#options.now());
  }

  /** One message of one event's samples, from all dispatchers; false when there is no memory for another one now. */
  #writeChunks(event: number): boolean {
    const bytesMax = this.#inFlight.messageBytesMax;
    if (bytesMax < MESSAGE_BYTES_MIN) return false;
    const nowNs = this.#options.now();
    const { samples, period } = this.#queue.gather(message, event, bytesMax, nowNs);
    this.#flush.written(nowNs);
    message.finish(event, this.#sequence);
    this.#sequence += samples;
    return this.#writeMessage({ ...CONTROL, event, samples, period });
  }

  #writeMessage(what: InFlight): true {
    try {
      this.#write(message, what);
    } finally {
      message.release();
    }
    return true;
  }

  #write(bytes: WireMessage, what: InFlight): void {
    const stream = this.#stream as DeliveryStream;
    this.#inFlight.push(what, bytes.byteLength);
    stream.write(bytes, () => {
      if (this.#stream !== stream) return;
      this.#guard(() => {
        this.#written();
        this.#pump();
      });
    });
  }

  /** The transport has taken the oldest of what is on its way. */
  #written(): void {
    const taken = this.#inFlight.shift();
    if (taken === undefined) throw new Error("the stream says that it has written what it was not given");
    if (taken.told === null && taken.gap === null && taken.samples > 0)
      this.#books.deliver(taken.event, taken.samples, taken.period);
    if (taken.told !== null) this.#books.tell(taken.event, taken.told.reason, taken.samples, taken.period);
    if (taken.auxBytes > 0) this.#options.onAux(taken.auxBytes, 0);
  }

  /** The stream is gone, and what was being written with it. */
  #stopWriting(): void {
    this.#ending = false;
    // The last first: what is told of them takes the numbers back, and goes before what is told of those after them.
    for (let last = this.#inFlight.pop(); last !== undefined; last = this.#inFlight.pop()) this.#loseInFlight(last);
  }

  /** What was being written may or may not have arrived. It is told as lost, or told again, under the numbers it had. */
  #loseInFlight({ event, samples, period, auxBytes, told, gap }: InFlight): void {
    this.#aux.lose(event, "STREAM_BROKEN", auxBytes);
    if (gap !== null) {
      this.#losses.tellGapAgain(gap);
      return;
    }
    this.#sequence -= samples;
    if (told !== null) this.#losses.tellAgain(told);
    else if (samples > 0) this.#losses.loseWritten(event, samples, period);
  }

  /** True when there was something to tell before the end. */
  #writeEnd(): boolean {
    const { reason } = this.#finish as Finish;
    this.#losses.takePending();
    if (!this.#losses.isTold) return true;
    const books = this.books();
    const stream = this.#stream as DeliveryStream;
    if (reason === null) {
      this.#detach();
      try {
        stream.suspend();
      } finally {
        this.#close();
      }
      return false;
    }
    this.#ending = true;
    stream.write(this.#options.encode({ end: endMessage(books, reason) }) as Buffer, () => {
      if (this.#stream !== stream) return;
      this.#ending = false;
      this.#detach();
      this.#guard(() => {
        try {
          stream.end();
        } finally {
          this.#close();
        }
      });
    });
    return false;
  }

  /** The books are final. */
  #close(): void {
    const finish = this.#finish as Finish;
    this.#tasks.cancelSnapshot();
    this.#losses.takePending();
    const left = this.#losses.takeLeft();
    for (const { count } of left.untold) this.#sequence += count;
    this.#flush.cancel();
    this.#finish = null;
    this.#options.counters.setQueueBytes(this.#options.slot, 0);
    finish.resolve({ books: this.books(), carried: { settled: this.#books.settled, ...left } });
  }
}

/** On the account of the first dispatcher, which does not know the outbox yet. */
function carryMatched(reader: OutboxReader, carried: CarriedBooks): void {
  for (const [event, { delivered, periodDelivered, lost, periodLost }] of eventTotals(carried).entries()) {
    if (delivered + lost > 0) reader.carry(event, delivered + lost, periodDelivered + periodLost);
  }
  reader.carryRefused(refusedCounts(lossTotals(carried)));
}
