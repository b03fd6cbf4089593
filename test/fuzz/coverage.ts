/** Which blocks of the code under test have run, by V8's own counts. Of this thread. */
import { type Profiler, Session } from "node:inspector";

const OURS = /\/dist\/src\/pmu\/|\/fzstd\//;

export class Coverage {
  readonly #session = new Session();
  readonly #seen = new Set<string>();

  constructor() {
    this.#session.connect();
    this.#session.post("Profiler.enable");
    this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
  }

  get blocks(): number {
    return this.#seen.size;
  }

  /** How many blocks ran since the last call that never ran before. */
  take(): number {
    let found = 0;
    // The session of a thread with itself answers before `post` returns.
    this.#session.post("Profiler.takePreciseCoverage", (_error, answer: Profiler.TakePreciseCoverageReturnType) => {
      for (const { url, functions } of answer?.result ?? []) if (OURS.test(url)) found += this.#note(url, functions);
    });
    return found;
  }

  #note(url: string, functions: readonly Profiler.FunctionCoverage[]): number {
    let found = 0;
    for (const { ranges } of functions) {
      for (const { startOffset, endOffset, count } of ranges) {
        // By powers of two: a loop that runs more often than ever is news, too.
        const key = `${url}:${startOffset}:${endOffset}:${32 - Math.clz32(Math.min(count, 1 << 12))}`;
        if (count === 0 || this.#seen.has(key)) continue;
        this.#seen.add(key);
        found++;
      }
    }
    return found;
  }

  close(): void {
    this.#session.disconnect();
  }
}
