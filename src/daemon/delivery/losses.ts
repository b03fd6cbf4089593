/** What one handler has lost: booked at once, and kept until a stream has been told. */
import type { ControlDelivery, LossMessage } from "../grpc/proto.js";
import type { HandlerBooks, LossReason } from "./books.js";
import { auxLossMessage, lossMessage, tasksLossMessage } from "./control-messages.js";
import { ENTRY, REFUSAL_REASONS } from "./outbox.js";
import type { Entry, OutboxReader } from "./outbox-reader.js";

/** Booked, and not told yet. Its samples are numbered when it is told. */
export interface Untold {
  readonly event: number;
  readonly reason: LossReason;
  count: number;
  period: number;
  readonly firstNs: number;
  lastNs: number;
}

/** What `count` of a Gap counts: the event's samples, task records, or bytes of the event's AUX data. */
type GapOf = "samples" | "tasks" | "aux";

/** Event-wide: in no books, and without numbers. */
export interface Gap {
  readonly event: number;
  readonly reason: LossReason;
  count: number;
  readonly of: GapOf;
  /** Of the reason RESTART, where nobody knows how many there would have been: when it was; 0 where no clock can say. */
  readonly firstNs?: number;
  readonly lastNs?: number;
}

/** What has not been told when the handler leaves this daemon. */
export interface Left {
  readonly untold: readonly Untold[];
  readonly gaps: readonly Gap[];
}

/** DROP_OLDEST makes room ahead of need, since it is the reader who drops and the dispatchers do not wait for it. */
const DROP_ABOVE = 3 / 4;
const DROP_TO = 1 / 2;

/** Told of what was dropped from the queue and is in no books. */
export interface UnbookedLosses {
  readonly onTasksLost: (reason: LossReason, records: number) => void;
  readonly onAuxLost: (event: number, reason: LossReason, bytes: number) => void;
}

export class Losses {
  readonly #books: HandlerBooks;
  readonly #readers: readonly OutboxReader[];
  readonly #events: number;
  readonly #unbooked: UnbookedLosses;
  #gaps: Gap[] = [];
  #untold: Untold[] = [];
  #pendingTaken = false;

  constructor(
    books: HandlerBooks,
    readers: readonly OutboxReader[],
    events: number,
    unbooked: UnbookedLosses,
    { untold, gaps }: Left = { untold: [], gaps: [] },
  ) {
    this.#untold = untold.map((loss) => ({ ...loss }));
    this.#gaps = gaps.map((gap) => ({ ...gap }));
    this.#unbooked = unbooked;
    this.#books = books;
    this.#readers = readers;
    this.#events = events;
  }

  /** The next gap to tell, which is the caller's from then on. */
  nextGap(): Gap | undefined {
    return this.#gaps.shift();
  }

  /** The next loss to tell, which is the caller's from then on, to be numbered. */
  next(): Untold | undefined {
    return this.#untold.shift();
  }

  get isTold(): boolean {
    return this.#untold.length === 0 && this.#gaps.length === 0;
  }

  noteGap(event: number, reason: LossReason, count: number, of: GapOf = "samples"): void {
    // Joined until a stream can be told, which may be the next one.
    const gap = this.#gaps.find((other) => other.event === event && other.reason === reason && other.of === of);
    if (gap === undefined) this.#gaps.push({ event, reason, count, of });
    else gap.count += count;
  }

  /** From one daemon's last sample to the next one's first: each is told by itself. */
  noteRestart(event: number, firstNs: number, lastNs: number): void {
    this.#gaps.push({ event, reason: "RESTART", count: 0, of: "samples", firstNs, lastNs });
  }

