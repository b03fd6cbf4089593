/** Reads one handler's stream, keeps its own books of it, and checks the contract message by message, as `nmictl verify` does. */
import assert from "node:assert/strict";
import { type DaemonBooks, type EventLedger, StreamLedger } from "../../clients/nmictl/verify/ledger.js";
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
  /** Go on in another stream when one breaks. */
  readonly resume?: boolean;
  /** Called for every batch, after it has been counted; the stream waits for it. */
  readonly onBatch?: (batch: SampleBatch) => void | Promise<void>;
  /** Pull `started` and nothing more until resume(). */
  readonly paused?: boolean;
}

export class StreamReader {
  readonly name: string;
  readonly handlerId: number;
  readonly ledger = new StreamLedger();
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

  get started(): Started | null {
    return this.ledger.started;
  }

  get end(): End | null {
    return this.ledger.end;
  }

  get samples(): number {
    return this.ledger.samples;
  }

  /** Of the next sample, lost ones included. */
  get nextSequence(): number {
    return this.ledger.nextSequence;
  }

  get events(): readonly EventLedger[] {
    return this.ledger.events;
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

  async #read(client: BrokerClient, { signal, onBatch, resume = false }: ReaderOptions): Promise<void> {
    this.ledger.begin();
    const deliveries = client.subscribe(this.handlerId, { signal, resume });
    for await (const delivery of deliveries) {
      if (this.ledger.streams < deliveries.streams) this.ledger.begin();
      this.#take(delivery);
      this.#conditions.changed();
      if (delivery.kind === "samples") await onBatch?.(delivery);
      await this.#gate;
    }
    assert.notEqual(this.end, null, `${this.name}: the stream ended without end`);
  }

  #take(delivery: Delivery): void {
    const sequence = this.nextSequence;
    this.ledger.take(delivery);
    assert.deepEqual(this.ledger.problems, [], this.name);
    if (delivery.kind === "samples") this.#count(delivery);
    if (delivery.kind === "loss") this.losses.push({ loss: delivery, sequence });
  }

  #count({ pid, cpu, length }: SampleBatch): void {
    for (let i = 0; i < length; i++) {
      this.samplesByPid.set(pid[i], (this.samplesByPid.get(pid[i]) ?? 0) + 1);
      this.samplesByCpu.set(cpu[i], (this.samplesByCpu.get(cpu[i]) ?? 0) + 1);
    }
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
export async function checkEnd(reader: StreamReader, reason: End["reason"], ...books: DaemonBooks[]): Promise<End> {
  await reader.done;
  const end = reader.end as End;
  assert.equal(end.reason, reason, reader.name);
  reader.ledger.settle([{ source: "end", ...end }, ...books]);
  assert.deepEqual(reader.ledger.problems, [], reader.name);
  return end;
}

/** checkEnd() of a reader whose handler was deregistered with the answer `books`, which must say the same as `end`. */
export async function checkBooks(reader: StreamReader, books: DeregisterResponse): Promise<void> {
  await checkEnd(reader, "DEREGISTERED", { source: "Deregister", ...books });
}

/** Deregisters the reader's handler and checks the books. */
export async function deregisterAndCheck(client: BrokerClient, reader: StreamReader): Promise<DeregisterResponse> {
  const books = await client.deregister(reader.handlerId);
  await checkBooks(reader, books);
  return books;
}
