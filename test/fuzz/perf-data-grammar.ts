/** Recordings in file and in pipe mode: attrs, ids, features, the kernel's and perf's own records, compressed or not. */
import fc from "fast-check";
import { ATTR_FLAG, BRANCH_SAMPLE, FORMAT, RECORD, SAMPLE } from "../../src/pmu/abi.js";
import { FEATURE, USER_RECORD } from "../../src/pmu/perf-data/format.js";
import { Bytes, record } from "../../src/pmu/perf-data/record-bytes.test-support.js";
import { encodeAnySample } from "../../src/pmu/sample-layout.test-support.js";
import { format as anyFormat, sampleOf } from "./record-grammar.js";
import { type FormatFields, idOf } from "./record-input.js";

const u64 = fc.oneof(fc.bigInt(0n, 300n), fc.bigInt(0n, (1n << 64n) - 1n));
const ATTR_BYTES = [64, 72, 96, 112, 128, 136] as const;

export interface Event {
  readonly format: FormatFields;
  readonly attrBytes: number;
  readonly sampleIdAll: boolean;
}

/** Those with branch stacks of no entries are laid out in a way of their own, which recordings of perf's do not have. */
const event: fc.Arbitrary<Event> = fc.record({
  format: anyFormat.map((of) => ({ ...of, sampleType: of.sampleType | SAMPLE.IDENTIFIER })),
  attrBytes: fc.constantFrom(...ATTR_BYTES.slice(3)),
  sampleIdAll: fc.boolean(),
});

function attrOf({ format, attrBytes, sampleIdAll }: Event): Uint8Array {
  const flags = (sampleIdAll ? ATTR_FLAG.SAMPLE_ID_ALL : 0n) | ATTR_FLAG.FREQ;
  const fields = new Bytes()
    .u32(1, attrBytes)
    .u64(0, 4000, format.sampleType, format.readFormat, flags)
    .u32(1, 0)
    .u64(0, 0, format.branchSampleType, format.sampleRegsUser)
    .u32(0, 1)
    .u64(format.sampleRegsIntr, 0, 0, 0, 0);
  return fields.toArray().slice(0, attrBytes);
}

/** A sound sample of the event. */
function sample(of: Event, index: number): fc.Arbitrary<Uint8Array> {
  const { format } = of;
  const layout =
    (format.sampleType & SAMPLE.WEIGHT_STRUCT) !== 0 ? format.sampleType | SAMPLE.WEIGHT : format.sampleType;
  return fc.tuple(sampleOf(format), u64).map(([fields, time]) => {
    const values = new Map<number, bigint>([
      [SAMPLE.IDENTIFIER, idOf(index)],
      [SAMPLE.TIME, time],
      [SAMPLE.CPU, time % 4n],
    ]);
    const { record: words } = encodeAnySample({ ...format, sampleType: layout }, fields, {}, values, 2);
    return new Uint8Array(words.buffer.slice(0));
  });
}

const words = fc.array(u64, { maxLength: 12 });
const text = fc.constantFrom("", "a", "/usr/bin/perf", "ü", "x".repeat(64));
const kernelRecord = fc
  .tuple(
    fc.constantFrom(...Object.values(RECORD).filter((type) => type !== RECORD.SAMPLE), 63),
    fc.nat(0xffff),
    words,
    text,
  )
  .map(([type, misc, body, name]) => record(type, misc, new Bytes().u64(...body).text(name)));

/** Counts that fit, or nearly. */
const counted = fc.tuple(fc.nat(4), words).map(([count, body]) => new Bytes().u64(count, ...body));
const userBody: Record<number, fc.Arbitrary<Bytes>> = {
  [USER_RECORD.EVENT_TYPE]: fc.tuple(u64, text).map(([config, name]) => new Bytes().u64(config).text(name)),
  [USER_RECORD.CPU_MAP]: fc
    .tuple(fc.nat(3), fc.nat(3), fc.constantFrom(2, 4, 8), words)
    .map(([kind, count, size, body]) => new Bytes().u16(kind, count, size, 0).u64(...body)),
  [USER_RECORD.EVENT_UPDATE]: fc
    .tuple(fc.nat(4), fc.nat(3), text)
    .map(([kind, event, name]) => new Bytes().u64(kind, event).text(name)),
  [USER_RECORD.AUXTRACE_INFO]: words.map((body) => new Bytes().u32(1, 0).u64(...body)),
};
const NO_USER: readonly number[] = [
  USER_RECORD.HEADER_ATTR,
  USER_RECORD.TRACING_DATA,
  USER_RECORD.AUXTRACE,
  USER_RECORD.COMPRESSED,
  USER_RECORD.COMPRESSED2,
];
const userRecord = fc
  .constantFrom(...Object.values(USER_RECORD).filter((type) => !NO_USER.includes(type)))
  .chain((type) => (userBody[type] ?? counted).map((body) => record(type, 0, body)));

