/** One handler under test: what a role may do with it, and its books when it has gone. */
import {
  type BrokerClient,
  connect,
  type DeregisterResponse,
  type LossCount,
  type RegisterRequest,
  RpcError,
  type SampleBatch,
  type TlsOptions,
} from "../../typescript/index.js";
import { patiently } from "../patience.js";
import { type DaemonBooks, StreamLedger } from "./ledger.js";
import type { Removals } from "./removals.js";

export interface TableBooks {
  readonly matched: number;
  readonly delivered: number;
  readonly lost: number;
  readonly losses: readonly LossCount[];
}

/** Both sides are loaded beyond what they can take: an answer may take its time. */
export const CALL_MS_MAX = 60_000;
/** A removal whose reader is slow may take as long as the daemon allows; then the rest is discarded. */
const REMOVAL_MS = 5000;
const STREAM_END_MS = 30_000;
const RETRY_MS = 20;
const RETRIES_MAX = 500;
/** HTTP/2's own window, so that a reader that pauses is felt by the daemon soon. */
const SMALL_WINDOW_BYTES = 65_535;

export interface SubjectOptions {
  readonly address: string;
  readonly tls?: TlsOptions;
  readonly removals: Removals;
  readonly role: string;
  readonly request: RegisterRequest;
  readonly onBatch?: (batch: SampleBatch) => void;
}

export class Subject {
  readonly role: string;
  readonly name: string;
  readonly handlerId: number;
  readonly ledger = new StreamLedger();
  /** Streams that were broken on purpose. */
  broken = 0;
  /** Whether its last stream has ended, for whatever reason. */
  ended = false;
  /** As the table has it, once settled. */
  totals: TableBooks = { matched: 0, delivered: 0, lost: 0, losses: [] };
  readonly #client: BrokerClient;
  readonly #removals: Removals;
  readonly #onBatch: (batch: SampleBatch) => void;
  readonly #disconnects: boolean;
  #books: DeregisterResponse | null = null;
  #discarded = false;
  /** It was removed before its broken stream could be resumed. */
  #gone = false;
  /** It went while the daemon was restarted, and its last books with it. */
  #unseen = false;
  /** The last stream was broken on purpose. */
  #brokenOff = false;
  /** Aborting it breaks the stream. */
  #breaking = new AbortController();
  #reading: Promise<void> = Promise.resolve();
  #gate: Promise<void> | null = null;
  #open: () => void = () => {};

  private constructor(client: BrokerClient, handlerId: number, { removals, role, request, onBatch }: SubjectOptions) {
    this.#client = client;
    this.#removals = removals;
    this.#onBatch = onBatch ?? (() => {});
    this.#disconnects = request.queue?.overflow === "DISCONNECT";
    this.handlerId = handlerId;
    this.role = role;
    this.name = request.name;
  }

  /** On a connection of its own, as another program's would be: a paused reader holds nobody else up. Throws RpcError. */
  static async register(options: SubjectOptions): Promise<{ subject: Subject; frequencyHz: number }> {
    const client = connect(options.address, {
      timeoutMs: CALL_MS_MAX,
      tls: options.tls,
      channelOptions: {
        "grpc.use_local_subchannel_pool": 1,
        ...(options.request.queue?.maxBytes ? { "grpc-node.flow_control_window": SMALL_WINDOW_BYTES } : {}),
      },
    });
    try {
      const { handlerId, events } = await client.register(options.request);
      options.removals.expect(handlerId);
      return { subject: new Subject(client, handlerId, options), frequencyHz: events[0]?.frequencyHz ?? 0 };
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Starts a stream, or the next one after a break. Resolves when `started` has come, or the stream has gone. */
  async subscribe(): Promise<void> {
    this.#breaking = new AbortController();
    this.ended = false;
    this.#brokenOff = false;
    await new Promise<void>((resolve) => {
      this.#reading = this.#read(this.#breaking.signal, resolve).finally(() => {
        this.ended = true;
        resolve();
      });
    });
  }

