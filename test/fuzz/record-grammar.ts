/** Rings of sound records: samples of any format, and records of every other type. */
import fc from "fast-check";
import { BRANCH_SAMPLE, FORMAT, RECORD, SAMPLE } from "../../src/pmu/abi.js";
import { type AnySample, encodeAnySample } from "../../src/pmu/sample-layout.test-support.js";
import { FORMATS_MAX, type FormatFields, idOf, writeInput } from "./record-input.js";

const u64 = fc.oneof(fc.bigInt(0n, 255n), fc.bigInt(0n, (1n << 64n) - 1n));
const PLAIN = SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

export const format: fc.Arbitrary<FormatFields> = fc.record({
  sampleType: fc
    .oneof(
      fc.constant(PLAIN),
      fc.constant(PLAIN | SAMPLE.CALLCHAIN),
      fc.subarray(Object.values(SAMPLE)).map((bits) => bits.reduce((all, bit) => all | bit, 0)),
    )
    // No sample has both.
    .map((bits) => ((bits & SAMPLE.WEIGHT_STRUCT) !== 0 ? bits & ~SAMPLE.WEIGHT : bits)),
  readFormat: fc.subarray(Object.values(FORMAT)).map((bits) => bits.reduce<number>((all, bit) => all | bit, 0)),
  branchSampleType: fc
    .subarray([BRANCH_SAMPLE.HW_INDEX, BRANCH_SAMPLE.COUNTERS])
    .map((bits) => bits.reduce<number>((all, bit) => all | bit, 0)),
  sampleRegsUser: fc.constantFrom(0n, 1n, 0xff_0fffn),
  sampleRegsIntr: fc.constantFrom(0n, 5n, 1n << 63n),
});

const ones = (mask: bigint): number => mask.toString(2).replaceAll("0", "").length;

function readOf(readFormat: number, values: readonly bigint[]): bigint[] {
  const has = (bit: number): boolean => (readFormat & bit) !== 0;
  const times = (has(FORMAT.TOTAL_TIME_ENABLED) ? 1 : 0) + (has(FORMAT.TOTAL_TIME_RUNNING) ? 1 : 0);
  const each = 1 + (has(FORMAT.ID) ? 1 : 0) + (has(FORMAT.LOST) ? 1 : 0);
  const members = has(FORMAT.GROUP) ? values.length % 4 : 1;
  const words = Array.from({ length: times + each * members }, (_, i) => values[i % values.length] ?? 9n);
  return has(FORMAT.GROUP) ? [BigInt(members), ...words] : words;
}

/** A sample of `of`, with whatever lengths. */
export function sampleOf(of: FormatFields): fc.Arbitrary<AnySample> {
  const hasIndex = (of.branchSampleType & BRANCH_SAMPLE.HW_INDEX) !== 0;
  const hasCounters = (of.branchSampleType & BRANCH_SAMPLE.COUNTERS) !== 0;
  const registers = (mask: bigint): fc.Arbitrary<bigint[] | null> =>
    fc.option(fc.array(u64, { minLength: ones(mask), maxLength: ones(mask) }));
  return fc.nat(3).chain((branches) =>
    fc.record({
      read: fc.array(u64, { minLength: 1, maxLength: 9 }).map((values) => readOf(of.readFormat, values)),
      callchain: fc.array(u64, { maxLength: 6 }),
      raw: fc
        .array(fc.nat(), { maxLength: 3 })
        .map((words) => Uint32Array.from([7, ...words.flatMap((word) => [word, 1])])),
      branchIndex: hasIndex ? u64 : fc.constant(null),
      branches: fc.array(u64, { minLength: branches * 3, maxLength: branches * 3 }),
      branchCounters: fc.array(u64, { minLength: hasCounters ? branches : 0, maxLength: hasCounters ? branches : 0 }),
      regsUser: registers(of.sampleRegsUser),
      stack: fc.array(u64, { maxLength: 3 }),
      stackDynBytes: fc.constant(0),
      regsIntr: registers(of.sampleRegsIntr),
      aux: fc.array(u64, { maxLength: 3 }),
    }),
  );
}

const bytesOf = (words: Uint32Array): Uint8Array => new Uint8Array(words.buffer);

/** Of any type but SAMPLE: words that may be ids, counts or nothing. */
const other = fc
  .tuple(
    fc.oneof(fc.constantFrom(...Object.values(RECORD)), fc.integer({ min: 0, max: 100 })),
    fc.nat(0xffff),
    fc.array(fc.oneof(fc.bigInt(0n, 5n), u64), { maxLength: 10 }),
  )
  .filter(([type]) => type !== RECORD.SAMPLE)
  .map(([type, misc, words]) => {
    const bytes = new Uint8Array(8 + words.length * 8);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, type, true);
    view.setUint16(4, misc, true);
    view.setUint16(6, bytes.length, true);
    for (const [i, word] of words.entries()) view.setBigUint64(8 + i * 8, word, true);
    return bytes;
  });

function sampleRecord(formats: readonly FormatFields[], event: number, isAnonymous: boolean): fc.Arbitrary<Uint8Array> {
  const of = formats[event];
  const sampleType = isAnonymous ? of.sampleType : of.sampleType | SAMPLE.IDENTIFIER;
  return fc.tuple(sampleOf(of), u64, u64, fc.nat(0xffff), fc.nat(19)).map(([sample, time, tid, misc, stray]) => {
    const values = new Map([
      [SAMPLE.IDENTIFIER, stray === 0 ? 77n : idOf(event)],
      [SAMPLE.TIME, time],
      [SAMPLE.TID, tid],
    ] as [number, bigint][]);
    const fields = (sampleType & SAMPLE.WEIGHT_STRUCT) !== 0 ? sampleType | SAMPLE.WEIGHT : sampleType;
    return bytesOf(encodeAnySample({ ...of, sampleType: fields }, sample, {}, values, misc).record);
  });
}

export const grammar: fc.Arbitrary<Uint8Array> = fc
  .tuple(
    fc.array(format, { minLength: 1, maxLength: FORMATS_MAX }),
    fc.record({ isAnonymous: fc.boolean(), wantsTasks: fc.boolean(), start: fc.constantFrom(0, 1, 500, 511, 65_535) }),
  )
  .chain(([all, flags]) => {
    const formats = flags.isAnonymous ? all.slice(0, 1) : all;
    const samples = formats.map((_, event) => sampleRecord(formats, event, flags.isAnonymous));
    const record = fc.oneof({ weight: 3, arbitrary: fc.oneof(...samples) }, other);
    const times = fc.oneof({ weight: 9, arbitrary: fc.constant(1) }, fc.constant(300));
    return fc.tuple(fc.array(record, { maxLength: 24 }), times).map(([records, n]) =>
      writeInput(
        formats,
        flags,
        Array.from({ length: n }, () => records)
          .flat()
          .slice(0, 2500),
      ),
    );
  });

const word = (value: number): Uint8Array => new Uint8Array(Uint32Array.of(value, 0).buffer);

export const dictionary: readonly Uint8Array[] = [
  ...Object.values(RECORD).map((type) => new Uint8Array(Uint32Array.of(type, 16 << 16).buffer)),
  ...[0, 1, 2, 3, 4, 77].map(word),
  new Uint8Array(Uint32Array.of(RECORD.SAMPLE, 8 << 16).buffer),
];
