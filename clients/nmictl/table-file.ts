/**
 * Reads the handler table's file from outside the daemon, which may be stopped or dead: plain reads, no lock, no help.
 * The file describes itself: a prologue points to a JSON text that names every field and where it is.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

const MAGIC = "NMIDHTBL";
const LAYOUT_VERSION = 3;
// Prologue: magic, then u32le version, offset of slot 0, offset and byte length of the description.
const VERSION_OFFSET = 8;
const SLOT_ZERO_OFFSET = 12;
const DESCRIPTION_OFFSET = 16;
const DESCRIPTION_BYTES_OFFSET = 20;
const PROLOGUE_BYTES = 24;
const DESCRIPTION_BYTES_MAX = 1 << 20;
const SLOT_BYTES_MAX = 1 << 24;
const READS_MAX = 16;
const STATE_BITS = 3;
const ELEMENT_BYTES = { u32: 4, f64: 8, text: 1 } as const;

export class TableFileError extends Error {
  override readonly name = "TableFileError";
  /** Stable. */
  readonly code: "NOT_FOUND" | "UNREADABLE" | "NOT_A_TABLE" | "NOT_READY" | "UNKNOWN_VERSION" | "CORRUPT";

  constructor(code: TableFileError["code"], message: string) {
    super(message);
    this.code = code;
  }
}

export type FieldValue = number | string | readonly number[];
export type Fields = Readonly<Record<string, FieldValue>>;

interface Field {
  readonly name: string;
  readonly offset: number;
  readonly type: keyof typeof ELEMENT_BYTES;
  /** Elements, where the field is an array; of a text, its bytes, which may be called so too. */
  readonly count?: number;
  readonly bytes?: number;
}

interface Description {
  readonly states: readonly string[];
  readonly header: readonly Field[];
  readonly slots: { readonly stride: number; readonly fields: readonly Field[] };
  readonly dispatchers: { readonly offset: number; readonly stride: number; readonly fields: readonly Field[] };
  readonly lossReasons: readonly string[];
}

export interface Slot {
  readonly index: number;
  readonly handlerId: number;
  readonly state: string;
  readonly generation: number;
  readonly fields: Fields;
  readonly dispatchers: readonly Fields[];
  /** The slot's state kept changing while it was read: the fields may belong to two owners. */
  readonly torn: boolean;
}

export interface Table {
  readonly layoutVersion: number;
  readonly header: Fields;
  readonly lossReasons: readonly string[];
  /** In the order of the list. */
  readonly slots: readonly Slot[];
  /** What was wrong with the list of slots, where something was. */
  readonly problems: readonly string[];
}

