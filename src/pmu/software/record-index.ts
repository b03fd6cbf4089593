/**
 * The kernel's records of a recording in perf's order, with what a replay needs to know of each. One entry a record, in
 * columns of shared memory, so that a producer thread reads them without a copy; no object a record.
 */
import { RECORD, SAMPLE } from "../abi.js";
import type { RecordedAttr } from "../perf-data/attr.js";
import { USER_RECORD, USER_RECORD_START } from "../perf-data/format.js";
import { type Damage, RecordingError, u64At } from "../perf-data/image.js";
import type { Recording } from "../perf-data/recording.js";
import { sampleOffsets } from "../sample-layout.js";
import { perfOrder } from "./perf-order.js";

export interface RecordIndex {
  readonly count: number;
  /** Byte offset in the recording's image. */
  readonly offset: Float64Array<SharedArrayBuffer>;
  /**
   * Nanoseconds since `timeBaseNs`; a record without a time has its predecessor's, or before the first time, that. Not
   * ascending where perf, too, meets a record too late to sort it in.
   */
  readonly time: Float64Array<SharedArrayBuffer>;
  /** Where in the record its time is, in bytes from its start, or 0: a sample's TIME, or that of the sample_id. */
  readonly timeAt: Uint16Array<SharedArrayBuffer>;
  /** Index into `cpus`. */
  readonly ring: Uint16Array<SharedArrayBuffer>;
  /** Index into the recording's attrs. */
  readonly attr: Uint16Array<SharedArrayBuffer>;
  /** On the recording's clock; 0 where no record has a time. */
  readonly timeBaseNs: bigint;
  /** Ascending, at least one; only CPU 0 where the records carry none. */
  readonly cpus: readonly number[];
  readonly recordBytesMax: number;
  /** What ended the index early: a record too short for what its event says is in it. */
  readonly damage: Damage | null;
}

/** Far above what perf supports; a file that names more is damaged. */
const CPUS_MAX = 4096;
const ATTRS_MAX = 65_535;

/** Columns in the order of the file. */
interface Columns {
  readonly offset: Float64Array;
  /** NaN where a record has none. */
  readonly time: Float64Array;
  readonly timeAt: Uint16Array;
  readonly cpu: Uint32Array;
  readonly attr: Uint16Array;
  /** Index of the first record behind each FINISHED_ROUND. */
  readonly rounds: Uint32Array;
}

/** Throws PmuError RECORDING_UNREADABLE where the events cannot be told apart. */
export function indexRecords(recording: Recording): RecordIndex {
  const columns = allocateColumns(recording.counts);
  const indexer = new Indexer(recording, columns);
  const damage = indexer.run();
  const { used, rounds } = indexer;
  const cpus = distinctCpus(recording, columns.cpu.subarray(0, used));
  const order = perfOrder(columns.time.subarray(0, used), columns.rounds.subarray(0, rounds));
  const { timeBaseNs, recordBytesMax } = indexer;
  return { ...sharedColumns(columns, order, cpus), count: used, timeBaseNs, cpus, recordBytesMax, damage };
}

function allocateColumns(counts: Uint32Array): Columns {
  const records = counts.subarray(0, USER_RECORD_START).reduce((sum, count) => sum + count, 0);
  return {
    offset: new Float64Array(records),
    time: new Float64Array(records),
    timeAt: new Uint16Array(records),
    cpu: new Uint32Array(records),
    attr: new Uint16Array(records),
    rounds: new Uint32Array(counts[USER_RECORD.FINISHED_ROUND] as number),
  };
}

const shared = (bytes: number): SharedArrayBuffer => new SharedArrayBuffer(bytes);

