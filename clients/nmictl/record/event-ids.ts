/**
 * The ids that a recording's records name their events by. One for each event and CPU, as perf has it: readers keep
 * counts of `read` by id, and counters are per CPU.
 */
export class EventIds {
  readonly #cpus: readonly number[];
  readonly #slots = new Map<number, number>();

  /** `cpus`: those that samples may come from. */
  constructor(cpus: readonly number[]) {
    this.#cpus = cpus.length > 0 ? cpus : [0];
    for (const [slot, cpu] of this.#cpus.entries()) this.#slots.set(cpu, slot);
  }

  /** Of a CPU that was not known when the recording began, its event's first: the recording's head lists them all. */
  of(event: number, cpu: number): number {
    return 1 + event * this.#cpus.length + (this.#slots.get(cpu) ?? 0);
  }

  allOf(event: number): readonly number[] {
    return this.#cpus.map((_, slot) => 1 + event * this.#cpus.length + slot);
  }
}
