/** The fields of nmi.v1.AuxData but the event's index, which differs from handler to handler, up to the data themselves. */
import type { AuxRun } from "../../pmu/aux-area.js";
import { ProtoWriter } from "../tasks/proto-writer.js";

/** nmi.v1.AuxData */
const AUX_DATA = { CPU: 2, TID: 3, OFFSET: 4, FLAGS: 5, TIME: 6, DATA: 7, TRUNCATED: 8 } as const;
const TWO_32 = 2 ** 32;

export class AuxPieceHeader {
  /** Two tags and values of up to six bytes, three of nine, one of two, and a tag with a length of up to five. */
  static readonly BYTES_MAX = 64;
  readonly #writer = new ProtoWriter();
  #cpu = 0;
  #tid = 0;
  #timeLow = 0;
  #timeHigh = 0;
  #flagsLow = 0;
  #flagsHigh = 0;

  get bytes(): Uint8Array {
    return this.#writer.bytes;
  }

  get length(): number {
    return this.#writer.length;
  }

  /** Of the PERF_RECORD_AUX at word `at`, which ends with a sample_id of TID, TIME, CPU and IDENTIFIER. */
  describe(words: Uint32Array, mask: number, at: number, size: number, sampleIdWords: number, run: AuxRun): void {
    const sampleId = at + size / 4 - sampleIdWords;
    const word = (i: number): number => words[(sampleId + i) & mask];
    this.#tid = word(1);
    this.#timeLow = word(2);
    this.#timeHigh = word(3);
    this.#cpu = word(4);
    this.#flagsLow = run.flagsLow;
    this.#flagsHigh = run.flagsHigh;
  }

  /** What comes before the `bytes` from position `offset` on; all of the message when there are none. */
  encode(offset: number, bytes: number, isTruncated: boolean): void {
    const writer = this.#writer;
    writer.reset();
    writer.uint32(AUX_DATA.CPU, this.#cpu);
    writer.uint32(AUX_DATA.TID, this.#tid);
    writer.fixed64(AUX_DATA.OFFSET, offset >>> 0, Math.floor(offset / TWO_32));
    writer.fixed64(AUX_DATA.FLAGS, this.#flagsLow, this.#flagsHigh);
    writer.fixed64(AUX_DATA.TIME, this.#timeLow, this.#timeHigh);
    writer.bool(AUX_DATA.TRUNCATED, isTruncated);
    writer.dataHeader(AUX_DATA.DATA, bytes);
  }
}