function sharedColumns(columns: Columns, order: Uint32Array, cpus: readonly number[]) {
  const count = order.length;
  const ringOfCpu = new Map(cpus.map((cpu, ring) => [cpu, ring]));
  const to = {
    offset: new Float64Array(shared(count * 8)),
    time: new Float64Array(shared(count * 8)),
    timeAt: new Uint16Array(shared(count * 2)),
    ring: new Uint16Array(shared(count * 2)),
    attr: new Uint16Array(shared(count * 2)),
  };
  let time = firstTime(columns.time, order);
  for (let i = 0; i < count; i++) {
    const from = order[i] as number;
    const own = columns.time[from] as number;
    if (!Number.isNaN(own)) time = own;
    to.offset[i] = columns.offset[from] as number;
    to.time[i] = time;
    to.timeAt[i] = columns.timeAt[from] as number;
    to.ring[i] = ringOfCpu.get(columns.cpu[from] as number) as number;
    to.attr[i] = columns.attr[from] as number;
  }
  return to;
}

function firstTime(time: Float64Array, order: Uint32Array): number {
  for (const at of order) if (!Number.isNaN(time[at])) return time[at] as number;
  return 0;
}

/** Bytes from the header of a sample, or from the end of any other record; 0 where it is not carried. */
interface Places {
  readonly time: number;
  readonly id: number;
  readonly cpu: number;
  /** The record must be this long to hold them. */
  readonly bytesMin: number;
}

interface Layout {
  readonly sample: Places;
  readonly trailer: Places;
}

const NO_CPU = 0xffff_ffff;
const TWO_32 = 2 ** 32;

class Indexer {
  used = 0;
  rounds = 0;
  recordBytesMax = 0;
  readonly #recording: Recording;
  readonly #columns: Columns;
  readonly #layouts: readonly Layout[];
  readonly #attrOfId = new Map<number, number>();
  #baseHigh = 0;
  #baseLow = 0;
  #hasBase = false;

