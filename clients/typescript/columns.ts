/** A SampleBatch's columns: what each holds, where its runs lie in a message, and whether all of them fit together. */
import { MalformedMessageError } from "./errors.js";
import type { SampleBatch } from "./messages.js";
import { WIRE_FIXED32, WIRE_FIXED64, WIRE_LENGTH_DELIMITED, type WireReader } from "./wire.js";

/** Start and end of each run of a column in the message, in the order in which they came. */
export type Runs = readonly number[];

type Columns = Omit<SampleBatch, "kind" | "eventIndex" | "sequence">;
type Column = Exclude<keyof Columns, "length">;
type Lengths = Extract<Column, `${string}Length`>;

/** Index is the field number in proto/nmi.proto. */
const COLUMNS: readonly (readonly [name: Column, elementBytes: 4 | 8] | undefined)[] = [
  undefined,
  undefined,
  undefined,
  ["time", 8],
  ["ip", 8],
  ["pid", 4],
  ["tid", 4],
  ["cpu", 4],
  ["period", 8],
  ["callchain", 8],
  ["callchainLength", 4],
  ["addr", 8],
  ["weight", 8],
  ["dataSrc", 8],
  ["cgroup", 8],
  ["raw", 4],
  ["rawLength", 4],
  ["branchStack", 8],
  ["branchStackLength", 4],
  ["branchHwIndex", 8],
  ["branchCounters", 8],
  ["regsUser", 8],
  ["regsUserAbi", 4],
  ["stackUser", 8],
  ["stackUserLength", 4],
  ["transaction", 8],
  ["physAddr", 8],
  ["dataPageSize", 8],
  ["codePageSize", 8],
  ["regsIntr", 8],
  ["regsIntrAbi", 4],
  ["read", 8],
  ["readLength", 4],
  ["aux", 8],
  ["auxLength", 4],
  ["cpumode", 4],
];

/** Ragged columns: where their lengths are, and how many elements a length of `unit` stands for. */
const RAGGED: readonly (readonly [column: Column, lengths: Lengths, elements: number, unit: number])[] = [
  ["callchain", "callchainLength", 1, 1],
  ["raw", "rawLength", 1, 1],
  ["branchStack", "branchStackLength", 3, 1],
  ["stackUser", "stackUserLength", 1, 8],
  ["read", "readLength", 1, 1],
  ["aux", "auxLength", 1, 8],
];

const NOT_A_SAMPLE_EACH: ReadonlySet<Column> = new Set<Column>([
  ...RAGGED.map(([column]) => column),
  "branchCounters",
  "regsUser",
  "regsIntr",
]);

const NO_RUNS: Runs = [];
const EMPTY_64 = new BigUint64Array(0);
const EMPTY_32 = new Uint32Array(0);

/** Collects one batch's columns from its fields. The columns may be views of `message`. */
export class SampleColumns {
  readonly #message: Uint8Array;
  readonly #runs: (number[] | undefined)[] = new Array(COLUMNS.length);

  constructor(message: Uint8Array) {
    this.#message = message;
  }

  /** Consumes the reader's field when it is a column's: a packed run, or one element that its sender did not pack. */
  take(reader: WireReader): boolean {
    const column = COLUMNS[reader.field];
    if (column === undefined) return false;
    const [, elementBytes] = column;
    let length: number = elementBytes;
    if (reader.wireType === WIRE_LENGTH_DELIMITED) {
      length = reader.uint32();
      if (length % elementBytes !== 0) {
        throw new MalformedMessageError(`column ${reader.field} has a run of ${length} bytes`, reader.offset);
      }
    } else {
      reader.expect(elementBytes === 8 ? WIRE_FIXED64 : WIRE_FIXED32);
    }
    const { field } = reader;
    const start = reader.take(length);
    this.#runs[field] ??= [];
    this.#runs[field].push(start, start + length);
    return true;
  }

  runs(field: number): Runs {
    return this.#runs[field] ?? NO_RUNS;
  }

