/** `nmictl subscribe`: registers a handler, prints what it is given, removes it again and shows its books. */
import type {
  AuxData,
  BrokerClient,
  Subscription as Deliveries,
  DeregisterResponse,
  End,
  EventSpec,
  Loss,
  LossCount,
  LossReason,
  Overflow,
  RegisterRequest,
  Started,
} from "../typescript/index.js";
import { RpcError } from "../typescript/index.js";
import { formatAux, formatAuxJson } from "./aux.js";
import type { ShownField } from "./options.js";
import { formatLosses, formatNs, formatRate, type Output, printable } from "./output.js";
import { patiently } from "./patience.js";
import { isRestartGap } from "./restart-gap.js";
import { formatSamples, formatSamplesJson, ProcessNames } from "./samples.js";

export interface SubscribeOptions {
  readonly event?: readonly string[];
  readonly frequency?: number;
  readonly period?: number;
  readonly pid?: readonly number[];
  readonly cpu?: readonly number[];
  readonly uid?: readonly number[];
  readonly cgroup?: readonly string[];
  readonly excludeUser?: true;
  readonly excludeKernel?: true;
  readonly callGraph?: true;
  readonly field?: readonly ShownField[];
  readonly name?: string;
  /** Seconds. */
  readonly duration?: number;
  /** Samples. */
  readonly count?: number;
  readonly maxBytes?: number;
  readonly overflow?: "drop-newest" | "drop-oldest" | "disconnect";
  readonly flushInterval?: number;
  readonly lease?: number;
  readonly quiet?: true;
}

export interface SubscribeContext {
  readonly output: Output;
  /** Takes one line about the run; losses and books go here. */
  readonly note: (line: string) => void;
  readonly json: boolean;
  /** Whether the daemon's pids are this machine's. */
  readonly local: boolean;
  /** Aborts when the user wants to stop. */
  readonly signal: AbortSignal;
}

const OVERFLOWS: Readonly<Record<NonNullable<SubscribeOptions["overflow"]>, Overflow>> = {
  "drop-newest": "DROP_NEWEST",
  "drop-oldest": "DROP_OLDEST",
  disconnect: "DISCONNECT",
};

/** Resolves with the process's exit code when the stream has ended and the books are shown. Throws RpcError. */
export async function subscribe(
  client: BrokerClient,
  options: SubscribeOptions,
  context: SubscribeContext,
): Promise<number> {
  const { handlerId } = await client.register(registerRequest(options));
  return new Subscription(client, handlerId, options, context).run();
}

/** What `options` ask the daemon for. */
export function registerRequest(options: SubscribeOptions): RegisterRequest {
  const rate = { frequencyHz: options.frequency, period: options.period };
  const events: EventSpec[] = (options.event ?? [""]).map((event) => ({ event, ...rate }));
  return {
    name: options.name ?? `nmictl-${process.pid}`,
    events,
    filter: {
      pids: options.pid,
      cpus: options.cpu,
      uids: options.uid,
      cgroups: options.cgroup,
      excludeUser: options.excludeUser,
      excludeKernel: options.excludeKernel,
    },
    fields: [...new Set([...(options.callGraph ? (["CALLCHAIN"] as const) : []), ...(options.field ?? [])])],
    queue: {
      maxBytes: options.maxBytes,
      overflow: options.overflow && OVERFLOWS[options.overflow],
      flushIntervalMs: options.flushInterval,
    },
    leaseMs: options.lease,
  };
}

class Subscription {
  readonly #client: BrokerClient;
  readonly #handlerId: number;
  readonly #options: SubscribeOptions;
  readonly #context: SubscribeContext;
  readonly #losses = new Map<LossReason, number>();
  /** Of no handler in particular: the kernel's, and a dead dispatcher's. */
  #eventWideLost = 0;
  // Breaks the stream when the removal has failed: no `end` can be expected then.
  readonly #abandon = new AbortController();
  #received = 0;
  #auxBytes = 0;
  #auxBytesLost = 0;
  #deliveries: Deliveries | undefined;
  #started: Started | undefined;
  #end: End | undefined;
  #names: ProcessNames | undefined;
  #timer: NodeJS.Timeout | undefined;
  #removal: Promise<DeregisterResponse | undefined> | undefined;

