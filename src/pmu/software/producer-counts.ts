/**
 * What a producer thread counts of its events while it makes their samples, in shared memory that it alone writes.
 * Doubles, as in the handler table. Read at any time; the last word once the thread has settled (ProducerThread.settle
 * orders what it wrote before).
 */
const WORD = { PRODUCED: 0, LOST: 1 } as const;
const WORDS = Object.keys(WORD).length;

export type CountsBuffer = Float64Array<SharedArrayBuffer>;

export function allocateCounts(events: number): CountsBuffer {
  return new Float64Array(new SharedArrayBuffer(events * WORDS * Float64Array.BYTES_PER_ELEMENT));
}

export interface ProducerCount {
  /** Samples made, those included that were lost. */
  readonly produced: number;
  /** Those that no ring took. */
  readonly lost: number;
}

export function readCount(buffer: CountsBuffer, event: number): ProducerCount {
  return { produced: buffer[event * WORDS + WORD.PRODUCED], lost: buffer[event * WORDS + WORD.LOST] };
}

/** Only in the producer. */
export function storeCount(buffer: CountsBuffer, event: number, { produced, lost }: ProducerCount): void {
  buffer[event * WORDS + WORD.PRODUCED] = produced;
  buffer[event * WORDS + WORD.LOST] = lost;
}

/** Only in the producer. */
export function addProduced(buffer: CountsBuffer, event: number, samples: number): void {
  buffer[event * WORDS + WORD.PRODUCED] += samples;
}

/** Only in the producer: samples that were made and lost at once. */
export function addLost(buffer: CountsBuffer, event: number, samples: number): void {
  buffer[event * WORDS + WORD.PRODUCED] += samples;
  buffer[event * WORDS + WORD.LOST] += samples;
}
