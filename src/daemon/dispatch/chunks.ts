/**
 * The chunks of one batch: planned for a lane when the first of its handlers is offered the batch, encoded when the first
 * outbox with room for one asks for it, and who was given which.
 */
import type { BatchIndex } from "../../pmu/record.js";
import { SEGMENT_HEADER_BYTES, segmentBytesFor } from "../delivery/segment-layout.js";
import { RESERVE_LARGE_BYTES, type SegmentWriter } from "../delivery/segments.js";
import { chunkColumns, hasRagged, raggedWords } from "./columns.js";
import type { DispatcherRing } from "./dispatcher.js";
import { chunkBytes, encodeChunk, type Selection } from "./encode.js";
import type { Lane } from "./lane.js";
import type { LaneTable } from "./lanes.js";

/**
 * Fills a segment of a power of two: some 450 samples without callchains. Small enough that a message can be, too.
 *
 * One sample is never cut, however much it carries. What bounds it is the kernel, which writes no callchain of more than
 * kernel.perf_event_max_stack addresses, 127 by default, copies no more of a stack than sample_stack_user, and writes no
 * record beyond 64 KiB, for the size in its header has 16 bits. With some 2,000 addresses, or 8 KiB of stack, a sample
 * still fits a chunk of this size, and so the smallest message that a stream may be held to (STREAM_BYTES_MIN). One that
 * carries more is a chunk of its own, and may be a message of its own, of 64 KiB and its columns at most, whatever
 * StreamMemory.messageBytesMax says.
 */
export const CHUNK_PAYLOAD_BYTES_MAX = RESERVE_LARGE_BYTES - SEGMENT_HEADER_BYTES;

const BYTES_PER_SAMPLE = chunkBytes(1, 0, 0) - chunkBytes(0, 0, 0);
/** An integer, as every bound here. */
const UNBOUNDED_BYTES = 2 ** 30;
const NO_SEGMENT = -1;
export const NO_CHUNK = -1;
const NOTHING: Selection = { sample: new Uint32Array(0), period: new Float64Array(0) };

const DOUBLES = ["weight", "firstNs", "lastNs"] as const;
const INTEGERS = [
  "segment",
  "segmentBytes",
  "samples",
  "posted",
  "next",
  "from",
  "wanted",
  "columns",
  "ragged",
] as const;

export class ChunkList {
  /** By chunk; -1 until it is encoded. */
  segment = new Int32Array(256);
  /** Of the chunk's segment; as it is planned, until it is encoded. */
  segmentBytes = new Int32Array(256);
  /** An integer like every index here: what the encoder computes from doubles it computes slowly. */
  samples = new Int32Array(256);
  weight = new Float64Array(256);
  firstNs = new Float64Array(256);
  lastNs = new Float64Array(256);
  /** Outboxes that refer to the segment. */
  posted = new Int32Array(256);
  /** The rest of a chunk that was cut for want of room, or NO_CHUNK. */
  next = new Int32Array(256);
  /** The chunk's samples begin there in its selection. */
  from = new Int32Array(256);
  /** The columns that its lane wants, those it has, and the words in ragged ones. */
  wanted = new Int32Array(256);
  columns = new Int32Array(256);
  ragged = new Int32Array(256);
  count = 0;
  readonly #selections: Selection[] = new Array(256).fill(NOTHING);
  readonly #segments: SegmentWriter;
  readonly #lanes: LaneTable;
  readonly #fit = { to: 0, columns: 0, ragged: 0 };

  constructor(segments: SegmentWriter, lanes: LaneTable) {
    this.#segments = segments;
    this.#lanes = lanes;
  }

  /** Says which chunks the lane's selection becomes, unless a lane with the same selection has them. */
  plan(lane: Lane, batch: BatchIndex, ring: DispatcherRing): void {
    const leader = this.#lanes.leaderOf(lane);
    if (leader.chunkFrom === leader.chunkTo) {
      leader.chunkFrom = this.count;
      leader.weight = 0;
      for (let from = leader.from; from < leader.to; from = this.#fit.to) {
        this.#fitFrom(leader.selection, batch, ring, from, leader.to, leader.columns, CHUNK_PAYLOAD_BYTES_MAX);
        const c = this.#add(leader.selection, batch, from, leader.columns);
        leader.weight += this.weight[c];
      }
      leader.chunkTo = this.count;
    }
    lane.weight = leader.weight;
    lane.chunkFrom = leader.chunkFrom;
    lane.chunkTo = leader.chunkTo;
  }