const auxTrace = fc.nat(3).map((longs) =>
  new Bytes()
    .raw(record(USER_RECORD.AUXTRACE, 0, new Bytes().u64(longs * 8, 0, 1).u32(0, 1, 0, 0)))
    .raw(new Uint8Array(longs * 8).fill(9))
    .toArray(),
);

const string = (name: string): Bytes => new Bytes().u32(name.length + 1).raw(Buffer.from(`${name}\0`, "latin1"));
const strings = fc
  .array(
    text.map((name) => string(name).toArray()),
    { maxLength: 3 },
  )
  .map((list) => {
    const bytes = new Bytes().u32(list.length);
    for (const each of list) bytes.raw(each);
    return bytes;
  });
const u32s = fc.array(fc.nat(3), { maxLength: 16 }).map((values) => new Bytes().u32(...values));
const formatText =
  'name: sched_switch\nID: 316\nformat:\n\tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\nprint fmt: "x"\n';
const tracingData = fc.nat(3).map((formats) => {
  const bytes = new Bytes().raw(Buffer.from("\x17\x08Dtracing0.6\0", "latin1")).u8(0, 8).u32(4096);
  bytes.raw(Buffer.from("header_page\0")).u64(0).raw(Buffer.from("header_event\0")).u64(0);
  bytes.u32(0).u32(1).raw(Buffer.from("sched\0")).u32(formats);
  for (let i = 0; i < formats; i++) bytes.u64(formatText.length).raw(Buffer.from(formatText));
  return bytes.pad();
});
const feature = fc.constantFrom(...Object.values(FEATURE)).chain((bit) => {
  const body = bit === FEATURE.TRACING_DATA ? tracingData : fc.oneof(strings, u32s, counted, text.map(string));
  return body.map((bytes) => [bit, bytes.toArray()] as const);
});

/** A zstd frame: blocks as they are, or one byte over and over; the last is empty. */
function zstdFrame(data: Uint8Array, cut: number): Uint8Array {
  const bytes = new Bytes().u32(0xfd2f_b528).u8(0, 0);
  const block = (kind: number, count: number, content: Uint8Array): void => {
    bytes.u8(((count << 3) | kind) & 255, (count >> 5) & 255, (count >> 13) & 255).raw(content);
  };
  const [AS_IT_IS, REPEATED, LAST] = [0, 2, 1];
  for (let at = 0; at < data.length; at += cut) {
    const piece = data.subarray(at, at + cut);
    if (piece.every((byte) => byte === piece[0])) block(REPEATED, piece.length, piece.subarray(0, 1));
    else block(AS_IT_IS, piece.length, piece);
  }
  block(LAST, 0, new Uint8Array(0));
  return bytes.toArray();
}

function compressed(data: Uint8Array, cut: number, type: number): Uint8Array {
  const stream = zstdFrame(data, Math.max(8, cut));
  const all = new Bytes();
  for (let at = 0; at < stream.length; at += 4000) {
    const piece = stream.subarray(at, at + 4000);
    const body = new Bytes();
    if (type === USER_RECORD.COMPRESSED2) body.u64(piece.length);
    all.raw(record(type, 0, type === USER_RECORD.COMPRESSED2 ? body.raw(piece).pad() : body.raw(piece)));
  }
  return all.toArray();
}

const concat = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts));

