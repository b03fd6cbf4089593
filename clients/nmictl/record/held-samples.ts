/** Samples of processes that nothing is known of yet, as records, until it is known whether they are to be kept. */
import type { RecordBuffer } from "./record-buffer.js";

const BYTES_MAX = 16 * 1024 * 1024;

interface Held {
  readonly sinceMs: number;
  readonly records: Uint8Array[];
  samples: number;
}

export class HeldSamples {
  readonly #byPid = new Map<number, Held>();
  #bytes = 0;

  /** Whether more than it is meant for is held: then the oldest must be settled, whatever is known. */
  get isFull(): boolean {
    return this.#bytes > BYTES_MAX;
  }

  get pids(): Iterable<number> {
    return this.#byPid.keys();
  }

  /** Copies the records. */
  add(pid: number, records: Uint8Array, samples: number, nowMs: number): void {
    const held = this.#byPid.get(pid) ?? { sinceMs: nowMs, records: [], samples: 0 };
    held.records.push(records.slice());
    held.samples += samples;
    this.#bytes += records.length;
    this.#byPid.set(pid, held);
  }

  /** Those that have been held since before `ms`; all where that is too much. */
  since(ms: number): readonly number[] {
    return [...this.#byPid].filter(([, { sinceMs }]) => this.isFull || sinceMs < ms).map(([pid]) => pid);
  }

  /** Takes the process's samples out, into `out` where it is given. Returns how many they were. */
  take(pid: number, out?: RecordBuffer): number {
    const held = this.#byPid.get(pid);
    if (held === undefined) return 0;
    this.#byPid.delete(pid);
    for (const records of held.records) {
      this.#bytes -= records.length;
      out?.put(records);
    }
    return held.samples;
  }
}
