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
  readonly pieces: readonly AuxPiece[];
  /** Position behind its last piece: where the next pass over the recording begins. */
  readonly end: number;
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
    this.#areas = rings.map(({ address, dataBytes, auxAddress, auxBytes, cpu, pollFd }, area) => {
      const memory = view(address, PAGE_BYTES + dataBytes);
      const ring = new RingWriter(memory, dataBytes, cpu, () => wake(pollFd));
      const writer = new AuxWriter(memory, view(auxAddress, auxBytes), ring);
      const own = pieces.filter((piece) => piece.area === area);
      const end = own.reduce((max, piece) => Math.max(max, piece.offset + piece.end - piece.start), 0);
      return { ring, writer, pieces: own, end };
    });
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
    const found = this.#find(run, cpu, tid);
    if (found === null) return true;
    if (this.#record !== record) {
      this.#record = record;
      this.#written = 0;
    }
    const bytes = Math.min(run.bytes, found.piece.end - found.start);
    return this.#writeRun(found, bytes, { pid, tid, timeNs, cpu, id: 0n });
  }

  #writeRun({ area, start }: Found, bytes: number, origin: AuxOrigin): boolean {
    const { writer } = area;
    const { offset, flagsLow, flagsHigh } = this.#run;
    const flags = BigInt(flagsLow) | (BigInt(flagsHigh) << 32n);
    const first = this.#pass * area.end + offset;
    do {
      const position = first + this.#written;
      // As the recording's own area went on, or as a second run of it begins anew.
      if (writer.head !== position) {
        if (!writer.isDrained()) return false;
        writer.skipTo(position);
      }
      const room = writer.room();
      if (room === 0) return false;
      const rest = bytes - this.#written;
      const end = this.#written + Math.min(rest, room);
      // Only the last piece tells what was lost behind the run.
      const isLast = end === bytes;
      writer.write(
        this.#bytes,
        start + this.#written,
        start + end,
        isLast ? flags : flags & ~BigInt(AUX_FLAG.TRUNCATED),
        origin,
      );
      this.#written = end;
    } while (this.#written < bytes);
    return true;
  }

  /** The piece that holds the beginning of the run, of the CPU's area or of the thread's. */
  #find({ offset }: AuxRun, cpu: number, tid: number): Found | null {
    const isOfOneThread = this.#areas.length === 1;
    for (const area of this.#areas) {
      for (const piece of area.pieces) {
        const isOwn = piece.cpu < 0 ? isOfOneThread || piece.tid === tid : piece.cpu === cpu;
        if (!isOwn || offset < piece.offset || offset >= piece.offset + (piece.end - piece.start)) continue;
        return { area, piece, start: piece.start + (offset - piece.offset) };
      }
    }
    return null;
  }
}

interface Found {
  readonly area: Area;
  readonly piece: AuxPiece;
  /** Where the run's first byte is in the recording. */
  readonly start: number;
}
