/** A long recording out of a short one. */
import fs from "node:fs";
import { RECORD } from "../../src/pmu/abi.js";
import { FEATURE, FEATURE_BITS, HEADER, SECTION_BYTES, USER_RECORD } from "../../src/pmu/perf-data/format.js";
import { type Recording, readRecording } from "../../src/pmu/perf-data/recording.js";
import { indexRecords } from "../../src/pmu/software/record-index.js";

interface Pass {
  /** The recording's samples and ends of rounds, end to end as they lie in the file. */
  readonly bytes: Buffer;
  /** Where in them the times are. */
  readonly timesAt: readonly number[];
  readonly samples: number;
  /** What the times of the next pass have on top of this one's. */
  readonly spanNs: bigint;
}

/**
 * Writes the recording `from`, of file mode and not compressed, to `to`, with its samples as often as it takes for
 * `bytesMin`: each pass is later by the span of the one before, so that the times go on, and ends its rounds as the
 * original did. Everything else is as it was. Returns the number of samples.
 */
export function repeatRecording(from: string, to: string, bytesMin: number): number {
  const recording = readRecording(from);
  if (recording.mode !== "file" || recording.damage.length > 0 || recording.image.length > recording.image.fileBytes)
    throw new Error(`${from} is no sound, uncompressed recording of file mode`);
  const original = Buffer.from(recording.image.bytes);
  const pass = onePass(recording, original);
  if (pass.samples === 0) throw new Error(`${from} holds no samples`);
  const passes = Math.max(0, Math.ceil((bytesMin - original.length) / pass.bytes.length));
  const dataEnd = Number(original.readBigUInt64LE(HEADER.DATA) + original.readBigUInt64LE(HEADER.DATA + 8));
  moveFeatures(original, dataEnd, passes * pass.bytes.length, BigInt(passes) * pass.spanNs);
  const fd = fs.openSync(to, "w");
  try {
    fs.writeFileSync(fd, original.subarray(0, dataEnd));
    for (let i = 0; i < passes; i++) {
      for (const at of pass.timesAt) pass.bytes.writeBigUInt64LE(pass.bytes.readBigUInt64LE(at) + pass.spanNs, at);
      fs.writeFileSync(fd, pass.bytes);
    }
    fs.writeFileSync(fd, original.subarray(dataEnd));
  } finally {
    fs.closeSync(fd);
  }
  return pass.samples * (passes + 1);
}

function onePass(recording: Recording, bytes: Buffer): Pass {
  const index = indexRecords(recording);
  const timeAt = new Map<number, number>();
  let latestNs = 0;
  for (let i = 0; i < index.count; i++) {
    timeAt.set(index.offset[i] as number, index.timeAt[i] as number);
    latestNs = Math.max(latestNs, index.time[i] as number);
  }
  const parts: Buffer[] = [];
  const timesAt: number[] = [];
  let length = 0;
  let samples = 0;
  for (const { start, end } of recording.runs) {
    for (let at = start, size = 0; at < end; at += size) {
      size = bytes.readUInt16LE(at + 6);
      const type = bytes.readUInt32LE(at);
      if (type !== RECORD.SAMPLE && type !== USER_RECORD.FINISHED_ROUND) continue;
      const time = timeAt.get(at) ?? 0;
      if (time > 0) timesAt.push(length + time);
      if (type === RECORD.SAMPLE) samples++;
      parts.push(bytes.subarray(at, at + size));
      length += size;
    }
  }
  // A millisecond more, for what lies between two passes.
  return { bytes: Buffer.concat(parts), timesAt, samples, spanNs: BigInt(latestNs) + 1_000_000n };
}

/** Patches the header and the sections behind the data, which come to lie `bytes` further on. */
function moveFeatures(file: Buffer, dataEnd: number, bytes: number, ns: bigint): void {
  const add = (at: number, value: bigint) => file.writeBigUInt64LE(file.readBigUInt64LE(at) + value, at);
  add(HEADER.DATA + 8, BigInt(bytes));
  let entry = dataEnd;
  for (let feature = 0; feature < FEATURE_BITS; feature++) {
    if (((file[HEADER.FEATURES + (feature >> 3)] as number) & (1 << (feature & 7))) === 0) continue;
    const section = Number(file.readBigUInt64LE(entry));
    add(entry, BigInt(bytes));
    entry += SECTION_BYTES;
    // { first, last }
    if (feature === FEATURE.SAMPLE_TIME) add(section + 8, ns);
  }
}
