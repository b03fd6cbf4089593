/** A recording on its way to where it goes: in order, in large writes, and at least once a second whatever comes. */
import type { Feature } from "./abi.js";
import type { Sink } from "./sink.js";
import type { MappedBuildId, PerfDataWriter } from "./writer.js";

const WRITE_BYTES = 1024 * 1024;
const TICK_MS = 500;

export interface RecordingHooks {
  /** Before each timed write; may encode what has been waited for. */
  readonly beforeTick: () => void;
  /** Told once of a timed write that failed. */
  readonly onFailure: (error: unknown) => void;
}

export class Recording {
  readonly writer: PerfDataWriter;
  readonly #sink: Sink;
  readonly #features: readonly Feature[];
  readonly #roundMs: number | undefined;
  readonly #tick: NodeJS.Timeout;
  /** The write that is under way, and all before it. */
  #writing: Promise<void> = Promise.resolve();
  #roundAtMs = performance.now();
  #roundTime = 0n;

  /**
   * Writes the head. Rounds (FINISHED_ROUND) last `roundMs`, by the wall clock and by the recording's: longer than records
   * may be late. undefined writes none.
   */
  constructor(
    writer: PerfDataWriter,
    sink: Sink,
    features: readonly Feature[],
    roundMs: number | undefined,
    hooks: RecordingHooks,
  ) {
    this.writer = writer;
    this.#sink = sink;
    this.#features = features;
    this.#roundMs = roundMs;
    writer.begin(features);
    this.#tick = setInterval(() => {
      hooks.beforeTick();
      this.flush().catch((error: unknown) => {
        clearInterval(this.#tick);
        hooks.onFailure(error);
      });
    }, TICK_MS);
  }

  /** Bytes written. */
  get length(): number {
    return this.#sink.length;
  }

  /** Resolves at once while little waits. Throws NmiError OUTPUT_FAILED. */
  async flushLarge(): Promise<void> {
    if (this.writer.out.length >= WRITE_BYTES) await this.flush();
  }

  /** Resolves when all that has been encoded is written. Throws NmiError OUTPUT_FAILED, now and whenever called again. */
  async flush(): Promise<void> {
    this.#endRound();
    this.#writing = this.#writing.then(() => this.#sink.write(this.writer.take()));
    await this.#writing;
  }

  #endRound(): void {
    if (this.#roundMs === undefined) return;
    const nowMs = performance.now();
    const { lastTime } = this.writer;
    const passed = lastTime - this.#roundTime > BigInt(this.#roundMs) * 1_000_000n;
    if (!passed || nowMs - this.#roundAtMs <= this.#roundMs) return;
    this.writer.finishedRound();
    this.#roundTime = lastTime;
    this.#roundAtMs = nowMs;
  }

  /** Writes what is left and, to a file, the sections that make it a whole one. Throws NmiError OUTPUT_FAILED. */
  async close(buildIds: readonly MappedBuildId[]): Promise<void> {
    clearInterval(this.#tick);
    const { writer } = this;
    const sink = this.#sink;
    try {
      if (!sink.isFile) writer.buildIds(buildIds);
      await this.flush();
      if (sink.isFile) await sink.finish(writer.finish(sink.length, this.#features, buildIds));
    } finally {
      await sink.close();
    }
  }
}
