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
import { HandlerDelivery } from "./delivery.js";
import type { DeliveryOptions, DeliveryStream } from "./delivery-options.js";
import { FixedFlush, FlushTimes } from "./flush.js";
import { StreamMemory } from "./memory.js";
import type { WireMessage } from "./message.js";
import {
  ADMITTED,
  allocateOutbox,
  type OutboxShape,
  OutboxWriter,
  outboxShape,
  REFUSAL,
  REGION_BYTES_MIN,
} from "./outbox.js";
import { OutboxReader } from "./outbox-reader.js";
import { arenaBytes, segmentBytesFor } from "./segment-layout.js";
import { SegmentReader, SegmentWriter } from "./segments.js";

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
  readonly delivery: "started" | "samples" | "tasks" | "loss" | "end";
  readonly started?: { readonly next_sequence: number; readonly resumed: boolean };
  readonly samples?: SampleBatchMessage;
  readonly tasks?: {
    readonly snapshot: boolean;
    readonly snapshot_complete: boolean;
    readonly records: readonly { readonly pid: number; readonly record: string }[];
  };
  readonly loss?: LossMessage;
  readonly end?: EndMessage;
}

const subscribe = brokerService.Subscribe as MethodDefinition<unknown, DeliveryMessage>;

export function decodeDelivery(bytes: Uint8Array): DeliveryMessage {
  return subscribe.responseDeserialize(Buffer.from(bytes));
}

/** The message's bytes, as the transport copies them. */
export function bytesOf(message: WireMessage): Buffer {
  const bytes = Buffer.alloc(message.byteLength);
  message.copy(bytes, 0);
  return bytes;
}

/** One dispatcher's segments, and what is put in them. */
export class TestArena {
  readonly writer: SegmentWriter;
  readonly reader: SegmentReader;

  constructor(bytes = 2 ** 24) {
    const buffer = new SharedArrayBuffer(arenaBytes(bytes));
    this.writer = new SegmentWriter(buffer);
    this.reader = new SegmentReader(buffer);
  }

  /** A segment that holds `payload`, with one reference; -1 when there is no room. */
  put(payload: Uint8Array): number {
    const segment = this.writer.allocate(payload.length);
    if (segment < 0) return segment;
    const { data } = this.writer;
    new Uint8Array(data.buffer, this.writer.payloadWord(segment) * 4, payload.length).set(payload);
    return segment;
  }
}

/** Takes some messages at a time, and lets go of them, one by one, when told to. */
export class HeldStream implements DeliveryStream {
  readonly writesMax: number;
  /** Everything written, the one that is held included. */
  readonly messages: DeliveryMessage[] = [];
  ended = false;
  aborted = false;
  readonly #held: (() => void)[] = [];

  constructor(writesMax = 1) {
    this.writesMax = writesMax;
  }

