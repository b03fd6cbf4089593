/**
 * Drains rings and offers every batch to every handler that wants it. Memory in, memory out: no thread in here, nothing
 * is allocated per sample, nothing is logged, nothing blocks, and the one system call is the look-up of a process's owner
 * for handlers that filter by uid (filter.ts).
 */
import type { ScanListener } from "../../pmu/record.js";
import { BATCH_SAMPLES_MAX, BatchIndex, EVENTS_MAX, FormatTable } from "../../pmu/record.js";
import type { RingReader } from "../../pmu/ring.js";
import type { RecordFormat } from "../../pmu/source.js";
import type { SlotCounters } from "../../registry/counters.js";
import type { DispatchTarget, TableWalker } from "../../registry/walk.js";
import type { NsClock } from "../clock.js";
import { CHUNK_SHARE, ENTRY, ENTRY_HEADER_BYTES, OutboxWriter } from "../delivery/outbox.js";
import { LatencyHistogram } from "../observe/histogram.js";
import { callchainDepth, chunkBytes, encodeChunk, type Selection } from "./encode.js";
import { OwnerCache, SampleFilter } from "./filter.js";
import type { AttachSpec, FaultPoint } from "./messages.js";
import { DISPATCHER_STAT, type DispatcherStats, EVENT_STAT } from "./stats.js";
import { type EventPace, paceFor, Thinner } from "./thinning.js";

export interface DispatcherRing {
  readonly cpu: number;
  readonly reader: RingReader;
}

/** What one dispatcher knows of one handler. */
interface Port {
  readonly spec: AttachSpec;
  readonly writer: OutboxWriter;
  readonly filter: SampleFilter;
  /** By the handler's event index. */
  readonly thinners: readonly Thinner[];
  /** Payload bytes one chunk takes at most. */
  readonly chunkBytesMax: number;
}

export interface DispatcherParts {
  readonly index: number;
  readonly rings: readonly DispatcherRing[];
  readonly walker: TableWalker;
  readonly counters: SlotCounters;
  readonly stats: DispatcherStats;
  readonly dirty: Int32Array;
  readonly now: NsClock;
  /** Whether sample times can be compared with `now`. */
  readonly clockIsMonotonic: boolean;
  readonly capacity: number;
}

