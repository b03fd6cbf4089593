/** From records one by one to the runs of a snapshot, made in small steps so that others have their turn in between. */
import { setImmediate } from "node:timers/promises";
import { TASK_RUN_BYTES_MAX } from "./source.js";

/** Whole records, each at most TASK_RUN_BYTES_MAX long; null after each step that gave none. */
export type Records = Generator<Uint8Array | null>;

/** How long a step may take, about, before others have their turn. */
const STEP_MS = 0.5;

export async function* runsOf(records: Records): AsyncGenerator<Uint32Array> {
  const run = new RecordRun();
  let startMs = performance.now();
  for (const record of records) {
    if (record !== null && !run.append(record)) {
      yield run.take();
      startMs = performance.now();
      run.append(record);
    }
    if (performance.now() - startMs < STEP_MS) continue;
    await setImmediate();
    startMs = performance.now();
  }
  if (!run.isEmpty) yield run.take();
}

class RecordRun {
  readonly #bytes = new Uint8Array(TASK_RUN_BYTES_MAX);
  #used = 0;

  get isEmpty(): boolean {
    return this.#used === 0;
  }

  /** False when it is full. */
  append(record: Uint8Array): boolean {
    if (this.#used + record.length > this.#bytes.length) return false;
    this.#bytes.set(record, this.#used);
    this.#used += record.length;
    return true;
  }

  take(): Uint32Array {
    const words = new Uint32Array(this.#bytes.slice(0, this.#used).buffer);
    this.#used = 0;
    return words;
  }
}
