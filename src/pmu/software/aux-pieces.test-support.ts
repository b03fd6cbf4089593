/** For tests of AUX areas: recordings with as many as wanted. */
import { RECORD } from "../abi.js";
import { DEMO } from "../perf-data/collection.test-support.js";
import { type Recording, readRecording } from "../perf-data/recording.js";
import { indexRecords, type RecordIndex } from "./record-index.js";

/** The demo, as if its first record were of an AUX area, of which it had `areas` with two pieces each. */
export function recordingOf(areas: number): [Recording, RecordIndex] {
  const recording = readRecording(DEMO);
  const index = indexRecords(recording);
  recording.image.view.setUint32(index.offset[0], RECORD.AUX, true);
  const traces = Array.from({ length: 2 * areas }, (_, i) => ({
    ...{ idx: 7 * (i % areas), tid: 1 + (i % areas), cpu: -1, offset: i < areas ? 0 : 8, reference: 0n },
    data: { start: 0, end: 8 },
  }));
  return [{ ...recording, auxTraces: traces }, index];
}
