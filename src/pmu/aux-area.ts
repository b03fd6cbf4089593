/**
 * The consumer's side of an AUX area: mechanism only. An AUX area belongs to a ring. What a PMU writes by itself (Intel PT,
 * Arm's ETM and SPE) goes into the area, and a PERF_RECORD_AUX in the ring says which run of it has become readable.
 *
 * Protocol (struct perf_event_mmap_page): aux_head counts bytes ever written, aux_tail bytes given back; neither wraps, the
 * offset into the area does. Load aux_head with acquire, read, finish every read, then store aux_tail with release. When
 * the area is full the kernel disables the event: whoever has moved aux_tail enables it again.
 */
import { MMAP_PAGE, PAGE_BYTES } from "./abi.js";

/** { header, aux_offset, aux_size, flags, sample_id } */
const AUX_RECORD_BYTES_MIN = 32;
const TWO_32 = 2 ** 32;

/** What a PERF_RECORD_AUX says; used again for the next. */
export interface AuxRun {
  /** Position in the area, as aux_head counts. A double: exact below 2^53 bytes. */
  offset: number;
  bytes: number;
  flagsLow: number;
  flagsHigh: number;
}

/** Reads the record at word `at`; false when it is too short to be one. */
export function readAuxRecord(words: Uint32Array, mask: number, at: number, size: number, run: AuxRun): boolean {
  if (size < AUX_RECORD_BYTES_MIN) return false;
  const word = (i: number): number => words[(at + i) & mask];
  run.offset = word(2) + word(3) * TWO_32;
  run.bytes = word(4) + word(5) * TWO_32;
  run.flagsLow = word(6);
  run.flagsHigh = word(7);
  return true;
}

export class AuxAreaReader {
  readonly bytes: number;
  readonly #area: Uint8Array;
  readonly #control: BigUint64Array;

  /** `controlPage` is the ring's first page, `area` the whole AUX area. */
  constructor(controlPage: ArrayBuffer, area: ArrayBuffer) {
    const bytes = area.byteLength;
    if (bytes <= 0 || (bytes & (bytes - 1)) !== 0)
      throw new RangeError(`AUX area of ${bytes} bytes: not a power of two`);
    this.bytes = bytes;
    this.#area = new Uint8Array(area);
    this.#control = new BigUint64Array(controlPage, 0, PAGE_BYTES / 8);
  }

  /** Written by this side alone, but for a recording that is played anew. */
  get tail(): number {
    return Number(Atomics.load(this.#control, MMAP_PAGE.AUX_TAIL / 8));
  }

  /** Bytes written so far. Pairs with the writer's release: what is below the head may be read after this load. */
  loadHead(): number {
    return Number(Atomics.load(this.#control, MMAP_PAGE.AUX_HEAD / 8));
  }

  /** Gives everything below `position` back to the writer. Every read of it must be done. */
  storeTail(position: number): void {
    Atomics.store(this.#control, MMAP_PAGE.AUX_TAIL / 8, BigInt(position));
  }

  /**
   * Whether a run that is not held may be yet: the kernel publishes the record first, and aux_head a moment later. Not a
   * look at aux_head, which may have come since the other look.
   */
  expects({ offset, bytes }: AuxRun): boolean {
    const { tail } = this;
    return offset >= tail && offset + bytes - tail <= this.bytes;
  }

  /**
   * Whether the run is readable: inside the area, below aux_head, and neither given back nor overwritten. `from` is where
   * reading it begins, behind what is given back already of a run that is read in pieces.
   */
  holds({ offset, bytes }: AuxRun, from: number): boolean {
    const end = offset + bytes;
    const head = this.loadHead();
    return bytes <= this.bytes && from >= this.tail && from <= end && end <= head && head - from <= this.bytes;
  }

  /** Copies `bytes` from position `from` on, which may wrap in the area. Only of a run that it holds. */
  copy(from: number, bytes: number, target: Uint8Array, targetAt: number): void {
    const at = from % this.bytes;
    const untilWrap = Math.min(bytes, this.bytes - at);
    target.set(this.#area.subarray(at, at + untilWrap), targetAt);
    if (untilWrap < bytes) target.set(this.#area.subarray(0, bytes - untilWrap), targetAt + untilWrap);
  }
}
