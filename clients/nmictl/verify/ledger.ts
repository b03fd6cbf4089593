/**
 * A client's own books of one handler, kept message by message from what its streams bring, and compared with the
 * daemon's at the end. What does not agree becomes a problem with both sides; nothing throws.
 *
 * A handler whose stream breaks goes on in another one. What the daemon had handed to the transport and the client never
 * read is then missing here: the numbers of the samples say how much (`unseen`). And the messages that were on their way
 * may have arrived although the daemon had to take them for lost: the next stream begins with the number of the first of
 * them again, and they are taken back here.
 */
import type { Delivery, End, EventBooks, Loss, LossCount, SampleBatch, Started } from "../../typescript/index.js";

/** One mistake may show in every message. */
const PROBLEMS_MAX = 50;

/** Messages that the daemon may have on their way in one stream, and so take for lost at once: see Started, nmi.proto. */
const ON_THEIR_WAY_MAX = 4;

/** Of one of the handler's events. */
export interface EventLedger {
  samples: number;
  period: bigint;
  lost: number;
  periodLost: bigint;
}

/** What the daemon says at the end: of `End`, of Deregister's answer, and of the table all that each of them has. */
export interface DaemonBooks {
  readonly source: string;
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly lastSequence?: number;
  readonly events?: readonly EventBooks[];
  readonly losses?: readonly LossCount[];
}

/** A message with numbers. */
interface Numbered {
  readonly sequence: number;
  readonly count: number;
  readonly period: bigint;
  readonly eventIndex: number;
  /** null for samples. */
  readonly reason: string | null;
}

export class StreamLedger {
  /** Of the latest stream. */
  started: Started | null = null;
  end: End | null = null;
  samples = 0;
  /** Told as lost, KERNEL and other event-wide losses aside. */
  lost = 0;
  /** Number of the next sample, lost ones included. */
  nextSequence = 0;
  /** Numbers that went by between two streams. */
  unseen = 0;
  readonly events: EventLedger[] = [];
  readonly losses = new Map<string, number>();
  readonly eventWide = new Map<string, number>();
  /** Told by the event: the daemon was not there. */
  readonly gaps: Loss[] = [];
  readonly problems: string[] = [];
  #streams = 0;
  #startedThisStream = true;
  /** The latest of the last stream that brought `started`, oldest first: what may have to be taken back. */
  #latest: Numbered[] = [];

  /** The daemon's messages of another stream follow. */
  begin(): void {
    this.#streams++;
    this.#startedThisStream = false;
  }

  get streams(): number {
    return this.#streams;
  }

  take(delivery: Delivery): void {
    if (this.end !== null) this.#problem(`${delivery.kind} after end`);
    if ((delivery.kind === "started") === this.#startedThisStream) this.#problem("started comes once, and first");
    switch (delivery.kind) {
      case "started":
        this.#start(delivery);
        break;
      case "samples":
        this.#count(delivery);
        break;
      case "loss":
        this.#lose(delivery);
        break;
      case "tasks":
      case "aux":
        // In no books.
        break;
      case "end":
        this.end = delivery;
        break;
    }
  }

  #problem(text: string): void {
    if (this.problems.length < PROBLEMS_MAX) this.problems.push(text);
  }

