/**
 * perf.data: what a recording holds, from the bytes of the file. Format: tools/perf/Documentation/perf.data-file-format.txt.
 *
 * Reads file mode ("PERFILE2", little-endian, uncompressed, closed by its writer). Every length in the file is checked
 * before it is used, and nothing is allocated by a count that the file itself cannot hold.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { PmuError } from "./errors.js";
import { modifierSuffix } from "./event-spec.js";
import { genericEventByConfig } from "./generic-events.js";

export interface RecordedAttr {
  /** As `perf record -e` was given it, where the recording says; else made up from type and config. */
  readonly name: string;
  readonly type: number;
  readonly config: bigint;
  /** PERF_SAMPLE_ID or IDENTIFIER values of this event's records; may be empty in a recording of one event. */
  readonly ids: readonly bigint[];
  /** Hz with `isFrequency`, else events. */
  readonly samplePeriod: number;
  readonly isFrequency: boolean;
  readonly sampleType: number;
  readonly sampleIdAll: boolean;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
  readonly excludeHv: boolean;
  readonly preciseIp: number;
  /** clockid_t of the times, or null for the kernel's own perf_clock. */
  readonly clockId: number | null;
}

/** A run of records, end to end, in the recording's bytes. */
export interface RecordArea {
  readonly start: number;
  readonly end: number;
}

export interface Recording {
  /** For messages. */
  readonly file: string;
  /** Shared, so that a producer thread reads it without a copy. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly attrs: readonly RecordedAttr[];
  readonly areas: readonly RecordArea[];
}

/** A recording is kept in memory while it is replayed. */
const FILE_BYTES_MAX = 1 << 30;

/** Throws PmuError RECORDING_UNREADABLE. */
export function readRecording(file: string): Recording {
  return parseRecording(file, readFile(file));
}

function readFile(file: string): Uint8Array<SharedArrayBuffer> {
  let fd: number;
  try {
    fd = openSync(file, "r");
  } catch (error) {
    throw new PmuError("RECORDING_UNREADABLE", `recording ${file}: ${String(error)}`, { cause: error });
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) throw unreadable(file, 0, "is no regular file", "give the file that perf record wrote");
    if (stat.size > FILE_BYTES_MAX) {
      throw unreadable(
        file,
        0,
        `is ${stat.size} bytes long, above the limit of ${FILE_BYTES_MAX}`,
        "record for a shorter time",
      );
    }
    const bytes = new Uint8Array(new SharedArrayBuffer(stat.size));
    let length = 0;
    while (length < bytes.length) {
      const count = readSync(fd, bytes, length, bytes.length - length, length);
      if (count === 0) throw unreadable(file, length, "ends early", "wait until perf record has finished");
      length += count;
    }
    return bytes;
  } finally {
    closeSync(fd);
  }
}

export function unreadable(file: string, offset: number, what: string, remedy: string): PmuError {
  return new PmuError("RECORDING_UNREADABLE", `recording ${file}, byte ${offset}: ${what}; ${remedy}`);
}

const DAMAGED = "the file is damaged: record again";

/** Little-endian values at byte offsets, each checked against the end of the file. */
class Fields {
  readonly file: string;
  readonly length: number;
  readonly #bytes: Uint8Array<SharedArrayBuffer>;
  readonly #view: DataView;

