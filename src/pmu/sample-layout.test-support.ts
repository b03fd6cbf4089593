/** For tests: PERF_RECORD_SAMPLE of any format, written field by field as perf_event_open(2) lists them. */
import { RECORD, SAMPLE } from "./abi.js";
import type { LayoutFormat } from "./sample-layout.js";

export interface AnySample {
  /** Whole, in the layout that the format's read_format says. */
  readonly read: readonly bigint[];
  readonly callchain: readonly bigint[];
  /** An odd number of words, as the kernel pads them. */
  readonly raw: Uint32Array;
  /** Null: the sample has none, though the format does. */
  readonly branchIndex: bigint | null;
  /** Three words an entry. */
  readonly branches: readonly bigint[];
  /** A word an entry; empty where the format has none. */
  readonly branchCounters: readonly bigint[];
  /** Null: abi 0, without registers. */
  readonly regsUser: readonly bigint[] | null;
  readonly stack: readonly bigint[];
  readonly stackDynBytes: number;
  readonly regsIntr: readonly bigint[] | null;
  readonly aux: readonly bigint[];
}

/** Values of the fields of 64 bits, by SAMPLE bit; a field not given has its bit for a value. */
export type FixedValues = ReadonlyMap<number, bigint>;

/** The record's words, and at which of them each field is. */
export function encodeAnySample(
  { sampleType }: LayoutFormat,
  given: AnySample,
  changes: Partial<AnySample> = {},
  values: FixedValues = new Map(),
  misc = 0,
): { record: Uint32Array; at: Map<number, number> } {
  const sample = { ...given, ...changes };
  const words: number[] = [RECORD.SAMPLE, 0];
  const at = new Map<number, number>();
  const push = (...list: readonly bigint[]): void => {
    for (const value of list) words.push(Number(value & 0xffff_ffffn), Number(value >> 32n));
  };
  const field = (bit: number, write: () => void): void => {
    if ((sampleType & bit) === 0) return;
    at.set(bit, words.length);
    write();
  };
  const plain = (...bits: number[]): void => {
    for (const bit of bits) field(bit, () => push(values.get(bit) ?? BigInt(bit)));
  };
  plain(SAMPLE.IDENTIFIER, SAMPLE.IP, SAMPLE.TID, SAMPLE.TIME, SAMPLE.ADDR, SAMPLE.ID, SAMPLE.STREAM_ID);
  plain(SAMPLE.CPU, SAMPLE.PERIOD);
  field(SAMPLE.READ, () => push(...sample.read));
  field(SAMPLE.CALLCHAIN, () => push(BigInt(sample.callchain.length), ...sample.callchain));
  field(SAMPLE.RAW, () => words.push(sample.raw.length * 4, ...sample.raw));
  field(SAMPLE.BRANCH_STACK, () => {
    push(BigInt(sample.branches.length / 3));
    if (sample.branchIndex !== null) push(sample.branchIndex);
    push(...sample.branches, ...sample.branchCounters);
  });
  const registers = (values: readonly bigint[] | null): void => (values === null ? push(0n) : push(2n, ...values));
  field(SAMPLE.REGS_USER, () => registers(sample.regsUser));
  field(SAMPLE.STACK_USER, () => {
    push(BigInt(sample.stack.length * 8), ...sample.stack);
    if (sample.stack.length > 0) push(BigInt(sample.stackDynBytes));
  });
  plain(SAMPLE.WEIGHT, SAMPLE.DATA_SRC, SAMPLE.TRANSACTION);
  field(SAMPLE.REGS_INTR, () => registers(sample.regsIntr));
  plain(SAMPLE.PHYS_ADDR, SAMPLE.CGROUP, SAMPLE.DATA_PAGE_SIZE, SAMPLE.CODE_PAGE_SIZE);
  field(SAMPLE.AUX, () => push(BigInt(sample.aux.length * 8), ...sample.aux));
  words[1] = misc | ((words.length * 4) << 16);
  return { record: Uint32Array.from(words), at };
}
