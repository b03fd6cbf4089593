/** perf record's -j: the names of branch kinds and levels, and what they ask the daemon for. */
import { InvalidArgumentError } from "commander";

export interface BranchFilter {
  /** PERF_SAMPLE_BRANCH_* bits. */
  readonly bits: number;
  /** What was counted between branches, too. */
  readonly counters: boolean;
}

/** Bits of perf_event_attr.branch_sample_type by perf's names. include/uapi/linux/perf_event.h */
const BITS: Readonly<Record<string, number>> = {
  u: 1 << 0,
  k: 1 << 1,
  hv: 1 << 2,
  any: 1 << 3,
  any_call: 1 << 4,
  any_ret: 1 << 5,
  ind_call: 1 << 6,
  abort_tx: 1 << 7,
  in_tx: 1 << 8,
  no_tx: 1 << 9,
  cond: 1 << 10,
  stack: 1 << 11,
  ind_jmp: 1 << 12,
  call: 1 << 13,
  save_type: 1 << 16,
  priv: 1 << 18,
};
const ANY = BITS.any;
/** Where and how, not which: the kernel wants a kind beside them. */
const NO_KIND = BITS.u | BITS.k | BITS.hv | BITS.save_type | BITS.priv;
/** The daemon asks for it wherever the kernel has it. */
const HW_INDEX = "hw_index";
const COUNTER = "counter";

/** Names with commas between them; none that is a kind means any. Throws InvalidArgumentError. */
export function parseBranchFilter(text: string): BranchFilter {
  let bits = 0;
  let counters = false;
  for (const name of text.split(",")) {
    if (name === COUNTER) counters = true;
    else if (Object.hasOwn(BITS, name)) bits |= BITS[name];
    else if (name !== HW_INDEX) {
      const known = [...Object.keys(BITS), HW_INDEX, COUNTER].join(", ");
      throw new InvalidArgumentError(`${JSON.stringify(name)} is no kind of branch: ${known} are.`);
    }
  }
  return { bits: (bits & ~NO_KIND) === 0 ? bits | ANY : bits, counters };
}
