/** What is fuzzed: a function of bytes, and a grammar that most of its inputs begin with. */
import type { Arbitrary } from "fast-check";

export type TargetName = "record" | "perf-data" | "events";

export const TARGETS: readonly TargetName[] = ["record", "perf-data", "events"];

export interface Target {
  /** Throws Failure, or whatever the code under test should not have thrown. Synchronous; bounded by the watchdog. */
  run(input: Uint8Array): void;
  /** Inputs that are sound, or nearly. */
  readonly grammar: Arbitrary<Uint8Array>;
  /** Bytes or text that mutations put in: what the code compares with. */
  readonly dictionary: readonly Uint8Array[];
  readonly bytesMax: number;
}

/** A relation that did not hold. */
export class Failure extends Error {
  override readonly name = "Failure";
}

export function holds(condition: boolean, relation: () => string): asserts condition {
  if (!condition) throw new Failure(relation());
}