  write(message: WireMessage, written: () => void): void {
    assert.ok(this.#held.length < this.writesMax, "no more at a time than it takes");
    assert.ok(!this.ended && !this.aborted, "nothing after the end");
    this.messages.push(decodeDelivery(bytesOf(message)));
    this.#held.push(written);
  }

  end(): void {
    assert.equal(this.ended, false, "ends once");
    this.ended = true;
  }

  suspended = false;

  suspend(): void {
    assert.ok(!this.ended && !this.aborted && !this.holds, "after all that was written");
    this.suspended = true;
  }

  abort(): void {
    this.aborted = true;
  }

  get holds(): boolean {
    return this.#held.length > 0;
  }

  /** The transport takes the message; false when there is none. */
  release(): boolean {
    const written = this.#held.shift();
    written?.();
    return written !== undefined;
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

/** Throws where it is told to, as a stream whose transport is broken in a way nobody has thought of. */
export class FaultyStream extends HeldStream {
  failing: "write" | "end" | null = null;
  failsAbort = false;

  override write(...args: Parameters<HeldStream["write"]>): void {
    if (this.failing === "write") throw new Error("write has failed");
    super.write(...args);
  }

  override end(): void {
    super.end();
    if (this.failing === "end") throw new Error("end has failed");
  }

  override abort(): void {
    super.abort();
    if (this.failsAbort) throw new Error("abort has failed");
  }
}

export const PERIOD = 10;

/** One dispatcher's side. Samples are numbered by their time, across all dispatchers and events. */
export class TestDispatcher {
  /** There is no memory for the handler's samples. */
  isShort = false;
  readonly arena: TestArena;
  readonly #writer: OutboxWriter;
  readonly #counters: SlotCounters;
  readonly #slot: number;
  readonly #index: number;
  readonly #nextTime: () => number;

  constructor(
    arena: TestArena,
    writer: OutboxWriter,
    counters: SlotCounters,
    index: number,
    nextTime: () => number,
    slot = 0,
  ) {
    this.#slot = slot;
    this.arena = arena;
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
    const period = samples * PERIOD;
    this.arena.writer.reclaim();
    writer.addMatched(event, samples, period, 0, 0);
    const payload = timeColumn(times);
    const bytes = segmentBytesFor(payload.length);
    const refusal = writer.admit(event, writer.isFull(event, bytes), this.isShort, 0);
    const lost = (reason: number): number => (refusal === reason ? samples : 0);
    this.#counters.countDispatch(
      this.#slot,
      this.#index,
      samples,
      lost(REFUSAL.QUEUE_FULL),
      lost(REFUSAL.MEMORY),
      1,
      1,
    );
    if (refusal !== ADMITTED) {
      writer.addPendingLoss(event, refusal, samples, period, firstNs, lastNs);
      return false;
    }
    const segment = this.arena.put(payload);
    assert.ok(segment >= 0, "the arena is large enough");
    this.arena.writer.describe(segment, samples, period, firstNs, lastNs, 0);
    writer.post(event, segment, bytes);
    this.arena.writer.publish(segment, 1);
    return true;
  }

  /** Matches samples and dies before it has encoded them. The next one that writes is its successor. */
  die(samples: number, event = 0): void {
    this.#writer.addMatched(event, samples, samples * PERIOD, 0, 0);
  }

  /** Rows of nmi.v1.Tasks, in a segment of their own; what finds no room is lost. */
  postTasks(rows: Uint8Array, records: number): void {
    this.arena.writer.reclaim();
    const bytes = segmentBytesFor(rows.length);
    if (!this.#writer.hasRoom(bytes)) {
      this.#writer.addTasksLost(REFUSAL.QUEUE_FULL, records);
      return;
    }
    const segment = this.arena.put(rows);
    assert.ok(segment >= 0, "the arena is large enough");
    this.arena.writer.describe(segment, records, 0, 0, 0, 0);
    this.#writer.postTasks(segment, bytes);
    this.arena.writer.publish(segment, 1);
  }

  /** `data` of an AUX area: nmi.v1.AuxData.data, in a segment of its own. */
  postAux(data: Uint8Array, event = 0): void {
    const segment = this.arena.put(Uint8Array.from([0x3a, data.length, ...data]));
    assert.ok(segment >= 0, "the arena is large enough");
    this.arena.writer.describe(segment, data.length, 0, 0, 0, 0);
    this.#writer.postAux(event, segment, segmentBytesFor(data.length + 2));
    this.arena.writer.publish(segment, 1);
  }

  loseAux(bytes: number, event = 0): void {
    this.#writer.addAuxLost(event, REFUSAL.QUEUE_FULL, bytes);
  }

  loseTasks(records: number): void {
    this.#writer.addTasksLost(REFUSAL.QUEUE_FULL, records);
  }

  /** Tells of samples that nobody looked at. */
  gap(samples: number, event = 0): void {
    this.#writer.addGap(event, samples, 0);
  }
}

/** SampleBatch.time, field 3, with a length of three varint bytes. */
function timeColumn(times: readonly number[]): Uint8Array {
  const bytes = times.length * 8;
  const column = new Uint8Array(4 + bytes);
  column.set([0x1a, (bytes & 0x7f) | 0x80, ((bytes >>> 7) & 0x7f) | 0x80, bytes >>> 14]);
  const view = new DataView(column.buffer);
  times.forEach((time, i) => {
    view.setBigUint64(4 + i * 8, BigInt(time), true);
  });
  return column;
}

export interface DeliveryFixture {
  readonly delivery: HandlerDelivery;
  readonly dispatchers: readonly TestDispatcher[];
  readonly counters: SlotCounters;
  readonly clock: { nowNs: number };
  readonly memory: StreamMemory;
  overflows(): number;
  readonly aux: { readonly delivered: number; readonly lost: number };
  /** What streams have thrown. */
  readonly faults: readonly Error[];
  /** Connects `stream`, or a new one, which holds `started`. */
  attach(): HeldStream;
  attach<T extends HeldStream>(stream: T): T;
}

export type FixtureOptions = Partial<
  Pick<
    DeliveryOptions,
    "overflow" | "flush" | "flushTimes" | "events" | "memory" | "now" | "snapshot" | "carried" | "settled"
  >
> & {
  readonly flushIntervalMs?: number;
  readonly arenaBytes?: number;
  readonly dispatchers?: number;
  readonly dataBytes?: number;
  readonly writesMax?: number;
};

export function openDelivery(options: FixtureOptions = {}): DeliveryFixture {
  const { dispatchers = 1, dataBytes = REGION_BYTES_MIN, events = 1, overflow = "DROP_NEWEST" } = options;
  const { counters } = openTable(1, dispatchers);
  const shape: OutboxShape = outboxShape(dataBytes * dispatchers, dispatchers, events);
  const buffer = allocateOutbox(dispatchers, shape);
  const arenas = Array.from({ length: dispatchers }, () => new TestArena(options.arenaBytes));
  const { memory = new StreamMemory(2 ** 26, 1) } = options;
  const clock = { nowNs: 1e9 };
  const now = options.now ?? (() => clock.nowNs);
  let overflows = 0;
  const faults: Error[] = [];
  const aux = { delivered: 0, lost: 0 };
  let time = 0;
  let streams = 0;
  const delivery = new HandlerDelivery({
    slot: 0,
    readers: arenas.map((arena, d) => new OutboxReader(buffer, d, shape, arena.reader)),
    events,
    counters,
    overflow,
    flush: options.flush ?? new FixedFlush(options.flushIntervalMs ?? 0),
    flushTimes: options.flushTimes ?? new FlushTimes(now),
    now,
    encode: encodeDelivery,
    memory,
    carried: options.carried,
    settled: options.settled,
    latency: new LatencyHistogram(new Float64Array(HISTOGRAM_WORDS)),
    sampleLatency: null,
    onOverflow: () => overflows++,
    onFault: (error) => faults.push(error),
    snapshot: options.snapshot ?? null,
    onTasksLost: () => {},
    onAux: (delivered, lost) => {
      aux.delivered += delivered;
      aux.lost += lost;
    },
  });
  return {
    delivery,
    dispatchers: arenas.map(
      (arena, d) => new TestDispatcher(arena, new OutboxWriter(buffer, d, shape), counters, d, () => time++),
    ),
    memory,
    counters,
    clock,
    overflows: () => overflows,
    aux,
    faults,
    attach: <T extends HeldStream>(stream?: T) => {
      const attached = stream ?? new HeldStream(options.writesMax);
      const started: ControlDelivery = {
        started: {
          handler_id: 1,
          events: [],
          next_sequence: delivery.nextSequence,
          resumed: streams++ > 0,
          clock: "CLOCK_MONOTONIC",
          source: "synthetic",
          fallback: false,
          lease_ms: 10_000,
        },
      };
      delivery.attach(attached, started);
      return attached as T;
    },
  };
}

export const LARGE = 1500; // samples of 8 bytes: four of these chunks fill more than half of the smallest region

/** The times of all samples that were written, in order. */
export function times(stream: HeldStream): number[] {
  return stream.messages.flatMap(({ samples }) => samples?.time ?? []);
}

export function range(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => from + i);
}

export function fill({ dispatchers }: DeliveryFixture, samples = LARGE): number {
  let entries = 0;
  while (dispatchers[0].put(samples)) entries++;
  return entries;
}
