/**
 * A recording in perf.data's format, in bytes; where they go is sink.ts' business.
 *
 * What is written as it comes is the pipe format: a head that says all of the events, then records. Every prefix of it
 * that ends with a record is a whole recording. A file that was written to its end is turned into the file format, which
 * readers need not read through to know its features: the sections are appended, and one write of the file's head, over
 * the pipe format's, makes it so. Whatever ends the writer earlier leaves a recording of what was written.
 */

import type { Loss, ResolvedEvent, SampleBatch, TaskRecord } from "../../typescript/index.js";
import { isRestartGap } from "../restart-gap.js";
import { EVENT_UPDATE_NAME, FEATURE, type Feature, RECORD, RECORD_BYTES_MAX } from "./abi.js";
import { type AttrOptions, attrBytes, encodeAttr, sampleType } from "./attr.js";
import { EventIds } from "./event-ids.js";
import { eventDescriptionFeature, groupFeature, sampleTimeFeature } from "./features.js";
import { RecordBuffer } from "./record-buffer.js";
import { SampleEncoder } from "./sample-records.js";
import { encodeBuildId, encodeTask, trailer } from "./task-records.js";

/** "PERFILE2" */
const MAGIC = 0x32454c4946524550n;
const PIPE_HEAD_BYTES = 16;
const FILE_HEAD_BYTES = 104;
/** perf_file_section: u64 offset, u64 size. */
const SECTION_BYTES = 16;
const FEATURE_WORDS = 4;

export interface RecordingOptions extends AttrOptions {
  readonly events: readonly ResolvedEvent[];
  /** Those that samples may come from. */
  readonly cpus: readonly number[];
}

export interface MappedBuildId {
  readonly filename: string;
  readonly buildId: Uint8Array;
  readonly kernel: boolean;
}

/** What turns the pipe format into the file format. */
export interface FileEnd {
  /** To be appended to the file, and be there before the head is. */
  readonly tail: Uint8Array;
  /** To be written over the file's first bytes, in one write. */
  readonly head: Uint8Array;
}

export class PerfDataWriter {
  #out = new RecordBuffer();
  #spare = new RecordBuffer();
  readonly #events: readonly ResolvedEvent[];
  readonly #ids: EventIds;
  readonly #attrs: readonly Uint8Array[];
  readonly #encoders: readonly SampleEncoder[];
  readonly #ownFeatures: readonly Feature[];
  #first: bigint | undefined;
  #last = 0n;
  #dataStart = 0;
  /** Samples that no record could hold. */
  tooLarge = 0;

