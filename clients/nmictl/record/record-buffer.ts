/** Records being put together in memory that grows and is used again. All begin at multiples of 8 bytes. */
import { HEADER_BYTES } from "./abi.js";

const BYTES_MIN = 64 * 1024;
const UTF8 = new TextEncoder();

export class RecordBuffer {
  #bytes = new Uint8Array(BYTES_MIN);
  #words = new Uint32Array(this.#bytes.buffer);
  #view = new DataView(this.#bytes.buffer);
  #start = 0;
  /** In bytes. */
  length = 0;

  /** What was put in, until the next clear(). */
  get written(): Uint8Array {
    return this.#bytes.subarray(0, this.length);
  }

  /** The memory in words of 4 bytes, to be written to below what reserve() has made room for. */
  get words(): Uint32Array {
    return this.#words;
  }

  clear(): void {
    this.length = 0;
  }

  /** Makes room for `bytes` more. `words` may be other memory afterwards. */
  reserve(bytes: number): void {
    const needed = this.length + bytes;
    if (needed <= this.#bytes.length) return;
    const grown = new Uint8Array(2 ** Math.ceil(Math.log2(needed)));
    grown.set(this.written);
    this.#bytes = grown;
    this.#words = new Uint32Array(grown.buffer);
    this.#view = new DataView(grown.buffer);
  }

  /** Starts a record; end() closes it and fills in its size. */
  begin(type: number, misc = 0): void {
    this.#start = this.length;
    this.u32(type);
    this.u16(misc);
    this.u16(HEADER_BYTES);
  }

  end(): void {
    this.align(8);
    this.#view.setUint16(this.#start + 6, this.length - this.#start, true);
  }

  u8(value: number): void {
    this.reserve(1);
    this.#bytes[this.length++] = value;
  }

  u16(value: number): void {
    this.reserve(2);
    this.#view.setUint16(this.length, value, true);
    this.length += 2;
  }

  u32(value: number): void {
    this.reserve(4);
    this.#view.setUint32(this.length, value, true);
    this.length += 4;
  }

  u64(value: bigint | number): void {
    this.reserve(8);
    this.#view.setBigUint64(this.length, BigInt(value), true);
    this.length += 8;
  }

  put(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.#bytes.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** The text and a NUL, and zeros up to a multiple of `alignment` bytes of the text's own length. */
  text(text: string, alignment = 8): void {
    const bytes = UTF8.encode(text);
    this.put(bytes);
    this.zeros(alignment - (bytes.length % alignment));
  }

  zeros(count: number): void {
    this.reserve(count);
    this.#bytes.fill(0, this.length, this.length + count);
    this.length += count;
  }

  align(alignment: number): void {
    const over = this.length % alignment;
    if (over > 0) this.zeros(alignment - over);
  }
}