/** Throws TableFileError. */
export function readTable(path: string): Table {
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    return new TableFile(fd, path).read();
  } catch (error) {
    if (error instanceof TableFileError || !(error instanceof Error && "code" in error)) throw error;
    if (error.code === "ENOENT" || error.code === "ENOTDIR") {
      throw new TableFileError("NOT_FOUND", `no handler table at ${path}: has nmid run with this --runtime-dir?`);
    }
    throw new TableFileError("UNREADABLE", `cannot read the handler table ${path}: ${error.message}`);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

class TableFile {
  readonly #fd: number;
  readonly #path: string;

  constructor(fd: number, path: string) {
    this.#fd = fd;
    this.#path = path;
  }

  read(): Table {
    const prologue = this.#readPrologue();
    const slotZero = prologue.readUInt32LE(SLOT_ZERO_OFFSET);
    const description = this.#readDescription(prologue);
    const header = this.#readFields(0, description.header);
    const capacity = this.#number(header, "capacity");
    const dispatchers = this.#number(header, "dispatchers");
    const { stride } = description.slots;
    if (dispatchers * description.dispatchers.stride + description.dispatchers.offset > stride) {
      throw this.#corrupt(`${dispatchers} dispatchers do not fit into a slot of ${stride} bytes`);
    }
    const bytes = fstatSync(this.#fd).size;
    if (bytes < slotZero + capacity * stride) {
      throw this.#corrupt(`truncated: ${bytes} bytes, but ${capacity} slots end at ${slotZero + capacity * stride}`);
    }

    const slots: Slot[] = [];
    const problems: string[] = [];
    const seen = new Set<number>();
    for (let link = this.#number(header, "list_head"); link !== 0; ) {
      const index = link - 1;
      if (index >= capacity) {
        problems.push(`the list of slots leads to slot ${index} of ${capacity}; what lies behind it is not shown`);
        break;
      }
      if (seen.has(index)) {
        problems.push(`the list of slots runs in a circle at slot ${index}`);
        break;
      }
      seen.add(index);
      const slot = this.#readSlot(index, slotZero + index * stride, dispatchers, description);
      slots.push(slot);
      link = this.#number(slot.fields, "next");
    }
    return { layoutVersion: LAYOUT_VERSION, header, lossReasons: description.lossReasons, slots, problems };
  }

  #readPrologue(): Buffer {
    const prologue = Buffer.alloc(PROLOGUE_BYTES);
    const bytes = readSync(this.#fd, prologue, 0, PROLOGUE_BYTES, 0);
    if (bytes < MAGIC.length || prologue.toString("latin1", 0, MAGIC.length) !== MAGIC) {
      throw new TableFileError("NOT_A_TABLE", `${this.#path} is no handler table: it does not begin with ${MAGIC}`);
    }
    if (bytes < PROLOGUE_BYTES) throw this.#corrupt(`truncated after ${bytes} bytes`);
    const version = prologue.readUInt32LE(VERSION_OFFSET);
    if (version === 0) {
      throw new TableFileError("NOT_READY", `${this.#path} is not complete: nmid is starting, or died while it did`);
    }
    if (version !== LAYOUT_VERSION) throw this.#unknownVersion(version);
    return prologue;
  }

  #readDescription(prologue: Buffer): Description {
    const bytes = prologue.readUInt32LE(DESCRIPTION_BYTES_OFFSET);
    if (bytes > DESCRIPTION_BYTES_MAX) throw this.#corrupt(`its description claims to be ${bytes} bytes long`);
    const text = this.#readBytes(prologue.readUInt32LE(DESCRIPTION_OFFSET), bytes).toString("utf8");
    let description: unknown;
    try {
      description = JSON.parse(text);
    } catch (error) {
      throw this.#corrupt(`its description is no JSON: ${(error as Error).message}`);
    }
    if (isRecord(description) && description.version !== LAYOUT_VERSION) {
      throw this.#unknownVersion(description.version);
    }
    if (!isDescription(description)) throw this.#corrupt("its description lacks a part, or holds one of another shape");
    return description;
  }

  #readSlot(index: number, offset: number, dispatchers: number, description: Description): Slot {
    const { fields } = description.slots;
    const stateField = fields.find(({ name }) => name === "state_generation");
    if (!stateField) throw this.#corrupt("its description names no state_generation");
    const blocks = description.dispatchers;
    for (let reads = 1; ; reads++) {
      const bytes = this.#readBytes(offset, description.slots.stride);
      const values = decodeFields(bytes, 0, fields);
      const word = this.#number(values, "state_generation");
      // A slot that was freed and taken again meanwhile shows in this word, since its generation has moved on.
      const torn = this.#readBytes(offset + stateField.offset, 4).readUInt32LE(0) !== word;
      if (torn && reads < READS_MAX) continue;
      const state = word & ((1 << STATE_BITS) - 1);
      const generation = word >>> STATE_BITS;
      return {
        index,
        handlerId: generation * 65_536 + index,
        state: description.states[state] ?? `STATE ${state}`,
        generation,
        fields: values,
        dispatchers: Array.from({ length: dispatchers }, (_, d) =>
          decodeFields(bytes, blocks.offset + d * blocks.stride, blocks.fields),
        ),
        torn,
      };
    }
  }

  #readFields(base: number, fields: readonly Field[]): Fields {
    const end = Math.max(0, ...fields.map((field) => field.offset + fieldBytes(field)));
    return decodeFields(this.#readBytes(base, end), 0, fields);
  }

  #readBytes(offset: number, length: number): Buffer {
    const bytes = Buffer.alloc(length);
    const read = readSync(this.#fd, bytes, 0, length, offset);
    if (read < length) throw this.#corrupt(`truncated: ${length} bytes wanted at ${offset}, ${read} found`);
    return bytes;
  }

  #number(fields: Fields, name: string): number {
    const value = fields[name];
    if (typeof value !== "number") throw this.#corrupt(`its description names no number ${name}`);
    return value;
  }

  #corrupt(what: string): TableFileError {
    return new TableFileError("CORRUPT", `${this.#path} is corrupt: ${what}`);
  }

  #unknownVersion(version: unknown): TableFileError {
    return new TableFileError(
      "UNKNOWN_VERSION",
      `${this.#path} has layout version ${version}; this nmictl knows ${LAYOUT_VERSION}: use the one nmid came with`,
    );
  }
}

function decodeFields(bytes: Buffer, base: number, fields: readonly Field[]): Fields {
  const values: Record<string, FieldValue> = {};
  for (const field of fields) values[field.name] = decodeField(bytes, base + field.offset, field);
  return values;
}

function decodeField(bytes: Buffer, offset: number, field: Field): FieldValue {
  if (field.type === "text") {
    const text = bytes.subarray(offset, offset + fieldBytes(field));
    const end = text.indexOf(0);
    return text.toString("utf8", 0, end === -1 ? text.length : end);
  }
  const at = (i: number) =>
    field.type === "u32" ? bytes.readUInt32LE(offset + i * 4) : bytes.readDoubleLE(offset + i * 8);
  const count = field.count ?? 1;
  return count === 1 ? at(0) : Array.from({ length: count }, (_, i) => at(i));
}

function fieldBytes(field: Field): number {
  return ELEMENT_BYTES[field.type] * (field.bytes ?? field.count ?? 1);
}

function isDescription(value: unknown): value is Description {
  if (!isRecord(value) || !isRecord(value.slots) || !isRecord(value.dispatchers)) return false;
  const { slots, dispatchers } = value;
  return (
    isTexts(value.states) &&
    isTexts(value.lossReasons) &&
    isStride(slots.stride) &&
    isStride(dispatchers.stride) &&
    isOffset(dispatchers.offset) &&
    isFields(value.header, DESCRIPTION_BYTES_MAX) &&
    isFields(slots.fields, slots.stride) &&
    isFields(dispatchers.fields, dispatchers.stride)
  );
}

/** Whether all of `value` are fields that end within `bytes`. */
function isFields(value: unknown, bytes: number): value is readonly Field[] {
  return (
    Array.isArray(value) &&
    value.every(
      (field: unknown) =>
        isRecord(field) &&
        typeof field.name === "string" &&
        isOffset(field.offset) &&
        (field.type === "u32" || field.type === "f64" || field.type === "text") &&
        (field.bytes === undefined || isOffset(field.bytes)) &&
        (field.count === undefined || isOffset(field.count)) &&
        field.offset + fieldBytes(field as unknown as Field) <= bytes,
    )
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isTexts(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === "string");
}

function isStride(value: unknown): value is number {
  return isOffset(value) && value > 0 && value <= SLOT_BYTES_MAX;
}

function isOffset(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