  async #read(signal: AbortSignal, onStarted: () => void): Promise<void> {
    for (let attempt = 0; ; attempt++) {
      let begun = 0;
      try {
        const deliveries = this.#client.subscribe(this.handlerId, { signal });
        for await (const delivery of deliveries) {
          // More than one where the stream was resumed, because the daemon was restarted.
          for (; begun < Math.max(1, deliveries.streams); begun++) this.ledger.begin();
          this.ledger.take(delivery);
          if (delivery.kind === "started") onStarted();
          if (delivery.kind === "samples") this.#onBatch(delivery);
          if (delivery.kind !== "end") await this.#gate;
        }
        if (this.ledger.end === null) this.ledger.problems.push("the stream ended with OK and without end");
        return;
      } catch (error) {
        if (signal.aborted) return;
        // The daemon may learn of the last stream's end after we have asked for the next, or be in the middle of a restart.
        const early =
          error instanceof RpcError &&
          ((error.code === "FAILED_PRECONDITION" && /live stream/.test(error.message)) ||
            (error.code === "UNAVAILABLE" && begun === 0));
        if (early && attempt < RETRIES_MAX) await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        else if (this.#isExpected(error)) {
          this.#gone = this.ledger.streams > 0 && (error as RpcError).code !== "CANCELLED";
          return;
        } else {
          this.ledger.problems.push(`the stream failed: ${(error as Error).message}`);
          return;
        }
      }
    }
  }

  /** A removal cuts a stream whose reader is stuck, and there is none for a handler that has gone. */
  #isExpected(error: unknown): boolean {
    if (!(error instanceof RpcError)) return false;
    return (
      ["CANCELLED", "ABORTED", "NOT_FOUND"].includes(error.code) ||
      // While the daemon was restarted.
      /is being removed|lease of \d+ ms ran out/.test(error.message)
    );
  }

  /** Stops reading: what the daemon sends piles up, here a little and then there. */
  pause(): void {
    this.#gate ??= new Promise((resolve) => {
      this.#open = resolve;
    });
  }

  resume(): void {
    this.#gate = null;
    this.#open();
  }

  /** Breaks the stream off; the handler lives on for its lease. */
  async breakOff(): Promise<void> {
    if (this.ended) return;
    this.broken++;
    this.#brokenOff = true;
    this.#breaking.abort();
    this.resume();
    await this.#reading;
  }

  async deregister(discard = false): Promise<void> {
    this.#discarded ||= discard;
    try {
      const options = { discard, timeoutMs: REMOVAL_MS };
      this.#books = await patiently(() => this.#client.deregister(this.handlerId, options));
    } catch (error) {
      if (!(error instanceof RpcError)) throw error;
      if (error.code === "DEADLINE_EXCEEDED" && !discard) await this.deregister(true);
      // Its lease, its overflow, or the end of the source was faster.
      else if (error.code !== "NOT_FOUND") throw error;
    }
  }

  /** What is on the way is read up to the end; a stream that the daemon forgot does not hold up the run. */
  async #streamEnd(): Promise<void> {
    const timer = setTimeout(() => {
      this.ledger.problems.push(`the stream went on for ${STREAM_END_MS / 1000} s after the removal`);
      this.#breaking.abort();
    }, STREAM_END_MS);
    await this.#reading;
    clearTimeout(timer);
  }

  /** Only a reader that may have been stuck when it was removed goes without an end. */
  #checkEnd(): void {
    const { end, streams, problems } = this.ledger;
    const mayBeCut =
      this.#brokenOff || this.#discarded || this.#disconnects || this.#gone || this.#unseen || streams === 0;
    if (end === null && !mayBeCut) problems.push("its last stream brought no end");
    if (end?.reason === "OVERFLOWED" && !this.#disconnects) problems.push("it ended as OVERFLOWED");
  }

  /** When it has gone: waits for its stream's end and for the table's last word, and compares. Closes the connection. */
  async settle(): Promise<void> {
    try {
      const removed = await this.#removals.of(this.handlerId);
      this.#unseen = removed === null;
      this.resume();
      await this.#streamEnd();
      this.#checkEnd();
      const { end } = this.ledger;
      const told: DaemonBooks[] = [];
      if (end !== null) told.push({ source: "end", ...end });
      if (this.#books !== null) told.push({ source: "Deregister", ...this.#books });
      if (removed !== null) {
        const { matched, delivered, lost, losses } = removed;
        told.push({ source: "the table", matched, delivered, lost, losses });
        this.totals = { matched, delivered, lost, losses };
      } else if (told.length > 0) this.totals = { losses: [], ...told[0] };
      if (told.length > 0 || !this.#unseen) this.ledger.settle(told);
    } catch (error) {
      this.ledger.problems.push((error as Error).message);
    } finally {
      this.#client.close();
    }
  }
}
