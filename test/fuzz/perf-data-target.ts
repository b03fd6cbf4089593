/** The reader of perf.data: all that it reads and decodes of a file, twice, with other bytes around the file. */
import { createHash } from "node:crypto";
import { serialize } from "node:v8";
import { PmuError } from "../../src/pmu/errors.js";
import { auxData } from "../../src/pmu/perf-data/aux-trace.js";
import { USER_RECORD_START } from "../../src/pmu/perf-data/format.js";
import { RecordingError } from "../../src/pmu/perf-data/image.js";
import { decodeKernelRecord } from "../../src/pmu/perf-data/kernel-records.js";
import { parseRecording, type Recording } from "../../src/pmu/perf-data/recording.js";
import { decodeUserRecord } from "../../src/pmu/perf-data/user-records.js";
import { indexRecords } from "../../src/pmu/software/record-index.js";
import { dictionary, grammar } from "./perf-data-grammar.js";
import { holds, type Target } from "./target.js";

/** Around the file in its buffer. */
const MARGIN = 4096;
/** What compressed records may hold, scan.ts; the buffer that grows with it is at most twice as long. */
const INFLATED_RATIO_MAX = 256;
/** Serialized, what is kept besides the bytes themselves: so many times the image, and for the smallest file. */
const KEPT_RATIO_MAX = 40;
const KEPT_BYTES_MIN = 1 << 16;

function placed(bytes: Uint8Array, poison: number): Uint8Array<SharedArrayBuffer> {
  const whole = new Uint8Array(new SharedArrayBuffer(bytes.length + 2 * MARGIN)).fill(poison);
  whole.set(bytes, MARGIN);
  return whole.subarray(MARGIN, MARGIN + bytes.length);
}

/** What the reader makes of a file; the same bytes must give the same. */
export interface Reading {
  readonly digest: string;
  /** Sound records in the order of the file. */
  readonly records: readonly string[];
  /** Null where nothing could be read. */
  readonly recording: Recording | null;
}

/** Null where it is refused, or the value; only RecordingError with a place in the file may be thrown. */
function attempt<T>(fileBytes: number, read: () => T): T | null {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof PmuError)) throw error;
    holds(error.code === "RECORDING_UNREADABLE", () => `${error.code}: ${error.message}`);
    holds(error instanceof RecordingError, () => `no place is told: ${error.message}`);
    checkPlace(error.offset, error.detail, fileBytes);
    return null;
  }
}

function checkPlace(offset: number, message: string, fileBytes: number): void {
  holds(
    Number.isInteger(offset) && offset >= 0 && offset <= fileBytes,
    () => `byte ${offset} of ${fileBytes}: ${message}`,
  );
  holds(/[;,] ./.test(message) && message.length < 1024, () => `what is wrong, without a remedy: ${message}`);
}

const text = (value: unknown): string =>
  JSON.stringify(value, (_key, part) =>
    typeof part === "bigint" ? `${part}n` : part instanceof Map ? [...part] : part,
  ) ?? "";

export function read(bytes: Uint8Array, poison: number): Reading {
  const recording = attempt(bytes.length, () => parseRecording("F", placed(bytes, poison)));
  if (recording === null) return { digest: "refused", records: [], recording: null };
  const { image, damage, runs, counts, ...rest } = recording;
  for (const { offset, message } of damage) checkPlace(offset, message, bytes.length);
  const hash = createHash("sha1");
  hash.update(text([damage, runs, Array.from(counts), rest]));
  hash.update(new Uint8Array(image.bytes));
  const records = decodeAll(recording, bytes.length);
  for (const record of records) hash.update(record);
  for (const trace of recording.auxTraces) {
    const data = auxData(image, [trace], { cpu: trace.cpu }, trace.offset, 64);
    if (data !== null) hash.update(new Uint8Array(data));
  }
  const index = attempt(bytes.length, () => indexRecords(recording));
  if (index !== null) {
    holds(index.count <= records.length + unsound, () => `${index.count} records are indexed of ${records.length}`);
    hash.update(text([index.damage, index.cpus, index.recordBytesMax, Array.from(index.attr), Array.from(index.time)]));
  }
  checkMemory(recording, bytes.length);
  return { digest: hash.digest("hex"), records, recording };
}

/** Records of the reading that is under way that do not fit their own size. */
let unsound = 0;

/** Every record of every run; their number by type must be what the scan has counted. */
function decodeAll(recording: Recording, fileBytes: number): string[] {
  const { image, runs, counts, attrs } = recording;
  const seen = new Uint32Array(counts.length);
  const records: string[] = [];
  unsound = 0;
  let inflated = 0;
  for (const { start, end } of runs) {
    holds(start >= 0 && start < end && end <= image.length, () => `a run from ${start} to ${end} of ${image.length}`);
    for (let at = start; at < end; ) {
      const type = image.view.getUint32(at, true);
      const size = image.view.getUint16(at + 6, true);
      holds(size >= 8 && at + size <= end, () => `a record of ${size} bytes at ${at}, in a run that ends at ${end}`);
      seen[type]++;
      const place = at;
      const attr = attrs[records.length % attrs.length];
      const decoded = attempt(fileBytes, () =>
        type < USER_RECORD_START ? decodeKernelRecord(image, place, attr) : decodeUserRecord(image, place),
      );
      if (decoded === null) unsound++;
      else records.push(text(decoded));
      at += size;
    }
    if (start >= image.fileBytes) inflated += end - start;
  }
  holds(inflated <= image.length - image.fileBytes, () => `${inflated} bytes of records are decompressed`);
  // Wrappers of compressed records are counted, and in no run.
  for (const [type, count] of counts.entries()) {
    const isWrapper = type === 81 || type === 83;
    const isLast = type >= USER_RECORD_START && recording.damage.length > 0;
    holds(
      isWrapper || seen[type] === count || (isLast && seen[type] + 1 === count),
      () => `${seen[type]} of ${count} records of type ${type}`,
    );
  }
  return records;
}

function checkMemory({ image, runs, counts: _counts, ...rest }: Recording, fileBytes: number): void {
  const imageMax = fileBytes * (1 + INFLATED_RATIO_MAX) * 2 + 2 * MARGIN;
  const imageBytes = image.bytes.buffer.byteLength;
  holds(imageBytes <= imageMax, () => `${imageBytes} bytes for an image of ${fileBytes}`);
  const keptMax = KEPT_BYTES_MIN + KEPT_RATIO_MAX * image.length;
  const kept = serialize([runs, rest]).length;
  holds(kept <= keptMax, () => `${kept} bytes are kept of a file of ${fileBytes}`);
}

export function run(bytes: Uint8Array): void {
  const first = read(bytes, 0x09);
  const second = read(bytes, 0xff);
  holds(first.digest === second.digest, () => "depends on what is around the file");
}

export const perfDataTarget: Target = { run, grammar, dictionary, bytesMax: 40_000 };
