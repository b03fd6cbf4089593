/**
 * What events write into AUX areas, on its way to handlers. Each such event has rings of its own beside the CPUs' rings,
 * whose PERF_RECORD_AUX say what has become readable. A run is copied once, in pieces, into segments that all handlers of
 * the event that asked for AUX share, and then given back to the area. It is no sample: it is thinned by no rate, held back
 * by no filter, and in no book of samples.
 */
import { AUX_FLAG, PAGE_BYTES, RECORD } from "../../pmu/abi.js";
import { AuxAreaReader, type AuxRun, readAuxRecord } from "../../pmu/aux-area.js";
import { RingReader } from "../../pmu/ring.js";
import type { AuxRingDescriptor } from "../../pmu/source.js";
import type { DispatchTarget, TableWalker } from "../../registry/walk.js";
import type { NsClock } from "../clock.js";
import { type OutboxWriter, REFUSAL, type Refusal } from "../delivery/outbox.js";
import { SEGMENT_HEADER_BYTES } from "../delivery/segment-layout.js";
import type { SegmentWriter } from "../delivery/segments.js";
import { AuxPieceHeader } from "./aux-piece.js";
import { CHUNK_PAYLOAD_BYTES_MAX } from "./chunks.js";
import { DISPATCHER_STAT, type DispatcherStats } from "./stats.js";

/** Bytes that one ring's AUX area is drained of before others have their turn. */
export const AUX_TURN_BYTES = 256 * 1024;
/** A piece with its header fills a segment that a reserve has, too. */
export const AUX_PIECE_BYTES_MAX = CHUNK_PAYLOAD_BYTES_MAX - AuxPieceHeader.BYTES_MAX;
/** sample_id of TID, TIME, CPU and IDENTIFIER, in words: what events with AUX areas are opened with. */
const SAMPLE_ID_WORDS = 8;
const NO_SEGMENT = -1;
/** aux_head follows its record at once, unless a virtual CPU is taken away in between: what has not come by then never will. */
const RUN_WAIT_NS_MAX = 2_000_000_000;
/** Of `runOffset`: a predecessor may have been in the middle of a run. */
const UNKNOWN = -1;
const NONE = -2;
const NOTHING_PENDING = { runOffset: UNKNOWN, waitsSinceNs: 0, untoldHead: -1 } as const;
/** What #take says of a record whose run is not readable yet. */
const NOT_YET = null;

/** What is known of one handler here. */
export interface AuxPort {
  readonly spec: {
    readonly generation: number;
    readonly aux: boolean;
    readonly events: readonly { readonly armed: number }[];
  };
  readonly writer: OutboxWriter;
}

interface AuxRing {
  readonly event: number;
  readonly descriptor: AuxRingDescriptor;
  readonly reader: RingReader;
  readonly area: AuxAreaReader;
  /** Where the run that is read in pieces began; or NONE, or UNKNOWN. */
  runOffset: number;
  /** Since when a record waits for its run; 0: none does. */
  waitsSinceNs: number;
  /** aux_head as it was when the ring held no more records, of a run that none has told of; -1: there was none. */
  untoldHead: number;
}

export interface AuxParts {
  readonly walker: TableWalker;
  readonly segments: SegmentWriter;
  readonly stats: DispatcherStats;
  readonly now: NsClock;
  readonly capacity: number;
  readonly ports: readonly (AuxPort | null)[];
  /** A handler was given something, or is to be told what it lost. */
  readonly onPosted: (slot: number) => void;
  /** A view of memory in this process. */
  readonly view: (address: bigint, bytes: number) => ArrayBuffer;
  /** Enables an event that the kernel may have disabled because its area was full. */
  readonly enable: (eventFd: number) => void;
}

export class AuxDispatch implements DispatchTarget {
  readonly #parts: AuxParts;
  #rings: AuxRing[] = [];
  readonly #run: AuxRun = { offset: 0, bytes: 0, flagsLow: 0, flagsHigh: 0 };
  readonly #header = new AuxPieceHeader();
  /** The piece that is being offered. */
  #ring: AuxRing | null = null;
  #from = 0;
  #bytes = 0;
  #segment = NO_SEGMENT;
  #segmentBytes = 0;
  #posted = 0;
  #shareBytes = 0;
  #nowNs = 0;

  constructor(parts: AuxParts) {
    this.#parts = parts;
  }

  get rings(): readonly AuxRingDescriptor[] {
    return this.#rings.map(({ descriptor }) => descriptor);
  }

  add(event: number, descriptor: AuxRingDescriptor): void {
    const { view } = this.#parts;
    const { address, dataBytes, auxAddress, auxBytes } = descriptor;
    const memory = view(address, PAGE_BYTES + dataBytes);
    const area = new AuxAreaReader(memory, view(auxAddress, auxBytes));
    this.#rings.push({ event, descriptor, reader: new RingReader(memory, dataBytes), area, ...NOTHING_PENDING });
  }

