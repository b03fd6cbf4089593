/**
 * perf.data: what a recording holds, from the bytes of the file. File mode and pipe mode, compressed or not, closed by
 * its writer or not. Every length in the file is checked before it is used, and nothing is allocated by a count that the
 * file itself cannot hold.
 */
import { TYPE } from "../abi.js";
import { ATTR_BYTES_MAX, ATTR_BYTES_MIN, madeUpName, type RecordedAttr, readAttr } from "./attr.js";
import { type AuxTrace, readAuxTrace } from "./aux-trace.js";
import { FEATURE_DECODERS, type Features } from "./features.js";
import {
  FEATURE,
  FEATURE_BITS,
  featureName,
  HEADER,
  PIPE_HEADER_BYTES,
  RECORD_HEADER_BYTES,
  SECTION_BYTES,
  USER_RECORD,
} from "./format.js";
import { Cursor, type Damage, Image, RecordingError, readImage } from "./image.js";
import { type Run, scanRecords } from "./scan.js";
import { readTracingData } from "./tracing-data.js";
import { readPipeAttr } from "./user-records.js";

export interface Recording {
  /** For messages. */
  readonly file: string;
  readonly mode: "file" | "pipe";
  /** The file, and behind it what its compressed records hold. */
  readonly image: Image;
  /** At least one. */
  readonly attrs: readonly RecordedAttr[];
  readonly features: Features;
  /** Every feature that the recording has, by perf's name, and how long its section is in bytes. */
  readonly featureBytes: ReadonlyMap<string, number>;
  /** Where the records are. */
  readonly runs: readonly Run[];
  /** Records by type, compressed ones and their wrappers included. */
  readonly counts: Uint32Array;
  /** Traces of AUX areas (Intel PT, CoreSight and such), in the order of the file. */
  readonly auxTraces: readonly AuxTrace[];
  /** PERF_RECORD_AUXTRACE_INFO's type, or null. */
  readonly auxTraceType: number | null;
  /**
   * What is wrong with the recording, as far as it could be read nevertheless; ends with what ended the records early.
   * Empty for a sound one.
   */
  readonly damage: readonly Damage[];
}

/** Throws PmuError RECORDING_UNREADABLE where nothing can be read; otherwise damage is noted in the recording. */
export function readRecording(file: string): Recording {
  return parseImage(readImage(file));
}

/** `bytes` is the whole file. As `readRecording`. */
export function parseRecording(file: string, bytes: Uint8Array<SharedArrayBuffer>): Recording {
  return parseImage(new Image(file, bytes));
}

type BareAttr = Omit<RecordedAttr, "name">;

/** What is known of a recording so far. */
interface Draft {
  readonly attrs: BareAttr[];
  /** By attr. */
  readonly names: Map<number, string>;
  /** perf_event_attr.config of tracepoints, or of all events in the oldest recordings, to names. */
  readonly eventTypes: Map<bigint, string>;
  features: Features;
  readonly featureBytes: Map<string, number>;
  readonly auxTraces: AuxTrace[];
  auxTraceType: number | null;
  readonly damage: Damage[];
}

function parseImage(image: Image): Recording {
  const draft: Draft = {
    attrs: [],
    names: new Map(),
    eventTypes: new Map(),
    features: {},
    featureBytes: new Map(),
    auxTraces: [],
    auxTraceType: null,
    damage: [],
  };
  const isPipe = checkMagic(image);
  const area = isPipe ? { start: PIPE_HEADER_BYTES, end: image.headEnd } : readFileHeader(image, draft);
  const { runs, counts, damage } = scanRecords(image, [area, ...image.parts.slice(1)], (type, at, size, payload) =>
    collect(image, draft, isPipe, type, at, size, payload),
  );
  draft.damage.push(...damage);
  if (draft.attrs.length === 0) {
    const [first] = draft.damage;
    if (first !== undefined) throw new RecordingError(image.file, first.offset, first.message);
    throw image.error(isPipe ? PIPE_HEADER_BYTES : HEADER.ATTRS, "there is no event");
  }
  const { features, featureBytes, auxTraces, auxTraceType } = draft;
  const common = { file: image.file, image, attrs: nameAttrs(draft), features, featureBytes };
  return { ...common, mode: isPipe ? "pipe" : "file", runs, counts, auxTraces, auxTraceType, damage: draft.damage };
}

/** Whether the recording is in pipe mode. */
function checkMagic(image: Image): boolean {
  const magic = image.length < 8 ? "" : new Cursor(image, HEADER.MAGIC, 8, "the magic").text(8, "the magic");
  if (magic === "2ELIFREP")
    throw image.error(HEADER.MAGIC, "was recorded on a big-endian machine", "record on a little-endian one");
  if (magic === "PERFFILE")
    throw image.error(HEADER.MAGIC, "is of perf's first format", "record again with a perf of this century");
  if (magic !== "PERFILE2")
    throw image.error(HEADER.MAGIC, "is no perf.data file", "give the file that perf record wrote");
  const size = new Cursor(image, HEADER.SIZE, image.length, "the header").number("its size");
  if (size === PIPE_HEADER_BYTES) return true;
  if (size !== HEADER.BYTES_MIN && size < HEADER.BYTES) throw image.error(HEADER.SIZE, `a header of ${size} bytes`);
  if (image.length < size)
    throw image.error(HEADER.SIZE, `a header of ${size} bytes, of which ${image.length} are there`);
  return false;
}

