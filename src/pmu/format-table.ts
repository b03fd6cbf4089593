/** Which event a record belongs to, and how it is to be read: by the id that it carries. */
import { internedOffsets, type SampleOffsets } from "./sample-layout.js";
import type { RecordFormat } from "./source.js";

const ABSENT = -1;

/** What the samples of one event are like. */
export interface Format {
  readonly event: number;
  readonly offsets: SampleOffsets;
  readonly fixedPeriod: number;
  /** Openings of the event that carry the id. */
  users: number;
}

/**
 * Which ids carry which event in which format. Ids are small and dense in practice but belong to the kernel, so they are
 * hashed; the last one is remembered, since runs of one event are the rule.
 */
export class FormatTable {
  readonly #byId = new Map<number, Format>();
  /** The only format of a recording without ids. */
  #anonymous: Format | null = null;
  #lastId = -1;
  #lastFormat: Format | null = null;
  /** Where SAMPLE records carry their id, or -1 where they carry none. */
  #idOffset = ABSENT;

  add(event: number, format: RecordFormat): void {
    const offsets = internedOffsets(format);
    const entry = (before: Format | null | undefined): Format => ({
      event,
      offsets,
      fixedPeriod: format.fixedPeriod,
      users: (before?.users ?? 0) + 1,
    });
    if (format.ids.length === 0) this.#anonymous = entry(this.#anonymous);
    for (const id of format.ids) this.#byId.set(Number(id), entry(this.#byId.get(Number(id))));
    if (offsets.id !== ABSENT) this.#idOffset = offsets.id;
    this.#lastId = -1;
  }

  /** A recording hands the same ids to every opening of an event: they go with the last one. */
  remove(format: RecordFormat): void {
    if (format.ids.length === 0 && this.#anonymous !== null && --this.#anonymous.users === 0) this.#anonymous = null;
    for (const id of format.ids) {
      const known = this.#byId.get(Number(id));
      if (known !== undefined && --known.users === 0) this.#byId.delete(Number(id));
    }
    this.#lastId = -1;
  }

  /** Word offset of the id in SAMPLE records, or -1 where all records have the same format. */
  get idOffset(): number {
    return this.#anonymous === null ? this.#idOffset : ABSENT;
  }

  /** The format of the sample at word `at`, or null when nobody knows its id. */
  ofSample(words: Uint32Array, mask: number, at: number): Format | null {
    if (this.#anonymous !== null) return this.#anonymous;
    const offset = this.#idOffset;
    if (offset === ABSENT) return null;
    return this.ofId(words[(at + offset) & mask] + words[(at + offset + 1) & mask] * 2 ** 32);
  }

  /** Throttling is told with an id even where samples carry none. */
  ofThrottled(id: number): Format | null {
    return this.#anonymous ?? this.ofId(id);
  }

  ofId(id: number): Format | null {
    if (id === this.#lastId) return this.#lastFormat;
    const format = this.#byId.get(id) ?? null;
    this.#lastId = id;
    this.#lastFormat = format;
    return format;
  }
}