  /** All columns, those that did not come empty. Throws MalformedMessageError at `offset` where they disagree. */
  finish(offset: number): Columns {
    const columns: Partial<Record<Column, BigUint64Array | Uint32Array>> = {};
    let length = 0;
    for (let field = 0; field < COLUMNS.length; field++) {
      const column = COLUMNS[field];
      if (column === undefined) continue;
      const [name, elementBytes] = column;
      const elements =
        elementBytes === 8 ? column64(this.#message, this.runs(field)) : column32(this.#message, this.runs(field));
      columns[name] = elements;
      if (!NOT_A_SAMPLE_EACH.has(name) && elements.length > length) length = elements.length;
    }
    const batch = { length, ...columns } as Columns;
    checkLengths(batch, offset);
    checkRagged(batch, offset);
    return batch;
  }
}

function checkLengths(batch: Columns, offset: number): void {
  for (const column of COLUMNS) {
    if (column === undefined || NOT_A_SAMPLE_EACH.has(column[0])) continue;
    const held = batch[column[0]].length;
    if (held !== 0 && held !== batch.length) {
      throw new MalformedMessageError(`column ${column[0]} holds ${held} of ${batch.length} samples`, offset);
    }
  }
}

function checkRagged(batch: Columns, offset: number): void {
  for (const [column, lengths, elements, unit] of RAGGED) {
    let sum = 0;
    for (const length of batch[lengths]) sum += Math.ceil(length / unit) * elements;
    expectElements(column, batch[column].length, sum, offset);
  }
  if (batch.branchCounters.length !== 0) {
    expectElements("branchCounters", batch.branchCounters.length, batch.branchStack.length / 3, offset);
  }
  checkRegisters("regsUser", batch.regsUser, batch.regsUserAbi, offset);
  checkRegisters("regsIntr", batch.regsIntr, batch.regsIntrAbi, offset);
}

function expectElements(column: Column, held: number, sum: number, offset: number): void {
  if (held === sum) return;
  const what = column === "callchain" ? "addresses" : "elements";
  throw new MalformedMessageError(`${column} holds ${held} ${what}, its lengths add up to ${sum}`, offset);
}

/** Each sample that has registers has the same: the mask's. */
function checkRegisters(column: Column, registers: BigUint64Array, abis: Uint32Array, offset: number): void {
  let samples = 0;
  for (const abi of abis) if (abi !== 0) samples++;
  if (samples === 0 ? registers.length === 0 : registers.length % samples === 0) return;
  throw new MalformedMessageError(`${column} holds ${registers.length} registers of ${samples} samples`, offset);
}

function column64(message: Uint8Array, runs: Runs): BigUint64Array {
  if (runs.length === 0) return EMPTY_64;
  const [start, end] = runs;
  if (runs.length === 2 && (message.byteOffset + start) % 8 === 0) {
    return new BigUint64Array(message.buffer, message.byteOffset + start, (end - start) / 8);
  }
  const bytes = joinRuns(message, runs);
  return new BigUint64Array(bytes.buffer, 0, bytes.length / 8);
}

function column32(message: Uint8Array, runs: Runs): Uint32Array {
  if (runs.length === 0) return EMPTY_32;
  const [start, end] = runs;
  if (runs.length === 2 && (message.byteOffset + start) % 4 === 0) {
    return new Uint32Array(message.buffer, message.byteOffset + start, (end - start) / 4);
  }
  const bytes = joinRuns(message, runs);
  return new Uint32Array(bytes.buffer, 0, bytes.length / 4);
}

/** The runs end to end in memory of their own, which is aligned for any element. */
function joinRuns(message: Uint8Array, runs: Runs): Uint8Array {
  let length = 0;
  for (let i = 0; i < runs.length; i += 2) length += runs[i + 1] - runs[i];
  const joined = new Uint8Array(length);
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    joined.set(message.subarray(runs[i], runs[i + 1]), at);
    at += runs[i + 1] - runs[i];
  }
  return joined;
}
