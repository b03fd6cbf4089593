/** The bytes of a recording, and reading values out of them with every length checked first. */
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import path from "node:path";
import { PmuError } from "../errors.js";

/** What is wrong with a recording, and where. */
export interface Damage {
  /** Byte of the file; of a compressed record, where what it holds is damaged. */
  readonly offset: number;
  /** What is wrong, and what to do about it. */
  readonly message: string;
}

/** Why a recording, or the rest of it, cannot be read. `offset` is a byte of the file. */
export class RecordingError extends PmuError {
  readonly offset: number;
  /** What is wrong, and what to do about it; `message` says the file and the offset as well. */
  readonly detail: string;

  constructor(file: string, offset: number, detail: string, options?: ErrorOptions) {
    super("RECORDING_UNREADABLE", `recording ${file}, byte ${offset}: ${detail}`, options);
    this.offset = offset;
    this.detail = detail;
  }
}

/** A recording is kept in memory while it is replayed; so is what its compressed records hold. */
export const IMAGE_BYTES_MAX = 1 << 30;

const DAMAGED = "the file is damaged: record again";

/** One file of several, and where its bytes are in the image. */
export interface ImagePart {
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

/** What a compressed record holds lies in the image behind the file: bytes of the image, and of the file. */
export interface Inflated {
  readonly at: number;
  readonly offset: number;
}

/**
 * The file's bytes and, behind them, what its compressed records hold. Shared, so that a producer thread reads it without
 * a copy. Offsets in it are byte offsets of the file as long as they are below `fileBytes`.
 */
export class Image {
  readonly file: string;
  readonly fileBytes: number;
  #bytes: Uint8Array<SharedArrayBuffer>;
  #view: DataView<SharedArrayBuffer>;
  #length: number;
  readonly #inflated: Inflated[] = [];
  /** Of a directory, whose files lie one behind the other: `data` first. Empty for a file. */
  readonly parts: readonly ImagePart[];

  constructor(file: string, bytes: Uint8Array<SharedArrayBuffer>, parts: readonly ImagePart[] = []) {
    this.file = file;
    this.parts = parts;
    this.fileBytes = bytes.length;
    this.#length = bytes.length;
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): Uint8Array<SharedArrayBuffer> {
    return this.#bytes;
  }

  get view(): DataView<SharedArrayBuffer> {
    return this.#view;
  }

  /** What follows comes from the compressed record at byte `offset` of the file. */
  beginInflated(offset: number): void {
    this.#inflated.push({ at: this.#length, offset });
  }