/** Runs what reads one part; if that part is damaged, notes it, and goes on without. */
function tolerate(draft: Draft, read: () => void): void {
  try {
    read();
  } catch (error) {
    if (!(error instanceof RecordingError)) throw error;
    draft.damage.push({ offset: error.offset, message: error.detail });
  }
}

function readSection(image: Image, at: number, what: string): Run {
  const cursor = new Cursor(image, at, image.length, what);
  const start = cursor.number("its offset");
  const size = cursor.number("its size");
  if (size > 0 && start + size > image.length) throw image.error(at, `${what} lies outside the file`);
  return { start, end: start + size };
}

/** Reads what is around the records, and returns where those are. */
function readFileHeader(image: Image, draft: Draft): Run {
  tolerate(draft, () => readFileAttrs(image, draft));
  tolerate(draft, () => readEventTypes(image, draft));
  const cursor = new Cursor(image, HEADER.DATA, image.length, "the data section");
  const start = cursor.number("its offset");
  const size = cursor.number("its size");
  const headerBytes = Math.min(image.view.getUint32(HEADER.SIZE, true), HEADER.BYTES);
  if (start < headerBytes || start > image.headEnd)
    throw image.error(HEADER.DATA, `the data section at ${start} lies outside the file`);
  if (size === 0) {
    draft.damage.push({
      offset: HEADER.DATA + 8,
      message:
        "the recording was never closed (data size 0), and is read to its end; let perf record finish, or stop it with SIGINT",
    });
    return { start, end: image.headEnd };
  }
  const end = start + size;
  if (end > image.headEnd) {
    draft.damage.push({
      offset: HEADER.DATA + 8,
      message: `the data section ends at ${end}, and the file at ${image.headEnd}; the file is cut off: record again`,
    });
    return { start, end: image.headEnd };
  }
  if (headerBytes >= HEADER.BYTES) readFeatureTable(image, draft, end);
  return { start, end };
}

/** Each entry is the attr, then the section of its ids. */
function readFileAttrs(image: Image, draft: Draft): void {
  const section = readSection(image, HEADER.ATTRS, "the attrs");
  const entryBytes = attrEntryBytes(image, draft, section);
  const count = Math.floor((section.end - section.start) / entryBytes);
  // Sections that overlap could make a few bytes the ids of every event.
  let idsLeft = Math.floor(image.fileBytes / 8);
  for (let i = 0; i < count; i++) {
    const at = section.start + i * entryBytes;
    const idsAt = at + entryBytes - SECTION_BYTES;
    const attr = readAttr(new Cursor(image, at, idsAt, "an attr"));
    const ids: bigint[] = [];
    draft.attrs.push({ ...attr, ids });
    tolerate(draft, () => {
      const idSection = readSection(image, idsAt, "the ids of an event");
      const cursor = new Cursor(image, idSection.start, idSection.end, "the ids of an event");
      idsLeft -= Math.floor(cursor.left / 8);
      if (idsLeft < 0) throw cursor.error("more ids than the file can hold");
      for (const id of cursor.u64s(Math.floor(cursor.left / 8), "ids")) ids.push(id);
    });
  }
}

/** As the header says; if that cannot be, as the first attr says of itself. */
function attrEntryBytes(image: Image, draft: Draft, section: Run): number {
  const told = new Cursor(image, HEADER.ATTR_SIZE, image.length, "the header").number("the size of an attr");
  const isPossible = (bytes: number): boolean => bytes >= ATTR_BYTES_MIN && bytes <= ATTR_BYTES_MAX;
  if (isPossible(told - SECTION_BYTES)) return told;
  const damage = image.error(HEADER.ATTR_SIZE, `an attr of ${told - SECTION_BYTES} bytes`);
  const own = section.end - section.start < 8 ? 0 : image.view.getUint32(section.start + 4, true);
  if (!isPossible(own) || (section.end - section.start) % (own + SECTION_BYTES) !== 0) throw damage;
  draft.damage.push({ offset: damage.offset, message: damage.detail });
  return own + SECTION_BYTES;
}

const EVENT_TYPE_NAME_BYTES = 64;

/** Before EVENT_DESC: { config, name }. */
function readEventTypes(image: Image, draft: Draft): void {
  const section = readSection(image, HEADER.EVENT_TYPES, "the event types");
  const cursor = new Cursor(image, section.start, Math.max(section.start, section.end), "the event types");
  while (cursor.left >= 8 + EVENT_TYPE_NAME_BYTES) readEventType(cursor, draft);
}

