/**
 * From ring to wire: selected samples become the columns of nmi.v1.SampleBatch, copied once, straight from the ring's
 * words. A packed fixed-width column is its array's little-endian memory, so a column is a header and a copy.
 *
 * A column's header is one 32-bit word, tag and a length varint of three bytes, so that the data behind it stays
 * 4-byte aligned and plain word stores can write it. Padded varints are legal protobuf; docs/decisions says more.
 */
import { BATCH_SAMPLES_MAX, type BatchIndex } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import type { SampleOffsets } from "../../pmu/sample-layout.js";
import { columnHeader, SAMPLE_BATCH_FIELD } from "./column-header.js";
import { COLUMN, columnsBytes, encodeColumns } from "./columns.js";
import { redactIps } from "./redact.js";

const FIXED_COLUMNS = 6;
const FIXED_BYTES_PER_SAMPLE = 8 + 8 + 4 + 4 + 4 + 8;

/** Payload bytes of `samples` samples; `ragged` are the words that those of `columns` take which differ in length. */
export function chunkBytes(samples: number, columns: number, ragged: number): number {
  return FIXED_COLUMNS * 4 + samples * FIXED_BYTES_PER_SAMPLE + columnsBytes(columns, samples, ragged);
}

/** Samples of one batch that a lane takes: indexes into BatchIndex and the weight each carries. */
export interface Selection {
  readonly sample: Uint32Array;
  /** The sample's own period and those of the samples left out before it. */
  readonly period: Float64Array;
}

/**
 * Writes the columns of selection[from, to) at word `at` of `out`: the six, and those of the set `columns` (columns.ts).
 * Exactly chunkBytes of them.
 */
export function encodeChunk(
  out: Uint32Array,
  at: number,
  batch: BatchIndex,
  ring: RingReader,
  selection: Selection,
  from: number,
  to: number,
  columns: number,
  ringCpu: number,
): void {
  const n = to - from;
  const time = at + 1;
  const ip = time + 2 * n + 1;
  const pid = ip + 2 * n + 1;
  const tid = pid + n + 1;
  const cpu = tid + n + 1;
  const period = cpu + n + 1;
  out[time - 1] = columnHeader(SAMPLE_BATCH_FIELD.TIME, n * 8);
  out[ip - 1] = columnHeader(SAMPLE_BATCH_FIELD.IP, n * 8);
  out[pid - 1] = columnHeader(SAMPLE_BATCH_FIELD.PID, n * 4);
  out[tid - 1] = columnHeader(SAMPLE_BATCH_FIELD.TID, n * 4);
  out[cpu - 1] = columnHeader(SAMPLE_BATCH_FIELD.CPU, n * 4);
  out[period - 1] = columnHeader(SAMPLE_BATCH_FIELD.PERIOD, n * 8);
  const fixed: FixedColumns = { time, ip, pid, tid, cpu, period };
  const { uniform } = batch;
  // The common case by far: one opening of one event, every field there, offsets in registers.
  if (uniform !== null && uniform.ip >= 0 && uniform.pid >= 0 && uniform.time >= 0 && uniform.cpu >= 0) {
    gather(batch.at, selection, from, to);
    copyUniform(out, fixed, ring, n, uniform);
  } else copyMixed(out, fixed, batch, ring, selection, from, to, ringCpu);
  if (columns === 0) return;
  if ((columns & COLUMN.REDACTED) !== 0) redactIps(out, ip, batch, selection, from, to);
  encodeColumns(out, period + 2 * n, columns, batch, ring, selection, from, to);
}

/** Word index of each column's first element. */
interface FixedColumns {
  readonly time: number;
  readonly ip: number;
  readonly pid: number;
  readonly tid: number;
  readonly cpu: number;
  readonly period: number;
}

const TWO_32 = 2 ** 32;

/**
 * The samples of the chunk that is being encoded: where they start in the ring, and what they weigh. One thread's, and
 * constants of the module, which the engine need not keep in registers: of those there are too few.
 */
const START = new Uint32Array(BATCH_SAMPLES_MAX);
const WEIGHT = new Float64Array(BATCH_SAMPLES_MAX);

function gather(at: Uint32Array, { sample, period }: Selection, from: number, to: number): void {
  for (let k = from, j = 0; k < to; k++, j++) {
    START[j] = at[sample[k]];
    WEIGHT[j] = period[k];
  }
}

/** One pass over the records, six columns written side by side: each record is fetched into the cache once. */
function copyUniform(
  out: Uint32Array,
  { time, ip, pid, tid, cpu, period }: FixedColumns,
  { words, wordMask: mask }: RingReader,
  n: number,
  { time: timeAt, ip: ipAt, pid: pidAt, cpu: cpuAt }: SampleOffsets,
): void {
  for (let j = 0; j < n; j++) {
    const record = START[j];
    out[time + 2 * j] = words[(record + timeAt) & mask];
    out[time + 2 * j + 1] = words[(record + timeAt + 1) & mask];
    out[ip + 2 * j] = words[(record + ipAt) & mask];
    out[ip + 2 * j + 1] = words[(record + ipAt + 1) & mask];
    out[pid + j] = words[(record + pidAt) & mask];
    out[tid + j] = words[(record + pidAt + 1) & mask];
    out[cpu + j] = words[(record + cpuAt) & mask];
    const weight = WEIGHT[j];
    out[period + 2 * j] = weight; // modulo 2^32
    out[period + 2 * j + 1] = weight < TWO_32 ? 0 : weight / TWO_32;
  }
}

function field(words: Uint32Array, mask: number, record: number, offset: number, word: number): number {
  return offset < 0 ? 0 : words[(record + offset + word) & mask];
}

/** Fields that are missing are 0; a missing CPU is the ring's. */
function copyMixed(
  out: Uint32Array,
  { time, ip, pid, tid, cpu, period }: FixedColumns,
  batch: BatchIndex,
  ring: RingReader,
  selection: Selection,
  from: number,
  to: number,
  ringCpu: number,
): void {
  const { words, wordMask: mask } = ring;
  for (let k = from, j = 0; k < to; k++, j++) {
    const i = selection.sample[k];
    const record = batch.at[i];
    const offsets = batch.offsetsOf(i);
    const weight = selection.period[k];
    out[time + 2 * j] = field(words, mask, record, offsets.time, 0);
    out[time + 2 * j + 1] = field(words, mask, record, offsets.time, 1);
    out[ip + 2 * j] = field(words, mask, record, offsets.ip, 0);
    out[ip + 2 * j + 1] = field(words, mask, record, offsets.ip, 1);
    out[pid + j] = field(words, mask, record, offsets.pid, 0);
    out[tid + j] = field(words, mask, record, offsets.pid, 1);
    out[cpu + j] = offsets.cpu < 0 ? ringCpu : words[(record + offsets.cpu) & mask];
    out[period + 2 * j] = weight;
    out[period + 2 * j + 1] = weight < TWO_32 ? 0 : weight / TWO_32;
  }
}
