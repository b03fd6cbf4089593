/** nmi.v1.Field: what each asks the kernel for. */
import { BRANCH_SAMPLE, SAMPLE } from "../../pmu/abi.js";
import type { ResolvedEvent } from "../../pmu/source.js";
import { BrokerError } from "./errors.js";

export interface SampleFields {
  /** SAMPLE bits. */
  readonly sampleType: number;
  readonly branchCounters: boolean;
  /** What the events write into AUX areas: of no sample. */
  readonly aux: boolean;
}

const SAMPLE_TYPE: Readonly<Record<string, number>> = {
  CALLCHAIN: SAMPLE.CALLCHAIN,
  BRANCH_STACK: SAMPLE.BRANCH_STACK,
  ADDR: SAMPLE.ADDR,
  WEIGHT: SAMPLE.WEIGHT,
  DATA_SRC: SAMPLE.DATA_SRC,
  CGROUP: SAMPLE.CGROUP,
  RAW: SAMPLE.RAW,
  REGS_USER: SAMPLE.REGS_USER,
  STACK_USER: SAMPLE.STACK_USER,
  TRANSACTION: SAMPLE.TRANSACTION,
  PHYS_ADDR: SAMPLE.PHYS_ADDR,
  DATA_PAGE_SIZE: SAMPLE.DATA_PAGE_SIZE,
  CODE_PAGE_SIZE: SAMPLE.CODE_PAGE_SIZE,
  REGS_INTR: SAMPLE.REGS_INTR,
  READ: SAMPLE.READ,
  BRANCH_COUNTERS: SAMPLE.BRANCH_STACK,
};

const AUX = "AUX";

/** The AUX field needs an event that has such data. Throws BrokerError INVALID_ARGUMENT. */
export function checkAux({ aux }: SampleFields, events: readonly ResolvedEvent[]): void {
  if (!aux || events.some(({ hasAux }) => hasAux)) return;
  const names = events.map(({ name }) => name).join(", ");
  throw new BrokerError(
    "INVALID_ARGUMENT",
    `fields[]: AUX is what a PMU writes into an AUX area (intel_pt, intel_bts, cs_etm, arm_spe), and ${names} has none: add such an event, or leave AUX out. Snapshots of an AUX area in samples (PERF_SAMPLE_AUX) are not offered.`,
  );
}

const BRANCH_LEVELS = BRANCH_SAMPLE.USER | BRANCH_SAMPLE.KERNEL | BRANCH_SAMPLE.HV;
/** What changes how samples are laid out is the daemon's. */
const BRANCH_OURS = BRANCH_SAMPLE.HW_INDEX | BRANCH_SAMPLE.COUNTERS;
const BRANCH_KNOWN = Object.values(BRANCH_SAMPLE).reduce((bits, bit) => bits | bit, 0) & ~BRANCH_OURS;

/** BRANCH_SAMPLE bits; 0: any branch. Throws BrokerError INVALID_ARGUMENT. */
export function checkBranches(bits: number, { sampleType }: SampleFields): number {
  const refuse = (why: string): never => {
    throw new BrokerError("INVALID_ARGUMENT", `branch_sample_type: 0x${bits.toString(16)}: ${why}`);
  };
  if (bits === 0) return 0;
  if ((sampleType & SAMPLE.BRANCH_STACK) === 0) refuse("says which branches BRANCH_STACK holds: add it to fields.");
  if (bits > BRANCH_KNOWN || (bits & ~BRANCH_KNOWN) !== 0) {
    refuse(
      `only the bits of 0x${BRANCH_KNOWN.toString(16)} can be asked for; counters are the field BRANCH_COUNTERS, and HW_INDEX is there where the kernel has it.`,
    );
  }
  if ((bits & ~BRANCH_LEVELS) === 0) refuse(`names no kind of branch: add PERF_SAMPLE_BRANCH_ANY (0x8).`);
  // All the same to the kernel: those who want any branch share an event.
  return bits === BRANCH_SAMPLE.ANY ? 0 : bits;
}

/** Throws BrokerError INVALID_ARGUMENT for what this version does not offer. */
export function checkFields(fields: readonly string[]): SampleFields {
  let sampleType = 0;
  for (const [i, field] of fields.entries()) {
    if (field === AUX) continue;
    // A number the proto does not know has no name.
    const bits = Object.hasOwn(SAMPLE_TYPE, field) ? SAMPLE_TYPE[field] : 0;
    if (bits === 0) {
      throw new BrokerError(
        "INVALID_ARGUMENT",
        `fields[${i}]: ${field} is not offered by this version: leave it out. ${Object.keys(SAMPLE_TYPE).join(", ")} and ${AUX} are.`,
      );
    }
    sampleType |= bits;
  }
  return { sampleType, branchCounters: fields.includes("BRANCH_COUNTERS"), aux: fields.includes(AUX) };
}
