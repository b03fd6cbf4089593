/** The bytes of an input for the record target: any bytes are one. */

import { SAMPLE } from "../../src/pmu/abi.js";
import type { RecordFormat } from "../../src/pmu/source.js";

export interface RecordInput {
  readonly formats: readonly RecordFormat[];
  /** One format, and records without ids. */
  readonly isAnonymous: boolean;
  readonly wantsTasks: boolean;
  /** Where in the ring the records begin: a multiple of 8. */
  readonly startBytes: number;
  /** Whole words of 8 bytes, as the kernel's head counts. */
  readonly records: Uint8Array;
}

export type FormatFields = Required<
  Pick<RecordFormat, "sampleType" | "readFormat" | "branchSampleType" | "sampleRegsUser" | "sampleRegsIntr">
>;

const HEAD_BYTES = 8;
const FORMAT_BYTES = 32;
export const FORMATS_MAX = 4;
const ANONYMOUS = 1;
const WANTS_TASKS = 2;
const FIXED_PERIOD = 4000;
/** Ids are far apart, and one needs more than 32 bits. */
export const idOf = (event: number): bigint => (event === FORMATS_MAX - 1 ? (1n << 40n) + 1n : BigInt(event + 1));

export function readInput(bytes: Uint8Array): RecordInput {
  const padded = new Uint8Array(HEAD_BYTES + FORMATS_MAX * FORMAT_BYTES);
  padded.set(bytes.subarray(0, padded.length));
  const view = new DataView(padded.buffer);
  const isAnonymous = (padded[1] & ANONYMOUS) !== 0;
  const count = isAnonymous ? 1 : 1 + (padded[0] % FORMATS_MAX);
  const formats = Array.from({ length: count }, (_, event): RecordFormat => {
    const at = HEAD_BYTES + event * FORMAT_BYTES;
    const sampleType = view.getUint32(at, true) & 0x1ff_ffff;
    return {
      ids: isAnonymous ? [] : [idOf(event)],
      sampleType: isAnonymous ? sampleType : sampleType | SAMPLE.IDENTIFIER,
      readFormat: view.getUint32(at + 4, true),
      sampleIdAll: (padded[1] & 4) === 0,
      fixedPeriod: FIXED_PERIOD,
      branchSampleType: view.getUint32(at + 8, true),
      sampleRegsUser: view.getBigUint64(at + 16, true),
      sampleRegsIntr: view.getBigUint64(at + 24, true),
    };
  });
  const records = bytes.subarray(HEAD_BYTES + count * FORMAT_BYTES);
  return {
    ...{ formats, isAnonymous, wantsTasks: (padded[1] & WANTS_TASKS) !== 0 },
    startBytes: view.getUint16(2, true) * 8,
    records: records.subarray(0, records.length & ~7),
  };
}

export function writeInput(
  formats: readonly FormatFields[],
  flags: { readonly isAnonymous: boolean; readonly wantsTasks: boolean; readonly start: number },
  records: readonly Uint8Array[],
): Uint8Array {
  const headBytes = HEAD_BYTES + formats.length * FORMAT_BYTES;
  const bytes = new Uint8Array(records.reduce((sum, record) => sum + record.length, headBytes));
  const view = new DataView(bytes.buffer);
  bytes[0] = formats.length - 1;
  bytes[1] = (flags.isAnonymous ? ANONYMOUS : 0) | (flags.wantsTasks ? WANTS_TASKS : 0);
  view.setUint16(2, flags.start, true);
  for (const [event, format] of formats.entries()) {
    const at = HEAD_BYTES + event * FORMAT_BYTES;
    view.setUint32(at, format.sampleType, true);
    view.setUint32(at + 4, format.readFormat, true);
    view.setUint32(at + 8, format.branchSampleType, true);
    view.setBigUint64(at + 16, format.sampleRegsUser, true);
    view.setBigUint64(at + 24, format.sampleRegsIntr, true);
  }
  let next = headBytes;
  for (const record of records) {
    bytes.set(record, next);
    next += record.length;
  }
  return bytes;
}
