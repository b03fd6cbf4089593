/** Gathers encoded chunks into one nmi.v1.Delivery message: the chunks' columns behind a header. */
import { SAMPLE_BATCH_FIELD } from "../dispatch/encode.js";

/** Delivery.samples: field 2, length-delimited. */
const DELIVERY_SAMPLES_TAG = (2 << 3) | 2;
const EVENT_INDEX_TAG = SAMPLE_BATCH_FIELD.EVENT_INDEX << 3;
const SEQUENCE_TAG = (SAMPLE_BATCH_FIELD.SEQUENCE << 3) | 1;
/** Two tags, a length of up to five bytes, an index of up to five, and the sequence. */
const HEADER_BYTES_MAX = 32;

/**
 * One message under construction, in memory that is used again for the next: whoever takes `finish`'s bytes copies them
 * before that (grpc-js does, as it frames them).
 */
export class SampleMessage {
  #buffer = Buffer.allocUnsafe(256 * 1024);
  #end = HEADER_BYTES_MAX;

  /** Bytes of columns so far. */
  get bodyBytes(): number {
    return this.#end - HEADER_BYTES_MAX;
  }

  begin(): void {
    this.#end = HEADER_BYTES_MAX;
  }

  append(bytes: Uint8Array, at: number, length: number): void {
    if (this.#end + length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(2 ** Math.ceil(Math.log2(this.#end + length)));
      this.#buffer.copy(larger, 0, 0, this.#end);
      this.#buffer = larger;
    }
    this.#buffer.set(bytes.subarray(at, at + length), this.#end);
    this.#end += length;
  }

  finish(eventIndex: number, sequence: number): Uint8Array {
    const header: number[] = [];
    if (eventIndex > 0) {
      header.push(EVENT_INDEX_TAG);
      pushVarint(header, eventIndex);
    }
    header.push(SEQUENCE_TAG);
    const outer = [DELIVERY_SAMPLES_TAG];
    pushVarint(outer, header.length + 8 + this.bodyBytes);
    const start = HEADER_BYTES_MAX - 8 - header.length - outer.length;
    this.#buffer.set(outer, start);
    this.#buffer.set(header, start + outer.length);
    this.#buffer.writeUInt32LE(sequence >>> 0, HEADER_BYTES_MAX - 8);
    this.#buffer.writeUInt32LE(Math.floor(sequence / 2 ** 32), HEADER_BYTES_MAX - 4);
    return this.#buffer.subarray(start, this.#end);
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
