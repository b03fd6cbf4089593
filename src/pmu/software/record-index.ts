/**
 * The records of a recording in the order of their times, with what a replay needs to know of each. One entry a record,
 * in columns of shared memory, so that a producer thread reads them without a copy.
 */
import { RECORD, SAMPLE } from "../abi.js";
import { type RecordedAttr, type Recording, unreadable } from "../perf-data.js";
import { sampleOffsets } from "../record.js";

export interface RecordIndex {
  readonly count: number;
  /** Byte offset in the recording. */
  readonly offset: Float64Array<SharedArrayBuffer>;
  /** Nanoseconds on the recording's clock; a record without a time has its predecessor's. */
  readonly time: Float64Array<SharedArrayBuffer>;
  /** Index into `cpus`. */
  readonly ring: Uint16Array<SharedArrayBuffer>;
  /** Index into the recording's attrs. */
  readonly attr: Uint16Array<SharedArrayBuffer>;
  /** Ascending, at least one; only CPU 0 where the samples carry none. */
  readonly cpus: readonly number[];
  readonly recordBytesMax: number;
}

/** perf_event_header.type: from here on, records are perf's own and never were in a ring. */
const USER_TYPE_START = 64;
const USER = { AUXTRACE: 71, COMPRESSED: 81, COMPRESSED2: 83 } as const;
/** Far above what perf supports; a file that names more is damaged. */
const CPUS_MAX = 4096;
const ATTRS_MAX = 65_535;
const DAMAGED = "the file is damaged: record again";

/** Throws PmuError RECORDING_UNREADABLE. */
export function indexRecords(recording: Recording): RecordIndex {
  const decode = recordDecoder(recording);
  const view = viewOf(recording);
  let count = 0;
  walkRecords(recording, view, () => {
    count++;
  });

  const found = {
    offset: new Float64Array(count),
    time: new Float64Array(count),
    cpu: new Uint32Array(count),
    attr: new Uint16Array(count),
  };
  const record: Decoded = { attr: -1, time: 0, cpu: 0 };
  let used = 0;
  let recordBytesMax = 0;
  walkRecords(recording, view, (at, type, size) => {
    decode(view, at, type, size, record);
    if (record.attr < 0) return;
    found.offset[used] = at;
    found.attr[used] = record.attr;
    found.time[used] = record.time;
    found.cpu[used] = record.cpu;
    recordBytesMax = Math.max(recordBytesMax, size);
    used++;
  });

  const cpus = distinctCpus(recording, found.cpu.subarray(0, used));
  const ringOfCpu = new Map(cpus.map((cpu, ring) => [cpu, ring]));
  const order = orderByTime(found.time.subarray(0, used));
  const index: RecordIndex = {
    count: used,
    offset: new Float64Array(new SharedArrayBuffer(used * 8)),
    time: new Float64Array(new SharedArrayBuffer(used * 8)),
    ring: new Uint16Array(new SharedArrayBuffer(used * 2)),
    attr: new Uint16Array(new SharedArrayBuffer(used * 2)),
    cpus,
    recordBytesMax,
  };
  for (const [i, from] of order.entries()) {
    index.offset[i] = found.offset[from] as number;
    index.time[i] = found.time[from] as number;
    index.ring[i] = ringOfCpu.get(found.cpu[from] as number) as number;
    index.attr[i] = found.attr[from] as number;
  }
  return index;
}

function viewOf({ bytes }: Recording): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Visits the records that were in a ring, in the order of the file; checks every header. */
function walkRecords(
  recording: Recording,
  view: DataView,
  visit: (at: number, type: number, size: number) => void,
): void {
  const { file, areas } = recording;
  for (const { start, end } of areas) {
    let at = start;
    while (at < end) {
      if (end - at < 8) throw unreadable(file, at, "a record is cut off", DAMAGED);
      const type = view.getUint32(at, true);
      const size = view.getUint16(at + 6, true);
      if (size < 8 || at + size > end) throw unreadable(file, at, `a record of ${size} bytes`, DAMAGED);
      if (type < USER_TYPE_START) {
        if ((size & 7) !== 0) throw unreadable(file, at, `a record of ${size} bytes, no multiple of 8`, DAMAGED);
        visit(at, type, size);
      }
      if (type === USER.COMPRESSED || type === USER.COMPRESSED2) {
        throw unreadable(file, at, "is compressed, which is not supported", "record without -z");
      }
      at += size + (type === USER.AUXTRACE ? auxBytes(recording, view, at, size, end) : 0);
    }
  }
}

/** A PERF_RECORD_AUXTRACE is followed by as many bytes of trace as it says, which its own size leaves out. */
function auxBytes({ file }: Recording, view: DataView, at: number, size: number, end: number): number {
  const bytes = size < 16 ? -1n : view.getBigUint64(at + 8, true);
  if (bytes < 0n || bytes > BigInt(end - at - size))
    throw unreadable(file, at, "an AUX trace lies outside the file", DAMAGED);
  return Number(bytes);
}

interface Decoded {
  /** -1 when nobody knows whose record it is. */
  attr: number;
  time: number;
  cpu: number;
}

