/**
 * One pass over a recording's records: finds where they lie, decompresses those that are compressed, and hands perf's
 * own records to whoever collects what they say. It stops at the first damage; what lies before is as good as ever.
 */
import { RECORD_HEADER_BYTES, RECORD_TYPE_MAX, USER_RECORD, USER_RECORD_START } from "./format.js";
import { Cursor, type Damage, IMAGE_BYTES_MAX, type Image, RecordingError, u64At } from "./image.js";
import { ZstdStream } from "./zstd.js";

/** Whole records, end to end, in the image's bytes; runs are in the order in which perf reads them. */
export interface Run {
  readonly start: number;
  readonly end: number;
}

export interface Scan {
  readonly runs: readonly Run[];
  /** Records by type; the wrappers of compressed records included. */
  readonly counts: Uint32Array;
  /** What ended the scan of an area early. */
  readonly damage: readonly Damage[];
  /** Bytes of what compressed records hold. */
  readonly inflatedBytes: number;
}

/** A record of perf's own, header included; `payload` is what follows it beyond its size. Throws RecordingError. */
export type UserRecordVisitor = (type: number, at: number, size: number, payload: Run) => void;

/**
 * Compressed records may hold so many times the bytes of the file: perf's ratio is 5 to 40, and a few kilobytes made
 * for the purpose could fill any memory.
 */
const INFLATED_RATIO_MAX = 256;

/** One area, and more where each thread of perf record wrote a file of its own: damage in one ends that one. */
export function scanRecords(image: Image, areas: readonly Run[], visit: UserRecordVisitor): Scan {
  const scanner = new Scanner(image, visit);
  const damage = areas.flatMap((area) => scanner.scan(area) ?? []);
  const { runs, counts } = scanner;
  return { runs, counts, damage, inflatedBytes: image.length - image.fileBytes };
}

class Scanner {
  readonly runs: Run[] = [];
  readonly counts = new Uint32Array(RECORD_TYPE_MAX + 1);
  readonly #image: Image;
  readonly #visit: UserRecordVisitor;
  #zstd: ZstdStream | null = null;
  /** Where the records begin that are decompressed and not scanned. */
  #inflatedFrom: number;
  readonly #inflatedMax: number;

  constructor(image: Image, visit: UserRecordVisitor) {
    this.#image = image;
    this.#visit = visit;
    this.#inflatedFrom = image.fileBytes;
    this.#inflatedMax = Math.min(IMAGE_BYTES_MAX - image.fileBytes, image.fileBytes * INFLATED_RATIO_MAX);
  }

  scan(area: Run): Damage | null {
    // Each file is a stream of its own.
    this.#zstd = null;
    this.#inflatedFrom = this.#image.length;
    try {
      this.#scanFile(area);
      if (this.#inflatedFrom < this.#image.length)
        throw this.#image.error(this.#inflatedFrom, "the last compressed record is cut off");
      return null;
    } catch (error) {
      if (!(error instanceof RecordingError)) throw error;
      return { offset: error.offset, message: error.detail };
    }
  }

  #scanFile({ start, end }: Run): void {
    const image = this.#image;
    let view = image.view;
    let from = start;
    let at = start;
    const close = (): void => this.#addRun(from, at);
    try {
      while (at < end) {
        const size = checkHeader(image, view, at, end);
        const type = view.getUint32(at, true);
        this.counts[type] = (this.counts[type] as number) + 1;
        if (type < USER_RECORD_START) {
          at += size;
          continue;
        }
        const payload = { start: at + size, end: at + size + payloadBytes(image, type, at, size, end) };
        if (isCompressed(type)) {
          close();
          from = at + size;
          this.#inflate(type, at, size);
          view = image.view;
        } else {
          this.#visit(type, at, size, payload);
        }
        at += size;
        if (payload.end > at) {
          close();
          at = payload.end;
          from = at;
        }
      }
    } finally {
      close();
    }
  }

