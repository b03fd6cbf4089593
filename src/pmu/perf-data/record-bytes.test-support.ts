/** For tests: records as bytes, put together by hand. */
import { Image } from "./image.js";
import type { SampleLayout } from "./sample.js";

/** Little-endian values, one behind the other. */
export class Bytes {
  readonly #bytes: number[] = [];

  get length(): number {
    return this.#bytes.length;
  }

  #put(value: bigint, count: number): this {
    for (let i = 0; i < count; i++) this.#bytes.push(Number((value >> BigInt(i * 8)) & 0xffn));
    return this;
  }

  u8(...values: number[]): this {
    for (const value of values) this.#put(BigInt(value), 1);
    return this;
  }

  u16(...values: number[]): this {
    for (const value of values) this.#put(BigInt(value), 2);
    return this;
  }

  u32(...values: number[]): this {
    for (const value of values) this.#put(BigInt.asUintN(32, BigInt(value)), 4);
    return this;
  }

  u64(...values: (number | bigint)[]): this {
    for (const value of values) this.#put(BigInt.asUintN(64, BigInt(value)), 8);
    return this;
  }

  raw(bytes: Iterable<number>): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** Text, and at least one 0, up to a multiple of 8 bytes. */
  text(text: string): this {
    this.raw(Buffer.from(text)).u8(0);
    return this.pad();
  }

  pad(to = 8): this {
    while (this.#bytes.length % to !== 0) this.#bytes.push(0);
    return this;
  }

  toArray(): Uint8Array {
    return Uint8Array.from(this.#bytes);
  }
}

export function record(type: number, misc: number, body: Bytes): Uint8Array {
  const size = 8 + body.length;
  return new Bytes().u32(type).u16(misc, size).raw(body.toArray()).toArray();
}

/** An image that is `parts`, behind as many bytes as a file's header has. */
export function imageOf(...parts: readonly Uint8Array[]): { readonly image: Image; readonly at: number } {
  const at = 104;
  const length = parts.reduce((sum, part) => sum + part.length, at);
  const bytes = new Uint8Array(new SharedArrayBuffer(length));
  let next = at;
  for (const part of parts) {
    bytes.set(part, next);
    next += part.length;
  }
  return { image: new Image("F", bytes), at };
}

export function layout(fields: Partial<SampleLayout>): SampleLayout {
  return {
    sampleType: 0,
    readFormat: 0,
    sampleIdAll: false,
    branchSampleType: 0n,
    sampleRegsUser: 0n,
    sampleRegsIntr: 0n,
    ...fields,
  };
}