function fileOf(
  events: readonly Event[],
  features: readonly (readonly [number, Uint8Array])[],
  data: Uint8Array,
): Uint8Array {
  const attrBytes = events[0].attrBytes;
  const idsAt = 104;
  const attrsAt = idsAt + events.length * 8;
  const dataAt = attrsAt + events.length * (attrBytes + 16);
  const sorted = [...new Map(features)].sort(([a], [b]) => a - b);
  const bitmap = sorted.reduce((bits, [bit]) => bits | (1n << BigInt(bit)), 0n);
  const file = new Bytes().raw(Buffer.from("PERFILE2")).u64(104, attrBytes + 16);
  file.u64(attrsAt, events.length * (attrBytes + 16), dataAt, data.length, 0, 0, bitmap, 0, 0, 0);
  for (const i of events.keys()) file.u64(idOf(i));
  for (const [i, each] of events.entries()) file.raw(attrOf({ ...each, attrBytes })).u64(idsAt + i * 8, 8);
  file.raw(data);
  let at = dataAt + data.length + sorted.length * 16;
  for (const [, bytes] of sorted) {
    file.u64(at, bytes.length);
    at += bytes.length;
  }
  for (const [, bytes] of sorted) file.raw(bytes);
  return file.toArray();
}

function pipeOf(
  events: readonly Event[],
  features: readonly (readonly [number, Uint8Array])[],
  data: Uint8Array,
): Uint8Array {
  const pipe = new Bytes().raw(Buffer.from("PERFILE2")).u64(16);
  for (const [i, each] of events.entries())
    pipe.raw(record(USER_RECORD.HEADER_ATTR, 0, new Bytes().raw(attrOf(each)).u64(idOf(i))));
  for (const [bit, bytes] of features) {
    if (bit === FEATURE.TRACING_DATA)
      pipe.raw(record(USER_RECORD.TRACING_DATA, 0, new Bytes().u32(bytes.length))).raw(bytes);
    else pipe.raw(record(USER_RECORD.HEADER_FEATURE, 0, new Bytes().u64(bit).raw(bytes).pad()));
  }
  return pipe.raw(data).toArray();
}

export interface Made {
  readonly bytes: Uint8Array;
  /** PERF_RECORD_SAMPLE, all of them sound. */
  readonly samples: number;
  /** Where the records of the kernel's begin. */
  readonly dataAt: number;
}

export const made: fc.Arbitrary<Made> = fc
  .tuple(fc.array(event, { minLength: 1, maxLength: 3 }), fc.array(feature, { maxLength: 5 }))
  .chain(([events, features]) => {
    const samples = fc.oneof(...events.map(sample));
    const inner = fc.array(fc.oneof({ weight: 3, arbitrary: samples }, kernelRecord, userRecord), { maxLength: 12 });
    const wrapper = fc.constantFrom(null, null, USER_RECORD.COMPRESSED, USER_RECORD.COMPRESSED2);
    const part = fc
      .tuple(inner, wrapper, fc.nat(400), fc.option(auxTrace, { freq: 5 }))
      .map(([records, type, cut, trace]) => ({
        bytes: concat([
          type === null ? concat(records) : compressed(concat(records), cut, type),
          trace ?? new Uint8Array(0),
        ]),
        samples: records.filter((bytes) => bytes[0] === RECORD.SAMPLE && bytes[1] === 0).length,
      }));
    return fc.tuple(fc.array(part, { maxLength: 3 }), fc.boolean()).map(([parts, isPipe]) => {
      const data = concat(parts.map(({ bytes }) => bytes));
      const bytes = (isPipe ? pipeOf : fileOf)(events, features, data);
      const dataAt = isPipe ? bytes.length - data.length : 104 + events.length * (8 + events[0].attrBytes + 16);
      return { bytes, samples: parts.reduce((sum, each) => sum + each.samples, 0), dataAt };
    });
  });

export const grammar: fc.Arbitrary<Uint8Array> = made.map(({ bytes }) => bytes);

const header = (type: number, size: number): Uint8Array => new Bytes().u32(type).u16(0, size).toArray();

export const dictionary: readonly Uint8Array[] = [
  ...Object.values(USER_RECORD).map((type) => header(type, 24)),
  ...Object.values(RECORD).map((type) => header(type, 32)),
  ...[8, 16, 104, 1 << 17, BRANCH_SAMPLE.HW_INDEX, FORMAT.GROUP].map((value) => new Bytes().u64(value).toArray()),
  ...["PERFILE2", "header_page\0", "name: a\nID: 1\n", "\tfield:int a;\toffset:0;\tsize:4;\n"].map((word) =>
    Buffer.from(word),
  ),
  new Bytes()
    .u32(0xfd2f_b528)
    .u8(0, 17 << 3)
    .toArray(),
  Uint8Array.of(2, 0, 0),
  Uint8Array.of(0x0a, 0, 0, 7),
];
