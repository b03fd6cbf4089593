/** Records that are no samples but tell what a client needs to make sense of them: which are, and where their id is. */
import { RECORD, SAMPLE } from "./abi.js";
import type { RecordFormat } from "./source.js";

const TASK_RECORDS =
  (1 << RECORD.MMAP) |
  (1 << RECORD.COMM) |
  (1 << RECORD.EXIT) |
  (1 << RECORD.FORK) |
  (1 << RECORD.MMAP2) |
  (1 << RECORD.ITRACE_START) |
  (1 << RECORD.SWITCH) |
  (1 << RECORD.SWITCH_CPU_WIDE) |
  (1 << RECORD.NAMESPACES) |
  (1 << RECORD.KSYMBOL) |
  (1 << RECORD.BPF_EVENT) |
  (1 << RECORD.CGROUP) |
  (1 << RECORD.TEXT_POKE) |
  (1 << RECORD.AUX_OUTPUT_HW_ID);

/** `type` is perf_event_header.type, any number. */
export function isTaskRecord(type: number): boolean {
  return type < 32 && (TASK_RECORDS & (1 << type)) !== 0;
}

export function isSwitch(type: number): boolean {
  return type === RECORD.SWITCH || type === RECORD.SWITCH_CPU_WIDE;
}

/** Whether samples mean something else before the record than behind it. Switches are too many to cut batches short. */
export function endsBatch(type: number): boolean {
  return !isSwitch(type);
}

/** Of the sample_id at the end of a record: words counted from the record's end; 0 where it is not carried. */
export interface Trailer {
  /** pid; tid is the next word. */
  readonly pid: number;
  readonly time: number;
  readonly cpu: number;
  /** All of it. */
  readonly words: number;
}

const NO_TRAILER: Trailer = { pid: 0, time: 0, cpu: 0, words: 0 };
/** perf_event_open(2), struct sample_id, from the end. */
const FROM_THE_END = [SAMPLE.IDENTIFIER, SAMPLE.CPU, SAMPLE.STREAM_ID, SAMPLE.ID, SAMPLE.TIME, SAMPLE.TID];
const ABSENT = -1;

/** How far before a record's end its id is, in words; -1 where it has none. */
function idPlace({ sampleType, sampleIdAll }: RecordFormat): number {
  return sampleIdAll ? (placesOf(sampleType).get(idBit(sampleType)) ?? ABSENT) : ABSENT;
}

function idBit(sampleType: number): number {
  return (sampleType & SAMPLE.IDENTIFIER) !== 0 ? SAMPLE.IDENTIFIER : SAMPLE.ID;
}

function placesOf(sampleType: number): Map<number, number> {
  const places = new Map<number, number>();
  for (const bit of FROM_THE_END) if ((sampleType & bit) !== 0) places.set(bit, (places.size + 1) * 2);
  return places;
}

function trailerOf({ sampleType, sampleIdAll }: RecordFormat): Trailer {
  if (!sampleIdAll) return NO_TRAILER;
  const places = placesOf(sampleType);
  const at = (bit: number): number => places.get(bit) ?? 0;
  return { pid: at(SAMPLE.TID), time: at(SAMPLE.TIME), cpu: at(SAMPLE.CPU), words: places.size * 2 };
}

/** Which ids' records end in which sample_id. Not for samples, and not for the hot path. */
export class TrailerTable {
  readonly #byId = new Map<number, { readonly trailer: Trailer; users: number }>();
  /** Of records without an id, and of those that perf makes up, which have id 0: the first event's. */
  #first: Trailer = NO_TRAILER;
  #idPlace = ABSENT;

  add(format: RecordFormat): void {
    const trailer = trailerOf(format);
    if (this.#byId.size === 0) this.#first = trailer;
    for (const id of format.ids) {
      const known = this.#byId.get(Number(id));
      if (known === undefined) this.#byId.set(Number(id), { trailer, users: 1 });
      else known.users++;
    }
    // The same for all events of a source, or nobody could tell whose a record is.
    if (format.ids.length > 0) this.#idPlace = idPlace(format);
  }

  remove({ ids }: RecordFormat): void {
    for (const id of ids) {
      const known = this.#byId.get(Number(id));
      if (known !== undefined && --known.users === 0) this.#byId.delete(Number(id));
    }
  }

  /** Of the record at word `at` that is `size` words long; an empty one when nobody knows. */
  of(words: Uint32Array, mask: number, at: number, size: number): Trailer {
    const fits = (trailer: Trailer): Trailer => (trailer.words + 2 <= size ? trailer : NO_TRAILER);
    if (this.#idPlace === ABSENT) return fits(this.#first);
    if (this.#idPlace + 2 > size) return NO_TRAILER;
    const place = at + size - this.#idPlace;
    const id = words[place & mask] + words[(place + 1) & mask] * 2 ** 32;
    return fits(this.#byId.get(id)?.trailer ?? (id === 0 ? this.#first : NO_TRAILER));
  }
}
