/** How long an event has been enabled, as perf_event's time_enabled. `nowNs` is a monotonic clock. */
export class EnabledTime {
  readonly #nowNs: () => bigint;
  #sinceNs: bigint | null = null;
  #totalNs = 0n;

  constructor(nowNs: () => bigint) {
    this.#nowNs = nowNs;
  }

  get running(): boolean {
    return this.#sinceNs !== null;
  }

  start(): void {
    this.#sinceNs ??= this.#nowNs();
  }

  stop(): void {
    if (this.#sinceNs === null) return;
    this.#totalNs += this.#nowNs() - this.#sinceNs;
    this.#sinceNs = null;
  }

  readNs(): number {
    return Number(this.#totalNs + (this.#sinceNs === null ? 0n : this.#nowNs() - this.#sinceNs));
  }
}
