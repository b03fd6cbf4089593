/** The protobuf wire format, read from plain bytes. https://protobuf.dev/programming-guides/encoding/ */
import { MalformedMessageError } from "./errors.js";

export const WIRE_VARINT = 0;
export const WIRE_FIXED64 = 1;
export const WIRE_LENGTH_DELIMITED = 2;
const WIRE_GROUP_START = 3;
const WIRE_GROUP_END = 4;
export const WIRE_FIXED32 = 5;

const VARINT_BYTES_MAX = 10;

/** Walks the fields of the message in bytes[start, end). Throws MalformedMessageError; never reads past `end`. */
export class WireReader {
  readonly #bytes: Uint8Array;
  readonly #end: number;
  #offset: number;
  /** Of the field that next() found. */
  field = 0;
  wireType = 0;

  constructor(bytes: Uint8Array, start = 0, end = bytes.length) {
    this.#bytes = bytes;
    this.#offset = start;
    this.#end = end;
  }

  get offset(): number {
    return this.#offset;
  }

  /** Reads the next field's tag; its value must then be consumed. false at the end of the message. */
  next(): boolean {
    if (this.#offset === this.#end) return false;
    const at = this.#offset;
    const tag = this.uint32();
    this.field = tag >>> 3;
    this.wireType = tag & 7;
    if (this.field === 0) throw new MalformedMessageError("field number 0", at);
    return true;
  }

  /** A varint of at most 10 bytes, which may be padded (0xA8 0x80 0x00 is 40), with a value below 2^32. */
  uint32(): number {
    const at = this.#offset;
    let value = 0;
    for (let i = 0, scale = 1; i < VARINT_BYTES_MAX; i++, scale *= 128) {
      if (this.#offset === this.#end) throw new MalformedMessageError("truncated varint", at);
      const byte = this.#bytes[this.#offset++];
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) {
        if (value > 0xffff_ffff) throw new MalformedMessageError("value above 32 bits", at);
        return value;
      }
    }
    throw new MalformedMessageError(`varint longer than ${VARINT_BYTES_MAX} bytes`, at);
  }

  /** Consumes `length` bytes and returns where they begin. */
  take(length: number): number {
    const at = this.#offset;
    if (length > this.#end - at) {
      throw new MalformedMessageError(`truncated: ${length} bytes wanted, ${this.#end - at} left`, at);
    }
    this.#offset = at + length;
    return at;
  }

  /** Throws unless the field has this wire type. */
  expect(wireType: number): void {
    if (this.wireType !== wireType) {
      throw new MalformedMessageError(`field ${this.field} has wire type ${this.wireType}`, this.#offset);
    }
  }

  /** Consumes the value of a field that the caller does not know. */
  skip(): void {
    // Groups may nest; counting them instead of recursing keeps hostile input off the stack.
    let depth = 0;
    do {
      switch (this.wireType) {
        case WIRE_VARINT:
          this.#skipVarint();
          break;
        case WIRE_FIXED64:
          this.take(8);
          break;
        case WIRE_LENGTH_DELIMITED:
          this.take(this.uint32());
          break;
        case WIRE_GROUP_START:
          depth++;
          break;
        case WIRE_GROUP_END:
          depth--;
          break;
        case WIRE_FIXED32:
          this.take(4);
          break;
        default:
          throw new MalformedMessageError(`wire type ${this.wireType}`, this.#offset);
      }
      if (depth < 0) throw new MalformedMessageError("end of a group that never began", this.#offset);
      if (depth > 0 && !this.next()) throw new MalformedMessageError("truncated group", this.#offset);
    } while (depth > 0);
  }

  #skipVarint(): void {
    const at = this.#offset;
    for (let i = 0; i < VARINT_BYTES_MAX; i++) {
      if (this.#bytes[this.take(1)] < 0x80) return;
    }
    throw new MalformedMessageError(`varint longer than ${VARINT_BYTES_MAX} bytes`, at);
  }
}