  constructor(options: RecordingOptions) {
    const { events, fields } = options;
    this.#events = events;
    this.#ids = new EventIds(options.cpus);
    this.#attrs = events.map((_, i) => encodeAttr(events, i, options));
    this.#encoders = events.map(
      (event, i) => new SampleEncoder(events, i, sampleType(fields, event), this.#ids, !options.kernelCallchainsOnly),
    );
    const ids = events.map((_, i) => this.#ids.allOf(i));
    const groups = groupFeature(events);
    this.#ownFeatures = [eventDescriptionFeature(events, this.#attrs, ids), ...(groups ? [groups] : [])];
  }

  /** What has been encoded and is to be written next. */
  get out(): RecordBuffer {
    return this.#out;
  }

  /** Takes that, whole records all of it. The bytes are good until the next take(); encoding goes on meanwhile. */
  take(): Uint8Array {
    const taken = this.#out;
    this.#spare.clear();
    this.#out = this.#spare;
    this.#spare = taken;
    return taken.written;
  }

  /** Of the latest sample, in nanoseconds; 0 before the first. */
  get lastTime(): bigint {
    return this.#last;
  }

  /** The head. `features` are those that are known now; tracing data is among them. */
  begin(features: readonly Feature[]): void {
    const { out } = this;
    out.u64(MAGIC);
    out.u64(PIPE_HEAD_BYTES);
    for (const [i, attr] of this.#attrs.entries()) {
      out.begin(RECORD.HEADER_ATTR);
      out.put(attr);
      for (const id of this.#ids.allOf(i)) out.u64(id);
      out.end();
    }
    for (const [i, { name }] of this.#events.entries()) {
      out.begin(RECORD.EVENT_UPDATE);
      out.u64(EVENT_UPDATE_NAME);
      out.u64(this.#ids.of(i, -1));
      out.text(name);
      out.end();
    }
    for (const { id, bytes } of [...this.#ownFeatures, ...features]) {
      // What does not fit is in the file format's sections alone.
      if (id === FEATURE.TRACING_DATA || bytes.length > RECORD_BYTES_MAX - 2 * 8) continue;
      out.begin(RECORD.HEADER_FEATURE);
      out.u64(id);
      out.put(bytes);
      out.end();
    }
    const tracing = features.find(({ id }) => id === FEATURE.TRACING_DATA);
    if (tracing !== undefined) this.#tracingData(tracing.bytes);
    this.#dataStart = out.length;
  }

  /** The data follow the record that announces them. Its size here keeps what follows at whole words of 8 bytes. */
  #tracingData(bytes: Uint8Array): void {
    const { out } = this;
    out.begin(RECORD.HEADER_TRACING_DATA);
    out.u32(Math.ceil(bytes.length / 8) * 8);
    out.u32(0);
    out.end();
    out.put(bytes);
    out.align(8);
  }

  /** Of samples that `rows` has a 1 for, or of all; to `out`, or to another buffer for later. */
  samples(batch: SampleBatch, rows?: Uint8Array, out: RecordBuffer = this.out): void {
    this.tooLarge += this.#encoders[batch.eventIndex].encode(batch, out, rows);
    for (let i = 0; i < batch.time.length; i++) {
      if (rows === undefined || rows[i] === 1) this.#span(batch.time[i]);
    }
  }

  #span(time: bigint): void {
    if (this.#first === undefined || time < this.#first) this.#first = time;
    if (time > this.#last) this.#last = time;
  }

  task(task: TaskRecord): void {
    encodeTask(task, this.#ids.of(0, task.cpu), this.out);
  }

  /** As the kernel tells of records that its ring had no room for. */
  loss(loss: Loss): void {
    const count = loss.count + loss.tasks;
    if (count === 0 && !isRestartGap(loss)) return;
    const id = this.#ids.of(loss.eventIndex, -1);
    this.out.begin(RECORD.LOST);
    this.out.u64(id);
    this.out.u64(count);
    trailer(this.out, { pid: 0, tid: 0, time: loss.lastTime || loss.firstTime || this.#last, cpu: 0 }, id);
    this.out.end();
  }

  /** What comes later is not older than what came before the round that ended before this one. */
  finishedRound(): void {
    this.out.begin(RECORD.FINISHED_ROUND);
    this.out.end();
  }

  /** As records, which pipes have in place of a section. */
  buildIds(buildIds: readonly MappedBuildId[]): void {
    for (const { filename, buildId, kernel } of buildIds) encodeBuildId(filename, buildId, kernel, this.out);
  }

  /** `length`: bytes written so far, all of them; `features` as begin() had them. */
  finish(length: number, features: readonly Feature[], buildIds: readonly MappedBuildId[]): FileEnd {
    const sections = [...this.#ownFeatures, ...features];
    if (this.#first !== undefined) sections.push(sampleTimeFeature(this.#first, this.#last));
    if (buildIds.length > 0) {
      const out = new RecordBuffer();
      for (const { filename, buildId, kernel } of buildIds) encodeBuildId(filename, buildId, kernel, out);
      sections.push({ id: FEATURE.BUILD_ID, bytes: out.written });
    }
    sections.sort((a, b) => a.id - b.id);

    const tail = new RecordBuffer();
    let at = length + sections.length * SECTION_BYTES;
    for (const { bytes } of sections) {
      tail.u64(at);
      tail.u64(bytes.length);
      at += Math.ceil(bytes.length / 8) * 8;
    }
    for (const { bytes } of sections) {
      tail.put(bytes);
      tail.align(8);
    }
    const attrsAt = this.#attrSections(length, tail);
    return { tail: tail.written, head: this.#fileHead(length, attrsAt, sections) };
  }

  /** The ids, then the attrs, each with where its ids are. Returns where in the file the attrs begin. */
  #attrSections(length: number, tail: RecordBuffer): number {
    const idsAt = this.#events.map((_, i) => {
      const at = length + tail.length;
      for (const id of this.#ids.allOf(i)) tail.u64(id);
      return at;
    });
    const attrsAt = length + tail.length;
    for (const [i, attr] of this.#attrs.entries()) {
      tail.put(attr);
      tail.u64(idsAt[i]);
      tail.u64(this.#ids.allOf(i).length * 8);
    }
    return attrsAt;
  }

  #fileHead(length: number, attrsAt: number, sections: readonly Feature[]): Uint8Array {
    const attrBytesEach = attrBytes(this.#events) + SECTION_BYTES;
    const head = new RecordBuffer();
    head.u64(MAGIC);
    head.u64(FILE_HEAD_BYTES);
    head.u64(attrBytesEach);
    head.u64(attrsAt);
    head.u64(attrBytesEach * this.#events.length);
    head.u64(this.#dataStart);
    head.u64(length - this.#dataStart);
    // Of old files: the names of events.
    head.u64(0);
    head.u64(0);
    const bits = new BigUint64Array(FEATURE_WORDS);
    for (const { id } of sections) bits[id >> 6] |= 1n << BigInt(id & 63);
    for (const word of bits) head.u64(word);
    return head.written;
  }
}
