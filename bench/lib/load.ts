/** What runs beside the victims in one phase of a benchmark. */
export interface Load {
  readonly name: string;
  /** Resolves when it runs; it may need loaded CPUs before it samples anything. */
  start(): Promise<RunningLoad>;
}

export interface RunningLoad {
  /** The processes of the consumers. */
  readonly consumerPids: readonly number[];
  /** What the consumers share; none where each has events of its own. */
  readonly daemonPid?: number;
  /** Resolves when every consumer has received samples. The CPUs must be loaded meanwhile. */
  sampling(): Promise<void>;
  /** Of a load that has begun with a lower rate: goes on at the one that is measured. */
  raise?(): Promise<void>;
  /** Ends everything; resolves to what each consumer received. Called once, whatever happened before. */
  stop(): Promise<readonly Consumption[]>;
}

/** What one consumer of samples received in its whole life. */
export interface Consumption {
  readonly consumer: string;
  readonly received: number;
  /** From its first to its last sample. */
  readonly seconds: number;
  /** Samples by CPU; empty where the consumer does not tell. */
  readonly perCpu: Readonly<Record<number, number>>;
  /** Final books of a handler of nmid. */
  readonly books?: { readonly matched: number; readonly delivered: number; readonly lost: number };
  /** Samples that the kernel had no room for, where the consumer is told. */
  readonly kernelLost?: number;
  readonly cpuSeconds?: number;
}

export const nothing: Load = {
  name: "alone",
  start: async () => ({ consumerPids: [], sampling: async () => {}, stop: async () => [] }),
};
