/** For tests: a stream that holds every write until it is let go, and a dispatcher that fills a handler's outbox. */
import assert from "node:assert/strict";
import type { MethodDefinition } from "@grpc/grpc-js";
import type { SlotCounters } from "../../registry/counters.js";
import { openTable } from "../../registry/table.test-support.js";
import {
  brokerService,
  type ControlDelivery,
  type EndMessage,
  encodeDelivery,
  type LossMessage,
} from "../grpc/proto.js";
import { HISTOGRAM_WORDS, LatencyHistogram } from "../observe/histogram.js";
import { type DeliveryOptions, type DeliveryStream, HandlerDelivery } from "./delivery.js";
import { allocateOutbox, ENTRY, ENTRY_HEADER_BYTES, OutboxReader, OutboxWriter, REGION_BYTES_MIN } from "./outbox.js";

/** nmi.v1.SampleBatch, decoded. */
export interface SampleBatchMessage {
  readonly event_index: number;
  readonly sequence: number;
  readonly time: readonly number[];
  readonly ip: readonly number[];
  readonly pid: readonly number[];
  readonly tid: readonly number[];
  readonly cpu: readonly number[];
  readonly period: readonly number[];
  readonly callchain: readonly number[];
  readonly callchain_length: readonly number[];
}

export interface DeliveryMessage {
  /** Which of the following is set. */
  readonly delivery: "started" | "samples" | "loss" | "end";
  readonly started?: { readonly next_sequence: number; readonly resumed: boolean };
  readonly samples?: SampleBatchMessage;
  readonly loss?: LossMessage;
  readonly end?: EndMessage;
}

const subscribe = brokerService.Subscribe as MethodDefinition<unknown, DeliveryMessage>;

export function decodeDelivery(bytes: Uint8Array): DeliveryMessage {
  return subscribe.responseDeserialize(Buffer.from(bytes));
}

/** Takes one message at a time, and lets go of it when told to. */
export class HeldStream implements DeliveryStream {
  /** Everything written, the one that is held included. */
  readonly messages: DeliveryMessage[] = [];
  ended = false;
  aborted = false;
  #held: (() => void) | null = null;

  write(message: Uint8Array, written: () => void): void {
    assert.equal(this.#held, null, "one write at a time");
    assert.ok(!this.ended && !this.aborted, "nothing after the end");
    this.messages.push(decodeDelivery(message));
    this.#held = written;
  }

  end(): void {
    assert.equal(this.ended, false, "ends once");
    this.ended = true;
  }

  abort(): void {
    this.aborted = true;
  }

  get holds(): boolean {
    return this.#held !== null;
  }

  /** The transport takes the message; false when there is none. */
  release(): boolean {
    const written = this.#held;
    this.#held = null;
    written?.();
    return written !== null;
  }

  releaseAll(): void {
    while (this.release());
  }

  /** What each message is, in short: `samples 0+3` starts at sequence 0 and holds 3. */
  get story(): string[] {
    return this.messages.map(({ delivery, samples, loss, end, started }) => {
      if (samples) return `samples ${samples.sequence}+${samples.time.length}`;
      if (loss) return `loss ${loss.reason} ${loss.count}`;
      if (end) return `end ${end.reason} ${end.matched}=${end.delivered}+${end.lost}`;
      return `${delivery} ${started?.next_sequence}`;
    });
  }
}

export const PERIOD = 10;

/** One dispatcher's side. Samples are numbered by their time, across all dispatchers and events. */
export class TestDispatcher {
  readonly #writer: OutboxWriter;
  readonly #counters: SlotCounters;
  readonly #index: number;
  readonly #nextTime: () => number;

  constructor(writer: OutboxWriter, counters: SlotCounters, index: number, nextTime: () => number) {
    this.#writer = writer;
    this.#counters = counters;
    this.#index = index;
    this.#nextTime = nextTime;
  }

