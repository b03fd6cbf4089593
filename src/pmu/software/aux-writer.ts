/**
 * The producer's side of an AUX area, as kernel/events/ring_buffer.c plays it (perf_aux_output_begin and _end): write what
 * there is room for below aux_tail, tell of the run in a PERF_RECORD_AUX, and only then publish aux_head.
 */
import { MMAP_PAGE, PAGE_BYTES, RECORD } from "../abi.js";
import type { RingWriter } from "./ring-writer.js";

/** { header, aux_offset, aux_size, flags } and a sample_id of TID, TIME, CPU and IDENTIFIER. */
export const AUX_RECORD_BYTES = 8 + 24 + 32;

export interface AuxOrigin {
  readonly pid: number;
  readonly tid: number;
  readonly timeNs: bigint;
  readonly cpu: number;
  readonly id: bigint;
}

export class AuxWriter {
  readonly bytes: number;
  readonly #area: Uint8Array;
  readonly #control: BigUint64Array;
  readonly #ring: RingWriter;
  readonly #record = new DataView(new ArrayBuffer(AUX_RECORD_BYTES));
  readonly #recordBytes = new Uint8Array(this.#record.buffer);
  #head: number;

  constructor(controlPage: ArrayBuffer, area: ArrayBuffer, ring: RingWriter) {
    this.bytes = area.byteLength;
    this.#area = new Uint8Array(area);
    this.#control = new BigUint64Array(controlPage, 0, PAGE_BYTES / 8);
    this.#ring = ring;
    this.#head = Number(Atomics.load(this.#control, MMAP_PAGE.AUX_HEAD / 8));
  }

  get head(): number {
    return this.#head;
  }

  /** Bytes that can be written now; 0 too while the ring has no room for the record that would tell of them. */
  room(): number {
    if (this.#ring.room() < AUX_RECORD_BYTES) return 0;
    return this.bytes - (this.#head - this.#loadTail());
  }

  isDrained(): boolean {
    return this.#loadTail() === this.#head && this.#ring.isDrained();
  }

  #loadTail(): number {
    // Written by the reader; acquire: it has read what is below.
    return Number(Atomics.load(this.#control, MMAP_PAGE.AUX_TAIL / 8));
  }

  /** The next run begins at `position`, behind everything written before. Only when the area is drained. */
  skipTo(position: number): void {
    this.#head = position;
    Atomics.store(this.#control, MMAP_PAGE.AUX_HEAD / 8, BigInt(position));
    Atomics.store(this.#control, MMAP_PAGE.AUX_TAIL / 8, BigInt(position));
  }

  /** Writes a run and publishes its record, then the run. The caller has looked at `room`. */
  write(source: Uint8Array, start: number, end: number, flags: bigint, origin: AuxOrigin): void {
    const offset = this.#head;
    const at = offset % this.bytes;
    const untilWrap = Math.min(end - start, this.bytes - at);
    this.#area.set(source.subarray(start, start + untilWrap), at);
    if (start + untilWrap < end) this.#area.set(source.subarray(start + untilWrap, end), 0);
    this.#head += end - start;
    this.tell(offset, end - start, flags, origin);
    this.#ring.publish(true);
    // Release: the data is there for whoever sees the head.
    Atomics.store(this.#control, MMAP_PAGE.AUX_HEAD / 8, BigInt(this.#head));
  }

  /** The record alone. */
  tell(offset: number, bytes: number, flags: bigint, { pid, tid, timeNs, cpu, id }: AuxOrigin): void {
    const record = this.#record;
    record.setUint32(0, RECORD.AUX, true);
    record.setUint16(4, 0, true);
    record.setUint16(6, AUX_RECORD_BYTES, true);
    record.setBigUint64(8, BigInt(offset), true);
    record.setBigUint64(16, BigInt(bytes), true);
    record.setBigUint64(24, flags, true);
    record.setUint32(32, pid, true);
    record.setUint32(36, tid, true);
    record.setBigUint64(40, timeNs, true);
    record.setBigUint64(48, BigInt(cpu), true);
    record.setBigUint64(56, id, true);
    this.#ring.append(this.#recordBytes, 0, AUX_RECORD_BYTES);
  }
}
