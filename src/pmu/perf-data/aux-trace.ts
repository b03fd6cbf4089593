/** What AUX areas held: PERF_RECORD_AUXTRACE, each followed by a piece of one area. */
import type { Cursor, Image } from "./image.js";
import type { Run } from "./scan.js";

export interface AuxTrace {
  /** Number of the AUX area. */
  readonly idx: number;
  /** -1 where the area belongs to a CPU. */
  readonly tid: number;
  /** -1 where the area belongs to a thread. */
  readonly cpu: number;
  /** Position in the AUX area: what aux_offset of PERF_RECORD_AUX counts. */
  readonly offset: number;
  readonly reference: bigint;
  /** Where the piece lies in the image, in bytes. */
  readonly data: Run;
}

/** `dataAt` is where the record's data begins; its size was checked. */
export function readAuxTrace(cursor: Cursor, dataAt: number): AuxTrace {
  const size = cursor.number("its size");
  const offset = cursor.number("its offset");
  const reference = cursor.u64("its reference");
  const idx = cursor.u32("its number");
  const tid = cursor.i32("its thread");
  const cpu = cursor.i32("its CPU");
  return { idx, tid, cpu, offset, reference, data: { start: dataAt, end: dataAt + size } };
}

/**
 * The bytes of a CPU's or a thread's AUX area from `offset` on, at most `bytes` of them and no more than one piece holds;
 * null where the recording has none. PERF_RECORD_AUX says offset and size. Not a copy.
 */
export function auxData(
  image: Image,
  traces: readonly AuxTrace[],
  of: { readonly cpu: number } | { readonly tid: number },
  offset: number,
  bytes: number,
): Uint8Array | null {
  const isOwn = (trace: AuxTrace): boolean => ("cpu" in of ? trace.cpu === of.cpu : trace.tid === of.tid);
  const piece = traces.find(
    (trace) => isOwn(trace) && offset >= trace.offset && offset < trace.offset + (trace.data.end - trace.data.start),
  );
  if (piece === undefined) return null;
  const from = piece.data.start + (offset - piece.offset);
  return image.bytes.subarray(from, Math.min(from + bytes, piece.data.end));
}