  constructor(client: BrokerClient, handlerId: number, options: SubscribeOptions, context: SubscribeContext) {
    this.#client = client;
    this.#handlerId = handlerId;
    this.#options = options;
    this.#context = context;
  }

  async run(): Promise<number> {
    const { signal, output } = this.#context;
    // Nobody is left to print for when the output has gone: what is queued need not be sent then.
    const stop = () => this.#remove(output.gone.aborted);
    signal.addEventListener("abort", stop, { once: true });
    output.gone.addEventListener("abort", stop, { once: true });
    try {
      if (signal.aborted || output.gone.aborted) stop();
      await this.#read(stop);
    } catch (error) {
      this.#remove(true);
      const removed = await this.#removal;
      // Stopped before the stream had begun, there is no handler left to stream from.
      if (!(removed && error instanceof RpcError && error.code === "NOT_FOUND")) throw error;
      await this.#showBooks(removed);
      return 0;
    } finally {
      clearTimeout(this.#timer);
      signal.removeEventListener("abort", stop);
      output.gone.removeEventListener("abort", stop);
    }
    await this.#showBooks(await this.#removal);
    return this.#end === undefined || ["OVERFLOWED", "NOT_REARMED"].includes(this.#end.reason) ? 1 : 0;
  }

  async #read(stop: () => void): Promise<void> {
    this.#deliveries = this.#client.subscribe(this.#handlerId, { signal: this.#abandon.signal });
    for await (const delivery of this.#deliveries) {
      switch (delivery.kind) {
        case "started":
          await this.#begin(delivery);
          if (this.#options.duration) this.#timer ??= setTimeout(stop, this.#options.duration * 1000);
          break;
        case "samples":
          await this.#print(delivery);
          if (this.#options.count !== undefined && this.#received >= this.#options.count) stop();
          break;
        case "loss":
          await this.#noteLoss(delivery);
          break;
        case "aux":
          await this.#printAux(delivery);
          break;
        case "tasks":
          // Not asked for.
          break;
        case "end":
          this.#end = delivery;
          if (this.#verbose && this.#context.json) await this.#context.output.writeJson(delivery);
          break;
      }
    }
  }

  get #verbose(): boolean {
    return !this.#options.quiet;
  }

  /** Starts the removal, once; the stream goes on until `end`. */
  #remove(discard: boolean): void {
    const deregister = () => this.#client.deregister(this.#handlerId, { discard });
    // Where the stream has failed for good, so has the daemon, or the handler.
    this.#removal ??= patiently(deregister, discard ? 0 : undefined).catch((error: unknown) => {
      // Somebody else, or the end of the source, was faster: the stream has its `end` all the same.
      if (!(error instanceof RpcError && error.code === "NOT_FOUND")) this.#abandon.abort(error);
      return undefined;
    });
  }

  async #begin(started: Started): Promise<void> {
    if (this.#started !== undefined) return this.#resume(started);
    this.#started = started;
    if (this.#context.local && started.source !== "replay") this.#names = new ProcessNames();
    if (!this.#verbose) return;
    if (this.#context.json) return this.#context.output.writeJson(started);
    const events = started.events.map((event) => `${event.name}${formatRate(event)}`).join(", ");
    const standIn = started.fallback ? ", A STAND-IN for the kernel's samples: see nmictl status" : "";
    this.#context.note(`handler ${this.#handlerId} gets ${events} from ${started.source}${standIn}`);
  }

  async #resume(started: Started): Promise<void> {
    if (!this.#verbose) return;
    this.#context.note(`handler ${this.#handlerId}: its stream broke, and is resumed`);
    if (this.#context.json) await this.#context.output.writeJson(started);
  }

  async #print(batch: Parameters<typeof formatSamples>[0]): Promise<void> {
    const wanted = Math.min(batch.length, (this.#options.count ?? Number.POSITIVE_INFINITY) - this.#received);
    this.#received += batch.length;
    if (!this.#verbose || wanted <= 0) return;
    const format = this.#context.json ? formatSamplesJson : formatSamples;
    await this.#context.output.write(format(batch, this.#started?.events[batch.eventIndex], this.#names, wanted));
  }

  async #printAux(piece: AuxData): Promise<void> {
    this.#auxBytes += piece.data.length;
    if (!this.#verbose) return;
    const format = this.#context.json ? formatAuxJson : formatAux;
    await this.#context.output.write(format(piece, this.#started?.events[piece.eventIndex]));
  }

  async #noteLoss(loss: Loss): Promise<void> {
    this.#auxBytesLost += loss.auxBytes;
    if (loss.eventWide) this.#eventWideLost += loss.count;
    else this.#losses.set(loss.reason, (this.#losses.get(loss.reason) ?? 0) + loss.count);
    if (!this.#verbose) return;
    const event = this.#started?.events[loss.eventIndex]?.name ?? `event ${loss.eventIndex}`;
    if (isRestartGap(loss)) {
      const duration = loss.lastTime > 0n ? ` for ${formatNs(Number(loss.lastTime - loss.firstTime))}` : "";
      this.#context.note(`the daemon was restarted: ${printable(event)} was not counted${duration}`);
      if (this.#context.json) await this.#context.output.writeJson(loss);
      return;
    }
    const whose = loss.eventWide && loss.auxBytes === 0 ? ", for all handlers of the event" : "";
    const what = loss.auxBytes > 0 ? `${loss.auxBytes} bytes of AUX data` : `${loss.count} samples`;
    this.#context.note(`lost ${what} of ${printable(event)}: ${loss.reason}${whose}`);
    if (this.#context.json) await this.#context.output.writeJson(loss);
  }

  async #showBooks(removal: DeregisterResponse | undefined): Promise<void> {
    // A handler that ended without our removal has its losses by reason in the stream alone.
    const { matched, delivered, lost } = removal ?? this.#end ?? { matched: 0, delivered: 0, lost: 0 };
    const told: readonly LossCount[] = [...this.#losses].map(([reason, count]) => ({ reason, count }));
    const losses = (removal?.losses ?? told).filter(({ count }) => count > 0);
    const { reason = "no end received", message = "" } = this.#end ?? {};
    const byReason = formatLosses(losses);
    this.#context.note(
      `matched ${matched}, delivered ${delivered}, lost ${lost}${byReason && ` (${byReason})`}, ` +
        `received ${this.#received}${this.#eventWideLost > 0 ? `, lost for all before the filter ${this.#eventWideLost}` : ""}: ${reason}${message && `: ${printable(message)}`}`,
    );
    const hasAux = this.#options.field?.includes("AUX") ?? false;
    if (hasAux) this.#context.note(`AUX data: ${this.#auxBytes} bytes received, ${this.#auxBytesLost} lost`);
    const latency = this.#latency();
    if (latency !== null) {
      const { p50Ns, p99Ns } = latency;
      this.#context.note(`from sample to receipt: half within ${formatNs(p50Ns)}, 99 % within ${formatNs(p99Ns)}`);
    }
    if (this.#context.json) {
      const books = { kind: "books", handlerId: this.#handlerId, matched, delivered, lost, losses };
      await this.#context.output.writeJson({
        ...books,
        eventWideLost: this.#eventWideLost,
        received: this.#received,
        ...(hasAux ? { auxBytes: this.#auxBytes, auxBytesLost: this.#auxBytesLost } : {}),
        reason,
        latency,
      });
    }
  }

  /** null where nothing could be measured. */
  #latency(): { readonly p50Ns: number; readonly p99Ns: number } | null {
    const p50Ns = this.#deliveries?.latency.percentileNs(50);
    const p99Ns = this.#deliveries?.latency.percentileNs(99);
    return p50Ns === undefined || p99Ns === undefined ? null : { p50Ns, p99Ns };
  }
}
