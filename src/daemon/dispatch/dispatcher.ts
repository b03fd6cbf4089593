/**
 * Drains rings and offers every batch to every handler that wants it. Memory in, memory out: no thread in here, nothing
 * is allocated per sample, nothing is logged, nothing blocks, and the one system call is the look-up of a process's owner
 * for handlers that filter by uid (filter.ts).
 */

import { FormatTable } from "../../pmu/format-table.js";
import type { ScanListener } from "../../pmu/record.js";
import { BatchIndex, EVENTS_MAX } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import type { AuxRingDescriptor, RecordFormat } from "../../pmu/source.js";
import { TrailerTable } from "../../pmu/task-record.js";
import type { SlotCounters } from "../../registry/counters.js";
import type { DispatchTarget, TableWalker } from "../../registry/walk.js";
import type { NsClock } from "../clock.js";
import { ADMITTED, OutboxWriter, REFUSAL } from "../delivery/outbox.js";
import type { SegmentWriter } from "../delivery/segments.js";
import { LatencyHistogram } from "../observe/histogram.js";
import { AuxDispatch, type AuxParts } from "./aux-dispatch.js";
import { ChunkList, NO_CHUNK } from "./chunks.js";
import { filterKey, OwnerCache } from "./filter.js";
import { IdentityWatch } from "./identity-watch.js";
import type { Lane } from "./lane.js";
import { LaneTable } from "./lanes.js";
import { type AttachSpec, type FaultPoint, NOT_ARMED } from "./messages.js";
import { Ownership } from "./ownership.js";
import { type OwnerLookup, procOwner } from "./process-owner.js";
import { recordRingFill } from "./ring-fill.js";
import { DISPATCHER_STAT, type DispatcherStats, EVENT_STAT } from "./stats.js";
import { type TaskLane, TaskLanes } from "./task-lanes.js";
import type { EventPace } from "./thinning.js";

const NO_HANDLER = -1;
const LATENCY_RECORDS_MAX = 32;

export interface DispatcherRing {
  readonly cpu: number;
  readonly reader: RingReader;
}

/** What one dispatcher knows of one handler. */
interface Port {
  readonly spec: AttachSpec;
  readonly filterKey: string;
  readonly writer: OutboxWriter;
  flushIntervalMs: number;
  /** By the handler's event index; null until the handler is first offered one of the event's samples. */
  readonly lanes: (Lane | null)[];
  /** Null: no task records. */
  readonly tasks: TaskLane | null;
}

export interface DispatcherParts {
  readonly index: number;
  /** procOwner, but for tests. */
  readonly ownerOf?: OwnerLookup;
  readonly walker: TableWalker;
  readonly counters: SlotCounters;
  readonly stats: DispatcherStats;
  readonly segments: SegmentWriter;
  readonly dirty: Int32Array;
  readonly now: NsClock;
  /** Whether sample times can be compared with `now`. */
  readonly clockIsMonotonic: boolean;
  readonly capacity: number;
  /** How AUX areas are seen from this thread, and their events enabled again. */
  readonly aux: Pick<AuxParts, "view" | "enable">;
}