  /** How many samples from `from` on fit into `bytesMax`, one at least, and what they take in which columns. */
  #fitFrom(
    { sample }: Selection,
    batch: BatchIndex,
    ring: DispatcherRing,
    from: number,
    end: number,
    wanted: number,
    bytesMax: number,
  ): void {
    const fit = this.#fit;
    fit.columns = 0;
    fit.ragged = 0;
    if (wanted === 0) {
      const most = Math.floor((bytesMax - chunkBytes(0, 0, 0)) / BYTES_PER_SAMPLE);
      fit.to = Math.min(end, from + Math.max(1, most));
      return;
    }
    const columns = chunkColumns(wanted, batch, sample[from]);
    fit.columns = columns;
    if (!hasRagged(columns)) {
      const empty = chunkBytes(0, columns, 0);
      const most = Math.floor((bytesMax - empty) / (chunkBytes(1, columns, 0) - empty));
      fit.to = Math.min(end, from + Math.max(1, most));
      return;
    }
    let ragged = 0;
    let to = from;
    while (to < end) {
      const more = raggedWords(columns, batch, ring.reader, sample[to]);
      if (to > from && chunkBytes(to + 1 - from, columns, ragged + more) > bytesMax) break;
      ragged += more;
      to++;
    }
    fit.to = to;
    fit.ragged = ragged;
  }

  /** The chunk that #fit says. */
  #add(selection: Selection, batch: BatchIndex, from: number, wanted: number): number {
    if (this.count === this.segment.length) this.#grow();
    const c = this.count++;
    this.#selections[c] = selection;
    this.from[c] = from;
    this.wanted[c] = wanted;
    this.segment[c] = NO_SEGMENT;
    this.posted[c] = 0;
    this.next[c] = NO_CHUNK;
    this.#describe(c, batch, this.#fit.to, this.#fit.columns, this.#fit.ragged);
    return c;
  }

  #describe(c: number, batch: BatchIndex, to: number, columns: number, ragged: number): void {
    const { sample, period } = this.#selections[c];
    const from = this.from[c];
    this.samples[c] = to - from;
    this.columns[c] = columns;
    this.ragged[c] = ragged;
    this.weight[c] = sum(period, from, to);
    this.firstNs[c] = batch.time[sample[from]];
    this.lastNs[c] = batch.time[sample[to - 1]];
    this.segmentBytes[c] = segmentBytesFor(chunkBytes(to - from, columns, ragged));
  }

  #grow(): void {
    const length = this.count * 2;
    for (const column of DOUBLES) {
      const grown = new Float64Array(length);
      grown.set(this[column]);
      this[column] = grown;
    }
    for (const index of INTEGERS) {
      const grown = new Int32Array(length);
      grown.set(this[index]);
      this[index] = grown;
    }
    while (this.#selections.length < length) this.#selections.push(NOTHING);
  }

  /**
   * Encodes the chunk for an outbox that has `ownLeftBytes` left of its own part. Where there is no room for all of it,
   * the chunk becomes what there is room for, and `next` of it the rest. False when not even its first sample finds room.
   */
  encode(c: number, batch: BatchIndex, ring: DispatcherRing, ownLeftBytes: number, dispatchNs: number): boolean {
    const segments = this.#segments;
    let segment = segments.allocate(this.#bytes(c), ownLeftBytes);
    if (segment < 0) {
      if (!this.#cut(c, batch, ring, segments.payloadRoomBytes)) return false;
      segment = segments.allocate(this.#bytes(c), ownLeftBytes);
    }
    const from = this.from[c];
    const to = from + this.samples[c];
    const selection = this.#selections[c];
    const at = segments.payloadWord(segment);
    encodeChunk(segments.data, at, batch, ring.reader, selection, from, to, this.columns[c], ring.cpu);
    segments.describe(segment, to - from, this.weight[c], this.firstNs[c], this.lastNs[c], dispatchNs);
    this.segment[c] = segment;
    this.segmentBytes[c] = segments.segmentBytes;
    return true;
  }

  #bytes(c: number): number {
    return chunkBytes(this.samples[c], this.columns[c], this.ragged[c]);
  }

  /** False, and nothing changed, when one sample is too large for `bytesMax`. */
  #cut(c: number, batch: BatchIndex, ring: DispatcherRing, bytesMax: number): boolean {
    const selection = this.#selections[c];
    const from = this.from[c];
    const end = from + this.samples[c];
    const wanted = this.wanted[c];
    const fit = this.#fit;
    this.#fitFrom(selection, batch, ring, from, end, wanted, bytesMax);
    if (chunkBytes(fit.to - from, fit.columns, fit.ragged) > bytesMax) return false;
    const { to, columns, ragged } = fit;
    // All of the rest, whatever that takes: it was within a chunk before.
    this.#fitFrom(selection, batch, ring, to, end, wanted, UNBOUNDED_BYTES);
    const rest = this.#add(selection, batch, to, wanted);
    this.next[rest] = this.next[c];
    this.next[c] = rest;
    this.#describe(c, batch, to, columns, ragged);
    return true;
  }

  /** The batch has been offered to everybody: segments that nobody was given are free again. */
  publish(): void {
    for (let c = 0; c < this.count; c++) {
      if (this.segment[c] >= 0) this.#segments.publish(this.segment[c], this.posted[c]);
    }
    this.count = 0;
  }
}

/** Weights are whole numbers, so that four sums, which the processor adds side by side, are exact as one is. */
function sum(period: Float64Array, from: number, to: number): number {
  let a = 0;
  let b = 0;
  let c = 0;
  let d = 0;
  let k = from;
  for (; k + 4 <= to; k += 4) {
    a += period[k];
    b += period[k + 1];
    c += period[k + 2];
    d += period[k + 3];
  }
  for (; k < to; k++) a += period[k];
  return a + b + (c + d);
}