  /** All that is not told, which is the caller's from then on. */
  takeLeft(): Left {
    const left = { untold: this.#untold, gaps: this.#gaps };
    this.#untold = [];
    this.#gaps = [];
    return left;
  }

  /** Of a gap whose telling broke off. */
  tellGapAgain(gap: Gap): void {
    this.#gaps.unshift(gap);
  }

  /** Of a loss whose telling broke off: it goes before what came after it. */
  tellAgain(loss: Untold): void {
    this.#untold.unshift(loss);
  }

  /** Samples were on their way when the stream broke: told before what came after them. */
  loseWritten(event: number, samples: number, period: number): void {
    this.#books.lose(event, "STREAM_BROKEN", samples, period);
    this.tellAgain({ event, reason: "STREAM_BROKEN", count: samples, period, firstNs: 0, lastNs: 0 });
  }

  loseUnaccounted(event: number, samples: number, period: number): void {
    this.#books.lose(event, "DISPATCHER_DIED", samples, period);
    this.#untold.push({ event, reason: "DISPATCHER_DIED", count: samples, period, firstNs: 0, lastNs: 0 });
  }

  /** Takes the LOSS and GAP entries at the front of one outbox. */
  takeTold(reader: OutboxReader): void {
    while (reader.peek() && isLoss(reader.entry)) {
      this.#lose(reader.entry, "QUEUE_FULL");
      reader.drop();
    }
  }

  /** DROP_OLDEST, for outboxes that are filling. */
  makeRoom(): void {
    for (const reader of this.#readers) {
      if (reader.fill <= DROP_ABOVE) continue;
      while (reader.fill > DROP_TO && reader.peek()) {
        this.#lose(reader.entry, "QUEUE_DROPPED_OLDEST");
        reader.drop();
      }
    }
  }

  /** Everything that waits is lost for `reason`. */
  loseQueue(reason: LossReason): void {
    for (const reader of this.#readers) {
      while (reader.peek()) {
        this.#lose(reader.entry, reason);
        reader.drop();
      }
    }
  }

  /** Books the entry as lost and remembers to tell it, joined with the loss before it where that is the same story. */
  #lose(entry: Entry, chunkReason: LossReason): void {
    if (entry.kind === ENTRY.GAP) {
      this.noteGap(entry.event, "DISPATCHER_DIED", entry.samples);
      return;
    }
    if (entry.kind === ENTRY.TASKS) {
      this.#unbooked.onTasksLost(chunkReason, entry.samples);
      return;
    }
    if (entry.kind === ENTRY.AUX) {
      this.#unbooked.onAuxLost(entry.event, chunkReason, entry.samples);
      return;
    }
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

  /** Losses the dispatchers could not put into the full outbox. Only when none of them is inside, and none will be. */
  takePending(): void {
    if (this.#pendingTaken) return;
    this.#pendingTaken = true;
    for (const reader of this.#readers) {
      for (let event = 0; event < this.#events; event++) {
        for (const { refusal, samples, period, firstNs, lastNs } of reader.pendingLosses(event)) {
          const reason = REFUSAL_REASONS[refusal];
          this.#books.lose(event, reason, samples, period);
          this.#untold.push({ event, reason, count: samples, period, firstNs, lastNs });
        }
        const gap = reader.pendingGap(event);
        if (gap > 0) this.noteGap(event, "DISPATCHER_DIED", gap);
      }
    }
  }
}

function isLoss({ kind }: Entry): boolean {
  return kind === ENTRY.LOSS || kind === ENTRY.GAP;
}

export function gapMessage(gap: Gap): ControlDelivery {
  return { loss: gapLoss(gap) };
}

function gapLoss({ event, reason, count, of, firstNs = 0, lastNs = 0 }: Gap): LossMessage {
  if (of === "tasks") return tasksLossMessage(reason, count);
  if (of === "aux") return auxLossMessage(event, reason, count);
  return { ...lossMessage(event, reason, count, 0, firstNs, lastNs), event_wide: true };
}

export function untoldMessage({ event, reason, count, period, firstNs, lastNs }: Untold): ControlDelivery {
  return { loss: lossMessage(event, reason, count, period, firstNs, lastNs) };
}