function readEventType(cursor: Cursor, draft: Draft): void {
  const config = cursor.u64("an event");
  draft.eventTypes.set(config, cursor.text(Math.min(EVENT_TYPE_NAME_BYTES, cursor.left), "an event's name"));
}

/** The feature sections' table follows the data, one entry for each bit that is set. */
function readFeatureTable(image: Image, draft: Draft, at: number): void {
  let entry = at;
  for (let feature = 0; feature < FEATURE_BITS; feature++) {
    const byte = image.view.getUint8(HEADER.FEATURES + (feature >> 3));
    if ((byte & (1 << (feature & 7))) === 0) continue;
    const entryAt = entry;
    entry += SECTION_BYTES;
    tolerate(draft, () => {
      const name = featureName(feature);
      const { start, end } = readSection(image, entryAt, `feature ${name}`);
      readFeature(draft, feature, new Cursor(image, start, end, `feature ${name}`));
    });
  }
}

function readFeature(draft: Draft, feature: number, cursor: Cursor): void {
  const name = featureName(feature);
  draft.featureBytes.set(name, cursor.left);
  if (!Object.hasOwn(FEATURE_DECODERS, name)) return;
  const key = name as keyof Features;
  draft.features = { ...draft.features, [key]: FEATURE_DECODERS[key](cursor, draft.features) };
  // Names are the events' by position.
  if (feature === FEATURE.EVENT_DESC) {
    for (const [index, { name: eventName }] of (draft.features.EVENT_DESC ?? []).entries()) {
      if (!draft.names.has(index) && eventName !== "") draft.names.set(index, eventName);
    }
  }
}

/** Takes from a record of perf's own what the others are read by. */
function collect(
  image: Image,
  draft: Draft,
  isPipe: boolean,
  type: number,
  at: number,
  size: number,
  payload: Run,
): void {
  const cursor = (what: string): Cursor => new Cursor(image, at + RECORD_HEADER_BYTES, at + size, what);
  switch (type) {
    case USER_RECORD.HEADER_ATTR:
      if (isPipe) addPipeAttr(cursor("an event"), draft);
      return;
    case USER_RECORD.EVENT_TYPE:
      tolerate(draft, () => readEventType(cursor("an event type"), draft));
      return;
    case USER_RECORD.EVENT_UPDATE:
      tolerate(draft, () => readEventUpdate(cursor("an event's update"), draft));
      return;
    case USER_RECORD.HEADER_FEATURE:
      tolerate(draft, () => {
        const fields = cursor("a feature");
        const feature = fields.number("its number");
        readFeature(draft, feature, new Cursor(image, fields.at, fields.end, `feature ${featureName(feature)}`));
      });
      return;
    case USER_RECORD.TRACING_DATA:
      tolerate(draft, () => {
        draft.featureBytes.set("TRACING_DATA", payload.end - payload.start);
        const data = readTracingData(new Cursor(image, payload.start, payload.end, "the tracing data"));
        draft.features = { ...draft.features, TRACING_DATA: data };
      });
      return;
    case USER_RECORD.AUXTRACE_INFO:
      draft.auxTraceType = cursor("the AUX trace's description").u32("its type");
      return;
    case USER_RECORD.AUXTRACE:
      draft.auxTraces.push(readAuxTrace(cursor("an AUX trace"), payload.start));
      return;
  }
}

function addPipeAttr(cursor: Cursor, draft: Draft): void {
  const attr = readPipeAttr(cursor);
  draft.attrs.push({ ...attr, ids: Array.from(cursor.u64s(Math.floor(cursor.left / 8), "ids")) });
}

/** PERF_EVENT_UPDATE__NAME; a unit, a scale and CPUs are for counting, and not needed to read samples. */
const EVENT_UPDATE_NAME = 2;

function readEventUpdate(cursor: Cursor, draft: Draft): void {
  const kind = cursor.number("its kind");
  const id = cursor.u64("an id");
  if (kind !== EVENT_UPDATE_NAME) return;
  const name = cursor.zeroTerminated("a name");
  const isFirst = draft.attrs.length === 1 || id === 0n;
  const index = isFirst ? 0 : draft.attrs.findIndex(({ ids }) => ids.includes(id));
  if (index >= 0 && name !== "") draft.names.set(index, name);
}

function nameAttrs({ attrs, names, eventTypes, features }: Draft): RecordedAttr[] {
  return attrs.map((attr, index) => {
    const name = names.get(index) ?? madeUpName(attr, (id) => tracepointName(attr, features, id) ?? eventTypes.get(id));
    return { ...attr, name };
  });
}

function tracepointName(attr: BareAttr, { TRACING_DATA }: Features, id: bigint): string | undefined {
  if (attr.type !== TYPE.TRACEPOINT) return undefined;
  const format = TRACING_DATA?.tracepoints.find((other) => BigInt(other.id) === id);
  return format && `${format.system}:${format.name}`;
}
