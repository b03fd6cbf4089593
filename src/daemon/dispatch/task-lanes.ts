/**
 * Task records on their way to handlers: who wants which, and the chunks that a batch's become. As with samples, handlers
 * that want the same share a lane, and a chunk is encoded once, when the first outbox has room for it. Which lanes want a
 * record is found by index, as for samples. Off the per-sample path: records are rows, and there are few; a batch holds BATCH_TASKS_MAX at most.
 */
import type { BatchIndex } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import type { RecordFormat } from "../../pmu/source.js";
import type { TrailerTable } from "../../pmu/task-record.js";
import { ADMITTED, type OutboxWriter } from "../delivery/outbox.js";
import { SEGMENT_HEADER_BYTES } from "../delivery/segment-layout.js";
import type { SegmentWriter } from "../delivery/segments.js";
import { encodeTaskRecord } from "../tasks/encode-record.js";
import { ProtoWriter } from "../tasks/proto-writer.js";
import { TaskFilter, type TaskSpec, taskKey, threadAt } from "../tasks/task-filter.js";
import { TaskIndex } from "../tasks/task-index.js";
import { CHUNK_PAYLOAD_BYTES_MAX } from "./chunks.js";
import type { OwnerSpec, Ownership } from "./ownership.js";

const NO_SEGMENT = -1;
/** Task records belong to none: whichever event's losses are told with them. */
const ANY_EVENT = 0;

/** Rows end to end, which go into one segment. */
interface TaskChunk {
  readonly from: number;
  to: number;
  records: number;
  segment: number;
  segmentBytes: number;
  /** Outboxes that refer to the segment. */
  posted: number;
}

export class TaskLane {
  readonly key: string;
  readonly spec: TaskSpec;
  /** Null where the index has said all: what peers may see it knows nothing of. */
  readonly held: TaskFilter | null;
  members = 0;
  /** Those of the batch's task records that the lane has, by their number in it. */
  readonly records: number[] = [];
  /** Of the batch `serial`. */
  serial = -1;
  chunks: TaskChunk[] = [];

  constructor(key: string, spec: TaskSpec) {
    this.key = key;
    this.spec = spec;
    this.held = spec.owner || spec.redacted === true ? new TaskFilter(spec) : null;
  }
}

export class TaskLanes {
  readonly #segments: SegmentWriter;
  readonly #trailers: TrailerTable;
  readonly #ownership: Ownership;
  readonly #byKey = new Map<string, TaskLane>();
  /** Rows of all the batch's lanes. */
  readonly #rows = new ProtoWriter();
  readonly #encoded: TaskLane[] = [];
  readonly #index = new TaskIndex<TaskLane>();
  /** The batch whose records are in their lanes, and which lanes those are. */
  #sorted = -1;
  readonly #touched: TaskLane[] = [];

  constructor(segments: SegmentWriter, trailers: TrailerTable, ownership: Ownership) {
    this.#segments = segments;
    this.#trailers = trailers;
    this.#ownership = ownership;
  }

  /** Whether any handler wants task records. */
  get wanted(): boolean {
    return this.#byKey.size > 0;
  }

  addFormats(formats: readonly RecordFormat[]): void {
    for (const format of formats) this.#trailers.add(format);
  }

  removeFormats(formats: readonly RecordFormat[]): void {
    for (const format of formats) this.#trailers.remove(format);
  }

  join(spec: TaskSpec): TaskLane {
    const key = taskKey(spec);
    const known = this.#byKey.get(key);
    const lane = known ?? new TaskLane(key, spec);
    if (known === undefined) {
      this.#byKey.set(key, lane);
      this.#index.add(lane, spec);
    }
    lane.members++;
    return lane;
  }

  leave(lane: TaskLane): void {
    if (--lane.members > 0) return;
    this.#byKey.delete(lane.key);
    this.#index.remove(lane, lane.spec);
  }

