/** Reads one handler's stream, keeps its own books of it, and checks the contract message by message. */
import assert from "node:assert/strict";
import type {
  BrokerClient,
  Delivery,
  DeregisterResponse,
  End,
  Loss,
  LossReason,
  RegisterRequest,
  SampleBatch,
  Started,
} from "../../clients/typescript/index.js";
import { Conditions } from "./conditions.js";

export interface ReaderOptions {
  /** Aborting breaks the stream; `done` then rejects with the signal's reason. */
  readonly signal?: AbortSignal;
  /** Called for every batch, after it has been counted; the stream waits for it. */
  readonly onBatch?: (batch: SampleBatch) => void | Promise<void>;
  /** Pull `started` and nothing more until resume(). */
  readonly paused?: boolean;
}

/** What was received of one of the handler's events. */
export interface Received {
  samples: number;
  period: bigint;
  lost: number;
  periodLost: bigint;
}

export class StreamReader {
  readonly name: string;
  readonly handlerId: number;
  started: Started | null = null;
  end: End | null = null;
  samples = 0;
  /** Of the next sample, lost ones included. */
  nextSequence = 0;
  readonly events: Received[] = [];
  /** All loss messages in order, each with the number of the first sample it tells of. */
  readonly losses: { readonly loss: Loss; readonly sequence: number }[] = [];
  readonly samplesByPid = new Map<number, number>();
  readonly samplesByCpu = new Map<number, number>();
  /** Resolves when the stream has ended with `end` and OK; rejects when it failed or broke the contract. */
  readonly done: Promise<void>;
  readonly #conditions: Conditions;
  #gate: Promise<void> | null = null;
  #open: () => void = () => {};

  constructor(client: BrokerClient, handlerId: number, name: string, options: ReaderOptions = {}) {
    this.name = name;
    this.handlerId = handlerId;
    this.#conditions = new Conditions(
      () => `${name}: ${this.samples} samples, ${this.losses.length} losses, end: ${this.end?.reason ?? "none"}`,
    );
    if (options.paused) this.pause();
    this.done = this.#read(client, options).then(
      () => this.#conditions.over(new Error("the stream has ended")),
      (error: Error) => {
        this.#conditions.over(error);
        throw error;
      },
    );
    // Whoever awaits it sees it; until then it is no unhandled rejection.
    this.done.catch(() => {});
  }

  /** Resolves once `holds()`, which is looked at after every message. Rejects when the stream ends before. */
  until(what: string, holds: () => boolean): Promise<void> {
    return this.#conditions.until(what, holds);
  }

  untilStarted(): Promise<void> {
    return this.until("started", () => this.started !== null);
  }

  /** Resolves when `count` more samples have come. */
  untilMore(count: number): Promise<void> {
    const wanted = this.samples + count;
    return this.until(`${count} more samples`, () => this.samples >= wanted);
  }

  /** Stops pulling: what the daemon sends piles up, here a little and then there. */
  pause(): void {
    this.#gate ??= new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  resume(): void {
    this.#gate = null;
    this.#open();
  }

  lost(reason: LossReason): number {
    return this.losses.reduce((sum, { loss }) => sum + (loss.reason === reason ? loss.count : 0), 0);
  }

  async #read(client: BrokerClient, { signal, onBatch }: ReaderOptions): Promise<void> {
    for await (const delivery of client.subscribe(this.handlerId, { signal })) {
      this.#take(delivery);
      this.#conditions.changed();
      if (delivery.kind === "samples") await onBatch?.(delivery);
      await this.#gate;
    }
    assert.notEqual(this.end, null, `${this.name}: the stream ended without end`);
  }

  #take(delivery: Delivery): void {
    assert.equal(this.end, null, `${this.name}: ${delivery.kind} after end`);
    assert.equal(delivery.kind === "started", this.started === null, `${this.name}: started comes once and first`);
    switch (delivery.kind) {
      case "started":
        this.started = delivery;
        this.nextSequence = delivery.nextSequence;
        for (const _ of delivery.events) this.events.push({ samples: 0, period: 0n, lost: 0, periodLost: 0n });
        break;
      case "samples":
        this.#count(delivery);
        break;
      case "loss":
        this.#lose(delivery);
        break;
      case "end":
        this.end = delivery;
        break;
    }
  }

  #count(batch: SampleBatch): void {
    const { pid, cpu, period, length, sequence } = batch;
    assert.equal(sequence, this.nextSequence, `${this.name}: sequence has a gap that no loss told of`);
    for (const column of [batch.time, batch.ip, pid, batch.tid, cpu, period]) assert.equal(column.length, length);
    this.nextSequence += length;
    this.samples += length;
    const event = this.events[batch.eventIndex];
    event.samples += length;
    for (let i = 0; i < length; i++) {
      event.period += period[i];
      this.samplesByPid.set(pid[i], (this.samplesByPid.get(pid[i]) ?? 0) + 1);
      this.samplesByCpu.set(cpu[i], (this.samplesByCpu.get(cpu[i]) ?? 0) + 1);
    }
  }

  #lose(loss: Loss): void {
    assert.ok(loss.count > 0, `${this.name}: a loss of nothing`);
    this.losses.push({ loss, sequence: this.nextSequence });
    // Nobody knows whether it was this handler's: it has no numbers and is in no books.
    if (loss.eventWide) return;
    this.nextSequence += loss.count;
    const event = this.events[loss.eventIndex];
    event.lost += loss.count;
    event.periodLost += BigInt(loss.period);
  }
}

