/** nmi.v1.Field: what each asks the kernel for. */
import { SAMPLE } from "../../pmu/abi.js";
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