  constructor(recording: Recording, columns: Columns) {
    const { attrs, image } = recording;
    if (attrs.length > ATTRS_MAX) throw image.error(0, `holds ${attrs.length} events`, `record ${ATTRS_MAX} at most`);
    this.#recording = recording;
    this.#columns = columns;
    this.#layouts = attrs.map(layoutOf);
    for (const [index, { ids }] of attrs.entries()) for (const id of ids) this.#attrOfId.set(Number(id), index);
    checkIds(recording, this.#layouts);
  }

  get timeBaseNs(): bigint {
    return (BigInt(this.#baseHigh) << 32n) | BigInt(this.#baseLow);
  }

  run(): Damage | null {
    try {
      for (const { start, end } of this.#recording.runs) this.#indexRun(start, end);
      return null;
    } catch (error) {
      if (!(error instanceof RecordingError)) throw error;
      return { offset: error.offset, message: error.detail };
    }
  }

  /** The scan has checked every header. */
  #indexRun(start: number, end: number): void {
    const { view } = this.#recording.image;
    let at = start;
    while (at < end) {
      const type = view.getUint32(at, true);
      const size = view.getUint16(at + 6, true);
      if (type < USER_RECORD_START) this.#indexRecord(view, at, type, size);
      else if (type === USER_RECORD.FINISHED_ROUND) this.#columns.rounds[this.rounds++] = this.used;
      at += size;
    }
  }

  #indexRecord(view: DataView, at: number, type: number, size: number): void {
    const isSample = type === RECORD.SAMPLE;
    const attr = this.#attrOf(view, at, isSample, size);
    if (attr < 0) return;
    const layout = this.#layouts[attr] as Layout;
    const places = isSample ? layout.sample : layout.trailer;
    if (size < places.bytesMin) throw this.#tooShort(at, size);
    const { offset, time, timeAt, cpu, attr: attrs } = this.#columns;
    const i = this.used++;
    const timePlace = places.time === 0 ? 0 : isSample ? places.time : size - places.time;
    offset[i] = at;
    attrs[i] = attr;
    timeAt[i] = timePlace;
    time[i] = timePlace === 0 ? Number.NaN : this.#timeAt(view, at + timePlace);
    const ownCpu =
      places.cpu === 0 ? NO_CPU : view.getUint32(isSample ? at + places.cpu : at + size - places.cpu, true);
    cpu[i] = ownCpu === NO_CPU ? 0 : ownCpu;
    if (size > this.recordBytesMax) this.recordBytesMax = size;
  }

  /** Whose the record is, or -1 when nobody knows. */
  #attrOf(view: DataView, at: number, isSample: boolean, size: number): number {
    if (this.#layouts.length === 1) return 0;
    const [first] = this.#layouts as [Layout];
    const common = isSample ? first.sample : first.trailer;
    if (common.id === 0) return 0;
    // The rest of its layout is not the first event's: only the id is in the same place.
    if (size < 8 + common.id) throw this.#tooShort(at, size);
    const id = u64At(view, isSample ? at + common.id : at + size - common.id);
    // perf writes id 0 into the records that it makes up, and reads it as the first event's.
    return id === 0 ? 0 : (this.#attrOfId.get(id) ?? -1);
  }

  #tooShort(at: number, size: number): RecordingError {
    return this.#recording.image.error(at, `a record of ${size} bytes, too short for its fields`);
  }

  /** Relative to the first time there is, which keeps doubles exact on every clock; 0 and ~0 are perf's for none. */
  #timeAt(view: DataView, at: number): number {
    const low = view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    if ((low === 0 && high === 0) || (low === NO_CPU && high === NO_CPU)) return Number.NaN;
    if (!this.#hasBase) {
      this.#baseHigh = high;
      this.#baseLow = low;
      this.#hasBase = true;
    }
    return (high - this.#baseHigh) * TWO_32 + (low - this.#baseLow);
  }
}

function layoutOf({ sampleType, sampleIdAll }: RecordedAttr): Layout {
  const offsets = sampleOffsets({ sampleType });
  const bytes = (words: number): number => (words < 0 ? 0 : words * 4);
  const sample = { time: bytes(offsets.time), id: bytes(offsets.id), cpu: bytes(offsets.cpu) };
  const trailer = sampleIdAll ? trailerPlaces(sampleType) : { time: 0, id: 0, cpu: 0, bytesMin: 8 };
  return { sample: { ...sample, bytesMin: 8 + Math.max(0, ...Object.values(sample)) }, trailer };
}

/** struct sample_id, at the end of every record that is no sample: TID, TIME, ID, STREAM_ID, CPU, IDENTIFIER. */
function trailerPlaces(sampleType: number): Places {
  const order = [SAMPLE.IDENTIFIER, SAMPLE.CPU, SAMPLE.STREAM_ID, SAMPLE.ID, SAMPLE.TIME, SAMPLE.TID];
  const place = new Map<number, number>();
  for (const bit of order) if ((sampleType & bit) !== 0) place.set(bit, (place.size + 1) * 8);
  const at = (bit: number): number => place.get(bit) ?? 0;
  return {
    time: at(SAMPLE.TIME),
    id: at(SAMPLE.IDENTIFIER) || at(SAMPLE.ID),
    cpu: at(SAMPLE.CPU),
    bytesMin: 8 + place.size * 8,
  };
}

/** Whose a record is must be known before its layout is: the id has to be in the same place for all events. */
function checkIds({ image, attrs }: Recording, layouts: readonly Layout[]): void {
  const [first] = layouts as [Layout];
  const remedy = "record with --sample-identifier";
  if (attrs.length > 1 && first.sample.id === 0)
    throw image.error(0, `holds ${attrs.length} events and no ids to tell them apart`, remedy);
  if (layouts.some(({ sample, trailer }) => sample.id !== first.sample.id || trailer.id !== first.trailer.id))
    throw image.error(0, "its events keep their id in different places", remedy);
}

function distinctCpus({ image }: Recording, cpus: Uint32Array): number[] {
  const distinct = new Set<number>();
  for (const cpu of cpus) {
    distinct.add(cpu);
    if (distinct.size > CPUS_MAX)
      throw image.error(0, `names more than ${CPUS_MAX} CPUs`, "the file is damaged: record again");
  }
  return distinct.size === 0 ? [0] : [...distinct].sort((a, b) => a - b);
}

/** Where records of a type hold a time besides that of their sample_id, in bytes from their start; 0: nowhere. */
export function bodyTimeAt(type: number): number {
  switch (type) {
    case RECORD.FORK:
    case RECORD.EXIT:
      // { header, pid, ppid, tid, ptid, time }
      return 24;
    case RECORD.THROTTLE:
    case RECORD.UNTHROTTLE:
      return 8;
    default:
      return 0;
  }
}
