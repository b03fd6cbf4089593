/** The dispatcher's thread of the segments' torture: fills segments, gives them to outboxes, and publishes them, batch by batch. */
import assert from "node:assert/strict";
import { parentPort, workerData } from "node:worker_threads";
import { seededRandom } from "../../pmu/software/random.js";
import { OutboxWriter, REFUSAL } from "./outbox.js";
import { SEGMENT_HEADER_BYTES, SLAB_BYTES, segmentBytesFor } from "./segment-layout.js";
import {
  CONTROL,
  periodOf,
  samplesOf,
  type TortureAnswer,
  type TortureWorkerSetup,
  wordsOf,
} from "./segments.torture.test-support.js";

const BATCH_SEGMENTS_MAX = 8;
/** Of the outboxes, each segment is given to about this part. */
const GIVEN = 0.5;
const DRAINED_MAX_MS = 30_000;

const setup = workerData as TortureWorkerSetup;
const port = parentPort;
assert.ok(port !== null);
const { SegmentReader, SegmentWriter } = (await import(setup.segmentsModule)) as typeof import("./segments.js");
const random = seededRandom(setup.seed);
const control = new Int32Array(setup.control);
const segments = new SegmentWriter(setup.arena);
const use = new SegmentReader(setup.arena);
const writers = setup.outboxes.map((outbox) => new OutboxWriter(outbox, 0, setup.shape));
const answer = (message: TortureAnswer): void => port.postMessage(message);

answer({ kind: "started", usedBytes: use.use().usedBytes });
while (Atomics.load(control, CONTROL.PROGRESS) < setup.segments) batch();
answer({ kind: "done" });
assert.notEqual(Atomics.wait(control, CONTROL.DRAINED, 0, DRAINED_MAX_MS), "timed-out");
segments.reclaim();
const { usedBytes } = use.use();
let slabs = 0;
while (segments.allocate(SLAB_BYTES - SEGMENT_HEADER_BYTES) >= 0) slabs++;
answer({ kind: "drained", usedBytes, slabs });

function batch(): void {
  segments.reclaim();
  const shareBytes = segments.findShare(writers.length);
  let given = 0;
  const published: { readonly segment: number; readonly outboxes: number }[] = [];
  for (let left = 1 + Math.floor(random() * BATCH_SEGMENTS_MAX); left > 0; left--) {
    const serial = Atomics.load(control, CONTROL.PROGRESS);
    // Before anybody is given it: a successor begins with the next.
    Atomics.store(control, CONTROL.PROGRESS, serial + 1);
    const { segment, outboxes } = give(serial, shareBytes);
    if (segment >= 0) published.push({ segment, outboxes });
    given += outboxes;
  }
  // A dispatcher waits for nobody; this one lets readers catch up, or most segments would find no room.
  if (given === 0) Atomics.wait(control, CONTROL.DRAINED, 0, 1);
  for (const { segment, outboxes } of published) segments.publish(segment, outboxes);
}

function fill(serial: number, ownLeftBytes: number): number {
  const words = wordsOf(serial);
  const segment = segments.allocate(words * 4, ownLeftBytes);
  if (segment < 0) return segment;
  const at = segments.payloadWord(segment);
  for (let i = 0; i < words; i++) segments.data[at + i] = serial + i;
  segments.describe(segment, samplesOf(serial), periodOf(serial), serial, serial, 0);
  return segment;
}

/** As the dispatcher does it: the first outbox that may have the segment has it filled. */
function give(serial: number, shareBytes: number): { readonly segment: number; readonly outboxes: number } {
  let segment = -1;
  let bytes = segmentBytesFor(wordsOf(serial) * 4);
  const samples = samplesOf(serial);
  const period = periodOf(serial);
  let outboxes = 0;
  for (const writer of writers) {
    if (random() > GIVEN) continue;
    writer.addMatched(0, samples, period, 0, serial);
    const told = writer.flushPendingLoss(0, 0);
    const { usedBytes } = writer;
    const isWithin = told && usedBytes + bytes <= shareBytes && writer.hasRoom(bytes);
    if (isWithin && segment < 0) {
      segment = fill(serial, segments.ownBytes - usedBytes);
      if (segment >= 0) bytes = segments.segmentBytes;
    }
    const isOwn = usedBytes + bytes <= segments.ownBytes;
    if (isWithin && segment >= 0 && (isOwn || !segments.isReserved(segment)) && writer.hasRoom(bytes)) {
      outboxes++;
      writer.post(0, segment, bytes);
    } else writer.addPendingLoss(0, REFUSAL.MEMORY, samples, period, serial, serial);
  }
  return { segment, outboxes };
}
