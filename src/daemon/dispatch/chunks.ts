/** The chunks of one batch: what its lanes have selected, each encoded once into a segment, and who was given which. */
import type { BatchIndex } from "../../pmu/record.js";
import { SEGMENT_HEADER_BYTES, SegmentWriter } from "../delivery/segments.js";
import type { DispatcherRing } from "./dispatcher.js";
import { callchainDepth, chunkBytes, encodeChunk, type Selection } from "./encode.js";
import type { Lane } from "./lane.js";
import type { LaneTable } from "./lanes.js";

/** Fills a segment of a power of two: some 450 samples without callchains. Small enough that a message can be, too. */
export const CHUNK_PAYLOAD_BYTES_MAX = 16 * 1024 - SEGMENT_HEADER_BYTES;

const BYTES_PER_SAMPLE = chunkBytes(1, -1) - chunkBytes(0, -1);
const SAMPLES_PER_CHUNK = Math.floor((CHUNK_PAYLOAD_BYTES_MAX - chunkBytes(0, -1)) / BYTES_PER_SAMPLE);

export class ChunkList {
  /** Segments are -1 where the arena had no room for the chunk. */
  segment = new Int32Array(256);
  segmentBytes = new Float64Array(256);
  samples = new Float64Array(256);
  weight = new Float64Array(256);
  firstNs = new Float64Array(256);
  lastNs = new Float64Array(256);
  /** Outboxes that refer to the segment. */
  posted = new Float64Array(256);
  count = 0;
  readonly #segments: SegmentWriter;
  readonly #lanes: LaneTable;
  readonly #fit = { to: 0, addresses: -1 };

  constructor(segments: SegmentWriter, lanes: LaneTable) {
    this.#segments = segments;
    this.#lanes = lanes;
  }

  /** Encodes what the lane has selected, unless a lane with the same selection has been encoded. */
  encode(lane: Lane, batch: BatchIndex, ring: DispatcherRing, dispatchNs: number): void {
    const leader = this.#lanes.leaderOf(lane);
    if (leader.chunkFrom === leader.chunkTo) {
      leader.chunkFrom = this.count;
      leader.weight = 0;
      for (let from = leader.from; from < leader.to; ) {
        this.#plan(leader, batch, ring, from);
        leader.weight += this.#add(leader.selection, batch, ring, from, dispatchNs);
        from = this.#fit.to;
      }
      leader.chunkTo = this.count;
    }
    lane.weight = leader.weight;
    lane.chunkFrom = leader.chunkFrom;
    lane.chunkTo = leader.chunkTo;
  }

  /** How many samples from `from` on fit one chunk, and how many callchain addresses they hold (-1: not asked for). */
  #plan(lane: Lane, batch: BatchIndex, ring: DispatcherRing, from: number): void {
    const fit = this.#fit;
    fit.addresses = -1;
    fit.to = Math.min(lane.to, from + SAMPLES_PER_CHUNK);
    if (!lane.callchain) return;
    const { sample } = lane.selection;
    let addresses = 0;
    let to = from;
    while (to < lane.to) {
      const depth = callchainDepth(batch, ring.reader, sample[to]);
      // A chunk holds one sample at least, however deep.
      if (to > from && chunkBytes(to + 1 - from, addresses + depth) > CHUNK_PAYLOAD_BYTES_MAX) break;
      addresses += depth;
      to++;
    }
    fit.to = to;
    fit.addresses = addresses;
  }

  /** Returns the samples' weight. */
  #add(selection: Selection, batch: BatchIndex, ring: DispatcherRing, from: number, dispatchNs: number): number {
    const { to, addresses } = this.#fit;
    const segments = this.#segments;
    if (this.count === this.segment.length) this.#grow();
    const c = this.count++;
    this.samples[c] = to - from;
    this.firstNs[c] = batch.time[selection.sample[from]];
    this.lastNs[c] = batch.time[selection.sample[to - 1]];
    this.posted[c] = 0;
    const bytes = chunkBytes(to - from, addresses);
    const segment = segments.allocate(bytes);
    this.segment[c] = segment;
    this.segmentBytes[c] = SegmentWriter.bytesFor(bytes);
    const at = segments.payloadWord(segment);
    const weight =
      segment < 0
        ? weigh(selection, from, to)
        : encodeChunk(segments.data, at, batch, ring.reader, selection, from, to, addresses, ring.cpu);
    this.weight[c] = weight;
    if (segment >= 0) segments.describe(segment, to - from, weight, this.firstNs[c], this.lastNs[c], dispatchNs);
    return weight;
  }

  #grow(): void {
    const columns = ["segmentBytes", "samples", "weight", "firstNs", "lastNs", "posted"] as const;
    const length = this.count * 2;
    const segment = new Int32Array(length);
    segment.set(this.segment);
    this.segment = segment;
    for (const column of columns) {
      const grown = new Float64Array(length);
      grown.set(this[column]);
      this[column] = grown;
    }
  }

  /** The batch has been offered to everybody: segments that nobody was given are free again. */
  publish(): void {
    for (let c = 0; c < this.count; c++) {
      if (this.segment[c] >= 0) this.#segments.publish(this.segment[c], this.posted[c]);
    }
    this.count = 0;
  }
}

function weigh(selection: Selection, from: number, to: number): number {
  let weight = 0;
  for (let k = from; k < to; k++) weight += selection.period[k];
  return weight;
}
