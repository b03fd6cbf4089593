/** Finds what a recording holds of AUX areas, and makes rings to play it into. */

import { RECORD, SAMPLE } from "../abi.js";
import { PmuError } from "../errors.js";
import { Errno, mapAnonymous, unmap } from "../ffi.js";
import type { RecordedAttr } from "../perf-data/attr.js";
import type { AuxTrace } from "../perf-data/aux-trace.js";
import type { Recording } from "../perf-data/recording.js";
import type { AuxRingDescriptor } from "../source.js";
import type { AuxPiece, RecordedAux } from "./aux-player.js";
import type { RecordIndex } from "./record-index.js";
import { closeSoftwareRings, openSoftwareRing } from "./ring-memory.js";

/** Records of AUX areas are few and short. */
const RING_BYTES = 16 * 1024;
/** What perf gives an area that runs all the time, at most. */
export const REPLAY_AUX_BYTES = 4 * 1024 * 1024;

/** perf gives each CPU or thread one. Each costs an address range and a file descriptor, whatever little it holds. */
const AREAS_MAX = 1024;

/** `index` is the recording's. The rings are the caller's to close. Throws PmuError RESOURCE, and RecordingError for too many areas. */
export function openRecordedAux({ file, auxTraces, attrs, image }: Recording, index: RecordIndex): RecordedAux {
  const pieces = auxPieces(auxTraces);
  const areas = pieces.reduce((count, { area }) => Math.max(count, area + 1), 0);
  if (areas > AREAS_MAX) throw image.error(0, `holds traces of ${areas} AUX areas, above the limit of ${AREAS_MAX}`);
  const record = index.offset.findIndex((at) => image.view.getUint32(at, true) === RECORD.AUX);
  if (pieces.length === 0 || record < 0) return { attr: -1, pieces: [], hasTid: false, rings: [] };
  const attr = index.attr[record] as number;
  const { sampleType, sampleIdAll } = attrs[attr] as RecordedAttr;
  const hasTid = sampleIdAll && (sampleType & SAMPLE.TID) !== 0;
  try {
    return { attr, pieces, hasTid, rings: openAuxRings(pieces, index.cpus) };
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
    throw new PmuError(
      "RESOURCE",
      `recording ${file}: no room for its ${areas} AUX areas, of ${REPLAY_AUX_BYTES / 2 ** 20} MiB and a file descriptor each (${error.message}): raise RLIMIT_NOFILE (LimitNOFILE=), vm.max_map_count or the memory there is, or record fewer threads`,
      { cause: error },
    );
  }
}

/** Areas are numbered as they come; one that holds nothing is none. */
function auxPieces(traces: readonly AuxTrace[]): AuxPiece[] {
  const areas = new Map<number, number>();
  const pieces: AuxPiece[] = [];
  for (const { idx, cpu, tid, offset, data } of traces) {
    if (data.end === data.start) continue;
    const area = areas.get(idx) ?? areas.size;
    areas.set(idx, area);
    pieces.push({ area, cpu, tid, offset, ...data });
  }
  return pieces;
}

/** One for each area of `pieces`, in order. `cpus` are those whose rings somebody drains. Throws Errno. */
export function openAuxRings(
  pieces: readonly AuxPiece[],
  cpus: readonly number[],
  auxBytes: number = REPLAY_AUX_BYTES,
): AuxRingDescriptor[] {
  const rings: AuxRingDescriptor[] = [];
  try {
    for (const { area, cpu } of pieces) {
      if (rings[area] !== undefined) continue;
      rings[area] = openAuxRing(cpus.includes(cpu) ? cpu : (cpus[0] as number), auxBytes);
    }
  } catch (error) {
    closeAuxRings(rings);
    throw error;
  }
  return rings;
}

function openAuxRing(cpu: number, auxBytes: number): AuxRingDescriptor {
  const ring = openSoftwareRing(cpu, RING_BYTES);
  try {
    const auxAddress = mapAnonymous(auxBytes);
    const wanted = new Int32Array(new SharedArrayBuffer(4));
    return { ...ring, auxAddress, auxBytes, eventFd: null, wanted };
  } catch (error) {
    closeSoftwareRings([ring]);
    throw error;
  }
}

/** Once only, and when no thread looks at the memory any more. */
export function closeAuxRings(rings: readonly AuxRingDescriptor[]): void {
  closeSoftwareRings(rings);
  for (const { auxAddress, auxBytes } of rings) unmap(auxAddress, auxBytes);
}
