/** Plays what a recording holds of AUX areas: PERF_RECORD_AUXTRACE's bytes into areas, as its PERF_RECORD_AUX say. */
import { AUX_FLAG, PAGE_BYTES } from "../abi.js";
import { type AuxRun, readAuxRecord } from "../aux-area.js";
import type { AuxRingDescriptor } from "../source.js";
import { type AuxOrigin, AuxWriter } from "./aux-writer.js";
import { RingWriter } from "./ring-writer.js";

/** A PERF_RECORD_AUXTRACE and the bytes behind it. */
export interface AuxPiece {
  /** Index among the recording's areas. */
  readonly area: number;
  /** -1: the area is a thread's. */
  readonly cpu: number;
  readonly tid: number;
  /** Position in the area of its first byte. */
  readonly offset: number;
  /** Where the bytes are in the recording. */
  readonly start: number;
  readonly end: number;
}

interface Area {
  readonly ring: RingWriter;
  readonly writer: AuxWriter;
  readonly held: AuxBytes;
}

/** A PERF_RECORD_AUX whose turn has come. */
export interface AuxRecord {
  /** Another one for each record of a pass. */
  readonly record: number;
  /** Where it is in the recording, and how long it is, in bytes. */
  readonly at: number;
  readonly size: number;
  readonly timeNs: bigint;
  readonly cpu: number;
}

/** { header, aux_offset, aux_size, flags }, then a sample_id, whose TID comes first: { pid, tid }. */
const PID_WORD = 8;
const TID_WORD = 9;

/** What a recording holds of AUX areas; nothing, where it holds none. */
export interface RecordedAux {
  /** Index of the attr whose records tell of the areas; -1: none do. perf makes it the only one of its kind. */
  readonly attr: number;
  /** In the order of the file. */
  readonly pieces: readonly AuxPiece[];
  /** Whether the records that tell of them say of which thread they are. */
  readonly hasTid: boolean;
  /** One for each area. */
  readonly rings: readonly AuxRingDescriptor[];
}

export class AuxPlayer {
  readonly #bytes: Uint8Array;
  readonly #hasTid: boolean;
  readonly #areas: readonly Area[];
  readonly #ofCpu = new Map<number, readonly Area[]>();
  readonly #ofThread = new Map<number, readonly Area[]>();
  readonly #run: AuxRun = { offset: 0, bytes: 0, flagsLow: 0, flagsHigh: 0 };
  #pass = 0;
  /** Record that is being played, and how many bytes of it are written. */
  #record = -1;
  #written = 0;

