/** Columns on the wire: their field numbers, and the header before their words. docs/decisions says why it is padded. */

/** Field numbers of SampleBatch in proto/nmi.proto. */
export const SAMPLE_BATCH_FIELD = {
  EVENT_INDEX: 1,
  SEQUENCE: 2,
  TIME: 3,
  IP: 4,
  PID: 5,
  TID: 6,
  CPU: 7,
  PERIOD: 8,
  CALLCHAIN: 9,
  CALLCHAIN_LENGTH: 10,
  ADDR: 11,
  WEIGHT: 12,
  DATA_SRC: 13,
  CGROUP: 14,
  RAW: 15,
  RAW_LENGTH: 16,
  BRANCH_STACK: 17,
  BRANCH_STACK_LENGTH: 18,
  BRANCH_HW_INDEX: 19,
  BRANCH_COUNTERS: 20,
  REGS_USER: 21,
  REGS_USER_ABI: 22,
  STACK_USER: 23,
  STACK_USER_LENGTH: 24,
  TRANSACTION: 25,
  PHYS_ADDR: 26,
  DATA_PAGE_SIZE: 27,
  CODE_PAGE_SIZE: 28,
  REGS_INTR: 29,
  REGS_INTR_ABI: 30,
  READ: 31,
  READ_LENGTH: 32,
  AUX: 33,
  AUX_LENGTH: 34,
  CPUMODE: 35,
} as const;

const WIRE_LENGTH_DELIMITED = 2;
/** Three varint bytes: 21 bits. */
export const COLUMN_BYTES_MAX = 2 ** 21 - 1;
/** From here on a tag takes two bytes, and a column's header two words. */
export const LONG_FIELD = 16;

/** Of a field below LONG_FIELD: tag and length in one word. */
export function columnHeader(field: number, bytes: number): number {
  return (
    (field << 3) |
    WIRE_LENGTH_DELIMITED |
    ((bytes & 0x7f) << 8) |
    0x8000 |
    (((bytes >>> 7) & 0x7f) << 16) |
    0x800000 |
    (((bytes >>> 14) & 0x7f) << 24)
  );
}

/** An empty run of `raw`, two bytes that mean nothing: they make up for what a tag of two bytes is too short. */
const FILLER = (SAMPLE_BATCH_FIELD.RAW << 3) | WIRE_LENGTH_DELIMITED;

/**
 * Of other fields: the tag in a word of its own, behind a filler, then the length in another, as a varint of four bytes.
 * Tags are never padded: a decoder that looks for a field by its tag's bytes would pass over the column.
 */
export function longColumnTag(field: number): number {
  const tag = (field << 3) | WIRE_LENGTH_DELIMITED;
  return FILLER | ((tag & 0x7f) << 16) | 0x800000 | ((tag >>> 7) << 24);
}

export function longColumnLength(bytes: number): number {
  return varintWord(bytes);
}

/** 28 bits as a varint of four bytes. */
function varintWord(value: number): number {
  return (
    (value & 0x7f) |
    0x80 |
    (((value >>> 7) & 0x7f) << 8) |
    0x8000 |
    (((value >>> 14) & 0x7f) << 16) |
    0x800000 |
    (((value >>> 21) & 0x7f) << 24)
  );
}
