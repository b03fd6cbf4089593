/** What samples of a live event carry: a shape as perf_event_attr has it, as far as the kernel takes it. */
import { BRANCH_SAMPLE, FORMAT, SAMPLE, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import { Errno } from "../ffi.js";
import type { EventShape, ResolvedEvent } from "../source.js";

const BASE_SAMPLE_TYPE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

/**
 * asm/perf_regs.h of x86-64: AX to SS and R8 to R15. DS, ES, FS and GS lie between them; the kernel refuses those of
 * 64-bit tasks.
 */
const REGS_X86_64 = 0xff0fffn;
/** perf's default for --call-graph dwarf. */
const STACK_USER_BYTES = 8192;

export interface CarriedAttr {
  readonly sampleType: number;
  readonly readFormat: number;
  readonly branchSampleType: number;
  readonly sampleRegsUser: bigint;
  readonly sampleRegsIntr: bigint;
  readonly sampleStackUser: number;
}

/** What older kernels reject with EINVAL, newest first: PERF_FORMAT_LOST (6.0), WEIGHT_STRUCT (5.12), HW_INDEX (5.7). */
const NEWEST_FIRST = ["lost", "weightStruct", "hwIndex"] as const;

export class CarriedFields {
  readonly #shape: EventShape;
  readonly #branches: number;
  /** How many of NEWEST_FIRST are done without. */
  #dropped = 0;

  /** `branches` are BRANCH_SAMPLE bits; 0: any. */
  constructor(shape: EventShape, branches = 0) {
    this.#shape = shape;
    this.#branches = branches === 0 ? BRANCH_SAMPLE.ANY : branches;
  }

  #uses(feature: (typeof NEWEST_FIRST)[number]): boolean {
    return NEWEST_FIRST.indexOf(feature) >= this.#dropped;
  }

  /** Whether reading the event tells how many samples did not fit into the ring. */
  get countsLost(): boolean {
    return this.#uses("lost");
  }

  /** Goes back by one kernel; false when there is nothing more to do without. */
  dropNewest(): boolean {
    if (this.#dropped === NEWEST_FIRST.length) return false;
    this.#dropped++;
    return true;
  }

  get attr(): CarriedAttr {
    const { sampleType, branchCounters } = this.#shape;
    const has = (bit: number): boolean => (sampleType & bit) !== 0;
    const weight = has(SAMPLE.WEIGHT) && this.#uses("weightStruct");
    return {
      sampleType: BASE_SAMPLE_TYPE | (weight ? (sampleType & ~SAMPLE.WEIGHT) | SAMPLE.WEIGHT_STRUCT : sampleType),
      readFormat: FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING | (this.countsLost ? FORMAT.LOST : 0),
      branchSampleType: has(SAMPLE.BRANCH_STACK)
        ? this.#branches |
          (this.#uses("hwIndex") ? BRANCH_SAMPLE.HW_INDEX : 0) |
          (branchCounters ? BRANCH_SAMPLE.COUNTERS : 0)
        : 0,
      sampleRegsUser: has(SAMPLE.REGS_USER) ? REGS_X86_64 : 0n,
      sampleRegsIntr: has(SAMPLE.REGS_INTR) ? REGS_X86_64 : 0n,
      sampleStackUser: has(SAMPLE.STACK_USER) ? STACK_USER_BYTES : 0,
    };
  }
}

const WITHOUT_BRANCHES: ReadonlySet<number> = new Set([TYPE.SOFTWARE, TYPE.TRACEPOINT, TYPE.BREAKPOINT]);

/** Throws PmuError SHAPE_UNSUPPORTED for what no kernel samples with such an event. */
export function checkShape({ name, type }: ResolvedEvent, { sampleType }: EventShape): void {
  if ((sampleType & SAMPLE.BRANCH_STACK) !== 0 && WITHOUT_BRANCHES.has(type)) {
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      `fields[]: BRANCH_STACK: ${name} is counted in software, and only hardware events record branches: leave it out, or sample a hardware event such as cycles.`,
    );
  }
}

/** Why the kernel refused the shape, where that is known; else null: it may have refused the event. */
export function explainShapeFailure(
  error: unknown,
  { name, branchSampleType = 0 }: ResolvedEvent,
  { sampleType, branchCounters }: EventShape,
): PmuError | null {
  if (!(error instanceof Errno) || (sampleType & SAMPLE.BRANCH_STACK) === 0) return null;
  if (branchSampleType !== 0 && (error.code === "EOPNOTSUPP" || error.code === "EINVAL")) {
    return new PmuError(
      "SHAPE_UNSUPPORTED",
      `branch_sample_type: 0x${branchSampleType.toString(16)}: this machine's PMU does not record these branches for ${name} (${error.code}): ask for fewer kinds, or leave it out for any.`,
      { cause: error },
    );
  }
  if (error.code === "EOPNOTSUPP" || (error.code === "EINVAL" && branchCounters)) {
    const field = branchCounters ? "BRANCH_COUNTERS" : "BRANCH_STACK";
    return new PmuError(
      "SHAPE_UNSUPPORTED",
      `fields[]: ${field}: this machine's PMU does not record that for ${name} (${error.code}): leave it out.`,
      { cause: error },
    );
  }
  return null;
}
