/** Gathers encoded chunks into one nmi.v1.Delivery message: the chunks' columns behind a header. */
import { SAMPLE_BATCH_FIELD } from "../dispatch/column-header.js";
import type { SegmentReader } from "./segments.js";

/** Bytes that the transport copies into its own frame; a Buffer is one. */
export interface WireMessage {
  readonly byteLength: number;
  copy(target: Uint8Array, targetStart: number): unknown;
}

/** Delivery.tasks: field 3, length-delimited. */
const DELIVERY_TASKS_TAG = (3 << 3) | 2;
/** Delivery.aux: field 6, length-delimited. */
const DELIVERY_AUX_TAG = (6 << 3) | 2;
/** AuxData.event_index */
const AUX_EVENT_INDEX_TAG = 1 << 3;
/** Delivery.samples: field 2, length-delimited. */
const DELIVERY_SAMPLES_TAG = (2 << 3) | 2;
const EVENT_INDEX_TAG = SAMPLE_BATCH_FIELD.EVENT_INDEX << 3;
const SEQUENCE_TAG = (SAMPLE_BATCH_FIELD.SEQUENCE << 3) | 1;
/** Two tags, a length of up to five bytes, an index of up to five, and the sequence. */
const HEADER_BYTES_MAX = 32;

/**
 * One message under construction, used again for the next. It holds references to segments, not their bytes: those are
 * copied once, from shared memory into the frame that the transport sends.
 */
export class SampleMessage implements WireMessage {
  readonly #header = new Uint8Array(HEADER_BYTES_MAX);
  readonly #headerView = new DataView(this.#header.buffer);
  #headerBytes = 0;
  readonly #readers: SegmentReader[] = [];
  readonly #segments: number[] = [];
  readonly #bytes: number[] = [];
  #pieces = 0;
  #bodyBytes = 0;

  /** Bytes of columns, or of task records, so far. */
  get bodyBytes(): number {
    return this.#bodyBytes;
  }

  get byteLength(): number {
    return this.#headerBytes + this.#bodyBytes;
  }

  begin(): void {
    this.#pieces = 0;
    this.#bodyBytes = 0;
    this.#headerBytes = 0;
  }

  /** Takes over the caller's reference to the segment, until `release`. */
  add(reader: SegmentReader, segment: number): void {
    const bytes = reader.payloadBytes(segment);
    this.#readers[this.#pieces] = reader;
    this.#segments[this.#pieces] = segment;
    this.#bytes[this.#pieces++] = bytes;
    this.#bodyBytes += bytes;
  }

  finish(eventIndex: number, sequence: number): void {
    const header: number[] = [];
    if (eventIndex > 0) {
      header.push(EVENT_INDEX_TAG);
      pushVarint(header, eventIndex);
    }
    header.push(SEQUENCE_TAG);
    const outer = [DELIVERY_SAMPLES_TAG];
    pushVarint(outer, header.length + 8 + this.#bodyBytes);
    this.#header.set(outer, 0);
    this.#header.set(header, outer.length);
    const sequenceAt = outer.length + header.length;
    this.#headerView.setUint32(sequenceAt, sequence >>> 0, true);
    this.#headerView.setUint32(sequenceAt + 4, Math.floor(sequence / 2 ** 32), true);
    this.#headerBytes = sequenceAt + 8;
  }

  /** As `finish`, where the segments hold task records. */
  finishTasks(): void {
    const outer = [DELIVERY_TASKS_TAG];
    pushVarint(outer, this.#bodyBytes);
    this.#header.set(outer, 0);
    this.#headerBytes = outer.length;
  }

  /** As `finish`, where the segment is a piece of an AUX area: one a message. */
  finishAux(eventIndex: number): void {
    const header: number[] = [];
    if (eventIndex > 0) {
      header.push(AUX_EVENT_INDEX_TAG);
      pushVarint(header, eventIndex);
    }
    const outer = [DELIVERY_AUX_TAG];
    pushVarint(outer, header.length + this.#bodyBytes);
    this.#header.set(outer, 0);
    this.#header.set(header, outer.length);
    this.#headerBytes = outer.length + header.length;
  }

  copy(target: Uint8Array, targetStart: number): void {
    target.set(this.#header.subarray(0, this.#headerBytes), targetStart);
    let at = targetStart + this.#headerBytes;
    for (let i = 0; i < this.#pieces; i++) {
      const reader = this.#readers[i];
      const from = reader.payloadAt(this.#segments[i]);
      target.set(reader.bytes.subarray(from, from + this.#bytes[i]), at);
      at += this.#bytes[i];
    }
  }

  /** Lets go of the segments: the message has been copied, or never will be. */
  release(): void {
    for (let i = 0; i < this.#pieces; i++) this.#readers[i].release(this.#segments[i]);
    this.begin();
  }
}

function pushVarint(bytes: number[], value: number): void {
  let rest = value;
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  bytes.push(rest);
}