  #start(started: Started): void {
    this.#startedThisStream = true;
    this.started = started;
    while (this.events.length < started.events.length) {
      this.events.push({ samples: 0, period: 0n, lost: 0, periodLost: 0n });
    }
    const gap = started.nextSequence - this.nextSequence;
    if (gap !== 0 && !started.resumed) this.#problem(`a first stream starts with number ${started.nextSequence}`);
    if (gap >= 0) {
      this.unseen += gap;
      this.nextSequence = started.nextSequence;
    } else if (!this.takeBack(started.nextSequence)) {
      this.#problem(`a stream resumes with number ${started.nextSequence}, behind ${this.nextSequence}`);
    }
    // What came before that number is settled, on both sides.
    this.#latest = [];
  }

  /**
   * The last messages, from the one that begins with number `sequence` on, do not count: the daemon will tell of them
   * again, or has. False, and nothing is taken back, where none that may have been on its way begins there.
   */
  takeBack(sequence: number): boolean {
    const from = this.#latest.findIndex((message) => message.sequence === sequence);
    if (from < 0) return false;
    for (const message of this.#latest.splice(from)) this.#uncount(message);
    this.nextSequence = sequence;
    return true;
  }

  #uncount({ count, period, eventIndex, reason }: Numbered): void {
    const event = this.#event(eventIndex);
    if (reason === null) {
      this.samples -= count;
      event.samples -= count;
      event.period -= period;
    } else {
      this.lost -= count;
      event.lost -= count;
      event.periodLost -= period;
      add(this.losses, reason, -count);
    }
  }

  #remember(message: Numbered): void {
    this.#latest.push(message);
    if (this.#latest.length > ON_THEIR_WAY_MAX) this.#latest.shift();
  }

  #count(batch: SampleBatch): void {
    const { eventIndex, sequence, length } = batch;
    if (sequence !== this.nextSequence) {
      this.#problem(
        `samples start with number ${sequence}, ${this.nextSequence} comes next: a gap that no loss tells of`,
      );
    }
    for (const column of ["time", "ip", "pid", "tid", "cpu", "period"] as const) {
      if (batch[column].length !== length) this.#problem(`column ${column} holds ${batch[column].length} of ${length}`);
    }
    const period = sumOf(batch.period);
    this.#remember({ sequence, count: length, period, eventIndex, reason: null });
    this.nextSequence = sequence + length;
    this.samples += length;
    const event = this.#event(eventIndex);
    event.samples += length;
    event.period += period;
  }

  #lose(loss: Loss): void {
    const { count, reason, eventIndex } = loss;
    // Of the time between two daemons nobody knows how many there would have been.
    if (loss.eventWide && reason === "RESTART" && count === 0) {
      this.gaps.push(loss);
      return;
    }
    if (count <= 0) this.#problem(`a loss of ${count} for ${reason}`);
    if (loss.eventWide) {
      // Nobody knows whether it was this handler's: it has no numbers and is in no books.
      add(this.eventWide, reason, count);
      return;
    }
    const period = BigInt(loss.period);
    this.#remember({ sequence: this.nextSequence, count, period, eventIndex, reason });
    this.nextSequence += count;
    this.lost += count;
    add(this.losses, reason, count);
    const event = this.#event(eventIndex);
    event.lost += count;
    event.periodLost += period;
  }

  #event(index: number): EventLedger {
    const event = this.events[index];
    if (event !== undefined) return event;
    this.#problem(`event_index ${index}, of ${this.events.length}`);
    return { samples: 0, period: 0n, lost: 0, periodLost: 0n };
  }

  /** Compares with what the daemon says, and what it says in one place with what it says in another. */
  settle(books: readonly DaemonBooks[]): void {
    const [first] = books;
    if (first === undefined) {
      this.#problem("the daemon told no books");
      return;
    }
    for (const own of books) this.#checkWithin(own);
    for (const other of books.slice(1)) {
      for (const what of ["matched", "delivered", "lost"] as const) {
        this.#equal(`${what}, by ${first.source} and by ${other.source}`, first[what], other[what]);
      }
    }
    this.#sameEvents(books.flatMap(({ source, events }) => (events === undefined ? [] : [{ source, events }])));
    const reasons = books.flatMap(({ source, losses }) => (losses === undefined ? [] : [{ source, losses }]));
    this.#sameLosses(reasons);
    const events = books.find((own) => own.events !== undefined)?.events;
    if (this.end === null) this.#takeBackSurplus(first.delivered, events ?? [], reasons[0]?.losses);
    this.#against(first, events, reasons[0]?.losses);
  }

  /** A stream that broke for good: its last messages may have arrived after the daemon took them for lost. */
  #takeBackSurplus(delivered: number, events: readonly EventBooks[], losses: readonly LossCount[] | undefined): void {
    const booked = new Map(losses?.map(({ reason, count }) => [reason as string, count]));
    const isMore = (): boolean =>
      this.samples > delivered ||
      (losses !== undefined && [...this.losses].some(([reason, count]) => count > (booked.get(reason) ?? 0))) ||
      events.some((event) => (this.events[event.eventIndex]?.samples ?? 0) > event.delivered);
    for (let last = this.#latest.at(-1); last !== undefined && isMore(); last = this.#latest.at(-1)) {
      this.takeBack(last.sequence);
    }
  }

  #checkWithin({ source, matched, delivered, lost, lastSequence, events, losses }: DaemonBooks): void {
    this.#equal(`${source}: matched, and delivered + lost`, matched, delivered + lost);
    if (lastSequence !== undefined) this.#equal(`${source}: last_sequence, and matched`, lastSequence, matched);
    if (losses !== undefined) this.#equal(`${source}: losses by reason, and lost`, sum(losses, "count"), lost);
    if (events === undefined) return;
    this.#equal(`${source}: matched, and that of its events`, matched, sum(events, "matched"));
    this.#equal(`${source}: delivered, and that of its events`, delivered, sum(events, "delivered"));
    for (const event of events) {
      const what = `${source}, event ${event.eventIndex}: matched, and delivered + lost`;
      this.#equal(what, event.matched, event.delivered + event.lost);
    }
  }

  #sameEvents(told: readonly { readonly source: string; readonly events: readonly EventBooks[] }[]): void {
    const [first, ...others] = told.map(({ source, events }) => ({ source, text: eventsText(events) }));
    for (const other of others)
      this.#equal(`events, by ${first.source} and by ${other.source}`, first.text, other.text);
  }

  #sameLosses(told: readonly { readonly source: string; readonly losses: readonly LossCount[] }[]): void {
    const [first, ...others] = told.map(({ source, losses }) => ({ source, text: lossesText(losses) }));
    for (const other of others)
      this.#equal(`losses, by ${first.source} and by ${other.source}`, first.text, other.text);
  }

  /** The client's side against the daemon's: equal where every message was seen, else not more than the daemon's. */
  #against(
    books: DaemonBooks,
    events: readonly EventBooks[] | undefined,
    losses: readonly LossCount[] | undefined,
  ): void {
    const complete = this.end !== null && this.unseen === 0;
    const compare = <N extends number | bigint>(what: string, daemon: N, client: N): void => {
      if (complete) this.#equal(what, daemon, client);
      else if (client > daemon) this.#problem(`${what}: ${client} came, of ${daemon}`);
    };
    compare("delivered, and received", books.delivered, this.samples);
    compare("lost, and told as lost", books.lost, this.lost);
    if (this.end !== null) {
      this.#equal("matched, and the number after the last sample", books.matched, this.nextSequence);
      const missing = books.delivered - this.samples + books.lost - this.lost;
      this.#equal("what did not come, and the numbers that went by", missing, this.unseen);
    }
    for (const { eventIndex, delivered, lost, periodDelivered, periodLost } of events ?? []) {
      const own = this.events[eventIndex] ?? { samples: 0, period: 0n, lost: 0, periodLost: 0n };
      compare(`event ${eventIndex}: delivered, and received`, delivered, own.samples);
      compare(`event ${eventIndex}: lost, and told as lost`, lost, own.lost);
      compare(`event ${eventIndex}: period_delivered, and the sum of periods`, periodDelivered, own.period);
      compare(`event ${eventIndex}: period_lost, and the sum told`, periodLost, own.periodLost);
    }
    if (losses === undefined) return;
    const counts = new Map(losses.map(({ reason, count }) => [reason as string, count]));
    for (const reason of new Set([...counts.keys(), ...this.losses.keys()])) {
      compare(`lost for ${reason}, and told as lost`, counts.get(reason) ?? 0, this.losses.get(reason) ?? 0);
    }
  }

  #equal<T extends string | number | bigint>(what: string, left: T, right: T): void {
    if (left !== right) this.#problem(`${what}: ${left} and ${right}`);
  }
}