  constructor(file: string, bytes: Uint8Array<SharedArrayBuffer>) {
    this.file = file;
    this.length = bytes.length;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  need(offset: number, length: number, what: string): void {
    if (offset < 0 || length < 0 || offset + length > this.length)
      throw this.damaged(offset, `${what} lies outside the file`);
  }

  damaged(offset: number, what: string): PmuError {
    return unreadable(this.file, offset, what, DAMAGED);
  }

  u32(offset: number, what: string): number {
    this.need(offset, 4, what);
    return this.#view.getUint32(offset, true);
  }

  u64(offset: number, what: string): bigint {
    this.need(offset, 8, what);
    return this.#view.getBigUint64(offset, true);
  }

  /** A u64 that counts bytes: never beyond what a file can be. */
  size(offset: number, what: string): number {
    const value = this.u64(offset, what);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw this.damaged(offset, `${what} is ${value}`);
    return Number(value);
  }

  /** `length` bytes of text up to the first 0. */
  text(offset: number, length: number, what: string): string {
    this.need(offset, length, what);
    const bytes = this.#bytes.slice(offset, offset + length);
    const end = bytes.indexOf(0);
    return new TextDecoder().decode(bytes.subarray(0, end < 0 ? length : end));
  }
}

interface Section {
  readonly offset: number;
  readonly size: number;
}

/** struct perf_file_section */
const SECTION_BYTES = 16;

function readSection(fields: Fields, at: number, what: string): Section {
  const section = { offset: fields.size(at, what), size: fields.size(at + 8, what) };
  if (section.size > 0) fields.need(section.offset, section.size, what);
  return section;
}

/** struct perf_file_header, byte offsets. */
const HEADER = { MAGIC: 0, SIZE: 8, ATTR_SIZE: 16, ATTRS: 24, DATA: 40, FEATURES: 72, BYTES: 104 } as const;
const PIPE_HEADER_BYTES = 16;
const FEATURE_WORDS = 4;
const FEATURE_EVENT_DESC = 12;

/** `bytes` is the whole file. Throws PmuError RECORDING_UNREADABLE. */
export function parseRecording(file: string, bytes: Uint8Array<SharedArrayBuffer>): Recording {
  const fields = new Fields(file, bytes);
  checkMagic(fields);
  const dataSize = fields.size(HEADER.DATA + 8, "the data section");
  if (dataSize === 0) {
    throw unreadable(
      file,
      HEADER.DATA + 8,
      "the recording was never closed (data size 0)",
      "let perf record finish, or stop it with SIGINT",
    );
  }
  const data = readSection(fields, HEADER.DATA, "the data section");
  const names = readEventNames(fields, data);
  const attrs = readAttrs(fields, names);
  return { file, bytes, attrs, areas: [{ start: data.offset, end: data.offset + data.size }] };
}

function checkMagic(fields: Fields): void {
  const { file } = fields;
  const magic = fields.length < 8 ? "" : fields.text(HEADER.MAGIC, 8, "the magic");
  if (magic === "2ELIFREP") {
    throw unreadable(file, HEADER.MAGIC, "was recorded on a big-endian machine", "record on a little-endian one");
  }
  if (magic === "PERFFILE")
    throw unreadable(file, HEADER.MAGIC, "is of perf's first format", "record again with a perf of this century");
  if (magic !== "PERFILE2")
    throw unreadable(file, HEADER.MAGIC, "is no perf.data file", "give the file that perf record wrote");
  const size = fields.size(HEADER.SIZE, "the header's size");
  if (size === PIPE_HEADER_BYTES) {
    throw unreadable(
      file,
      HEADER.SIZE,
      "is in pipe mode, which is not supported",
      "record with -o FILE instead of -o -",
    );
  }
  if (size < HEADER.BYTES) throw fields.damaged(HEADER.SIZE, `a header of ${size} bytes`);
  fields.need(0, HEADER.BYTES, "the header");
}

/** struct perf_event_attr, byte offsets; PERF_ATTR_SIZE_VER0 is the smallest there ever was. */
const ATTR = { TYPE: 0, CONFIG: 8, SAMPLE_PERIOD: 16, SAMPLE_TYPE: 24, FLAGS: 40, CLOCKID: 92, BYTES_MIN: 64 } as const;
const ATTR_BYTES_MAX = 4096;
const FLAG_BIT = {
  EXCLUDE_USER: 4,
  EXCLUDE_KERNEL: 5,
  EXCLUDE_HV: 6,
  FREQ: 10,
  PRECISE_IP: 15,
  SAMPLE_ID_ALL: 18,
  USE_CLOCKID: 25,
} as const;

/** Each entry is the attr, then the section of its ids. */
function readAttrs(fields: Fields, names: readonly string[]): RecordedAttr[] {
  const entryBytes = fields.size(HEADER.ATTR_SIZE, "the size of an attr");
  const attrBytes = entryBytes - SECTION_BYTES;
  if (attrBytes < ATTR.BYTES_MIN || attrBytes > ATTR_BYTES_MAX) {
    throw fields.damaged(HEADER.ATTR_SIZE, `an attr of ${attrBytes} bytes`);
  }
  const section = readSection(fields, HEADER.ATTRS, "the attrs");
  const count = Math.floor(section.size / entryBytes);
  if (count === 0) throw fields.damaged(HEADER.ATTRS, "there is no event");
  return Array.from({ length: count }, (_, index) => {
    const at = section.offset + index * entryBytes;
    return readAttr(fields, at, attrBytes, names[index]);
  });
}

function readAttr(fields: Fields, at: number, attrBytes: number, recordedName: string | undefined): RecordedAttr {
  const flags = fields.u64(at + ATTR.FLAGS, "an attr");
  const flag = (bit: number): boolean => ((flags >> BigInt(bit)) & 1n) === 1n;
  const type = fields.u32(at + ATTR.TYPE, "an attr");
  const config = fields.u64(at + ATTR.CONFIG, "an attr");
  const modifiers = {
    excludeUser: flag(FLAG_BIT.EXCLUDE_USER),
    excludeKernel: flag(FLAG_BIT.EXCLUDE_KERNEL),
    excludeHv: flag(FLAG_BIT.EXCLUDE_HV),
    preciseIp: Number((flags >> BigInt(FLAG_BIT.PRECISE_IP)) & 3n),
  };
  const madeUp =
    (genericEventByConfig(type, config)?.name ?? `type${type}/config=0x${config.toString(16)}/`) +
    modifierSuffix(modifiers);
  const hasClockId = flag(FLAG_BIT.USE_CLOCKID) && attrBytes >= ATTR.CLOCKID + 4;
  return {
    ...modifiers,
    name: recordedName === undefined || recordedName === "" ? madeUp : recordedName,
    type,
    config,
    ids: readIds(fields, readSection(fields, at + attrBytes, "the ids of an event")),
    samplePeriod: Number(fields.u64(at + ATTR.SAMPLE_PERIOD, "an attr")),
    isFrequency: flag(FLAG_BIT.FREQ),
    sampleType: Number(fields.u64(at + ATTR.SAMPLE_TYPE, "an attr") & 0x7fff_ffffn),
    sampleIdAll: flag(FLAG_BIT.SAMPLE_ID_ALL),
    clockId: hasClockId ? fields.u32(at + ATTR.CLOCKID, "an attr") | 0 : null,
  };
}

function readIds(fields: Fields, section: Section): bigint[] {
  return Array.from({ length: Math.floor(section.size / 8) }, (_, index) =>
    fields.u64(section.offset + index * 8, "an id"),
  );
}

/** The names in EVENT_DESC, in the order of the attrs; empty where the recording has none. */
function readEventNames(fields: Fields, data: Section): string[] {
  const index = featureIndex(fields, FEATURE_EVENT_DESC);
  if (index === null) return [];
  // The feature sections' table follows the data, one entry for each bit that is set.
  const at = data.offset + data.size + index * SECTION_BYTES;
  const { offset, size } = readSection(fields, at, "the event descriptions");
  const end = offset + size;
  const count = fields.u32(offset, "the number of event descriptions");
  const attrBytes = fields.u32(offset + 4, "the size of an event description");
  const names: string[] = [];
  let next = offset + 8;
  for (let i = 0; i < count; i++) {
    // { attr, u32 number of ids, u32 length of the name, name, ids }
    next += attrBytes;
    const idCount = fields.u32(next, "an event description");
    const nameBytes = fields.u32(next + 4, "an event description");
    names.push(fields.text(next + 8, nameBytes, "an event's name"));
    next += 8 + nameBytes + idCount * 8;
    if (next > end) throw fields.damaged(next, "an event description lies outside its section");
  }
  return names;
}

/** Which entry of the feature sections' table belongs to `feature`, or null when the recording does not have it. */
function featureIndex(fields: Fields, feature: number): number | null {
  let index = 0;
  for (let word = 0; word < FEATURE_WORDS; word++) {
    const bits = fields.u64(HEADER.FEATURES + word * 8, "the features");
    for (let bit = 0; bit < 64; bit++) {
      const isSet = ((bits >> BigInt(bit)) & 1n) === 1n;
      if (word * 64 + bit === feature) return isSet ? index : null;
      if (isSet) index++;
    }
  }
  return null;
}