/** Bytes from the header of a sample, or from the end of any other record; null where it is not carried. */
interface Places {
  readonly time: number | null;
  readonly id: number | null;
  readonly cpu: number | null;
  /** The record must be this long to hold them. */
  readonly bytesMin: number;
}

interface Layout {
  readonly sample: Places;
  readonly trailer: Places;
}

type Decode = (view: DataView, at: number, type: number, size: number, record: Decoded) => void;

/** Fills `record`; times and CPUs that a record lacks stay those of the last one and 0. */
function recordDecoder(recording: Recording): Decode {
  const { file, attrs } = recording;
  if (attrs.length > ATTRS_MAX)
    throw unreadable(file, 0, `holds ${attrs.length} events`, `record ${ATTRS_MAX} at most`);
  const layouts = attrs.map(layoutOf);
  const [first] = layouts as [Layout];
  const byId = new Map<bigint, number>();
  for (const [index, attr] of attrs.entries()) for (const id of attr.ids) byId.set(id, index);
  checkIds(recording, layouts);
  const isAlone = attrs.length === 1 && byId.size === 0;

  return (view, at, type, size, record) => {
    const isSample = type === RECORD.SAMPLE;
    const position = (place: number): number => (isSample ? at + place : at + size - place);
    const common = isSample ? first.sample : first.trailer;
    record.attr = 0;
    if (!isAlone && common.id !== null) {
      if (size < common.bytesMin)
        throw unreadable(file, at, `a record of ${size} bytes, too short for its id`, DAMAGED);
      const id = view.getBigUint64(position(common.id), true);
      // perf writes id 0 into the records that it makes up, and reads it as the first event's.
      record.attr = id === 0n ? 0 : (byId.get(id) ?? -1);
      if (record.attr < 0) return;
    }
    const layout = layouts[record.attr] as Layout;
    const places = isSample ? layout.sample : layout.trailer;
    if (size < places.bytesMin)
      throw unreadable(file, at, `a record of ${size} bytes, too short for its fields`, DAMAGED);
    if (places.time !== null) record.time = Number(view.getBigUint64(position(places.time), true)) || record.time;
    const cpu = places.cpu === null ? NO_CPU : view.getUint32(position(places.cpu), true);
    record.cpu = cpu === NO_CPU ? 0 : cpu;
  };
}

const NO_CPU = 0xffff_ffff;

function layoutOf({ sampleType, sampleIdAll }: RecordedAttr): Layout {
  const offsets = sampleOffsets(sampleType);
  const bytes = (words: number): number | null => (words < 0 ? null : words * 4);
  const sample = { time: bytes(offsets.time), id: bytes(offsets.id), cpu: bytes(offsets.cpu) };
  const trailer = sampleIdAll ? trailerPlaces(sampleType) : { time: null, id: null, cpu: null, bytesMin: 8 };
  return {
    sample: { ...sample, bytesMin: 8 + Math.max(0, ...Object.values(sample).map((place) => place ?? 0)) },
    trailer,
  };
}

/** struct sample_id, at the end of every record that is no sample: TID, TIME, ID, STREAM_ID, CPU, IDENTIFIER. */
function trailerPlaces(sampleType: number): Places {
  const order = [SAMPLE.IDENTIFIER, SAMPLE.CPU, SAMPLE.STREAM_ID, SAMPLE.ID, SAMPLE.TIME, SAMPLE.TID];
  const place = new Map<number, number>();
  for (const bit of order) if ((sampleType & bit) !== 0) place.set(bit, (place.size + 1) * 8);
  const at = (bit: number): number | null => place.get(bit) ?? null;
  return {
    time: at(SAMPLE.TIME),
    id: at(SAMPLE.IDENTIFIER) ?? at(SAMPLE.ID),
    cpu: at(SAMPLE.CPU),
    bytesMin: 8 + place.size * 8,
  };
}

/** Whose a record is must be known before its layout is: the id has to be in the same place for all events. */
function checkIds({ file, attrs }: Recording, layouts: readonly Layout[]): void {
  const [first] = layouts as [Layout];
  if (attrs.length > 1 && first.sample.id === null) {
    throw unreadable(
      file,
      0,
      `holds ${attrs.length} events and no ids to tell them apart`,
      "record with --sample-identifier",
    );
  }
  if (layouts.some(({ sample, trailer }) => sample.id !== first.sample.id || trailer.id !== first.trailer.id)) {
    throw unreadable(file, 0, "its events keep their id in different places", "record with --sample-identifier");
  }
}

function distinctCpus({ file }: Recording, cpus: Uint32Array): number[] {
  const distinct = new Set<number>();
  for (const cpu of cpus) {
    distinct.add(cpu);
    if (distinct.size > CPUS_MAX) throw unreadable(file, 0, `names more than ${CPUS_MAX} CPUs`, DAMAGED);
  }
  return distinct.size === 0 ? [0] : [...distinct].sort((a, b) => a - b);
}

/**
 * Indexes in the order of time, ties in the order of the file. perf sorts within flush rounds only, because it cannot
 * see the whole recording at once; the outcome is the same, since a round holds all that is older than the round before.
 */
function orderByTime(time: Float64Array): Uint32Array {
  return new Uint32Array(time.length).map((_, i) => i).sort((a, b) => (time[a] as number) - (time[b] as number));
}