  remove({ address }: AuxRingDescriptor): void {
    for (const port of this.#parts.ports) {
      for (let e = 0; port !== null && e < port.spec.events.length; e++) port.writer.forgetAux(e, Number(address));
    }
    this.#rings = this.#rings.filter(({ descriptor }) => descriptor.address !== address);
  }

  /** Drains each ring of a bounded part of what it holds; true when there is more. */
  drain(): boolean {
    let more = false;
    for (const ring of this.#rings) {
      if (this.#drainRing(ring)) more = true;
    }
    return more;
  }

  #drainRing(ring: AuxRing): boolean {
    const { reader, area, descriptor } = ring;
    const tailBefore = area.tail;
    const head = reader.loadHead();
    let budget = AUX_TURN_BYTES;
    while (reader.tail !== head && budget > 0) {
      const next = this.#recordEnd(reader, head);
      if (next < 0) break;
      const drained = this.#take(ring, next, budget);
      if (drained === NOT_YET) break;
      budget -= Math.abs(drained);
      // Less than 0: a part of the run is left, and its record with it.
      if (drained >= 0) reader.storeTail(next);
    }
    if (reader.tail === head) this.#passUntold(ring);
    // Moving aux_tail does not wake a full area's event. Enabling one that runs costs a look at it.
    const { eventFd, wanted } = descriptor;
    if (area.tail !== tailBefore && eventFd !== null && Atomics.load(wanted, 0) !== 0) this.#parts.enable(eventFd);
    return reader.tail !== head;
  }

