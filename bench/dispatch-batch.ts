/** Samples in a ring in plain memory, as a dispatcher finds them. */

import type { Selection } from "../src/daemon/dispatch/encode.js";
import { PAGE_BYTES } from "../src/pmu/abi.js";
import { FormatTable } from "../src/pmu/format-table.js";
import { BatchIndex, type ScanListener } from "../src/pmu/record.js";
import { RingReader } from "../src/pmu/ring.js";
import { seededRandom } from "../src/pmu/software/random.js";
import { initializeControlPage } from "../src/pmu/software/ring-memory.js";
import { RingWriter } from "../src/pmu/software/ring-writer.js";
import { buildSampleBlock, SYNTHETIC_SAMPLE_TYPE } from "../src/pmu/software/sample-block.js";
import type { RecordFormat } from "../src/pmu/source.js";

/** Twice the bytes of the largest batch. */
const RING_BYTES = 128 * 1024;
export const SAMPLE_ID = 1n;

export const SYNTHETIC_FORMAT: RecordFormat = {
  ids: [SAMPLE_ID],
  sampleType: SYNTHETIC_SAMPLE_TYPE,
  sampleIdAll: true,
  fixedPeriod: 0,
};

const block = buildSampleBlock({
  random: seededRandom(1),
  id: SAMPLE_ID,
  cpu: 0,
  period: 1,
  callchain: false,
  excludeUser: false,
  excludeKernel: false,
});

export class SampleRing {
  /** Control page and data. */
  static readonly BYTES = PAGE_BYTES + RING_BYTES;
  readonly reader: RingReader;
  readonly #writer: RingWriter;

  constructor(memory = new ArrayBuffer(SampleRing.BYTES)) {
    initializeControlPage(memory, RING_BYTES);
    this.reader = new RingReader(memory, RING_BYTES);
    this.#writer = new RingWriter(memory, RING_BYTES, 0, () => {});
  }

  /** Writes `samples` samples, at most as many as a batch holds, for the reader to take. */
  fill(samples: number): void {
    this.#writer.append(block.bytes, 0, (block.starts[samples] as number) * 4);
    this.#writer.publish(false);
  }
}

export interface Batch {
  readonly index: BatchIndex;
  readonly ring: RingReader;
  /** All samples of the batch. */
  readonly selection: Selection;
}

/** One batch of `samples` samples of event 0, indexed and ready to be encoded. */
export function scanBatch(samples: number): Batch {
  const ring = new SampleRing();
  ring.fill(samples);
  const formats = new FormatTable();
  formats.add(0, SYNTHETIC_FORMAT);
  const index = new BatchIndex();
  const listener: ScanListener = { throttle: unexpected, corrupt: unexpected, stray: unexpected, lost: unexpected };
  index.scan(ring.reader, ring.reader.loadHead(), formats, listener);
  if (index.count !== samples) throw new Error(`${index.count} samples in a batch of ${samples}`);
  const selection = { sample: Uint32Array.from({ length: samples }, (_, i) => i), period: index.period };
  return { index, ring: ring.reader, selection };
}

function unexpected(): never {
  throw new Error("a batch of samples alone holds something else");
}
