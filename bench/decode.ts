/**
 * What a sample costs from the ring to its place in the encoded columns, beside the same passes over the same bytes in C
 * (bench/decode.c). The daemon's own code: BatchIndex.scan, the lane's selection, ChunkList into segments.
 */
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { arenaBytes } from "../src/daemon/delivery/segment-layout.js";
import { SegmentReader, SegmentWriter } from "../src/daemon/delivery/segments.js";
import { ChunkList } from "../src/daemon/dispatch/chunks.js";
import { filterKey, OwnerCache } from "../src/daemon/dispatch/filter.js";
import type { Lane } from "../src/daemon/dispatch/lane.js";
import { LaneTable } from "../src/daemon/dispatch/lanes.js";
import { mapAnonymous, unmap, viewMemory } from "../src/pmu/ffi.js";
import { FormatTable } from "../src/pmu/format-table.js";
import { BatchIndex, type ScanListener } from "../src/pmu/record.js";
import { REPOSITORY } from "../test/support/daemon.js";
import { SAMPLE_ID, SampleRing, SYNTHETIC_FORMAT } from "./dispatch-batch.js";
import { atMost, formatAims } from "./lib/aim.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { type BenchProcess, runToEnd, startProcess } from "./lib/processes.js";
import { type Spread, spread } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";

const SAMPLES = [1, 16, 256, 1024] as const;
const RATIO_AIM = 3;
const WARM_UP_SAMPLES = 20_000_000;
const PASSES_ALL = { pids: [], cpus: [], uids: [], cgroupIds: [], excludeUser: false, excludeKernel: false };
const SEGMENT_BYTES = 2 ** 20;

interface Decoded {
  readonly ns: number;
  /** Over the last batch's encoded words. */
  readonly checksum: bigint;
}

interface CaseResult {
  readonly samples: number;
  /** Nanoseconds a sample. */
  readonly js: Spread;
  readonly c: Spread;
  readonly ratio: Spread;
}

const REFUSE: ScanListener = { throttle: unexpected, corrupt: unexpected, stray: unexpected, lost: unexpected };

function unexpected(): never {
  throw new Error("a batch of samples alone holds something else");
}

/** One batch in a ring of mapped memory, as the kernel's is, decoded again and again. */
class Decoder {
  readonly #address = mapAnonymous(SampleRing.BYTES);
  readonly #ring = new SampleRing(viewMemory(this.#address, SampleRing.BYTES));
  readonly #formats = new FormatTable();
  readonly #batch = new BatchIndex();
  readonly #lanes: LaneTable;
  readonly #segments: SegmentWriter;
  readonly #reader: SegmentReader;
  readonly #chunks: ChunkList;
  readonly #lane: Lane;
  readonly #samples: number;
  readonly #arenaAddress: bigint;
  #serial = 0;