export class Dispatcher implements DispatchTarget, ScanListener {
  readonly #parts: DispatcherParts;
  /** By index; null where a ring has been removed. */
  readonly #rings: (DispatcherRing | null)[] = [];
  readonly #ports: (Port | null)[];
  readonly #formats = new FormatTable();
  readonly #paces: EventPace[] = new Array(EVENTS_MAX).fill({ frequencyHz: null, period: null });
  readonly #batch = new BatchIndex();
  readonly #lanes: LaneTable;
  readonly #chunks: ChunkList;
  readonly #tasks: TaskLanes;
  readonly #aux: AuxDispatch;
  readonly #identities: IdentityWatch;
  readonly #ownership: Ownership;
  /** Handlers whose peer may see some processes only. */
  #restricted = 0;
  readonly #latency: LatencyHistogram;
  /** Slots that a predecessor died in, while its last batch is offered again to the others. */
  #abandoned: ReadonlySet<number> | null = null;
  #fault: { readonly at: FaultPoint; readonly fail: () => never } | null = null;
  /** The ring whose batch is being offered. */
  #ringIndex = 0;
  #serial = 0;
  #nowNs = 0;
  #memoryShareBytes = 0;
  #delivered = false;
  #moreAux = false;
  #flushIntervalMs = NO_HANDLER;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
    this.#ports = new Array(parts.capacity).fill(null);
    const trailers = new TrailerTable();
    this.#identities = new IdentityWatch(trailers, parts.now);
    this.#ownership = new Ownership(this.#identities, parts.ownerOf ?? procOwner, parts.now);
    this.#lanes = new LaneTable(this.#rings, new OwnerCache(), this.#ownership);
    this.#chunks = new ChunkList(parts.segments, this.#lanes);
    this.#tasks = new TaskLanes(parts.segments, trailers, this.#ownership);
    this.#aux = new AuxDispatch({
      ...parts,
      ...parts.aux,
      ports: this.#ports,
      onPosted: (slot) => this.#markDirty(slot),
    });
    this.#latency = new LatencyHistogram(parts.stats.ringToDispatch);
  }

  /** A CPU that comes back gets its index again, and what lanes carry of it goes into its next sample: no weight is lost. */
  addRing(index: number, ring: DispatcherRing): void {
    while (this.#rings.length <= index) this.#rings.push(null);
    this.#rings[index] = ring;
    this.#lanes.reserveRings(this.#rings.length);
  }

  /**
   * Of any CPU, whoever drains it: what its records tell of processes is looked at here, too. `reader` is another than the
   * one that drains it.
   */
  watchRing(address: bigint, reader: RingReader): void {
    this.#identities.add(address, reader);
  }

  /** Before its memory goes. */
  unwatchRing(address: bigint): void {
    this.#identities.remove(address);
  }

  /** Processes may have become others without its having been told: on a CPU that came a moment ago. */
  forgetIdentities(): void {
    this.#identities.forget();
  }

  /** To be called when it is drained. What lanes carry of it stays carried. */
  removeRing(index: number): void {
    this.#rings[index] = null;
  }

  attach(spec: AttachSpec): void {
    // Task records flow for it by now (broker/registration.ts).
    if (spec.filter.owner && this.#restricted++ === 0) this.#identities.start();
    this.#ports[spec.slot] = {
      spec,
      filterKey: filterKey(spec.filter),
      writer: new OutboxWriter(spec.outbox, this.#parts.index, spec.shape),
      flushIntervalMs: spec.flushIntervalMs,
      lanes: spec.events.map(() => null),
      tasks: spec.tasks === null ? null : this.#tasks.join(spec.tasks),
    };
    this.#batch.wantsTasks = this.#tasks.wanted;
    this.#findFlushInterval();
  }

  detach(slot: number, generation: number): void {
    const port = this.#ports[slot];
    if (port?.spec.generation !== generation) return;
    if (port.spec.filter.owner && --this.#restricted === 0) this.#identities.stop();
    for (const lane of port.lanes) if (lane !== null) this.#lanes.leave(lane);
    if (port.tasks !== null) this.#tasks.leave(port.tasks);
    this.#batch.wantsTasks = this.#tasks.wanted;
    this.#ports[slot] = null;
    this.#findFlushInterval();
  }

  addFormats(event: number, formats: readonly RecordFormat[]): void {
    for (const format of formats) this.#formats.add(event, format);
  }

  removeFormats(formats: readonly RecordFormat[]): void {
    for (const format of formats) this.#formats.remove(format);
  }

  addTaskFormats(formats: readonly RecordFormat[]): void {
    this.#tasks.addFormats(formats);
  }

  removeTaskFormats(formats: readonly RecordFormat[]): void {
    this.#tasks.removeFormats(formats);
  }

  /** Those on this dispatcher's CPUs are drained from now on. */
  addAux(event: number, rings: readonly AuxRingDescriptor[]): void {
    for (const ring of rings) if (this.#rings.some((own) => own?.cpu === ring.cpu)) this.#aux.add(event, ring);
  }

  removeAux(rings: readonly AuxRingDescriptor[]): void {
    for (const ring of rings) this.#aux.remove(ring);
  }

  /** Rings to poll beside the CPUs'. */
  get auxRings(): readonly AuxRingDescriptor[] {
    return this.#aux.rings;
  }

  /** The event ticks at another rate from now on; every lane's pace follows. */
  setPace(event: number, pace: EventPace): void {
    this.#paces[event] = pace;
    this.#lanes.setPace(event, pace);
  }

  /** Of every handler that leaves it to the daemon. */
  setFlushInterval(intervalMs: number): void {
    for (const port of this.#ports) if (port?.spec.flushIsDaemons) port.flushIntervalMs = intervalMs;
    this.#findFlushInterval();
  }

  /** The shortest time any handler lets its samples wait, or -1 when there is no handler. */
  get flushIntervalMs(): number {
    return this.#flushIntervalMs;
  }

  /** Lanes that handlers have joined. */
  get lanes(): number {
    return this.#lanes.size;
  }

  #findFlushInterval(): void {
    this.#flushIntervalMs = NO_HANDLER;
    for (const port of this.#ports) {
      if (port === null) continue;
      const { flushIntervalMs } = port;
      if (this.#flushIntervalMs < 0 || flushIntervalMs < this.#flushIntervalMs) this.#flushIntervalMs = flushIntervalMs;
    }
  }

  /** Drains what every ring holds now, and AUX areas of a part of it. True when something is there to deliver. */
  drain(): boolean {
    this.#delivered = false;
    for (let r = 0; r < this.#rings.length; r++) this.#drainRing(r);
    this.#moreAux = this.#aux.drain();
    return this.#delivered;
  }

  /** Whether AUX areas held more than the last drain took. */
  get moreAux(): boolean {
    return this.#moreAux;
  }

  /** Of the batch. */
  get #ring(): DispatcherRing {
    return this.#rings[this.#ringIndex] as DispatcherRing;
  }

  #drainRing(r: number): void {
    const ring = this.#rings[r];
    if (ring === null) return;
    const { reader } = ring;
    const { words } = this.#parts.stats;
    // Up to the head as it is now: a ring that fills as fast as it is drained does not starve the others.
    const head = reader.loadHead();
    if (reader.tail === head) return;
    this.#ringIndex = r;
    words[DISPATCHER_STAT.DRAINS] += 1;
    recordRingFill(this.#parts.stats.ringFill, head - reader.tail, reader.dataBytes);
    // A head behind the tail is corruption, which the scan counts and resynchronizes from.
    while (reader.tail !== head) {
      const next = this.#batch.scan(reader, head, this.#formats, this);
      if (this.#batch.count > 0 || this.#batch.tasks > 0) {
        // Should this thread die on the way, its successor finds here how far it had come.
        words[DISPATCHER_STAT.BATCH_SERIAL] += 1;
        words[DISPATCHER_STAT.OFFERING_UNTIL] = next;
        words[DISPATCHER_STAT.OFFERING_RING] = r + 1;
        this.#offer();
      }
      reader.storeTail(next);
      words[DISPATCHER_STAT.OFFERING_RING] = 0;
    }
  }

  /**
   * Goes on where a predecessor died: offers its last batch to the handlers that had not been offered it yet. Those it
   * died in get no second try, which might be as deadly, but are told what they have missed.
   */
  resume(abandoned: readonly number[]): void {
    const { words } = this.#parts.stats;
    const r = words[DISPATCHER_STAT.OFFERING_RING] - 1;
    if (r < 0) return;
    // Removed only when it was drained, between batches.
    const { reader } = this.#rings[r] as DispatcherRing;
    const until = words[DISPATCHER_STAT.OFFERING_UNTIL];
    if (reader.tail < until) {
      this.#ringIndex = r;
      this.#abandoned = new Set(abandoned);
      // The same bytes in the same formats give the same batch, and what the scan tells has been counted.
      const next = this.#batch.scan(reader, until, this.#formats, this);
      this.#offer();
      this.#abandoned = null;
      reader.storeTail(next);
    }
    words[DISPATCHER_STAT.OFFERING_RING] = 0;
  }

  /** The next dispatch that gets there calls `fail`. */
  failAt(at: FaultPoint, fail: () => never): void {
    this.#fault = { at, fail };
  }

  #offer(): void {
    const { walker, stats, now, segments, capacity } = this.#parts;
    const batch = this.#batch;
    this.#nowNs = now();
    this.#serial = stats.words[DISPATCHER_STAT.BATCH_SERIAL];
    // A predecessor's batch has been counted here before.
    if (this.#parts.clockIsMonotonic && this.#abandoned === null) this.#recordLatency();
    segments.reclaim();
    this.#memoryShareBytes = segments.findShare(capacity);
    this.#ownership.nextBatch();
    this.#merge();
    this.#lanes.prepare(batch, this.#ringIndex, this.#serial, this.#nowNs);
    walker.walk(batch.eventMaskLow, batch.eventMaskHigh, this);
    this.#chunks.publish();
    this.#tasks.publish();
    this.#count();
  }

  /** Of each sample in a small batch, and of some in a large one, which stand for their neighbours. */
  #recordLatency(): void {
    const { count, time } = this.#batch;
    const step = Math.ceil(count / LATENCY_RECORDS_MAX);
    for (let i = 0; i < count; i += step) this.#latency.record(this.#nowNs - time[i], Math.min(step, count - i));
  }

  #merge(): void {
    const moves = this.#lanes.merge();
    if (moves.size === 0) return;
    for (const port of this.#ports) {
      if (port === null) continue;
      for (const [e, lane] of port.lanes.entries()) {
        if (lane !== null) port.lanes[e] = moves.get(lane) ?? lane;
      }
    }
  }

  /** What the batch held, and what of it nobody took. */
  #count(): void {
    const { stats } = this.#parts;
    const batch = this.#batch;
    // A predecessor that died behind this point has counted the batch.
    if (stats.words[DISPATCHER_STAT.COUNTED_SERIAL] === this.#serial) return;
    stats.words[DISPATCHER_STAT.SAMPLES] += batch.count;
    stats.words[DISPATCHER_STAT.TASK_RECORDS] += batch.tasks;
    // Who claimed a batch before a predecessor died is not known any more.
    if (this.#abandoned === null) this.#lanes.claim(batch);
    for (let e = 0; e < batch.events; e++) {
      const event = batch.eventAt[e];
      const samples = batch.countOf[event];
      stats.words[stats.event(event, EVENT_STAT.SAMPLES)] += samples;
      if (this.#abandoned === null)
        stats.words[stats.event(event, EVENT_STAT.UNCLAIMED)] += samples - this.#lanes.claimed[event];
    }
    stats.words[DISPATCHER_STAT.COUNTED_SERIAL] = this.#serial;
    if (this.#fault?.at === "counted") this.#fault.fail();
  }

  /** Called by the walk, announced. */
  dispatch(slot: number, generation: number): void {
    const port = this.#ports[slot];
    if (port === null || port.spec.generation !== generation) return;
    const { counters, index } = this.#parts;
    const serial = this.#serial;
    if (this.#abandoned !== null) {
      // Offered before the predecessor died, or the one it died in.
      if (counters.offered(slot, index) === serial) return;
      if (this.#abandoned.has(slot)) {
        this.#tellGaps(port, slot, serial);
        counters.setOffered(slot, index, serial);
        return;
      }
    }
    if (this.#fault?.at === "entered") this.#fault.fail();
    const startNs = this.#nowNs;
    this.#matched = 0;
    this.#queueFull = 0;
    this.#memoryLost = 0;
    const told = this.#batch.tasks > 0 && port.tasks !== null && this.#postTasks(port.writer, port.tasks);
    const { events } = port.spec;
    for (let e = 0; e < events.length; e++) {
      const { armed } = events[e];
      if (armed !== NOT_ARMED && this.#batch.countOf[armed] > 0) this.#dispatchEvent(port, e);
    }
    // One clock reading a dispatch: where one ends the next begins.
    this.#nowNs = this.#parts.now();
    counters.countDispatch(
      slot,
      index,
      this.#matched,
      this.#queueFull,
      this.#memoryLost,
      this.#nowNs - startNs,
      this.#nowNs,
    );
    counters.setOffered(slot, index, serial);
    if (told || this.#matched > 0) this.#markDirty(slot);
  }

  /** Of the dispatch that is under way. */
  #matched = 0;
  #queueFull = 0;
  #memoryLost = 0;

  #dispatchEvent(port: Port, e: number): void {
    const lane = port.lanes[e] ?? this.#join(port, e);
    // An indexed lane that no sample of the batch belongs to was not touched.
    if (lane.serial !== this.#serial) return;
    lane.offered = true;
    const samples = lane.to - lane.from;
    if (samples > 0) {
      const chunks = this.#chunks;
      if (lane.chunkFrom === lane.chunkTo) chunks.plan(lane, this.#batch, this.#ring);
      this.#matched += samples;
      port.writer.addMatched(e, samples, lane.weight, lane.carried, this.#serial);
      if (this.#fault?.at === "matched") this.#fault.fail();
      for (let planned = lane.chunkFrom; planned < lane.chunkTo; planned++) {
        for (let c = planned; c !== NO_CHUNK; c = chunks.next[c]) this.#post(port.writer, e, c);
      }
    } else port.writer.setCarried(e, lane.carried);
  }

  #join(port: Port, e: number): Lane {
    const { filter, columns, events } = port.spec;
    const event = events[e];
    const lane = this.#lanes.join(
      { event, filter, filterKey: port.filterKey, columns },
      this.#paces[event.armed],
      this.#serial,
    );
    port.lanes[e] = lane;
    if (lane.members === 1) this.#lanes.prepareNew(lane, this.#batch, this.#ringIndex, this.#serial, this.#nowNs);
    return lane;
  }

  /** Before the batch's samples: what they mean may hang on it. */
  #postTasks(writer: OutboxWriter, lane: TaskLane): boolean {
    const { reader } = this.#ring;
    return this.#tasks.post(lane, writer, this.#batch, reader, this.#serial, this.#memoryShareBytes, this.#nowNs);
  }

  #post(writer: OutboxWriter, e: number, c: number): void {
    const chunks = this.#chunks;
    const planned = chunks.segmentBytes[c];
    let isFull = writer.isFull(e, planned);
    const isShort = !isFull && this.#isShort(writer, c);
    // Encoded by now, it may take more than was planned.
    if (chunks.segmentBytes[c] > planned) isFull ||= writer.isFull(e, chunks.segmentBytes[c]);
    const refusal = writer.admit(e, isFull, isShort, this.#nowNs);
    if (refusal === ADMITTED) {
      chunks.posted[c] += 1;
      writer.post(e, chunks.segment[c], chunks.segmentBytes[c]);
      return;
    }
    const samples = chunks.samples[c];
    if (refusal === REFUSAL.QUEUE_FULL) this.#queueFull += samples;
    else this.#memoryLost += samples;
    writer.addPendingLoss(e, refusal, samples, chunks.weight[c], chunks.firstNs[c], chunks.lastNs[c]);
  }

  /** Whether there is no memory to give the outbox the chunk; when there is, the chunk is encoded. */
  #isShort(writer: OutboxWriter, c: number): boolean {
    const chunks = this.#chunks;
    const { segments } = this.#parts;
    const { usedBytes } = writer;
    if (usedBytes + chunks.segmentBytes[c] > this.#memoryShareBytes) return true;
    const ownLeftBytes = segments.ownBytes - usedBytes;
    if (chunks.segment[c] < 0) return !chunks.encode(c, this.#batch, this.#ring, ownLeftBytes, this.#nowNs);
    return chunks.segmentBytes[c] > ownLeftBytes && segments.isReserved(chunks.segment[c]);
  }

  #markDirty(slot: number): void {
    this.#delivered = true;
    Atomics.or(this.#parts.dirty, slot >>> 5, 1 << (slot & 31));
  }

  /** Of the events that the predecessor had not come to, the handler is told how many samples the batch held. */
  #tellGaps(port: Port, slot: number, serial: number): void {
    port.spec.events.forEach(({ armed }, e) => {
      if (armed === NOT_ARMED) return;
      const samples = this.#batch.countOf[armed];
      if (samples > 0 && port.writer.matchedSerial(e) !== serial) port.writer.addGap(e, samples, this.#nowNs);
    });
    this.#markDirty(slot);
  }

  throttle(event: number, on: boolean): void {
    if (this.#abandoned !== null) return;
    const { stats } = this.#parts;
    stats.words[stats.event(event, on ? EVENT_STAT.THROTTLED : EVENT_STAT.UNTHROTTLED)] += 1;
  }

  corrupt(bytes: number): void {
    if (this.#abandoned !== null) return;
    this.#parts.stats.words[DISPATCHER_STAT.CORRUPT_BYTES] += bytes;
  }

  stray(): void {
    if (this.#abandoned !== null) return;
    this.#parts.stats.words[DISPATCHER_STAT.STRAY_SAMPLES] += 1;
  }

  lost(records: number): void {
    if (this.#abandoned !== null) return;
    this.#parts.stats.words[DISPATCHER_STAT.LOST_RECORDS] += records;
  }
}
