/** Runs a target in a process, ends it when an input takes too long or too much, and says which input it was. */
import { fork } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
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

/** What a worker is sent: its job, and the file that it writes each input to before it runs it. */
export interface Order extends Job {
  readonly currentFile: string;
}

export type Outcome =
  | { readonly kind: "done"; readonly runs: number }
  | { readonly kind: "kept"; readonly input: Uint8Array; readonly blocks: number }
  | { readonly kind: "failed"; readonly input: Uint8Array; readonly message: string };

export interface Result {
  readonly runs: number;
  /** Null where all held. `message` says what did not. */
  readonly failure: { readonly input: Uint8Array; readonly message: string } | null;
}

/** At the beginning of the current input's file, 32-bit words: how many inputs were begun, and how long this one is. */
export const HEAD_BYTES = 8;
export const INPUT_BYTES_MAX = 1 << 20;

/** An input takes milliseconds; one that takes so long takes the square of something. */
const HANG_MS = 30_000;
/** Of the process's heap: an input is at most INPUT_BYTES_MAX long. */
const HEAP_MIB = 512;
/** Of what a process says when it ends by itself. */
const LAST_WORDS_MAX = 4000;

export interface Options {
  /** Called for what is kept. */
  onKept?(input: Uint8Array, blocks: number): void;
  /** Another build of worker.js. */
  readonly workerUrl?: URL;
  readonly stop?: AbortSignal;
  readonly hangMs?: number;
}

/** The input that the worker ran last, and how many it had begun; null before the first. */
class CurrentInput {
  readonly #dir = fs.mkdtempSync(path.join(memoryDir(), "nmid-fuzz-"));
  readonly file = path.join(this.#dir, "input");

  read(): { readonly begun: number; readonly input: Uint8Array } | null {
    if (!fs.existsSync(this.file)) return null;
    const bytes = fs.readFileSync(this.file);
    if (bytes.length < HEAD_BYTES) return null;
    const length = bytes.readUInt32LE(4);
    return { begun: bytes.readUInt32LE(0), input: Uint8Array.from(bytes.subarray(HEAD_BYTES, HEAD_BYTES + length)) };
  }

  remove(): void {
    fs.rmSync(this.#dir, { recursive: true });
  }
}

function memoryDir(): string {
  return fs.existsSync("/dev/shm") ? "/dev/shm" : os.tmpdir();
}

export async function supervise(job: Job, options: Options = {}): Promise<Result> {
  const current = new CurrentInput();
  try {
    return await run(job, current, options);
  } finally {
    current.remove();
  }
}

async function run(job: Job, current: CurrentInput, options: Options): Promise<Result> {
  const { stop, workerUrl = new URL("./worker.js", import.meta.url), hangMs = HANG_MS } = options;
  // A process, for where V8 grows a huge array at the heap's limit it ends all that it has.
  const worker = fork(fileURLToPath(workerUrl), {
    execArgv: ["--enable-source-maps", `--max-old-space-size=${HEAP_MIB}`],
    serialization: "advanced",
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  let runs = 0;
  let failure: Result["failure"] = null;
  let lastWords = "";
  worker.on("message", (outcome: Outcome) => {
    if (outcome.kind === "done") runs = outcome.runs;
    else if (outcome.kind === "kept") options.onKept?.(outcome.input, outcome.blocks);
    else failure = outcome;
  });
  worker.stderr?.on("data", (data) => {
    lastWords = `${lastWords}${data}`.slice(0, LAST_WORDS_MAX);
  });
  const end = (): void => void worker.kill("SIGKILL");
  const closed = once(worker, "close");
  stop?.addEventListener("abort", end, { once: true });
  if (stop?.aborted) end();
  worker.send({ ...job, currentFile: current.file } satisfies Order);

  const watched = new AbortController();
  const watchdog = (async (): Promise<void> => {
    for (let before = 0; ; ) {
      try {
        await delay(hangMs, undefined, { signal: watched.signal });
      } catch {
        return;
      }
      const now = current.read();
      if (now !== null && now.begun === before) {
        failure ??= { input: now.input, message: `took longer than ${hangMs} ms` };
        end();
        return;
      }
      before = now?.begun ?? 0;
    }
  })();
  const [code] = (await closed) as [number | null];
  stop?.removeEventListener("abort", end);
  watched.abort();
  await watchdog;
  if (code !== 0 && stop?.aborted !== true) {
    failure ??= { input: current.read()?.input ?? new Uint8Array(), message: `the process ended: ${lastWords}` };
  }
  return { runs, failure };
}
