/** struct perf_event_attr as recordings hold it, in any size that a kernel or perf ever gave it. */

import { ATTR, ATTR_FLAG } from "../abi.js";
import { modifierSuffix } from "../event-spec.js";
import { genericEventByConfig } from "../generic-events.js";
import type { Cursor } from "./image.js";

/** PERF_ATTR_SIZE_VER0 is the smallest there ever was; the kernel refuses more than a page. */
export const ATTR_BYTES_MIN = 64;
export const ATTR_BYTES_MAX = 4096;

export interface RecordedAttr {
  /** As `perf record -e` was given it, where the recording says; else made up from type and config. */
  readonly name: string;
  readonly type: number;
  /** As the recording holds it, and as long as the struct was. */
  readonly bytes: number;
  readonly config: bigint;
  /** config1 is bp_addr, config2 is bp_len of a breakpoint; 0 where the struct is shorter. */
  readonly config1: bigint;
  readonly config2: bigint;
  readonly config3: bigint;
  readonly bpType: number;
  /** PERF_SAMPLE_ID or IDENTIFIER values of this event's records; may be empty in a recording of one event. */
  readonly ids: readonly bigint[];
  /** Hz with `isFrequency`, else events. */
  readonly samplePeriod: number;
  readonly isFrequency: boolean;
  readonly sampleType: number;
  readonly readFormat: number;
  /** The word of bit fields: `disabled` is bit 0. */
  readonly flags: bigint;
  readonly sampleIdAll: boolean;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
  readonly excludeHv: boolean;
  readonly preciseIp: number;
  readonly branchSampleType: bigint;
  /** Masks of the registers that are sampled. */
  readonly sampleRegsUser: bigint;
  readonly sampleRegsIntr: bigint;
  readonly sampleStackUser: number;
  /** clockid_t of the times, or null for the kernel's own perf_clock. */
  readonly clockId: number | null;
}

/** `cursor` holds the struct alone: what a shorter one lacks is 0, and what a longer one has behind is passed over. */
export function readAttr(cursor: Cursor): Omit<RecordedAttr, "name" | "ids"> {
  const { view } = cursor.image;
  const start = cursor.at;
  const bytes = cursor.left;
  if (bytes < ATTR_BYTES_MIN || bytes > ATTR_BYTES_MAX) throw cursor.error(`an attr of ${bytes} bytes`);
  cursor.at = cursor.end;
  const u32 = (at: number): number => (at + 4 <= bytes ? view.getUint32(start + at, true) : 0);
  const u64 = (at: number): bigint => (at + 8 <= bytes ? view.getBigUint64(start + at, true) : 0n);
  const flags = u64(ATTR.FLAGS);
  const flag = (bit: bigint): boolean => (flags & bit) !== 0n;
  return {
    type: u32(ATTR.TYPE),
    bytes,
    config: u64(ATTR.CONFIG),
    config1: u64(ATTR.CONFIG1),
    config2: u64(ATTR.CONFIG2),
    config3: u64(ATTR.CONFIG3),
    bpType: u32(ATTR.BP_TYPE),
    samplePeriod: Number(u64(ATTR.SAMPLE_PERIOD)),
    isFrequency: flag(ATTR_FLAG.FREQ),
    // The bit fields of JavaScript's numbers end at 31; the kernel's, so far, at 24.
    sampleType: Number(u64(ATTR.SAMPLE_TYPE) & 0x7fff_ffffn),
    readFormat: Number(u64(ATTR.READ_FORMAT) & 0x7fff_ffffn),
    flags,
    sampleIdAll: flag(ATTR_FLAG.SAMPLE_ID_ALL),
    excludeUser: flag(ATTR_FLAG.EXCLUDE_USER),
    excludeKernel: flag(ATTR_FLAG.EXCLUDE_KERNEL),
    excludeHv: flag(ATTR_FLAG.EXCLUDE_HV),
    preciseIp: Number((flags >> ATTR_FLAG.PRECISE_IP_SHIFT) & 3n),
    branchSampleType: u64(ATTR.BRANCH_SAMPLE_TYPE),
    sampleRegsUser: u64(ATTR.SAMPLE_REGS_USER),
    sampleRegsIntr: u64(ATTR.SAMPLE_REGS_INTR),
    sampleStackUser: u32(ATTR.SAMPLE_STACK_USER),
    clockId: flag(ATTR_FLAG.USE_CLOCKID) ? u32(ATTR.CLOCKID) | 0 : null,
  };
}

/** Where the recording has no name of its own. `tracepoint` names "system:event" by its id, if it can. */
export function madeUpName(
  attr: Omit<RecordedAttr, "name" | "ids">,
  tracepoint: (id: bigint) => string | undefined,
): string {
  const named = genericEventByConfig(attr.type, attr.config)?.name ?? tracepoint(attr.config);
  const base = named ?? `type${attr.type}/config=0x${attr.config.toString(16)}/`;
  return base + modifierSuffix(attr);
}