  constructor(samples: number) {
    this.#samples = samples;
    this.#ring.fill(samples);
    this.#formats.add(0, SYNTHETIC_FORMAT);
    const bytes = arenaBytes(SEGMENT_BYTES);
    this.#arenaAddress = mapAnonymous(bytes);
    const arena = viewMemory(this.#arenaAddress, bytes);
    this.#segments = new SegmentWriter(arena);
    this.#reader = new SegmentReader(arena);
    this.#lanes = new LaneTable([{ cpu: 0, reader: this.#ring.reader }], new OwnerCache());
    this.#chunks = new ChunkList(this.#segments, this.#lanes);
    const event = { armed: 0, frequencyHz: 0, period: 0 };
    const request = { event, filter: PASSES_ALL, filterKey: filterKey(PASSES_ALL), columns: 0 };
    this.#lane = this.#lanes.join(request, { frequencyHz: null, period: null }, 0);
  }

  get head(): number {
    return this.#ring.reader.loadHead();
  }

  /** The ring's data, for the reference. */
  get data(): Uint8Array {
    const { words } = this.#ring.reader;
    return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
  }

  decode(batches: number): Decoded {
    const { reader } = this.#ring;
    const ring = { cpu: 0, reader };
    let checksum = 0n;
    const start = process.hrtime.bigint();
    for (let i = 0; i < batches; i++) {
      // The tail stays, so that each batch is the same.
      this.#batch.scan(reader, reader.loadHead(), this.#formats, REFUSE);
      this.#lanes.prepare(this.#batch, 0, ++this.#serial, 0);
      this.#chunks.plan(this.#lane, this.#batch, ring);
      for (let c = this.#lane.chunkFrom; c < this.#lane.chunkTo; c++) this.#chunks.encode(c, this.#batch, ring, 0, 0);
      if (i === batches - 1) break;
      this.#chunks.publish();
    }
    const ns = Number(process.hrtime.bigint() - start);
    for (let c = this.#lane.chunkFrom; c < this.#lane.chunkTo; c++) checksum += this.#sum(this.#chunks.segment[c]);
    this.#chunks.publish();
    if (this.#batch.count !== this.#samples) throw new Error(`${this.#batch.count} samples decoded`);
    return { ns, checksum };
  }

  #sum(segment: number): bigint {
    const at = this.#reader.payloadAt(segment);
    const { buffer, byteOffset } = this.#reader.bytes;
    let sum = 0;
    for (const word of new Uint32Array(buffer, byteOffset + at, this.#reader.payloadBytes(segment) / 4)) sum += word;
    return BigInt(sum);
  }

  close(): void {
    unmap(this.#address, SampleRing.BYTES);
    unmap(this.#arenaAddress, arenaBytes(SEGMENT_BYTES));
  }
}

class Reference {
  readonly #process: BenchProcess;
  #asked = 0;

  constructor(program: string, ring: string) {
    this.#process = startProcess("decode in C", program, [ring, String(SAMPLE_ID)]);
  }

  async decode(batches: number, head: number): Promise<Decoded & { samples: number }> {
    const number = ++this.#asked;
    this.#process.write(`decode ${number} ${batches} ${head}\n`);
    const [, , ns = "", samples = "", checksum = ""] = (
      await this.#process.line(new RegExp(`^decoded ${number} `))
    ).split(" ");
    return { ns: Number(ns), samples: Number(samples), checksum: BigInt(checksum) };
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }
}

async function runCase(
  samples: number,
  program: string,
  directory: string,
  { seconds, rounds }: BenchmarkOptions,
): Promise<CaseResult> {
  const decoder = new Decoder(samples);
  const file = path.join(directory, `ring-${samples}`);
  fs.writeFileSync(file, decoder.data);
  const reference = new Reference(program, file);
  try {
    decoder.decode(Math.ceil(WARM_UP_SAMPLES / samples / 10));
    const trial = Math.ceil(WARM_UP_SAMPLES / samples / 10);
    const batches = Math.ceil((seconds * 1e9 * trial) / decoder.decode(trial).ns);
    const js: number[] = [];
    const c: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const ours = decoder.decode(batches);
      const theirs = await reference.decode(batches, decoder.head);
      if (ours.checksum !== theirs.checksum || theirs.samples !== batches * samples)
        throw new Error(`${samples} samples: C encodes ${theirs.checksum}, not ${ours.checksum}`);
      js.push(ours.ns / batches / samples);
      c.push(theirs.ns / batches / samples);
    }
    const ratio = spread(js.map((ns, round) => ns / (c[round] as number)));
    return { samples, js: spread(js), c: spread(c), ratio };
  } finally {
    await reference.stop();
    decoder.close();
  }
}

async function run(options: BenchmarkOptions): Promise<object> {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-bench-"));
  try {
    const program = path.join(directory, "decode");
    runToEnd("cc", ["-O2", "-o", program, path.join(REPOSITORY, "bench", "decode.c")]);
    const results: CaseResult[] = [];
    for (const samples of SAMPLES) results.push(await runCase(samples, program, directory, options));
    const show = ({ median, min, max }: Spread) => `${median.toFixed(1)} (${min.toFixed(1)}-${max.toFixed(1)})`;
    console.log(
      renderTable([
        ["samples in a batch", "ns a sample", "in C", "times C"],
        ...results.map(({ samples, js, c, ratio }) => [String(samples), show(js), show(c), show(ratio)]),
      ]),
    );
    const full = results.at(-1) as CaseResult;
    const aims = [atMost(`a batch of ${full.samples}, times C`, full.ratio.median, RATIO_AIM)];
    console.log(`\n${formatAims(aims)}`);
    return { results, aims };
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

export const decode: Benchmark = {
  description: "a sample from the ring to its encoded columns, beside the same loops in C",
  seconds: 0.5,
  rounds: 7,
  run,
};
