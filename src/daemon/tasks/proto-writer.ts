/** Writes protobuf field by field into memory that grows and is used again. For rows off the hot path. */

const WIRE = { VARINT: 0, FIXED64: 1, BYTES: 2 } as const;
/** Lengths of messages are written when they are known, as varints of three bytes: legal protobuf, if not the shortest. */
const LENGTH_BYTES = 3;
export const NESTED_BYTES_MAX = 2 ** 21 - 1;
const VARINT_BYTES_MAX = 10;

export class ProtoWriter {
  bytes = new Uint8Array(16 * 1024);
  length = 0;

  reset(): void {
    this.length = 0;
  }

  /** Makes room for `more` bytes. */
  #ensure(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const grown = new Uint8Array(2 ** Math.ceil(Math.log2(this.length + more)));
    grown.set(this.bytes.subarray(0, this.length));
    this.bytes = grown;
  }

  #tag(field: number, wire: number): void {
    this.#varint((field << 3) | wire, 0);
  }

  #varint(low: number, high: number): void {
    this.#ensure(VARINT_BYTES_MAX);
    let [lo, hi] = [low >>> 0, high >>> 0];
    while (hi > 0 || lo > 0x7f) {
      this.bytes[this.length++] = (lo & 0x7f) | 0x80;
      lo = ((lo >>> 7) | (hi << 25)) >>> 0;
      hi >>>= 7;
    }
    this.bytes[this.length++] = lo;
  }

  /** uint32; as with all that follow, 0 is left out. */
  uint32(field: number, value: number): void {
    if (value === 0) return;
    this.#tag(field, WIRE.VARINT);
    this.#varint(value, 0);
  }

  uint64(field: number, low: number, high: number): void {
    if (low === 0 && high === 0) return;
    this.#tag(field, WIRE.VARINT);
    this.#varint(low, high);
  }

  bool(field: number, value: boolean): void {
    this.uint32(field, value ? 1 : 0);
  }

  fixed64(field: number, low: number, high: number): void {
    if (low === 0 && high === 0) return;
    this.#tag(field, WIRE.FIXED64);
    this.#ensure(8);
    for (const word of [low, high])
      for (let shift = 0; shift < 32; shift += 8) this.bytes[this.length++] = (word >>> shift) & 0xff;
  }

  /** `length` bytes that `byteAt` gives one by one; left out when there are none. */
  data(field: number, length: number, byteAt: (i: number) => number): void {
    if (length === 0) return;
    this.#tag(field, WIRE.BYTES);
    this.#varint(length, 0);
    this.#ensure(length);
    for (let i = 0; i < length; i++) this.bytes[this.length++] = byteAt(i);
  }

  /** What comes before `length` bytes that somebody else puts behind it; nothing when there are none. */
  dataHeader(field: number, length: number): void {
    if (length === 0) return;
    this.#tag(field, WIRE.BYTES);
    this.#varint(length, 0);
  }

  /** A message in a field, until `end` is called with what this returns. */
  begin(field: number): number {
    this.#tag(field, WIRE.BYTES);
    this.#ensure(LENGTH_BYTES);
    this.length += LENGTH_BYTES;
    return this.length;
  }

  end(from: number): void {
    const length = this.length - from;
    if (length > NESTED_BYTES_MAX) throw new RangeError(`a message of ${length} bytes`);
    this.bytes[from - 3] = (length & 0x7f) | 0x80;
    this.bytes[from - 2] = ((length >>> 7) & 0x7f) | 0x80;
    this.bytes[from - 1] = length >>> 14;
  }
}