export class Dispatcher implements DispatchTarget, ScanListener {
  readonly #parts: DispatcherParts;
  readonly #ports: (Port | null)[];
  readonly #formats = new FormatTable();
  readonly #paces: EventPace[] = new Array(EVENTS_MAX).fill({ frequencyHz: null, period: null });
  readonly #batch = new BatchIndex();
  readonly #selection: Selection = {
    sample: new Uint32Array(BATCH_SAMPLES_MAX),
    period: new Float64Array(BATCH_SAMPLES_MAX),
  };
  readonly #owners = new OwnerCache();
  readonly #latency: LatencyHistogram;
  /** Slots that a predecessor died in, while its last batch is offered again to the others. */
  #abandoned: ReadonlySet<number> | null = null;
  #fault: { readonly at: FaultPoint; readonly fail: () => never } | null = null;
  /** The ring whose batch is being offered. */
  #ringIndex = 0;
  #nowNs = 0;
  #delivered = false;

  constructor(parts: DispatcherParts) {
    this.#parts = parts;
    this.#ports = new Array(parts.capacity).fill(null);
    this.#latency = new LatencyHistogram(parts.stats.ringToDispatch);
  }

  attach(spec: AttachSpec): void {
    this.#ports[spec.slot] = {
      spec,
      writer: new OutboxWriter(spec.outbox, this.#parts.index, spec.regionBytes),
      filter: new SampleFilter(spec.filter, this.#owners),
      thinners: spec.events.map(
        (event) => new Thinner(paceFor(event, this.#paces[event.armed]), this.#parts.rings.length),
      ),
      chunkBytesMax: spec.regionBytes * CHUNK_SHARE - ENTRY_HEADER_BYTES,
    };
  }

  detach(slot: number, generation: number): void {
    if (this.#ports[slot]?.spec.generation === generation) this.#ports[slot] = null;
  }

  addFormats(event: number, formats: readonly RecordFormat[]): void {
    for (const format of formats) this.#formats.add(event, format);
  }

  removeFormats(formats: readonly RecordFormat[]): void {
    for (const format of formats) this.#formats.remove(format);
  }

  /** The event ticks at another rate from now on; every handler's pace follows. */
  setPace(event: number, pace: EventPace): void {
    this.#paces[event] = pace;
    for (const port of this.#ports) {
      port?.spec.events.forEach((wanted, i) => {
        if (wanted.armed === event) port.thinners[i].pace = paceFor(wanted, pace);
      });
    }
  }

  /** The shortest time any handler lets its samples wait, or -1 when there is no handler. */
  flushIntervalMs(): number {
    let shortest = -1;
    for (const port of this.#ports) {
      if (port !== null && (shortest < 0 || port.spec.flushIntervalMs < shortest)) shortest = port.spec.flushIntervalMs;
    }
    return shortest;
  }

  /** Drains what every ring holds now. True when something is there to deliver. */
  drain(): boolean {
    this.#delivered = false;
    for (let r = 0; r < this.#parts.rings.length; r++) this.#drainRing(r);
    return this.#delivered;
  }

  #drainRing(r: number): void {
    const { reader } = this.#parts.rings[r];
    const { words } = this.#parts.stats;
    // Up to the head as it is now: a ring that fills as fast as it is drained does not starve the others.
    const head = reader.loadHead();
    if (reader.tail === head) return;
    this.#ringIndex = r;
    words[DISPATCHER_STAT.DRAINS] += 1;
    // A head behind the tail is corruption, which the scan counts and resynchronizes from.
    while (reader.tail !== head) {
      const next = this.#batch.scan(reader, head, this.#formats, this);
      if (this.#batch.count > 0) {
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
    const { reader } = this.#parts.rings[r];
    const until = words[DISPATCHER_STAT.OFFERING_UNTIL];
    if (reader.tail < until) {
      this.#ringIndex = r;
      this.#abandoned = new Set(abandoned);
      // The same bytes in the same formats give the same batch.
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
    const { walker, stats, now } = this.#parts;
    const batch = this.#batch;
    this.#nowNs = now();
    // A predecessor's batch has been counted here before.
    if (this.#parts.clockIsMonotonic && this.#abandoned === null) {
      for (let i = 0; i < batch.count; i++) this.#latency.record(this.#nowNs - batch.time[i]);
    }
    walker.walk(batch.eventMaskLow, batch.eventMaskHigh, this);
    stats.words[DISPATCHER_STAT.SAMPLES] += batch.count;
    let claimed = 0;
    for (let i = 0; i < batch.count; i++) claimed += batch.claimed[i];
    for (let event = 0; event < EVENTS_MAX; event++) {
      if (batch.countOf[event] > 0) stats.words[stats.event(event, EVENT_STAT.SAMPLES)] += batch.countOf[event];
    }
    // Who claimed a batch before a predecessor died is not known any more.
    if (claimed < batch.count && this.#abandoned === null) this.#countUnclaimed();
  }

  #countUnclaimed(): void {
    const { stats } = this.#parts;
    const batch = this.#batch;
    for (let i = 0; i < batch.count; i++) {
      if (batch.claimed[i] === 0) stats.words[stats.event(batch.event[i], EVENT_STAT.UNCLAIMED)] += 1;
    }
  }

  /** Called by the walk, announced. */
  dispatch(slot: number, generation: number): void {
    const port = this.#ports[slot];
    if (port === null || port.spec.generation !== generation) return;
    const { counters, index, stats } = this.#parts;
    const serial = stats.words[DISPATCHER_STAT.BATCH_SERIAL];
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
    let matched = 0;
    let lost = 0;
    const { events } = port.spec;
    for (let e = 0; e < events.length; e++) {
      const { armed } = events[e];
      const mask = armed < 32 ? this.#batch.eventMaskLow : this.#batch.eventMaskHigh;
      if ((mask & (1 << (armed & 31))) === 0) continue;
      const selected = this.#select(port, e, armed);
      if (selected === 0) continue;
      matched += selected;
      port.writer.addMatched(e, selected, this.#weigh(0, selected), serial);
      if (this.#fault?.at === "matched") this.#fault.fail();
      lost += this.#emit(port, e, selected);
    }
    // One clock reading a dispatch: where one ends the next begins.
    this.#nowNs = this.#parts.now();
    counters.countDispatch(slot, index, matched, lost, this.#nowNs - startNs, this.#nowNs);
    counters.setOffered(slot, index, serial);
    if (matched > 0) this.#markDirty(slot);
  }

  #markDirty(slot: number): void {
    this.#delivered = true;
    Atomics.or(this.#parts.dirty, slot >>> 5, 1 << (slot & 31));
  }

  /** Of the events that the predecessor had not come to, the handler is told how many samples the batch held. */
  #tellGaps(port: Port, slot: number, serial: number): void {
    port.spec.events.forEach(({ armed }, e) => {
      const samples = this.#batch.countOf[armed];
      if (samples > 0 && port.writer.matchedSerial(e) !== serial) port.writer.addGap(e, samples, this.#nowNs);
    });
    this.#markDirty(slot);
  }

  #weigh(from: number, to: number): number {
    let weight = 0;
    for (let k = from; k < to; k++) weight += this.#selection.period[k];
    return weight;
  }

  /** Fills the selection with the samples of one event that the handler gets; returns how many. */
  #select(port: Port, e: number, armed: number): number {
    const batch = this.#batch;
    const { sample, period } = this.#selection;
    const { cpu, reader } = this.#parts.rings[this.#ringIndex];
    const thinner = port.thinners[e];
    const { filter } = port;
    const passesAll = filter.passesAll;
    const ring = this.#ringIndex;
    const carriedBefore = thinner.carry[ring];
    let carry = carriedBefore;
    let n = 0;
    if (passesAll && thinner.pace.kind === "every" && carry === 0) {
      for (let i = 0; i < batch.count; i++) {
        if (batch.event[i] !== armed) continue;
        sample[n] = i;
        period[n++] = batch.period[i];
        batch.claimed[i] = 1;
      }
      return n;
    }
    for (let i = 0; i < batch.count; i++) {
      if (batch.event[i] !== armed) continue;
      const ticks = thinner.ticks(ring, batch.time[i], batch.period[i]);
      if (!passesAll && !filter.passes(batch, reader, i, cpu, this.#nowNs)) continue;
      const weight = carry + batch.period[i];
      if (!ticks) {
        carry = weight;
        continue;
      }
      sample[n] = i;
      period[n] = weight;
      batch.claimed[i] = 1;
      carry = 0;
      n++;
    }
    if (carry !== carriedBefore) {
      thinner.carry[ring] = carry;
      port.writer.addCarried(e, carry - carriedBefore);
    }
    return n;
  }

  /** Encodes the selection into the handler's outbox; returns how many samples found it full. */
  #emit(port: Port, e: number, selected: number): number {
    let lost = 0;
    for (let from = 0; from < selected; ) {
      const { to, addresses } = this.#chunk(port, from, selected);
      if (!this.#emitChunk(port, e, from, to, addresses)) lost += to - from;
      from = to;
    }
    return lost;
  }

  /** How many samples from `from` on fit one chunk, and how many callchain addresses they hold (-1: not asked for). */
  #chunk(port: Port, from: number, selected: number): { to: number; addresses: number } {
    const { callchain } = port.spec;
    const perSample = chunkBytes(1, -1) - chunkBytes(0, -1);
    if (!callchain) {
      const fit = Math.floor((port.chunkBytesMax - chunkBytes(0, -1)) / perSample);
      return { to: Math.min(selected, from + fit), addresses: -1 };
    }
    const { reader } = this.#parts.rings[this.#ringIndex];
    let addresses = 0;
    let to = from;
    while (to < selected) {
      const depth = callchainDepth(this.#batch, reader, this.#selection.sample[to]);
      // A chunk holds one sample at least, however deep.
      if (to > from && chunkBytes(to + 1 - from, addresses + depth) > port.chunkBytesMax) break;
      addresses += depth;
      to++;
    }
    return { to, addresses };
  }

  #emitChunk(port: Port, e: number, from: number, to: number, addresses: number): boolean {
    const { writer } = port;
    const { sample } = this.#selection;
    const { cpu, reader } = this.#parts.rings[this.#ringIndex];
    const weight = this.#weigh(from, to);
    const firstNs = this.#batch.time[sample[from]];
    const lastNs = this.#batch.time[sample[to - 1]];
    // What was lost before is told before what comes after.
    const told = !writer.hasPendingLoss(e) || writer.flushPendingLoss(e, this.#nowNs);
    const at = told ? writer.reserve(chunkBytes(to - from, addresses)) : -1;
    if (at < 0) {
      writer.addPendingLoss(e, to - from, weight, firstNs, lastNs);
      return false;
    }
    encodeChunk(
      writer.data,
      at + ENTRY_HEADER_BYTES / 4,
      this.#batch,
      reader,
      this.#selection,
      from,
      to,
      addresses,
      cpu,
    );
    writer.describe(at, ENTRY.CHUNK, e, to - from, weight, this.#nowNs);
    writer.describeTimes(at, firstNs, lastNs);
    writer.commit();
    return true;
  }

  throttle(event: number, on: boolean): void {
    const { stats } = this.#parts;
    stats.words[stats.event(event, on ? EVENT_STAT.THROTTLED : EVENT_STAT.UNTHROTTLED)] += 1;
  }

  corrupt(bytes: number): void {
    this.#parts.stats.words[DISPATCHER_STAT.CORRUPT_BYTES] += bytes;
  }

  stray(): void {
    this.#parts.stats.words[DISPATCHER_STAT.STRAY_SAMPLES] += 1;
  }
}
