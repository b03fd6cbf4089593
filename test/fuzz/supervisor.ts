/** Runs a target in a thread, ends the thread when an input takes too long or too much, and says which input it was. */
import { setTimeout as delay } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import type { TargetName } from "./target.js";

export interface Job {
  readonly target: TargetName;
  readonly seed: number;
  /** Inputs besides the corpus; Infinity: until it is told to stop. */
  readonly runs: number;
  readonly corpus: readonly Uint8Array[];
  /** By coverage: what reaches new code is kept. Not the same for the same seed. */
  readonly guided: boolean;
}

export type Outcome =
  | { readonly kind: "passed" }
  | { readonly kind: "kept"; readonly input: Uint8Array; readonly blocks: number }
  | { readonly kind: "failed"; readonly input: Uint8Array; readonly message: string };

export interface Result {
  readonly runs: number;
  /** Null where all held. `message` says what did not. */
  readonly failure: { readonly input: Uint8Array; readonly message: string } | null;
}

/** Of the shared words: how many inputs were begun, and how long the current one is; it follows them. */
export const WORD = { RUN: 0, BYTES: 1, DONE: 2 } as const;
export const WORDS = 4;

const INPUT_BYTES_MAX = 1 << 20;
/** An input takes milliseconds; one that takes so long takes the square of something. */
const HANG_MS = 30_000;
/** Of the thread's heap: an input is at most INPUT_BYTES_MAX long. */
const HEAP_MIB = 512;

export interface Options {
  /** Called for what is kept. */
  onKept?(input: Uint8Array, blocks: number): void;
  /** Another build of worker.js. */
  readonly workerUrl?: URL;
  readonly stop?: AbortSignal;
  readonly hangMs?: number;
}

export async function supervise(job: Job, options: Options = {}): Promise<Result> {
  const { stop, workerUrl = new URL("./worker.js", import.meta.url), hangMs = HANG_MS } = options;
  const memory = new SharedArrayBuffer(WORDS * 4 + INPUT_BYTES_MAX);
  const words = new Int32Array(memory, 0, WORDS);
  const worker = new Worker(workerUrl, {
    workerData: { ...job, memory },
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MIB },
  });
  const inputAt = (): Uint8Array => new Uint8Array(memory, WORDS * 4).slice(0, Atomics.load(words, WORD.BYTES));
  let failure: Result["failure"] = null;
  const exited = new Promise<void>((resolve) => {
    worker.on("message", (outcome: Outcome) => {
      if (outcome.kind === "kept") options.onKept?.(outcome.input, outcome.blocks);
      else if (outcome.kind === "failed") failure = outcome;
    });
    // An uncaught error, ERR_WORKER_OUT_OF_MEMORY among them.
    worker.on("error", (error: Error) => {
      failure ??= { input: inputAt(), message: `the thread ended: ${error.stack ?? error.message}` };
    });
    worker.on("exit", () => resolve());
  });
  const watched = new AbortController();
  const watchdog = (async (): Promise<void> => {
    for (let before = -1; ; ) {
      try {
        await delay(hangMs, undefined, { signal: watched.signal });
      } catch {
        return;
      }
      const now = Atomics.load(words, WORD.RUN);
      if (now !== 0 && now === before) {
        failure ??= { input: inputAt(), message: `took longer than ${hangMs} ms` };
        await worker.terminate();
        return;
      }
      before = now;
    }
  })();
  const end = (): void => void worker.terminate();
  stop?.addEventListener("abort", end, { once: true });
  await exited;
  stop?.removeEventListener("abort", end);
  watched.abort();
  await watchdog;
  return { runs: Atomics.load(words, WORD.DONE), failure };
}