/** The sum of a 64-bit column. Word by word: a BigInt for each of a million samples a second takes longer than they do. */
export function sumOf(column: BigUint64Array): bigint {
  const words = new Uint32Array(column.buffer, column.byteOffset, column.length * 2);
  // Doubles are exact to 2^53, so for two million words.
  const step = 2 ** 21;
  let sum = 0n;
  for (let from = 0; from < words.length; from += step) {
    let low = 0;
    let high = 0;
    for (let i = from; i < Math.min(from + step, words.length); i += 2) {
      low += words[i];
      high += words[i + 1];
    }
    sum += BigInt(low) + (BigInt(high) << 32n);
  }
  return sum;
}

export function add<Key>(counts: Map<Key, number>, key: Key, count: number): void {
  const sum = (counts.get(key) ?? 0) + count;
  if (sum === 0) counts.delete(key);
  else counts.set(key, sum);
}

function sum<Field extends string>(list: readonly Readonly<Record<Field, number>>[], field: Field): number {
  return list.reduce((total, item) => total + item[field], 0);
}

function eventsText(events: readonly EventBooks[]): string {
  return events
    .map((event) =>
      [event.eventIndex, event.matched, event.delivered, event.lost, event.periodDelivered, event.periodLost].join(" "),
    )
    .join(", ");
}

function lossesText(losses: readonly LossCount[]): string {
  return losses
    .filter(({ count }) => count > 0)
    .map(({ reason, count }) => `${reason} ${count}`)
    .sort()
    .join(", ");
}
