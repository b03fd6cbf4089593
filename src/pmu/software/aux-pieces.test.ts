import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { RECORD } from "../abi.js";
import { PIPE_HEADER_BYTES, USER_RECORD } from "../perf-data/format.js";
import { RecordingError } from "../perf-data/image.js";
import { Bytes, record } from "../perf-data/record-bytes.test-support.js";
import { parseRecording, type Recording } from "../perf-data/recording.js";
import { closeAuxRings, openAuxRings, openRecordedAux } from "./aux-pieces.js";
import { indexRecords } from "./record-index.js";

/** A pipe with one event, a PERF_RECORD_AUX, and for each area a trace of so many bytes. */
function recordingOf(areas: readonly { readonly idx: number; readonly bytes: number }[]): Recording {
  const file = new Bytes().raw(Buffer.from("PERFILE2")).u64(PIPE_HEADER_BYTES);
  file.raw(record(USER_RECORD.HEADER_ATTR, 0, new Bytes().u32(0, 64).pad(64)));
  file.raw(record(RECORD.AUX, 0, new Bytes().u64(0, 8, 0)));
  for (const { idx, bytes } of areas) {
    file.raw(record(USER_RECORD.AUXTRACE, 0, new Bytes().u64(bytes, 0, 0).u32(idx, -1, 0, 0)));
    file.raw(Buffer.alloc(bytes));
  }
  const bytes = new Uint8Array(new SharedArrayBuffer(file.length));
  bytes.set(file.toArray());
  return parseRecording("F", bytes);
}

test("areas that hold nothing are given no memory, and others one each", () => {
  const empty = Array.from({ length: 2000 }, (_, i) => ({ idx: i, bytes: 0 }));
  const recording = recordingOf([...empty, { idx: 7, bytes: 8 }, { idx: 9, bytes: 16 }, { idx: 7, bytes: 8 }]);
  assert.deepEqual(recording.damage, []);
  const { pieces, rings } = openRecordedAux(recording, indexRecords(recording));
  try {
    assert.deepEqual(
      pieces.map(({ area }) => area),
      [0, 1, 0],
    );
    assert.equal(rings.length, 2);
  } finally {
    closeAuxRings(rings);
  }
});

test("a recording of more areas than any machine has is refused before memory is asked for", () => {
  const recording = recordingOf(Array.from({ length: 1025 }, (_, i) => ({ idx: i * 3, bytes: 8 })));
  assert.throws(
    () => openRecordedAux(recording, indexRecords(recording)),
    (error) =>
      error instanceof RecordingError && /traces of 1025 AUX areas, above the limit of 1024/.test(error.message),
  );
});

test("nothing stays open where one of several areas gets no memory", () => {
  const piece = { tid: -1, offset: 0, start: 0, end: 8 };
  const open = () => fs.readdirSync("/proc/self/fd").length;
  const before = open();
  const pieces = [0, 1].map((area) => ({ ...piece, area, cpu: area }));
  assert.throws(() => openAuxRings(pieces, [0, 1], 2 ** 50), { code: "ENOMEM" });
  assert.equal(open(), before);
  const rings = openAuxRings(pieces, [0, 1]);
  assert.ok(open() > before);
  closeAuxRings(rings);
  assert.equal(open(), before);
});
