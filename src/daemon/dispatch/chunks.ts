/**
 * The chunks of one batch: planned for a lane when the first of its handlers is offered the batch, encoded when the first
 * outbox with room for one asks for it, and who was given which.
 */
import type { BatchIndex } from "../../pmu/record.js";
import { SEGMENT_HEADER_BYTES, segmentBytesFor } from "../delivery/segment-layout.js";
import { RESERVE_LARGE_BYTES, type SegmentWriter } from "../delivery/segments.js";
import type { DispatcherRing } from "./dispatcher.js";
import { callchainDepth, chunkBytes, encodeChunk, type Selection } from "./encode.js";
import type { Lane } from "./lane.js";
import type { LaneTable } from "./lanes.js";

/**
 * Fills a segment of a power of two: some 450 samples without callchains. Small enough that a message can be, too.
 *
 * One sample is never cut, however deep its callchain. What bounds it is the kernel, which writes no callchain of more than
 * kernel.perf_event_max_stack addresses, 127 by default, and no record beyond 64 KiB, for the size in its header has 16
 * bits. With some 2,000 addresses a sample still fits a chunk of this size, and so the smallest message that a stream may
 * be held to (STREAM_BYTES_MIN). Only where that sysctl was raised are there deeper ones: each is a chunk of its own, and
 * may be a message of its own, of 64 KiB and its columns' headers at most, whatever StreamMemory.messageBytesMax says.
 */
export const CHUNK_PAYLOAD_BYTES_MAX = RESERVE_LARGE_BYTES - SEGMENT_HEADER_BYTES;

const BYTES_PER_SAMPLE = chunkBytes(1, -1) - chunkBytes(0, -1);
const NO_SEGMENT = -1;
export const NO_CHUNK = -1;
const NOTHING: Selection = { sample: new Uint32Array(0), period: new Float64Array(0) };

const DOUBLES = ["weight", "firstNs", "lastNs"] as const;
const INTEGERS = ["segment", "segmentBytes", "samples", "posted", "next", "from", "addresses"] as const;

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
  /** The chunk's samples begin there in its selection; -1 addresses: no callchains. */
  from = new Int32Array(256);
  addresses = new Int32Array(256);
  count = 0;
  readonly #selections: Selection[] = new Array(256).fill(NOTHING);
  readonly #segments: SegmentWriter;
  readonly #lanes: LaneTable;
  readonly #fit = { to: 0, addresses: -1 };

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
        this.#fitFrom(leader.selection, batch, ring, from, leader.to, leader.callchain, CHUNK_PAYLOAD_BYTES_MAX);
        const c = this.#add(leader.selection, batch, from);
        leader.weight += this.weight[c];
      }
      leader.chunkTo = this.count;
    }
    lane.weight = leader.weight;
    lane.chunkFrom = leader.chunkFrom;
    lane.chunkTo = leader.chunkTo;
  }

  /** How many samples from `from` on fit into `bytesMax`, one at least, and how many callchain addresses they hold. */
  #fitFrom(
    { sample }: Selection,
    batch: BatchIndex,
    ring: DispatcherRing,
    from: number,
    end: number,
    callchain: boolean,
    bytesMax: number,
  ): void {
    const fit = this.#fit;
    if (!callchain) {
      const most = Math.floor((bytesMax - chunkBytes(0, -1)) / BYTES_PER_SAMPLE);
      fit.to = Math.min(end, from + Math.max(1, most));
      fit.addresses = -1;
      return;
    }
    let addresses = 0;
    let to = from;
    while (to < end) {
      const depth = callchainDepth(batch, ring.reader, sample[to]);
      if (to > from && chunkBytes(to + 1 - from, addresses + depth) > bytesMax) break;
      addresses += depth;
      to++;
    }
    fit.to = to;
    fit.addresses = addresses;
  }

  /** The chunk that #fit says. */
  #add(selection: Selection, batch: BatchIndex, from: number): number {
    if (this.count === this.segment.length) this.#grow();
    const c = this.count++;
    this.#selections[c] = selection;
    this.from[c] = from;
    this.segment[c] = NO_SEGMENT;
    this.posted[c] = 0;
    this.next[c] = NO_CHUNK;
    this.#describe(c, batch, this.#fit.to, this.#fit.addresses);
    return c;
  }

  #describe(c: number, batch: BatchIndex, to: number, addresses: number): void {
    const { sample, period } = this.#selections[c];
    const from = this.from[c];
    this.samples[c] = to - from;
    this.addresses[c] = addresses;
    this.weight[c] = sum(period, from, to);
    this.firstNs[c] = batch.time[sample[from]];
    this.lastNs[c] = batch.time[sample[to - 1]];
    this.segmentBytes[c] = segmentBytesFor(chunkBytes(to - from, addresses));
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
    encodeChunk(segments.data, at, batch, ring.reader, selection, from, to, this.addresses[c], ring.cpu);
    segments.describe(segment, to - from, this.weight[c], this.firstNs[c], this.lastNs[c], dispatchNs);
    this.segment[c] = segment;
    this.segmentBytes[c] = segments.segmentBytes;
    return true;
  }

  #bytes(c: number): number {
    return chunkBytes(this.samples[c], this.addresses[c]);
  }

  /** False, and nothing changed, when one sample is too large for `bytesMax`. */
  #cut(c: number, batch: BatchIndex, ring: DispatcherRing, bytesMax: number): boolean {
    const selection = this.#selections[c];
    const from = this.from[c];
    const end = from + this.samples[c];
    const callchain = this.addresses[c] >= 0;
    const fit = this.#fit;
    this.#fitFrom(selection, batch, ring, from, end, callchain, bytesMax);
    if (chunkBytes(fit.to - from, fit.addresses) > bytesMax) return false;
    const { to, addresses } = fit;
    fit.to = end;
    fit.addresses = callchain ? this.addresses[c] - addresses : -1;
    const rest = this.#add(selection, batch, to);
    this.next[rest] = this.next[c];
    this.next[c] = rest;
    this.#describe(c, batch, to, addresses);
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