  #addRun(start: number, end: number): void {
    if (end > start) this.runs.push({ start, end });
  }

  #inflate(type: number, at: number, size: number): void {
    const image = this.#image;
    const cursor = new Cursor(image, at + RECORD_HEADER_BYTES, at + size, "a compressed record");
    // COMPRESSED2 is padded to 8 bytes, and says how many of them count.
    const bytes = type === USER_RECORD.COMPRESSED2 ? cursor.number("its size") : cursor.left;
    const from = cursor.take(bytes, "what it holds");
    this.#zstd ??= new ZstdStream((chunk) => this.#append(chunk, at));
    image.beginInflated(at);
    try {
      this.#zstd.push(image.bytes.subarray(from, from + bytes));
    } catch (error) {
      if (error instanceof RecordingError) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw image.error(at, `a compressed record cannot be decompressed: ${reason}`);
    } finally {
      this.#scanInflated();
    }
  }

  #append(chunk: Uint8Array, at: number): void {
    const image = this.#image;
    if (image.length - image.fileBytes + chunk.length > this.#inflatedMax) {
      throw image.error(
        at,
        `what is compressed holds more than ${this.#inflatedMax} bytes`,
        "record without -z, or for a shorter time",
      );
    }
    image.append(chunk);
  }

  /** Of the records that are decompressed, those that are whole: the last may go on in the next compressed record. */
  #scanInflated(): void {
    const image = this.#image;
    const { view, length } = image;
    const from = this.#inflatedFrom;
    let at = from;
    try {
      while (length - at >= RECORD_HEADER_BYTES) {
        if (at + view.getUint16(at + 6, true) > length) break;
        const size = checkHeader(image, view, at, length);
        const type = view.getUint32(at, true);
        if (isCompressed(type)) throw image.error(at, "is compressed twice");
        this.counts[type] = (this.counts[type] as number) + 1;
        if (type >= USER_RECORD_START) {
          if (payloadBytes(image, type, at, size, length) > 0)
            throw image.error(at, "a trace among compressed records");
          this.#visit(type, at, size, { start: at + size, end: at + size });
        }
        at += size;
      }
    } finally {
      this.#inflatedFrom = at;
      this.#addRun(from, at);
    }
  }
}

function isCompressed(type: number): boolean {
  return type === USER_RECORD.COMPRESSED || type === USER_RECORD.COMPRESSED2;
}

/** The record's size. Throws RecordingError where there is no record. */
function checkHeader(image: Image, view: DataView, at: number, end: number): number {
  if (end - at < RECORD_HEADER_BYTES) throw image.error(at, "a record is cut off");
  const type = view.getUint32(at, true);
  const size = view.getUint16(at + 6, true);
  if (size < RECORD_HEADER_BYTES) throw image.error(at, `a record of ${size} bytes`);
  if (type > RECORD_TYPE_MAX || type === 0) throw image.error(at, `a record of type ${type}`);
  if (at + size > end) throw image.error(at, `a record of ${size} bytes, of which ${end - at} are there`);
  if (type < USER_RECORD_START && (size & 7) !== 0)
    throw image.error(at, `a record of ${size} bytes, no multiple of 8`);
  return size;
}

/** AUXTRACE and TRACING_DATA are followed by as many bytes as they say, which their own size leaves out. */
function payloadBytes(image: Image, type: number, at: number, size: number, end: number): number {
  const isTrace = type === USER_RECORD.AUXTRACE;
  if (!isTrace && type !== USER_RECORD.TRACING_DATA) return 0;
  if (size < (isTrace ? 16 : 12)) throw image.error(at, `a record of ${size} bytes, too short for its fields`);
  // TRACING_DATA says a u32 and is padded to 8 bytes.
  const bytes = isTrace ? u64At(image.view, at + 8) : Math.ceil(image.view.getUint32(at + 8, true) / 8) * 8;
  if (bytes > end - at - size) throw image.error(at, `a trace of ${bytes} bytes lies outside the file`);
  return bytes;
}