  /**
   * Gives the outbox those of the batch's task records that its lane has; what it has no room for is counted there. True
   * when there is something for the handler to be told.
   */
  post(
    lane: TaskLane,
    writer: OutboxWriter,
    batch: BatchIndex,
    ring: RingReader,
    serial: number,
    shareBytes: number,
    nowNs: number,
  ): boolean {
    if (this.#sorted !== serial) this.#sort(batch, ring, serial);
    if (lane.serial !== serial) this.#encode(lane, batch, ring, serial);
    for (const chunk of lane.chunks) {
      const planned = chunk.segmentBytes;
      let isFull = writer.isFull(ANY_EVENT, planned);
      const isShort = !isFull && this.#isShort(chunk, writer, shareBytes, nowNs);
      // Encoded by now, it may take more than was planned.
      if (chunk.segmentBytes > planned) isFull ||= writer.isFull(ANY_EVENT, chunk.segmentBytes);
      const refusal = writer.admit(ANY_EVENT, isFull, isShort, nowNs);
      if (refusal === ADMITTED) {
        chunk.posted++;
        writer.postTasks(chunk.segment, chunk.segmentBytes);
      } else writer.addTasksLost(refusal, chunk.records);
    }
    return lane.chunks.length > 0;
  }

  /** Gives each lane its records of the batch, once for all of them. */
  #sort(batch: BatchIndex, ring: RingReader, serial: number): void {
    this.#sorted = serial;
    for (const lane of this.#touched) lane.records.length = 0;
    this.#touched.length = 0;
    for (let i = 0; i < batch.tasks; i++) {
      for (const lane of this.#index.find(ring.words, ring.wordMask, batch.taskAt[i])) {
        if (lane.records.length === 0) this.#touched.push(lane);
        lane.records.push(i);
      }
    }
  }

  #encode(lane: TaskLane, batch: BatchIndex, ring: RingReader, serial: number): void {
    lane.serial = serial;
    this.#encoded.push(lane);
    const rows = this.#rows;
    const { held } = lane;
    const owner = held?.owner ?? null;
    if (held !== null && owner !== null) this.#lookAtOwners(held, batch, ring);
    let chunk: TaskChunk | null = null;
    for (const i of lane.records) {
      const at = batch.taskAt[i];
      if (held !== null && !held.wants(ring.words, ring.wordMask, at)) continue;
      if (owner !== null && !this.#isOwners(owner, ring, at)) continue;
      const from = rows.length;
      encodeTaskRecord(rows, ring.words, ring.wordMask, at, this.#trailers);
      if (chunk === null || rows.length - chunk.from > CHUNK_PAYLOAD_BYTES_MAX) {
        chunk = { from, to: from, records: 0, segment: NO_SEGMENT, segmentBytes: SEGMENT_HEADER_BYTES, posted: 0 };
        lane.chunks.push(chunk);
      }
      chunk.to = rows.length;
      chunk.segmentBytes = chunk.to - chunk.from + SEGMENT_HEADER_BYTES;
      chunk.records++;
    }
  }

  /** All of the batch before any is told: see Ownership. */
  #lookAtOwners(filter: TaskFilter, batch: BatchIndex, ring: RingReader): void {
    this.#ownership.settle();
    for (let i = 0; i < batch.tasks; i++) {
      const at = batch.taskAt[i];
      if (!filter.wants(ring.words, ring.wordMask, at)) continue;
      const { pid, tid, timeNs } = this.#threadOf(ring, at);
      this.#ownership.look(pid, tid, timeNs);
    }
    this.#ownership.settle();
  }

  #isOwners(owner: OwnerSpec, ring: RingReader, at: number): boolean {
    const { pid, tid, timeNs } = this.#threadOf(ring, at);
    return this.#ownership.tells(owner, pid, tid, timeNs);
  }

  /** Of a record that concerns one. Time 0 where it tells none. */
  #threadOf({ words, wordMask: mask }: RingReader, at: number): { pid: number; tid: number; timeNs: number } {
    const size = words[(at + 1) & mask] >>> 18;
    const place = threadAt(words[at & mask]) ?? { pid: 2, tid: 2 };
    const { time } = this.#trailers.of(words, mask, at, size);
    const timeAt = at + size - time;
    return {
      pid: words[(at + place.pid) & mask],
      tid: words[(at + place.tid) & mask],
      timeNs: time === 0 ? 0 : words[timeAt & mask] + words[(timeAt + 1) & mask] * 2 ** 32,
    };
  }

  /** Whether there is no memory to give the outbox the chunk, on the terms of samples (dispatcher.ts); else it is placed. */
  #isShort(chunk: TaskChunk, { usedBytes }: OutboxWriter, shareBytes: number, nowNs: number): boolean {
    const segments = this.#segments;
    if (usedBytes + chunk.segmentBytes > shareBytes) return true;
    const ownLeftBytes = segments.ownBytes - usedBytes;
    if (chunk.segment >= 0) return chunk.segmentBytes > ownLeftBytes && segments.isReserved(chunk.segment);
    const segment = segments.allocate(chunk.to - chunk.from, ownLeftBytes);
    if (segment < 0) return true;
    chunk.segment = segment;
    chunk.segmentBytes = segments.segmentBytes;
    const { data } = segments;
    const at = data.byteOffset + segments.payloadWord(segment) * 4;
    new Uint8Array(data.buffer, at, chunk.to - chunk.from).set(this.#rows.bytes.subarray(chunk.from, chunk.to));
    segments.describe(segment, chunk.records, 0, nowNs, nowNs, nowNs);
    return false;
  }

  /** The batch has been offered to everybody: segments that nobody was given are free again. */
  publish(): void {
    for (const lane of this.#encoded) {
      for (const { segment, posted } of lane.chunks) if (segment >= 0) this.#segments.publish(segment, posted);
      lane.chunks = [];
    }
    this.#encoded.length = 0;
    this.#rows.reset();
  }
}
