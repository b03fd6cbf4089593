/** Which of a recording's events were counted as a group whose leader alone was sampled, `{a,b}:S`. */
import { FORMAT, RECORD, SAMPLE } from "../abi.js";
import type { RecordedAttr } from "../perf-data/attr.js";
import { Cursor, RecordingError } from "../perf-data/image.js";
import type { Recording } from "../perf-data/recording.js";
import { decodeSample } from "../perf-data/sample.js";
import type { RecordIndex } from "./record-index.js";

/**
 * Members by their leader, both as indexes into the recording's attrs, in the order in which a sample's `read` has their
 * values. The first sample of an event says them: its values carry the ids of the counters. Nothing is said of a group
 * with members that were sampled themselves, or with a counter that is in no attr's ids.
 */
export function readGroups(recording: Recording, index: RecordIndex): ReadonlyMap<number, readonly number[]> {
  const groups = new Map<number, readonly number[]>();
  const { attrs, image } = recording;
  if (!attrs.some(readsGroup)) return groups;
  const sampleAt = firstSamples(recording, index);
  const attrOfId = new Map(attrs.flatMap(({ ids }, attr) => ids.map((id) => [id, attr] as const)));
  for (const [leader, at] of sampleAt) {
    const attr = attrs[leader] as RecordedAttr;
    if (!readsGroup(attr)) continue;
    const record = new Cursor(image, at + 8, at + image.view.getUint16(at + 6, true), "a sample");
    const [first, ...members] = idsRead(record, attr).map((id) => attrOfId.get(id) ?? -1);
    if (first !== leader || members.some((member) => member < 0 || sampleAt.has(member))) continue;
    if (members.length > 0) groups.set(leader, members);
  }
  return groups;
}

function readsGroup({ sampleType, readFormat }: RecordedAttr): boolean {
  const wanted = FORMAT.GROUP | FORMAT.ID;
  return (sampleType & SAMPLE.READ) !== 0 && (readFormat & wanted) === wanted;
}

/** Byte offsets in the image, by attr; of events without samples none. */
function firstSamples({ image }: Recording, { count, offset, attr }: RecordIndex): ReadonlyMap<number, number> {
  const first = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    if (!first.has(attr[i]) && image.view.getUint32(offset[i], true) === RECORD.SAMPLE) first.set(attr[i], offset[i]);
  }
  return first;
}

function idsRead(record: Cursor, attr: RecordedAttr): readonly bigint[] {
  try {
    return decodeSample(record, attr).read?.values.flatMap(({ id }) => id ?? []) ?? [];
  } catch (error) {
    // A damaged sample tells of no group; whoever plays it says what is wrong with it.
    if (error instanceof RecordingError) return [];
    throw error;
  }
}
