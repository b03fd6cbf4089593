/**
 * Tracepoints' formats, as the recording machine's tracefs described them. Layout of the section: perf's
 * util/trace-event-info.c; of a format file: Documentation/trace/events.rst.
 */
import { type Cursor, textOf } from "./image.js";

export interface TracepointField {
  readonly name: string;
  /** As in C, without the name: "char[16]", "unsigned long". A dynamic array's begins with "__data_loc". */
  readonly type: string;
  /** Byte in PERF_SAMPLE_RAW's data, and how many. */
  readonly offset: number;
  readonly size: number;
  readonly isSigned: boolean;
  /** Of an array, how many elements: 0 where the data says. Null for a single value. */
  readonly arrayLength: number | null;
  /** The field holds { u16 offset, u16 length } of the data, offsets counted as the kind says. */
  readonly dynamic: "data_loc" | "rel_loc" | null;
}

export interface TracepointFormat {
  readonly system: string;
  readonly name: string;
  /** perf_event_attr.config of the tracepoint, and common_type of its samples. */
  readonly id: number;
  readonly fields: readonly TracepointField[];
  readonly printFormat: string;
  /** The `format` file itself. */
  readonly text: string;
}

export interface TracingData {
  readonly version: string;
  readonly isBigEndian: boolean;
  /** Of the recording machine. */
  readonly longBytes: number;
  readonly pageBytes: number;
  readonly tracepoints: readonly TracepointFormat[];
}

const MAGIC = "\x17\x08Dtracing";
const ENTRY_BYTES_MIN = 8;

/** Throws RecordingError. A format that is none is left out. */
export function readTracingData(cursor: Cursor): TracingData {
  if (cursor.text(MAGIC.length, "the magic") !== MAGIC) throw cursor.error("is no tracing data");
  const version = cursor.zeroTerminated("the version");
  const isBigEndian = cursor.u8("the byte order") !== 0;
  const longBytes = cursor.u8("the size of a long");
  const pageBytes = cursor.u32("the size of a page");
  for (const name of ["header_page", "header_event"]) {
    if (cursor.zeroTerminated(name) !== name) throw cursor.error(`${name} is missing`);
    cursor.take(cursor.number(name), name);
  }
  readFormats(cursor, "ftrace");
  const systems = cursor.count(cursor.u32("the number of systems"), ENTRY_BYTES_MIN - 3, "systems");
  const tracepoints: TracepointFormat[] = [];
  for (let i = 0; i < systems; i++) {
    // One by one: a spread passes all of them as arguments, of which the stack holds some hundred thousand.
    for (const format of readFormats(cursor, cursor.zeroTerminated("a system's name"))) tracepoints.push(format);
  }
  // Symbols, printk formats and command lines follow; samples are read without them.
  return { version, isBigEndian, longBytes, pageBytes, tracepoints };
}

function readFormats(cursor: Cursor, system: string): TracepointFormat[] {
  const count = cursor.count(cursor.u32("the number of formats"), ENTRY_BYTES_MIN, "formats");
  const formats: TracepointFormat[] = [];
  for (let i = 0; i < count; i++) {
    const text = textOf(cursor.bytes(cursor.number("a format's size"), "a format"));
    const format = parseTracepointFormat(system, text);
    if (format !== null) formats.push(format);
  }
  return formats;
}

/** `text` is a tracefs `format` file; null when it has no name or no id. */
export function parseTracepointFormat(system: string, text: string): TracepointFormat | null {
  const name = /^name:\s*(\S+)/m.exec(text)?.[1];
  const id = /^ID:\s*(\d+)/m.exec(text)?.[1];
  if (name === undefined || id === undefined) return null;
  const printFormat = /^print fmt:\s*([\s\S]*)$/m.exec(text)?.[1]?.trimEnd() ?? "";
  const fields = text.split("\n").flatMap((line) => parseField(line) ?? []);
  return { system, name, id: Number(id), fields, printFormat, text };
}

const FIELD = /^\s*field(?: special)?:([^;]*);\s*offset:(\d+);\s*size:(\d+);(?:\s*signed:(\d+);)?/;

function parseField(line: string): TracepointField | null {
  const match = FIELD.exec(line);
  if (match === null) return null;
  const [, declaration, offset, size, signed] = match as unknown as [string, string, string, string, string?];
  const named = splitDeclaration(declaration.trim());
  if (named === null) return null;
  const { name, type } = named;
  const open = type.endsWith("]") ? type.lastIndexOf("[") : -1;
  return {
    name,
    type,
    offset: Number(offset),
    size: Number(size),
    isSigned: signed === "1",
    arrayLength: open < 0 ? null : Number.parseInt(type.slice(open + 1), 10) || 0,
    dynamic: type.startsWith("__data_loc") ? "data_loc" : type.startsWith("__rel_loc") ? "rel_loc" : null,
  };
}

/**
 * The name is the last word; an array's length stands behind it, or, for the kernel's dynamic ones, before it. From the
 * end, and each character once: a regular expression that looks for the end tries every word and space as its start.
 */
function splitDeclaration(text: string): { readonly name: string; readonly type: string } | null {
  const open = text.endsWith("]") ? text.lastIndexOf("[") : text.length;
  if (open < 0) return null;
  const named = text.slice(0, open).trimEnd();
  let start = named.length;
  while (start > 0 && /\w/.test(named[start - 1] as string)) start--;
  if (start === named.length) return null;
  return { name: named.slice(start), type: named.slice(0, start).trim() + text.slice(open) };
}
