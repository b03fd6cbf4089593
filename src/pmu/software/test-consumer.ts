/** For tests: stands in for a dispatcher. Copies records out of rings and gives the space back. */
import { setTimeout as delay } from "node:timers/promises";
import { PAGE_BYTES, RECORD } from "../abi.js";
import { POLLIN, poll, viewMemory } from "../ffi.js";
import { RingReader } from "../ring.js";
import type { RingDescriptor } from "../source.js";
import { initializeControlPage } from "./ring-memory.js";

export interface TakenRecord {
  readonly cpu: number;
  readonly type: number;
  readonly misc: number;
  /** The whole record, header included. */
  readonly view: DataView;
}

/** A ring in plain memory. */
export function plainRing(dataBytes: number): ArrayBuffer {
  const memory = new ArrayBuffer(PAGE_BYTES + dataBytes);
  initializeControlPage(memory, dataBytes);
  return memory;
}

export class TestConsumer {
  readonly #rings: readonly { readonly cpu: number; readonly reader: RingReader }[];

  constructor(rings: readonly { readonly cpu: number; readonly reader: RingReader }[]) {
    this.#rings = rings;
  }

  static ofMemory(memory: ArrayBuffer, dataBytes: number): TestConsumer {
    return new TestConsumer([{ cpu: 0, reader: new RingReader(memory, dataBytes) }]);
  }

  static ofRings(rings: readonly RingDescriptor[]): TestConsumer {
    return new TestConsumer(
      rings.map(({ cpu, address, dataBytes }) => ({
        cpu,
        reader: new RingReader(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes),
      })),
    );
  }

  /** Everything that is published, ring by ring; at most `max` records of each. */
  take(max = Number.POSITIVE_INFINITY): TakenRecord[] {
    return this.#rings.flatMap(({ cpu, reader }) => takeFrom(cpu, reader, max));
  }

  /** Takes until `enough` says so of all records so far; the test's own time-out bounds it. */
  async takeUntil(enough: (records: readonly TakenRecord[]) => boolean): Promise<TakenRecord[]> {
    const records: TakenRecord[] = [];
    for (;;) {
      records.push(...this.take());
      if (enough(records)) return records;
      await delay(1);
    }
  }
}

function takeFrom(cpu: number, reader: RingReader, max: number): TakenRecord[] {
  const { words, wordMask } = reader;
  const head = reader.loadHead();
  const records: TakenRecord[] = [];
  let position = reader.tail;
  while (position < head && records.length < max) {
    const at = position / 4;
    const size = (words[(at + 1) & wordMask] as number) >>> 16;
    if (size < 8 || (size & 7) !== 0 || position + size > head)
      throw new Error(`a record of ${size} bytes at ${position}`);
    const copy = Uint32Array.from({ length: size / 4 }, (_, i) => words[(at + i) & wordMask] as number);
    const view = new DataView(copy.buffer);
    records.push({ cpu, type: view.getUint32(0, true), misc: view.getUint16(4, true), view });
    position += size;
  }
  reader.storeTail(position);
  return records;
}

export function samplesOf(records: readonly TakenRecord[]): TakenRecord[] {
  return records.filter(({ type }) => type === RECORD.SAMPLE);
}

export function isReadable(fd: number): boolean {
  const pollfd = new Int32Array([fd, POLLIN]);
  return poll(pollfd, 1, 0) === 1;
}
