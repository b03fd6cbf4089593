/** What waits for one handler, in all dispatchers' regions of its outbox, as its messages are made of it. */
import type { LatencyHistogram } from "../observe/histogram.js";
import { MESSAGE_BYTES } from "./memory.js";
import type { SampleMessage } from "./message.js";
import { ENTRY } from "./outbox.js";
import type { Entry, OutboxReader } from "./outbox-reader.js";

/** Nothing waits for company in an outbox filled to this share: it would overflow meanwhile. */
const DUE_ABOVE = 1 / 4;

export class Queue {
  readonly #readers: readonly OutboxReader[];
  readonly #latency: LatencyHistogram;
  readonly #sampleLatency: LatencyHistogram | null;
  /** Whose region comes first: another one for each message, or a full one would starve the rest. */
  #turn = 0;

  /** `latency` is from dispatch to stream, `sampleLatency` from sample to stream. */
  constructor(readers: readonly OutboxReader[], latency: LatencyHistogram, sampleLatency: LatencyHistogram | null) {
    this.#readers = readers;
    this.#latency = latency;
    this.#sampleLatency = sampleLatency;
  }

  get usedBytes(): number {
    return this.#readers.reduce((sum, reader) => sum + reader.usedBytes, 0);
  }

  get capacityBytes(): number {
    return this.#readers.reduce((sum, reader) => sum + reader.capacityBytes, 0);
  }

  /** There is a whole message, or a region that would overflow before long. */
  get isFilling(): boolean {
    return this.#readers.some((reader) => reader.usedBytes >= MESSAGE_BYTES || reader.fill >= DUE_ABOVE);
  }

  /** Whose entry is next, which it has peeked at; undefined when nothing waits. */
  next(): OutboxReader | undefined {
    for (let i = 0; i < this.#readers.length; i++) {
      const reader = this.#readers[(this.#turn + i) % this.#readers.length];
      if (reader.peek()) return reader;
    }
    return undefined;
  }

  /** Begins `message` and takes the event's chunks into it, at least one and up to `bytesMax` bytes of them. */
  gather(
    message: SampleMessage,
    event: number,
    bytesMax: number,
    nowNs: number,
  ): { readonly samples: number; readonly period: number } {
    const gathered = { samples: 0, period: 0 };
    message.begin();
    for (let i = 0; i < this.#readers.length; i++) {
      const reader = this.#readers[(this.#turn + i) % this.#readers.length];
      while (message.bodyBytes < bytesMax && reader.peek()) {
        const { entry } = reader;
        if (entry.kind !== ENTRY.CHUNK || entry.event !== event) break;
        if (message.bodyBytes > 0 && message.bodyBytes + entry.segmentBytes > bytesMax) break;
        gathered.samples += entry.samples;
        gathered.period += entry.period;
        this.#recordLatency(entry, nowNs);
        reader.take();
        message.add(reader.segments, entry.segment);
      }
    }
    this.#turn = (this.#turn + 1) % this.#readers.length;
    return gathered;
  }

  /** Begins `message` and takes the task records at the front of one outbox into it, which are in order only there. */
  gatherTasks(message: SampleMessage, reader: OutboxReader, bytesMax: number): void {
    message.begin();
    while (message.bodyBytes < bytesMax && reader.peek() && reader.entry.kind === ENTRY.TASKS) {
      const { segment, segmentBytes } = reader.entry;
      if (message.bodyBytes > 0 && message.bodyBytes + segmentBytes > bytesMax) break;
      reader.take();
      message.add(reader.segments, segment);
    }
  }

  /** Makes `message` of the piece of an AUX area at the front of one outbox, and returns its entry. */
  takeAux(message: SampleMessage, reader: OutboxReader): Entry {
    reader.take();
    message.begin();
    message.add(reader.segments, reader.entry.segment);
    message.finishAux(reader.entry.event);
    this.#turn = (this.#turn + 1) % this.#readers.length;
    return reader.entry;
  }

  #recordLatency({ samples, firstNs, lastNs, dispatchNs }: Entry, nowNs: number): void {
    this.#latency.record(nowNs - dispatchNs, samples);
    if (this.#sampleLatency === null) return;
    // A chunk's samples are spread between its first and its last, about evenly: half of them count as each.
    const half = samples >>> 1;
    if (half > 0) this.#sampleLatency.record(nowNs - firstNs, half);
    this.#sampleLatency.record(nowNs - lastNs, samples - half);
  }
}
