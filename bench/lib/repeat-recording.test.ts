import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { RECORD } from "../../src/pmu/abi.js";
import { readRecording } from "../../src/pmu/perf-data/recording.js";
import { indexRecords } from "../../src/pmu/software/record-index.js";
import { REPOSITORY } from "../../test/support/daemon.js";
import { repeatRecording } from "./repeat-recording.js";

const DEMO = join(REPOSITORY, "recordings", "demo.perf.data");

test("a repeated recording is a sound one, whose times go on", (t) => {
  const folder = mkdtempSync(join(tmpdir(), "nmid-repeat-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "long.perf.data");
  const bytesMin = 1_000_000;
  const samples = repeatRecording(DEMO, file, bytesMin);
  const [short, long] = [readRecording(DEMO), readRecording(file)];
  assert.ok(statSync(file).size >= bytesMin);
  assert.deepEqual(long.damage, []);
  assert.equal(long.counts[RECORD.SAMPLE], samples);
  assert.equal(samples % (short.counts[RECORD.SAMPLE] as number), 0);
  assert.equal(long.counts[RECORD.COMM], short.counts[RECORD.COMM]);
  assert.deepEqual(long.attrs, short.attrs);
  assert.deepEqual({ ...long.features, SAMPLE_TIME: null }, { ...short.features, SAMPLE_TIME: null });
  const index = indexRecords(long);
  assert.equal(index.damage, null);
  assert.ok(index.time.every((time, i) => i === 0 || time >= (index.time[i - 1] as number)));
  const last = index.timeBaseNs + BigInt(index.time.at(-1) as number);
  if (long.features.SAMPLE_TIME) assert.ok(long.features.SAMPLE_TIME.last <= last);
});
