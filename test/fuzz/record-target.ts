/**
 * The scan of a ring's records. An input is a few bytes that say which formats are armed and where in the ring the
 * records begin, then the records. What a second, slow walk over the same bytes finds must be what the scan found,
 * whatever the rest of the ring holds.
 */
import { MMAP_PAGE, PAGE_BYTES, RECORD, SAMPLE } from "../../src/pmu/abi.js";
import { FormatTable } from "../../src/pmu/format-table.js";
import { Cursor, Image, RecordingError } from "../../src/pmu/perf-data/image.js";
import { decodeSample, type Sample } from "../../src/pmu/perf-data/sample.js";
import { BatchIndex, type ScanListener } from "../../src/pmu/record.js";
import { RingReader } from "../../src/pmu/ring.js";
import type { RecordFormat } from "../../src/pmu/source.js";
import { isTaskRecord, TrailerTable } from "../../src/pmu/task-record.js";
import { dictionary, grammar } from "./record-grammar.js";
import { type RecordInput, readInput } from "./record-input.js";
import { holds, type Target } from "./target.js";

const batch = new BatchIndex();

/** What the scan told of one record, or of what is none. */
export interface Found {
  readonly samples: {
    readonly at: number;
    readonly event: number;
    readonly text: string;
    readonly places: [bit: number, word: number][];
  }[];
  readonly tasks: { readonly at: number; readonly trailerWords: number }[];
  readonly corrupt: number[];
  strays: number;
  lost: number;
  throttles: string;
}

export function scanAll(input: RecordInput, poison: (word: number) => number): Found {
  const { records, startBytes, formats } = input;
  let dataBytes = PAGE_BYTES;
  while (dataBytes < records.length) dataBytes *= 2;
  const memory = new ArrayBuffer(PAGE_BYTES + dataBytes);
  const control = new BigUint64Array(memory, 0, PAGE_BYTES / 8);
  const start = startBytes % dataBytes;
  control[MMAP_PAGE.DATA_TAIL / 8] = BigInt(start);
  control[MMAP_PAGE.DATA_HEAD / 8] = BigInt(start + records.length);
  const ring = new RingReader(memory, dataBytes);
  for (let i = 0; i < ring.words.length; i++) ring.words[i] = poison(i);
  const bytes = new Uint8Array(memory, PAGE_BYTES, dataBytes);
  const straight = Math.min(records.length, dataBytes - start);
  bytes.set(records.subarray(0, straight), start);
  bytes.set(records.subarray(straight), 0);
  const table = new FormatTable();
  const trailers = new TrailerTable();
  for (const [event, format] of formats.entries()) {
    table.add(event, format);
    trailers.add(format);
  }
  const found: Found = { samples: [], tasks: [], corrupt: [], strays: 0, lost: 0, throttles: "" };
  const listener: ScanListener = {
    throttle: (event, on) => {
      found.throttles += `${event}${on} `;
    },
    corrupt: (count) => found.corrupt.push(count),
    stray: () => {
      found.strays++;
    },
    lost: (count) => {
      found.lost += count;
    },
  };
  batch.wantsTasks = input.wantsTasks;
  const head = ring.loadHead();
  while (ring.tail < head) {
    const next = batch.scan(ring, head, table, listener);
    holds(next > ring.tail && next <= head, () => `a scan from ${ring.tail} to ${next}, with the head at ${head}`);
    note(ring, start, trailers, found);
    ring.storeTail(next);
  }
  return found;
}

/** Copies what the scan indexed; `at` counts bytes from where the records begin. */
function note(ring: RingReader, start: number, trailers: TrailerTable, found: Found): void {
  const { words, wordMask: mask, dataBytes } = ring;
  const place = (word: number): number => (word * 4 - start + dataBytes) % dataBytes;
  for (let i = 0; i < batch.count; i++) {
    const sizeWords = words[(batch.at[i] + 1) & mask] >>> 18;
    const places: [number, number][] = [];
    for (const bit of batch.offsetsOf(i).places.keys()) {
      const offset = batch.wordOf(i, bit) - batch.at[i];
      holds(offset >= 2 && offset <= sizeWords, () => `field ${bit} at word ${offset} of ${sizeWords}`);
      places.push([bit, offset]);
    }
    const text = [batch.pid[i], batch.time[i], batch.period[i], batch.cpumode[i], batch.claimed[i]].join();
    found.samples.push({ at: place(batch.at[i]), event: batch.event[i], text, places });
  }
  for (let i = 0; i < batch.tasks; i++) {
    const at = batch.taskAt[i];
    const sizeWords = words[(at + 1) & mask] >>> 18;
    const trailer = trailers.of(words, mask, at, sizeWords);
    holds(trailer.words + 2 <= sizeWords, () => `a trailer of ${trailer.words} words in ${sizeWords}`);
    found.tasks.push({ at: place(at), trailerWords: trailer.words });
  }
}

