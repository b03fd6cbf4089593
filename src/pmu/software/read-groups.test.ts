import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { SAMPLE } from "../abi.js";
import { DEMO, FIXTURES } from "../perf-data/collection.test-support.js";
import { type Recording, readRecording } from "../perf-data/recording.js";
import type { Source } from "../source.js";
import { readGroups } from "./read-groups.js";
import { indexRecords } from "./record-index.js";
import { openReplaySource } from "./replay.js";

const GROUP = join(FIXTURES, "group-read.perf.data");
const NAMES = ["cpu-clock", "page-faults", "context-switches"];

function groupsOf(change: (recording: Recording) => Recording): ReadonlyMap<number, readonly number[]> {
  const recording = change(readRecording(GROUP));
  return readGroups(recording, indexRecords(recording));
}

function open(t: TestContext, file: string): Source {
  const source = openReplaySource({ file, ringBytes: 1 << 16 });
  t.after(() => source.close());
  return source;
}

describe("groups of a recording", () => {
  it("are found by the ids that the leader's samples carry", () => {
    assert.deepEqual([...groupsOf((recording) => recording)], [[0, [1, 2]]]);
  });

  it("are in the samples' order, not in that of the attrs", () => {
    const swapped = groupsOf((recording) => {
      const [leader, first, second] = recording.attrs;
      return { ...recording, attrs: [leader, second, first] };
    });
    assert.deepEqual([...swapped], [[0, [2, 1]]]);
  });

  it("are not made up where a counter is nobody's", () => {
    const unknown = groupsOf((recording) => ({
      ...recording,
      attrs: recording.attrs.map((attr, i) => (i === 2 ? { ...attr, ids: [] } : attr)),
    }));
    assert.equal(unknown.size, 0);
  });

  it("come with their leader, whatever it is called", (t) => {
    const source = open(t, GROUP);
    for (const event of ["", "cpu-clock", "{cpu-clock,page-faults,context-switches}:S"]) {
      const [leader, ...others] = source.resolve({ event });
      assert.equal(others.length, 0);
      assert.deepEqual(
        [leader, ...leader.members].map(({ name }) => name),
        NAMES,
      );
      assert.equal(leader.sampleRead, true);
      source.open(leader, { sampleType: SAMPLE.READ, branchCounters: false, wakeEach: false }).close();
    }
    assert.deepEqual(
      source.listEvents().events.map(({ name, aliases }) => [name, aliases]),
      [["{cpu-clock,page-faults,context-switches}:S", ["cpu-clock"]]],
    );
    const [member] = source.resolve({ event: "page-faults" });
    assert.deepEqual([member.members, member.sampleRead], [[], false]);
  });

  it("have the branches that were recorded, and no others", (t) => {
    const source = open(t, GROUP);
    assert.throws(() => source.resolve({ event: "", branchSampleType: 0x11 }), {
      code: "SHAPE_UNSUPPORTED",
      message: "branch_sample_type: cpu-clock was recorded with 0x0: leave it out, or record with what it asks for",
    });
  });

  it("are refused where they are not the recording's, with those that are", (t) => {
    const source = open(t, GROUP);
    for (const event of ["{cpu-clock,page-faults}:S", "{page-faults,cpu-clock}:S", "{cpu-clock}:S"]) {
      assert.throws(() => source.resolve({ event }), {
        code: "EVENT_UNKNOWN",
        message: /holds \{cpu-clock,page-faults,context-switches\}:S$/,
      });
    }
    assert.throws(() => open(t, DEMO).resolve({ event: "{cpu-clock}:S" }), {
      code: "EVENT_UNKNOWN",
      message: /holds no group/,
    });
  });
});