/** Registers a handler and subscribes it. Resolves when `started` has come. */
export async function subscribeNew(
  client: BrokerClient,
  request: RegisterRequest,
  options?: ReaderOptions,
): Promise<StreamReader> {
  const { handlerId } = await client.register(request);
  const reader = new StreamReader(client, handlerId, request.name, options);
  await reader.untilStarted();
  return reader;
}

/** Awaits the reader's end and checks its books against what it received, sample for sample. */
export async function checkEnd(reader: StreamReader, reason: End["reason"]): Promise<End> {
  await reader.done;
  const end = reader.end as End;
  const { name } = reader;
  assert.equal(end.reason, reason, name);
  assert.equal(end.matched, end.delivered + end.lost, `${name}: matched = delivered + lost`);
  assert.equal(end.delivered, reader.samples, `${name}: delivered = received`);
  assert.equal(end.lost, sum(reader.events, "lost"), `${name}: lost = told`);
  const { nextSequence } = reader.started as Started;
  assert.equal(reader.nextSequence - nextSequence, end.matched, `${name}: numbered = matched`);
  assert.deepEqual(
    end.events.map(({ matched, delivered, lost, periodDelivered, periodLost }) => ({
      matched,
      delivered,
      lost,
      periodDelivered,
      periodLost,
    })),
    reader.events.map(({ samples, lost, period, periodLost }) => ({
      matched: samples + lost,
      delivered: samples,
      lost,
      periodDelivered: period,
      periodLost,
    })),
    `${name}: events`,
  );
  return end;
}

/** checkEnd() of a reader whose handler was deregistered with the answer `books`, which must say the same as `end`. */
export async function checkBooks(reader: StreamReader, books: DeregisterResponse): Promise<void> {
  const end = await checkEnd(reader, "DEREGISTERED");
  const { matched, delivered, lost, events } = books;
  assert.deepEqual({ matched, delivered, lost, events }, pick(end), `${reader.name}: Deregister and end agree`);
  assert.equal(books.lastSequence, reader.nextSequence, `${reader.name}: last_sequence`);
  const reasons = new Set(reader.losses.flatMap(({ loss }) => (loss.eventWide ? [] : [loss.reason])));
  assert.deepEqual(
    new Map(books.losses.map(({ reason, count }) => [reason, count])),
    new Map([...reasons].map((reason) => [reason, reader.lost(reason)])),
    `${reader.name}: losses by reason`,
  );
}

/** Deregisters the reader's handler and checks the books. */
export async function deregisterAndCheck(client: BrokerClient, reader: StreamReader): Promise<DeregisterResponse> {
  const books = await client.deregister(reader.handlerId);
  await checkBooks(reader, books);
  return books;
}

function pick({ matched, delivered, lost, events }: End) {
  return { matched, delivered, lost, events };
}

function sum(events: readonly Received[], field: "samples" | "lost"): number {
  return events.reduce((total, event) => total + event[field], 0);
}