  /** As Dispatcher does it: what was lost is told before what comes after. True when the samples found room. */
  put(samples: number, event = 0): boolean {
    const times = Array.from({ length: samples }, this.#nextTime);
    const [firstNs, lastNs] = [times[0], times[samples - 1]];
    const writer = this.#writer;
    writer.addMatched(event, samples, samples * PERIOD, 0);
    const told = !writer.hasPendingLoss(event) || writer.flushPendingLoss(event, 0);
    const at = told ? writer.reserve(4 + samples * 8) : -1;
    this.#counters.countDispatch(0, this.#index, samples, at < 0 ? samples : 0, 1, 1);
    if (at < 0) {
      writer.addPendingLoss(event, samples, samples * PERIOD, firstNs, lastNs);
      return false;
    }
    let word = at + ENTRY_HEADER_BYTES / 4;
    const bytes = samples * 8;
    // SampleBatch.time, field 3, with a length of three varint bytes.
    writer.data[word++] =
      0x1a | (((bytes & 0x7f) | 0x80) << 8) | ((((bytes >>> 7) & 0x7f) | 0x80) << 16) | ((bytes >>> 14) << 24);
    for (const time of times) {
      writer.data[word++] = time;
      writer.data[word++] = 0;
    }
    writer.describe(at, ENTRY.CHUNK, event, samples, samples * PERIOD, 0);
    writer.describeTimes(at, firstNs, lastNs);
    writer.commit();
    return true;
  }

  /** Matches samples and dies before it has encoded them. The next one that writes is its successor. */
  die(samples: number, event = 0): void {
    this.#writer.addMatched(event, samples, samples * PERIOD, 0);
  }

  /** Tells of samples that nobody looked at. */
  gap(samples: number, event = 0): void {
    this.#writer.addGap(event, samples, 0);
  }
}

export interface DeliveryFixture {
  readonly delivery: HandlerDelivery;
  readonly dispatchers: readonly TestDispatcher[];
  readonly counters: SlotCounters;
  readonly clock: { nowNs: number };
  overflows(): number;
  /** Connects a new stream, which holds `started`. */
  attach(): HeldStream;
}

export type FixtureOptions = Partial<Pick<DeliveryOptions, "overflow" | "flushIntervalMs" | "events">> & {
  readonly dispatchers?: number;
  readonly dataBytes?: number;
};

export function openDelivery(options: FixtureOptions = {}): DeliveryFixture {
  const { dispatchers = 1, dataBytes = REGION_BYTES_MIN, events = 1, overflow = "DROP_NEWEST" } = options;
  const { counters } = openTable(1, dispatchers);
  const buffer = allocateOutbox(dispatchers, dataBytes);
  const clock = { nowNs: 1e9 };
  let overflows = 0;
  let time = 0;
  let streams = 0;
  const delivery = new HandlerDelivery({
    slot: 0,
    readers: Array.from({ length: dispatchers }, (_, d) => new OutboxReader(buffer, d, dataBytes)),
    events,
    counters,
    overflow,
    flushIntervalMs: options.flushIntervalMs ?? 0,
    now: () => clock.nowNs,
    encode: encodeDelivery,
    latency: new LatencyHistogram(new Float64Array(HISTOGRAM_WORDS)),
    onOverflow: () => overflows++,
  });
  return {
    delivery,
    dispatchers: Array.from(
      { length: dispatchers },
      (_, d) => new TestDispatcher(new OutboxWriter(buffer, d, dataBytes), counters, d, () => time++),
    ),
    counters,
    clock,
    overflows: () => overflows,
    attach: () => {
      const stream = new HeldStream();
      const started: ControlDelivery = {
        started: {
          handler_id: 1,
          events: [],
          next_sequence: delivery.nextSequence,
          resumed: streams++ > 0,
          clock: "CLOCK_MONOTONIC",
          source: "synthetic",
          fallback: false,
        },
      };
      delivery.attach(stream, started);
      return stream;
    },
  };
}