  constructor(
    bytes: Uint8Array,
    { pieces, hasTid, rings }: RecordedAux,
    view: (address: bigint, bytes: number) => ArrayBuffer,
    wake: (fd: number) => void,
  ) {
    this.#bytes = bytes;
    this.#hasTid = hasTid;
    const byArea: AuxPiece[][] = rings.map(() => []);
    for (const piece of pieces) byArea[piece.area]?.push(piece);
    this.#areas = rings.map(({ address, dataBytes, auxAddress, auxBytes, cpu, pollFd }, area) => {
      const memory = view(address, PAGE_BYTES + dataBytes);
      const ring = new RingWriter(memory, dataBytes, cpu, () => wake(pollFd));
      const writer = new AuxWriter(memory, view(auxAddress, auxBytes), ring);
      return { ring, writer, held: new AuxBytes(byArea[area] ?? []) };
    });
    for (const [area, [piece]] of byArea.entries()) {
      if (piece === undefined) continue;
      const of = piece.cpu < 0 ? this.#ofThread : this.#ofCpu;
      const owner = piece.cpu < 0 ? piece.tid : piece.cpu;
      of.set(owner, [...(of.get(owner) ?? []), this.#areas[area] as Area]);
    }
  }

  get hasAreas(): boolean {
    return this.#areas.length > 0;
  }

  /** The recording is played from its beginning, for the `pass`th time of a run, from 0: positions go on where it ended. */
  begin(pass: number): void {
    this.#pass = pass;
    this.#record = -1;
  }

  isDrained(): boolean {
    return this.#areas.every(({ writer }) => writer.isDrained());
  }

  publish(): void {
    for (const { ring } of this.#areas) ring.publish(true);
  }

  /** Writes the run that a record tells of; false while there is no room for all of it. */
  play({ record, at, size, timeNs, cpu }: AuxRecord): boolean {
    const run = this.#run;
    const words = new Uint32Array(new Uint8Array(this.#bytes.subarray(at, at + size)).buffer);
    // One that is too short tells of nothing.
    if (!readAuxRecord(words, 0xffff, 0, size, run)) return true;
    const [pid, tid] = this.#hasTid ? [words[PID_WORD] ?? 0, words[TID_WORD] ?? 0] : [0, 0];
    const area = this.#find(run, cpu, tid);
    if (area === null) return true;
    if (this.#record !== record) {
      this.#record = record;
      this.#written = 0;
    }
    return this.#writeRun(area, { pid, tid, timeNs, cpu, id: 0n });
  }

  /** What the recording holds of the run; one of no bytes has something to tell as well. */
  #writeRun({ writer, held }: Area, origin: AuxOrigin): boolean {
    const { offset, bytes, flagsLow, flagsHigh } = this.#run;
    const flags = BigInt(flagsLow) | (BigInt(flagsHigh) << 32n);
    const behind = offset + bytes;
    do {
      const from = offset + this.#written;
      const piece = held.behind(from);
      const isEmpty = piece === null || piece.offset >= behind;
      // Where a part is missing the area goes on behind it.
      const at = isEmpty ? from : Math.max(from, piece.offset);
      const position = this.#pass * held.end + at;
      // As the recording's own area went on, or as a second run of it begins anew.
      if (writer.head !== position) {
        if (!writer.isDrained()) return false;
        writer.skipTo(position);
      }
      const room = writer.room();
      if (room === 0) return false;
      const until = isEmpty ? at : Math.min(behind, piece.offset + piece.end - piece.start, at + room);
      const next = until < behind ? held.behind(until) : null;
      const isLast = next === null || next.offset >= behind;
      // Only the last piece tells what was lost behind the run, or of it.
      const lost = isLast && until < behind ? BigInt(AUX_FLAG.TRUNCATED) : 0n;
      const start = isEmpty ? 0 : piece.start + (at - piece.offset);
      writer.write(
        this.#bytes,
        start,
        start + (until - at),
        isLast ? flags | lost : flags & ~BigInt(AUX_FLAG.TRUNCATED),
        origin,
      );
      this.#written = isLast ? bytes : until - offset;
    } while (this.#written < bytes);
    return true;
  }

  /** The area of the CPU or of the thread that the run is in, of which the recording must hold something. */
  #find({ offset, bytes }: AuxRun, cpu: number, tid: number): Area | null {
    const [only] = this.#areas;
    const isOfOneThread = this.#areas.length === 1 && this.#ofThread.size === 1;
    const ofThread = isOfOneThread ? [only as Area] : (this.#ofThread.get(tid) ?? []);
    const holds = ({ held }: Area): boolean => held.hasSomeOf(offset, bytes);
    return this.#ofCpu.get(cpu)?.find(holds) ?? ofThread.find(holds) ?? null;
  }
}

/** What a recording holds of one area, in the order of the area. */
class AuxBytes {
  /** None begins before the one before it ends. */
  readonly #pieces: readonly AuxPiece[];
  /** Position behind the last piece: where the next pass over the recording begins. */
  readonly end: number;

  constructor(pieces: readonly AuxPiece[]) {
    const disjoint: AuxPiece[] = [];
    let end = 0;
    for (const piece of [...pieces].sort((a, b) => a.offset - b.offset)) {
      const twice = Math.max(0, end - piece.offset);
      const start = piece.start + twice;
      if (start >= piece.end) continue;
      disjoint.push({ ...piece, offset: piece.offset + twice, start });
      end = piece.offset + piece.end - piece.start;
    }
    this.#pieces = disjoint;
    this.end = end;
  }

  /** The first piece that ends behind `position`; null behind the last. */
  behind(position: number): AuxPiece | null {
    let [low, high] = [0, this.#pieces.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      const { offset, start, end } = this.#pieces[middle] as AuxPiece;
      if (offset + (end - start) > position) high = middle;
      else low = middle + 1;
    }
    return this.#pieces[low] ?? null;
  }

  /** A run of no bytes is where there are some, or at their end. */
  hasSomeOf(offset: number, bytes: number): boolean {
    if (bytes === 0) return offset <= this.end && offset >= (this.#pieces[0]?.offset ?? 0);
    const piece = this.behind(offset);
    return piece !== null && piece.offset < offset + bytes;
  }
}
