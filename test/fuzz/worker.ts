/** A process that runs inputs. Each is in a file before it runs, for the parent to find it there. */
import fs from "node:fs";
import fc from "fast-check";
import { seededRandom } from "../../src/pmu/software/random.js";
import { Coverage } from "./coverage.js";
import { loadTarget } from "./load-target.js";
import { minimise, mutate } from "./mutate.js";
import { HEAD_BYTES, INPUT_BYTES_MAX, type Order, type Outcome } from "./supervisor.js";

const order = await new Promise<Order>((resolve) => process.once("message", resolve));
const { target: name, seed, runs, corpus, guided, currentFile } = order;
const target = await loadTarget(name);
const current = fs.openSync(currentFile, "w");
const written = Buffer.alloc(HEAD_BYTES + INPUT_BYTES_MAX);
let begun = 0;
const random = seededRandom(seed);
const coverage = guided ? new Coverage() : null;
const BATCH = 50;
const MINIMISING_TRIES = 2000;

function report(outcome: Outcome): Promise<void> {
  return new Promise((resolve) => process.send?.(outcome, () => resolve()));
}

/** The error, or null. */
function tryInput(input: Uint8Array): Error | null {
  written.writeUInt32LE(++begun, 0);
  written.writeUInt32LE(input.length, 4);
  written.set(input, HEAD_BYTES);
  fs.writeSync(current, written, 0, HEAD_BYTES + input.length, 0);
  try {
    target.run(input);
    return null;
  } catch (error) {
    return error instanceof Error ? error : new Error(String(error));
  }
}

async function fail(input: Uint8Array, error: Error): Promise<void> {
  const sameKind = (candidate: Uint8Array): boolean => tryInput(candidate)?.name === error.name;
  const smallest = minimise(input, sameKind, MINIMISING_TRIES);
  const { stack, message } = tryInput(smallest) ?? error;
  await report({ kind: "failed", input: Uint8Array.from(smallest), message: (stack ?? message).slice(0, 4000) });
}

/** False when one failed. What reaches code that none did before is put into `pool`. */
async function runAll(inputs: readonly Uint8Array[], pool: Uint8Array[]): Promise<boolean> {
  for (const input of inputs) {
    const error = tryInput(input);
    if (error !== null) {
      await fail(input, error);
      return false;
    }
    if (coverage === null || coverage.take() === 0) continue;
    pool.push(input);
    await report({ kind: "kept", input: Uint8Array.from(input), blocks: coverage.blocks });
  }
  return true;
}

async function fuzz(): Promise<void> {
  const pool = [...corpus];
  if (!(await runAll(corpus, []))) return;
  let done = 0;
  for (let round = 0; done < runs; round++) {
    const fresh = fc.sample(target.grammar, { seed: (seed + round * 7919) | 0, numRuns: Math.min(10, runs - done) });
    const parents = [...fresh, ...pool];
    const pick = (): Uint8Array => parents[Math.floor(random() * (random() < 0.5 ? fresh.length : parents.length))];
    const inputs = [...fresh];
    while (inputs.length < BATCH) inputs.push(mutate(pick(), pick(), target.dictionary, target.bytesMax, random));
    const batch = inputs.filter(({ length }) => length <= INPUT_BYTES_MAX).slice(0, runs - done);
    if (!(await runAll(batch, pool))) return;
    done += batch.length;
    await report({ kind: "done", runs: done });
  }
}

await fuzz();
coverage?.close();
process.disconnect();
