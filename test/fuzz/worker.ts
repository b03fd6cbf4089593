/** A thread that runs inputs. Each is in shared memory before it runs, for the parent to find it there. */
import { parentPort, workerData } from "node:worker_threads";
import fc from "fast-check";
import { seededRandom } from "../../src/pmu/software/random.js";
import { Coverage } from "./coverage.js";
import { loadTarget } from "./load-target.js";
import { minimise, mutate } from "./mutate.js";
import { type Job, type Outcome, WORD, WORDS } from "./supervisor.js";

const { target: name, seed, runs, corpus, guided, memory } = workerData as Job & { memory: SharedArrayBuffer };
const target = await loadTarget(name);
const words = new Int32Array(memory, 0, WORDS);
const current = new Uint8Array(memory, WORDS * 4);
const random = seededRandom(seed);
const coverage = guided ? new Coverage() : null;
const BATCH = 50;
const MINIMISING_TRIES = 2000;

function report(outcome: Outcome): void {
  parentPort?.postMessage(outcome);
}

/** The error, or null. Words are also written by nobody else; the parent reads RUN to see that it moves. */
function tryInput(input: Uint8Array): Error | null {
  current.set(input);
  Atomics.store(words, WORD.BYTES, input.length);
  // Read by the parent's watchdog: what is above was written before.
  Atomics.add(words, WORD.RUN, 1);
  try {
    target.run(input);
    return null;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

function fail(input: Uint8Array, error: Error): void {
  const sameKind = (candidate: Uint8Array): boolean => tryInput(candidate)?.name === error.name;
  const smallest = minimise(input, sameKind, MINIMISING_TRIES);
  const { stack, message } = tryInput(smallest) ?? error;
  report({ kind: "failed", input: Uint8Array.from(smallest), message: (stack ?? message).slice(0, 4000) });
}

/** False when one failed. What reaches code that none did before is put into `pool`. */
function runAll(inputs: readonly Uint8Array[], pool: Uint8Array[]): boolean {
  for (const input of inputs) {
    const error = tryInput(input);
    if (error !== null) {
      fail(input, error);
      return false;
    }
    if (coverage === null || coverage.take() === 0) continue;
    pool.push(input);
    report({ kind: "kept", input: Uint8Array.from(input), blocks: coverage.blocks });
  }
  return true;
}

function fuzz(): void {
  const pool = [...corpus];
  if (!runAll(corpus, [])) return;
  let done = 0;
  for (let round = 0; done < runs; round++) {
    const fresh = fc.sample(target.grammar, { seed: (seed + round * 7919) | 0, numRuns: Math.min(10, runs - done) });
    const parents = [...fresh, ...pool];
    const pick = (): Uint8Array => parents[Math.floor(random() * (random() < 0.5 ? fresh.length : parents.length))];
    const inputs = [...fresh];
    while (inputs.length < BATCH) inputs.push(mutate(pick(), pick(), target.dictionary, target.bytesMax, random));
    const batch = inputs.filter(({ length }) => length <= current.length).slice(0, runs - done);
    if (!runAll(batch, pool)) return;
    done += batch.length;
    Atomics.store(words, WORD.DONE, done);
  }
  report({ kind: "passed" });
}

fuzz();
coverage?.close();