/** Of the sample at byte `at` by the decoder of recordings, which shares no code with the scan; null where it is damaged. */
function decodeAt(image: Image, at: number, size: number, format: RecordFormat, hasIndex: boolean): Sample | null {
  const layout = {
    ...{ sampleType: format.sampleType, readFormat: format.readFormat ?? 0, sampleIdAll: format.sampleIdAll },
    branchSampleType: BigInt((format.branchSampleType ?? 0) & (hasIndex ? -1 : ~(1 << 17))),
    ...{ sampleRegsUser: format.sampleRegsUser ?? 0n, sampleRegsIntr: format.sampleRegsIntr ?? 0n },
  };
  try {
    return decodeSample(new Cursor(image, at + 8, at + size, "a sample"), layout);
  } catch (error) {
    if (!(error instanceof RecordingError)) throw error;
    return null;
  }
}

/** What the kernel pads or leaves out, and a recording's decoder takes as it is. */
const LENIENT = SAMPLE.RAW | SAMPLE.STACK_USER | SAMPLE.BRANCH_STACK | SAMPLE.AUX;

function checkSample(
  image: Image,
  at: number,
  size: number,
  input: RecordInput,
  found: Found["samples"][number],
): void {
  const format = input.formats[found.event];
  const sample = decodeAt(image, at, size, format, true) ?? decodeAt(image, at, size, format, false);
  holds(sample !== null, () => `the sample at ${at} is indexed, and does not fit its ${size} bytes`);
  const { pid, time, period, identifier } = sample;
  const misc = image.view.getUint16(at + 4, true);
  const expected = [
    (pid ?? 0) >>> 0,
    time === null ? 0 : Number(time & 0xffff_ffffn) + Number(time >> 32n) * 2 ** 32,
    period === null ? format.fixedPeriod : Number(period & 0xffff_ffffn) + Number(period >> 32n) * 2 ** 32,
    ...[misc & 7, 0],
  ].join();
  holds(found.text === expected, () => `the sample at ${at}: ${found.text}, not ${expected}`);
  holds(
    identifier === null || input.isAnonymous || format.ids.includes(identifier),
    () => `the sample at ${at} is another event's`,
  );
}

function run(bytes: Uint8Array): void {
  const input = readInput(bytes);
  const found = scanAll(input, () => 0);
  // Looks like samples of the first event, wherever it is looked at.
  const other = scanAll(input, (word) => [RECORD.SAMPLE, 8 << 16, 1, 0][word & 3]);
  const same = (all: Found): string => JSON.stringify(all);
  holds(same(found) === same(other), () => `depends on what is behind the head: ${same(found)} and ${same(other)}`);
  checkByWalk(input, found);
}

/** Every byte is in one of: a sample, a task record, a stray, what was called corrupt, another record. */
function checkByWalk(input: RecordInput, found: Found): void {
  const shared = new Uint8Array(new SharedArrayBuffer(input.records.length));
  shared.set(input.records);
  const image = new Image("records", shared);
  const { view } = image;
  const corrupt: number[] = [];
  let [at, samples, tasks, strays] = [0, 0, 0, 0];
  while (at < image.length) {
    const type = view.getUint32(at, true);
    const size = view.getUint16(at + 6, true);
    if (size < 8 || size % 8 !== 0 || at + size > image.length) {
      corrupt.push(image.length - at);
      break;
    }
    if (type === RECORD.SAMPLE) {
      const indexed = found.samples[samples];
      if (indexed?.at === at) {
        checkSample(image, at, size, input, indexed);
        samples++;
      } else if (isKnown(input, view, at, size)) {
        mustBeDamaged(image, at, size, input);
        corrupt.push(size);
      } else strays++;
    } else if (input.wantsTasks && isTaskRecord(type)) {
      holds(found.tasks[tasks]?.at === at, () => `the task record at ${at} is not told of`);
      tasks++;
    }
    at += size;
  }
  holds(samples === found.samples.length, () => `${found.samples.length} samples, of which ${samples} are there`);
  holds(tasks === found.tasks.length, () => `${found.tasks.length} task records, of which ${tasks} are there`);
  const told = `${found.strays} strays, corrupt ${found.corrupt}`;
  holds(told === `${strays} strays, corrupt ${corrupt}`, () => `${told}, not ${strays} strays, corrupt ${corrupt}`);
}

/** Whether the record says whose it is, or is too short to. */
function isKnown({ formats, isAnonymous }: RecordInput, view: DataView, at: number, size: number): boolean {
  if (isAnonymous || size < 16) return true;
  return formats.some(({ ids }) => ids.some((id) => Number(id) === Number(view.getBigUint64(at + 8, true))));
}

function mustBeDamaged(image: Image, at: number, size: number, { formats, isAnonymous }: RecordInput): void {
  if (size < 16) return;
  const id = image.view.getBigUint64(at + 8, true);
  const format = isAnonymous ? formats[0] : formats.find(({ ids }) => ids.some((own) => Number(own) === Number(id)));
  if (format === undefined || (format.sampleType & LENIENT) !== 0) return;
  holds(decodeAt(image, at, size, format, true) === null, () => `the sample at ${at} is sound, and was called corrupt`);
}

export const recordTarget: Target = { run, grammar, dictionary, bytesMax: 60_000 };
