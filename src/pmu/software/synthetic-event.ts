/** One synthetic event: how many samples are due when, and into which rings they go. The clock is the caller's. */

import { SAMPLE } from "../abi.js";
import { seededRandom } from "./random.js";
import type { RingWriter } from "./ring-writer.js";
import { buildSampleBlock, type SampleBlock, SYNTHETIC_SAMPLE_TYPE, TIME_WORD } from "./sample-block.js";

/** A generator that was kept from running makes up for this much; what is older was never generated, nor lost. */
const CATCH_UP_NS_MAX = 100e6;

export interface SyntheticEventOptions {
  /** One for each ring. */
  readonly ids: readonly bigint[];
  readonly cpus: readonly number[];
  /** Samples a second, all rings together. */
  readonly ratePerSecond: number;
  readonly seed: number;
  readonly callchain: boolean;
  /** Wake the reader for each batch, however small. */
  readonly wakeEach: boolean;
  readonly excludeUser: boolean;
  readonly excludeKernel: boolean;
}

export function syntheticSampleType(callchain: boolean): number {
  return SYNTHETIC_SAMPLE_TYPE | (callchain ? SAMPLE.CALLCHAIN : 0);
}

/** What one ring is owed. Sample n of ring r is due (n + (r + 1) / rings) intervals after the start. */
interface CpuGenerator {
  readonly writer: RingWriter;
  readonly id: bigint;
  readonly block: SampleBlock;
  readonly phase: number;
  /** Number of the next sample. */
  next: number;
  /** Next sample of the block. */
  cursor: number;
}

export class SyntheticEvent {
  readonly #generators: readonly CpuGenerator[];
  /** Between two samples of one ring. */
  readonly #intervalNs: number;
  readonly #wakeEach: boolean;
  #startNs = 0;
  #produced = 0;
  #lost = 0;

  constructor(writers: readonly RingWriter[], options: SyntheticEventOptions) {
    this.#intervalNs = (1e9 * writers.length) / options.ratePerSecond;
    this.#wakeEach = options.wakeEach;
    // Each sample stands for the time since the last one on its CPU, as those of a clock do.
    const period = Math.max(1, Math.round(this.#intervalNs));
    this.#generators = writers.map((writer, index) => {
      const id = options.ids[index] as bigint;
      const cpu = options.cpus[index] as number;
      const random = seededRandom(options.seed + index);
      const block = buildSampleBlock({ ...options, random, id, cpu, period });
      return { writer, id, block, phase: (index + 1) / writers.length, next: 0, cursor: 0 };
    });
  }

  /** Samples that were due and made, those included that did not fit into their ring. */
  get produced(): number {
    return this.#produced;
  }

  /** Samples that did not fit into their ring. */
  get lost(): number {
    return this.#lost;
  }

  start(nowNs: number): void {
    this.#startNs = nowNs;
    for (const generator of this.#generators) generator.next = 0;
  }

  /** Writes what is due at `nowNs`, no sample later than that; returns when the next one is due. */
  tick(nowNs: number): number {
    let nextDueNs = Number.POSITIVE_INFINITY;
    for (const generator of this.#generators) {
      if (generator.block.count === 0) continue;
      const elapsed = nowNs - this.#startNs;
      const oldest = Math.ceil((elapsed - CATCH_UP_NS_MAX) / this.#intervalNs - generator.phase);
      if (oldest > generator.next) generator.next = oldest;
      const due = Math.floor(elapsed / this.#intervalNs - generator.phase) - generator.next + 1;
      if (due > 0) this.#write(generator, due);
      nextDueNs = Math.min(nextDueNs, this.#dueNs(generator, generator.next));
    }
    return nextDueNs;
  }

  #dueNs(generator: CpuGenerator, sample: number): number {
    return this.#startNs + (sample + generator.phase) * this.#intervalNs;
  }

  #write(generator: CpuGenerator, due: number): void {
    const { writer, block } = generator;
    const { starts } = block;
    this.#produced += due;
    let left = due;
    while (left > 0) {
      const first = starts[generator.cursor] as number;
      const recordBytes = ((starts[generator.cursor + 1] as number) - first) * 4;
      if (!writer.settleLost(generator.id, this.#dueNs(generator, generator.next), recordBytes)) break;
      const end = fittingEnd(
        starts,
        generator.cursor,
        Math.min(block.count, generator.cursor + left),
        writer.room() / 4,
      );
      const headWord = (writer.head & (writer.dataBytes - 1)) >>> 2;
      writer.append(block.bytes, first * 4, (starts[end] as number) * 4);
      this.#patchTimes(generator, headWord - first + TIME_WORD, end);
      const count = end - generator.cursor;
      generator.next += count;
      generator.cursor = end === block.count ? 0 : end;
      left -= count;
    }
    if (left > 0) {
      writer.countLost(left);
      this.#lost += left;
      generator.next += left;
    }
    writer.publish(this.#wakeEach);
  }

  #patchTimes(generator: CpuGenerator, shift: number, end: number): void {
    const { words, wordMask } = generator.writer;
    const { starts } = generator.block;
    const interval = this.#intervalNs;
    const origin = this.#dueNs(generator, generator.next);
    const { cursor } = generator;
    for (let i = cursor; i < end; i++) {
      const timeNs = origin + (i - cursor) * interval;
      const word = (shift + (starts[i] as number)) & wordMask;
      words[word] = timeNs; // stored modulo 2^32
      words[word + 1] = timeNs / 2 ** 32; // records are 8-byte aligned: the pair does not wrap
    }
  }
}

/** The largest end in (start, limit] for which the samples from `start` fit into `roomWords`; the first one is known to. */
function fittingEnd(starts: Uint32Array, start: number, limit: number, roomWords: number): number {
  const edge = (starts[start] as number) + roomWords;
  if ((starts[limit] as number) <= edge) return limit;
  let [low, high] = [start + 1, limit];
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if ((starts[middle] as number) <= edge) low = middle;
    else high = middle - 1;
  }
  return low;
}
