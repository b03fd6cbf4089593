/** What every benchmark of bench/ offers to main.ts. */
export interface BenchmarkOptions {
  /** Length of one measurement. */
  readonly seconds: number;
  readonly rounds: number;
  /** Where a benchmark has more subscribers or handlers than this at a time, it makes do with these. */
  readonly subscribersMax: number;
}

export interface Benchmark {
  readonly description: string;
  /** Defaults of the options. */
  readonly seconds: number;
  readonly rounds: number;
  /** Prints as it goes; resolves to everything it measured, for --json. */
  run(options: BenchmarkOptions): Promise<object>;
}