  /**
   * Gives back what no record tells of, or the area would stay full for good: the ring had no room for the record. A
   * record comes before its run, so what is untold at two looks will stay so.
   */
  #passUntold(ring: AuxRing): void {
    const { reader, area } = ring;
    const auxHead = area.loadHead();
    const isUntold = auxHead > area.tail && reader.loadHead() === reader.tail;
    if (isUntold && ring.untoldHead === auxHead) {
      this.#parts.stats.words[DISPATCHER_STAT.AUX_UNTOLD_BYTES] += auxHead - area.tail;
      area.storeTail(auxHead);
    }
    ring.untoldHead = isUntold ? auxHead : -1;
  }

  /** The position behind the record at the tail; -1 when it is none, and then the ring is given up to its head. */
  #recordEnd(reader: RingReader, head: number): number {
    const { words, wordMask } = reader;
    const available = head - reader.tail;
    const size = words[(reader.tail / 4 + 1) & wordMask] >>> 16;
    const isSound =
      available > 0 && available <= reader.dataBytes && size >= 8 && (size & 7) === 0 && size <= available;
    if (isSound) return reader.tail + size;
    this.#parts.stats.words[DISPATCHER_STAT.CORRUPT_BYTES] += Math.max(0, available);
    reader.storeTail(head);
    return -1;
  }

  /** Offers the record's run, `budget` bytes of it at most; how many, as a number below 0 while some are left. */
  #take(ring: AuxRing, next: number, budget: number): number | typeof NOT_YET {
    const { reader, area } = ring;
    const { words, wordMask } = reader;
    const { stats } = this.#parts;
    const size = next - reader.tail;
    const at = (reader.tail / 4) & wordMask;
    const run = this.#run;
    if (words[at] === RECORD.LOST) {
      // { header, id, lost }
      stats.words[DISPATCHER_STAT.LOST_RECORDS] += size >= 24 ? words[(at + 4) & wordMask] : 0;
      return 0;
    }
    if (words[at] !== RECORD.AUX) return 0;
    if (!readAuxRecord(words, wordMask, at, size, run)) {
      stats.words[DISPATCHER_STAT.CORRUPT_BYTES] += size;
      return 0;
    }
    // Of a run that is read in pieces what was read is given back already. Nobody knows that of the first run after a
    // predecessor's.
    const isBegun = ring.runOffset === run.offset || (ring.runOffset === UNKNOWN && area.tail > run.offset);
    const from = isBegun ? Math.max(run.offset, area.tail) : run.offset;
    if (!area.holds(run, from)) {
      if (area.expects(run) && this.#isWorthWaiting(ring)) return NOT_YET;
      ring.waitsSinceNs = 0;
      stats.words[DISPATCHER_STAT.AUX_CORRUPT_BYTES] += run.bytes;
      return 0;
    }
    ring.runOffset = run.offset;
    ring.waitsSinceNs = 0;
    this.#header.describe(words, wordMask, at, size, SAMPLE_ID_WORDS, run);
    const end = run.offset + run.bytes;
    // Whole pieces, so that a successor cuts the run as its predecessor did.
    const whole = Math.ceil((from + budget - run.offset) / AUX_PIECE_BYTES_MAX) * AUX_PIECE_BYTES_MAX;
    const until = Math.min(end, run.offset + whole);
    this.#offerRun(ring, from, until, end);
    if (until < end) return from - until;
    ring.runOffset = NONE;
    if ((run.flagsLow & AUX_FLAG.TRUNCATED) !== 0) stats.words[DISPATCHER_STAT.AUX_TRUNCATED] += 1;
    return until - from;
  }

  #isWorthWaiting(ring: AuxRing): boolean {
    const nowNs = this.#parts.now();
    if (ring.waitsSinceNs === 0) ring.waitsSinceNs = nowNs;
    return nowNs - ring.waitsSinceNs < RUN_WAIT_NS_MAX;
  }

  #offerRun(ring: AuxRing, from: number, until: number, end: number): void {
    const { segments, capacity, now, stats } = this.#parts;
    const isTruncated = (this.#run.flagsLow & AUX_FLAG.TRUNCATED) !== 0;
    this.#ring = ring;
    this.#nowNs = now();
    segments.reclaim();
    // An empty run is worth a message only for what was lost with it.
    if (from === end && isTruncated) this.#offer(from, 0, true);
    for (let at = from; at < until; ) {
      const bytes = Math.min(until - at, AUX_PIECE_BYTES_MAX);
      this.#shareBytes = segments.findShare(capacity);
      this.#offer(at, bytes, isTruncated && at + bytes === end);
      at += bytes;
      stats.words[DISPATCHER_STAT.AUX_BYTES] += bytes;
      ring.area.storeTail(at);
    }
    this.#ring = null;
  }

  #offer(from: number, bytes: number, isTruncated: boolean): void {
    const { walker, segments } = this.#parts;
    const { event } = this.#ring as AuxRing;
    this.#from = from;
    this.#bytes = bytes;
    this.#segment = NO_SEGMENT;
    this.#posted = 0;
    this.#header.encode(from, bytes, isTruncated);
    walker.walk(event < 32 ? 1 << event : 0, event < 32 ? 0 : 1 << (event - 32), this);
    // Only now do those who have read it give the segment back.
    if (this.#segment >= 0) segments.publish(this.#segment, this.#posted);
  }

  /** Called by the walk, announced. */
  dispatch(slot: number, generation: number): void {
    const { ports, onPosted } = this.#parts;
    const port = ports[slot];
    if (port === null || port.spec.generation !== generation || !port.spec.aux) return;
    const { event, descriptor } = this.#ring as AuxRing;
    const { events } = port.spec;
    for (let e = 0; e < events.length; e++) {
      if (events[e].armed !== event) continue;
      // The area's address tells it from the event's others. An empty run ends where the one before did.
      const until = this.#from + this.#bytes;
      if (this.#bytes > 0 && !port.writer.offerAux(e, Number(descriptor.address), until)) continue;
      const refusal = this.#place(port.writer);
      if (refusal === null) {
        this.#posted += 1;
        port.writer.postAux(e, this.#segment, this.#segmentBytes);
      } else port.writer.addAuxLost(e, refusal, this.#bytes);
      onPosted(slot);
    }
  }

  /** Why the outbox cannot be given the piece; null when it can: the terms are those of samples (dispatcher.ts). */
  #place(writer: OutboxWriter): Refusal | null {
    const { segments } = this.#parts;
    const payloadBytes = this.#header.length + this.#bytes;
    const { usedBytes } = writer;
    const wanted = this.#segment < 0 ? payloadBytes + SEGMENT_HEADER_BYTES : this.#segmentBytes;
    if (!writer.hasRoom(wanted)) return REFUSAL.QUEUE_FULL;
    if (usedBytes + wanted > this.#shareBytes) return REFUSAL.MEMORY;
    if (this.#segment < 0) {
      const segment = segments.allocate(payloadBytes, segments.ownBytes - usedBytes);
      if (segment < 0) return REFUSAL.MEMORY;
      this.#fill(segment);
      return writer.hasRoom(this.#segmentBytes) ? null : REFUSAL.QUEUE_FULL;
    }
    const isOwn = usedBytes + this.#segmentBytes <= segments.ownBytes;
    return isOwn || !segments.isReserved(this.#segment) ? null : REFUSAL.MEMORY;
  }

  #fill(segment: number): void {
    const { segments } = this.#parts;
    const { data } = segments;
    const header = this.#header;
    const payload = new Uint8Array(
      data.buffer,
      data.byteOffset + segments.payloadWord(segment) * 4,
      header.length + this.#bytes,
    );
    payload.set(header.bytes.subarray(0, header.length));
    (this.#ring as AuxRing).area.copy(this.#from, this.#bytes, payload, header.length);
    segments.describe(segment, this.#bytes, 0, this.#nowNs, this.#nowNs, this.#nowNs);
    this.#segment = segment;
    this.#segmentBytes = segments.segmentBytes;
  }
}
