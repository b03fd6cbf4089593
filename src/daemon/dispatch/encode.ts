/**
 * From ring to wire: selected samples become the columns of nmi.v1.SampleBatch, copied once, straight from the ring's
 * words. A packed fixed-width column is its array's little-endian memory, so a column is a header and a copy.
 *
 * A column's header is one 32-bit word, tag and a length varint of three bytes, so that the data behind it stays
 * 4-byte aligned and plain word stores can write it. Padded varints are legal protobuf; docs/decisions says more.
 */
import type { BatchIndex } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";

/** Field numbers of SampleBatch in proto/nmi.proto. */
export const SAMPLE_BATCH_FIELD = {
  EVENT_INDEX: 1,
  SEQUENCE: 2,
  TIME: 3,
  IP: 4,
  PID: 5,
  TID: 6,
  CPU: 7,
  PERIOD: 8,
  CALLCHAIN: 9,
  CALLCHAIN_LENGTH: 10,
} as const;

const WIRE_LENGTH_DELIMITED = 2;
/** Three varint bytes: 21 bits. */
export const COLUMN_BYTES_MAX = 2 ** 21 - 1;

function columnHeader(field: number, bytes: number): number {
  return (
    (field << 3) |
    WIRE_LENGTH_DELIMITED |
    ((bytes & 0x7f) << 8) |
    0x8000 |
    (((bytes >>> 7) & 0x7f) << 16) |
    0x800000 |
    (((bytes >>> 14) & 0x7f) << 24)
  );
}

const FIXED_COLUMNS = 6;
const FIXED_BYTES_PER_SAMPLE = 8 + 8 + 4 + 4 + 4 + 8;

/** Payload bytes of `samples` samples whose callchains hold `addresses` addresses; -1 addresses: no callchain columns. */
export function chunkBytes(samples: number, addresses: number): number {
  const fixed = FIXED_COLUMNS * 4 + samples * FIXED_BYTES_PER_SAMPLE;
  return addresses < 0 ? fixed : fixed + 2 * 4 + samples * 4 + addresses * 8;
}

/**
 * The samples a handler is given of one batch: indexes into BatchIndex and the weight each carries. Allocated once a
 * dispatcher.
 */
export interface Selection {
  readonly sample: Uint32Array;
  /** The sample's own period and those of the samples left out before it. */
  readonly period: Float64Array;
}

export function callchainDepth(batch: BatchIndex, ring: RingReader, sample: number): number {
  const offset = batch.offsets[sample].callchain;
  return offset < 0 ? 0 : ring.words[(batch.at[sample] + offset) & ring.wordMask];
}

/**
 * Writes the columns of selection[from, to) at word `at` of `out`. `addresses` is the callchains' total length, or -1
 * for none. Exactly chunkBytes(to - from, addresses) bytes.
 */
export function encodeChunk(
  out: Uint32Array,
  at: number,
  batch: BatchIndex,
  ring: RingReader,
  selection: Selection,
  from: number,
  to: number,
  addresses: number,
  ringCpu: number,
): void {
  const { words, wordMask: mask } = ring;
  const { sample, period } = selection;
  const { at: start, offsets, pid } = batch;
  const n = to - from;
  let w = at;
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.TIME, n * 8);
  for (let k = from; k < to; k++) {
    const i = sample[k];
    const offset = offsets[i].time;
    const source = start[i] + offset;
    out[w++] = offset < 0 ? 0 : words[source & mask];
    out[w++] = offset < 0 ? 0 : words[(source + 1) & mask];
  }
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.IP, n * 8);
  for (let k = from; k < to; k++) {
    const i = sample[k];
    const offset = offsets[i].ip;
    const source = start[i] + offset;
    out[w++] = offset < 0 ? 0 : words[source & mask];
    out[w++] = offset < 0 ? 0 : words[(source + 1) & mask];
  }
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.PID, n * 4);
  for (let k = from; k < to; k++) out[w++] = pid[sample[k]];
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.TID, n * 4);
  for (let k = from; k < to; k++) {
    const i = sample[k];
    const offset = offsets[i].pid;
    out[w++] = offset < 0 ? 0 : words[(start[i] + offset + 1) & mask];
  }
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.CPU, n * 4);
  for (let k = from; k < to; k++) {
    const i = sample[k];
    const offset = offsets[i].cpu;
    out[w++] = offset < 0 ? ringCpu : words[(start[i] + offset) & mask];
  }
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.PERIOD, n * 8);
  for (let k = from; k < to; k++) {
    const weight = period[k];
    out[w++] = weight; // modulo 2^32
    out[w++] = Math.floor(weight / 2 ** 32);
  }
  if (addresses >= 0) encodeCallchains(out, w, batch, ring, selection, from, to, addresses);
}

function encodeCallchains(
  out: Uint32Array,
  at: number,
  batch: BatchIndex,
  ring: RingReader,
  selection: Selection,
  from: number,
  to: number,
  addresses: number,
): void {
  const { words, wordMask: mask } = ring;
  let w = at;
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.CALLCHAIN_LENGTH, (to - from) * 4);
  for (let k = from; k < to; k++) out[w++] = callchainDepth(batch, ring, selection.sample[k]);
  out[w++] = columnHeader(SAMPLE_BATCH_FIELD.CALLCHAIN, addresses * 8);
  for (let k = from; k < to; k++) {
    const i = selection.sample[k];
    const source = batch.at[i] + batch.offsets[i].callchain + 2;
    const count = callchainDepth(batch, ring, i) * 2;
    for (let j = 0; j < count; j++) out[w++] = words[(source + j) & mask];
  }
}