  append(chunk: Uint8Array): void {
    const length = this.#length + chunk.length;
    if (length > this.#bytes.buffer.byteLength - this.#bytes.byteOffset) {
      const grown = new Uint8Array(new SharedArrayBuffer(Math.max(length, this.#length * 2)));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    // A view of all there is room for would let reads go beyond what was appended.
    const whole = new Uint8Array(this.#bytes.buffer, this.#bytes.byteOffset);
    whole.set(chunk, this.#length);
    this.#length = length;
    this.#bytes = whole.subarray(0, length);
    this.#view = viewOf(this.#bytes);
  }

  /** The byte of the file that byte `at` of the image comes from. */
  fileOffset(at: number): number {
    if (at < this.fileBytes) return at;
    return this.#inflated.findLast((part) => part.at <= at)?.offset ?? this.fileBytes;
  }

  /** Where the file ends that has the header. */
  get headEnd(): number {
    return this.parts[0]?.end ?? this.#length;
  }

  error(at: number, what: string, remedy = DAMAGED): RecordingError {
    const from = this.#inflated.findLast((part) => part.at <= at);
    const inside = at < this.fileBytes || from === undefined ? "" : `byte ${at - from.at} of what is compressed here: `;
    const offset = this.fileOffset(at);
    const part = this.parts.findLast(({ start }) => start <= offset);
    const name = part === undefined ? "" : `${part.name}: `;
    return new RecordingError(this.file, offset - (part?.start ?? 0), `${name}${inside}${what}; ${remedy}`);
  }
}

function viewOf(bytes: Uint8Array<SharedArrayBuffer>): DataView<SharedArrayBuffer> {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const TWO_32 = 2 ** 32;

/** A u64 as a double: exact up to 2^53. */
export function u64At(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * TWO_32;
}

/** Little-endian values from `at` on, one behind the other; none is read beyond `end`. Throws RecordingError. */
export class Cursor {
  readonly image: Image;
  readonly end: number;
  /** For messages. */
  readonly what: string;
  at: number;

  constructor(image: Image, at: number, end: number, what: string) {
    if (at < 0 || end > image.length || at > end)
      throw image.error(Math.max(0, Math.min(at, image.length)), `${what} lies outside the file`);
    this.image = image;
    this.at = at;
    this.end = end;
    this.what = what;
  }

  get left(): number {
    return this.end - this.at;
  }

  error(what: string): RecordingError {
    return this.image.error(this.at, `${this.what}: ${what}`);
  }

  need(bytes: number, what: string): void {
    if (!(bytes >= 0 && bytes <= this.left)) throw this.error(`${what} does not fit: ${this.left} bytes are left`);
  }

  /** Passes over `bytes` and returns where they begin. */
  take(bytes: number, what: string): number {
    this.need(bytes, what);
    const at = this.at;
    this.at += bytes;
    return at;
  }

  u8(what: string): number {
    return this.image.view.getUint8(this.take(1, what));
  }

  u16(what: string): number {
    return this.image.view.getUint16(this.take(2, what), true);
  }

  u32(what: string): number {
    return this.image.view.getUint32(this.take(4, what), true);
  }

  i32(what: string): number {
    return this.image.view.getInt32(this.take(4, what), true);
  }

  u64(what: string): bigint {
    return this.image.view.getBigUint64(this.take(8, what), true);
  }

  /** A u64 as a double: exact up to 2^53. For offsets, sizes and counts, which are compared with what there is. */
  number(what: string): number {
    return u64At(this.image.view, this.take(8, what));
  }

  /** How many elements follow; refused unless the elements, of at least `bytesEach`, are there. */
  count(count: number, bytesEach: number, what: string): number {
    if (count * bytesEach > this.left) throw this.error(`${count} ${what} do not fit: ${this.left} bytes are left`);
    return count;
  }

  /** `count` u64 values. */
  u64s(count: number, what: string): BigUint64Array {
    this.count(count, 8, what);
    return BigUint64Array.from({ length: count }, () => this.u64(what));
  }

  /** A copy of `bytes` bytes. */
  bytes(bytes: number, what: string): Uint8Array {
    const at = this.take(bytes, what);
    return new Uint8Array(this.image.bytes.subarray(at, at + bytes));
  }

  /** `bytes` bytes of text, up to the first 0. */
  text(bytes: number, what: string): string {
    return textOf(this.bytes(bytes, what));
  }

  /** Text that ends with a 0, which is passed over; or with the cursor's end. */
  zeroTerminated(what: string): string {
    const zero = this.image.bytes.subarray(this.at, this.end).indexOf(0);
    const text = this.text(zero < 0 ? this.left : zero, what);
    if (zero >= 0) this.at++;
    return text;
  }

  /** perf's string: u32 length, padding included, then so many bytes. */
  string(what: string): string {
    return this.text(this.u32(what), what);
  }

  /** A part of what is left, as a cursor of its own. */
  sub(bytes: number, what: string): Cursor {
    const at = this.take(bytes, what);
    return new Cursor(this.image, at, at + bytes, what);
  }
}

const decoder = new TextDecoder();

export function textOf(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return decoder.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Far above the CPUs of any machine, each of which may have a thread of perf record's. */
const PARTS_MAX = 4096;

/** A file, or the directory that perf record --threads writes. Throws PmuError RECORDING_UNREADABLE. */
export function readImage(file: string): Image {
  try {
    const names = statSync(file).isDirectory() ? partsOf(file) : null;
    const paths = names === null ? [file] : names.map((name) => path.join(file, name));
    const sizes = paths.map(regularSize);
    const total = sizes.reduce((sum, size) => sum + size, 0);
    if (total > IMAGE_BYTES_MAX) {
      throw new RecordingError(
        file,
        0,
        `is ${total} bytes long, above the limit of ${IMAGE_BYTES_MAX}; record for a shorter time`,
      );
    }
    const bytes = new Uint8Array(new SharedArrayBuffer(total));
    const parts: ImagePart[] = [];
    let at = 0;
    for (const [i, name] of paths.entries()) {
      const end = at + (sizes[i] as number);
      readInto(name, bytes.subarray(at, end));
      parts.push({ name: path.basename(name), start: at, end });
      at = end;
    }
    return new Image(file, bytes, names === null ? [] : parts);
  } catch (error) {
    if (error instanceof PmuError) throw error;
    throw new PmuError("RECORDING_UNREADABLE", `recording ${file}: ${String(error)}`, { cause: error });
  }
}

/** `data`, which has the header, and what each thread of perf record wrote: data.0, data.1, … */
function partsOf(directory: string): string[] {
  const names = readdirSync(directory);
  if (!names.includes("data")) {
    throw new RecordingError(directory, 0, "is a directory without the file data, which perf record --threads writes");
  }
  const numbers = names.flatMap((name) => (/^data\.\d{1,9}$/.test(name) ? [Number(name.slice(5))] : []));
  if (numbers.length > PARTS_MAX) {
    throw new RecordingError(directory, 0, `has ${numbers.length} files, above the limit of ${PARTS_MAX}`);
  }
  return ["data", ...numbers.sort((a, b) => a - b).map((number) => `data.${number}`)];
}

function regularSize(file: string): number {
  const stat = statSync(file);
  if (!stat.isFile()) throw new RecordingError(file, 0, "is no regular file; give the file that perf record wrote");
  return stat.size;
}

function readInto(file: string, bytes: Uint8Array): void {
  const fd = openSync(file, "r");
  try {
    let length = 0;
    while (length < bytes.length) {
      const count = readSync(fd, bytes, length, bytes.length - length, length);
      if (count === 0) throw new RecordingError(file, length, "ends early; wait until perf record has finished");
      length += count;
    }
  } finally {
    closeSync(fd);
  }
}
