/** Delivery messages from their bytes. Sample columns become typed arrays without an object for any sample. */
import { endianness } from "node:os";
import { type Runs, SampleColumns } from "./columns.js";
import { MalformedMessageError } from "./errors.js";
import type { AuxData, Delivery, End, Loss, SampleBatch, Started, TaskRecord, Tasks } from "./messages.js";
import { WIRE_FIXED64, WIRE_LENGTH_DELIMITED, WIRE_VARINT, WireReader } from "./wire.js";

// Field numbers of proto/nmi.proto.
const DELIVERY_SAMPLES = 2;
/** What an older library skips: members of the oneof that this one knows. */
const DELIVERY_KINDS: ReadonlySet<number> = new Set([1, DELIVERY_SAMPLES, 3, 4, 5, 6]);
const BATCH_EVENT_INDEX = 1;
const BATCH_SEQUENCE = 2;
const COLUMN_TIME = 3;

if (endianness() !== "LE") throw new Error("sample columns are little-endian memory, and this host is not");

/** Every Delivery but samples, as the proto's own deserializer gives it. */
export interface ControlDelivery {
  readonly started?: Omit<Started, "kind">;
  readonly loss?: Omit<Loss, "kind">;
  readonly end?: Omit<End, "kind">;
  readonly tasks?: {
    readonly snapshot: boolean;
    readonly snapshotComplete: boolean;
    readonly records: readonly WireTask[];
  };
  readonly aux?: Omit<AuxData, "kind">;
}

type WireTask = TaskRecord | (Omit<TaskRecord, "record"> & { readonly record?: undefined });

/** Times of a batch's oldest and newest sample in nanoseconds, exact to 2^53; NaN where it carries no times. */
export interface TimeSpan {
  oldestNs: number;
  newestNs: number;
}

/**
 * Decodes one Delivery. undefined for a kind that this version of the library does not know.
 * Where it holds samples, their times are put into `span`: of those that a dispatcher drained together, which follow
 * each other in time, it looks at the first and the last, and not at each.
 * The columns may be views of `message`, which must not be written to afterwards.
 * Throws MalformedMessageError for bytes that are no Delivery.
 */
export function decodeDelivery(
  message: Uint8Array,
  decodeControl: (message: Uint8Array) => ControlDelivery,
  span?: TimeSpan,
): Delivery | undefined {
  const reader = new WireReader(message);
  // As in every oneof the last member counts, and pieces of one message are merged.
  let kind = 0;
  let pieces: number[] = [];
  while (reader.next()) {
    const { field } = reader;
    if (!DELIVERY_KINDS.has(field)) {
      reader.skip();
      continue;
    }
    reader.expect(WIRE_LENGTH_DELIMITED);
    const length = reader.uint32();
    const start = reader.take(length);
    if (field !== kind) pieces = [];
    kind = field;
    pieces.push(start, start + length);
  }
  if (kind === 0) return undefined;
  if (kind === DELIVERY_SAMPLES) return decodeSamples(message, pieces, span);
  return control(message, decodeControl);
}

function control(message: Uint8Array, decodeControl: (message: Uint8Array) => ControlDelivery): Delivery | undefined {
  let decoded: ControlDelivery;
  try {
    decoded = decodeControl(message);
  } catch (error) {
    throw new MalformedMessageError(error instanceof Error ? error.message : String(error), 0);
  }
  if (decoded.started) return { kind: "started", ...decoded.started };
  if (decoded.loss) return { kind: "loss", ...decoded.loss };
  if (decoded.end) return { kind: "end", ...decoded.end };
  if (decoded.tasks) return tasks(decoded.tasks);
  if (decoded.aux) return { kind: "aux", ...decoded.aux };
  return undefined;
}

/** A record of a type that this library does not know has none of the oneof's members, and is left out. */
function tasks({ snapshot, snapshotComplete, records }: NonNullable<ControlDelivery["tasks"]>): Tasks {
  const known = records.filter((record): record is TaskRecord => record.record !== undefined);
  return { kind: "tasks", snapshot, snapshotComplete, records: known };
}

/** `pieces`: start and end of each part of the SampleBatch in `message`. */
function decodeSamples(message: Uint8Array, pieces: readonly number[], span: TimeSpan | undefined): SampleBatch {
  let eventIndex = 0;
  let sequence = 0;
  const columns = new SampleColumns(message);
  for (let piece = 0; piece < pieces.length; piece += 2) {
    const reader = new WireReader(message, pieces[piece], pieces[piece + 1]);
    while (reader.next()) {
      const { field } = reader;
      if (columns.take(reader)) continue;
      if (field === BATCH_EVENT_INDEX) {
        reader.expect(WIRE_VARINT);
        eventIndex = reader.uint32();
      } else if (field === BATCH_SEQUENCE) {
        reader.expect(WIRE_FIXED64);
        sequence = readUint64(message, reader.take(8));
      } else {
        reader.skip();
      }
    }
  }
  const batch = { kind: "samples", eventIndex, sequence, ...columns.finish(pieces[0]) } as const;
  if (span !== undefined) measureSpan(message, columns.runs(COLUMN_TIME), span);
  return batch;
}

function measureSpan(message: Uint8Array, runs: Runs, span: TimeSpan): void {
  span.oldestNs = Number.NaN;
  span.newestNs = Number.NaN;
  for (let i = 0; i < runs.length; i += 2) {
    if (runs[i] === runs[i + 1]) continue;
    const first = readUint64(message, runs[i]);
    const last = readUint64(message, runs[i + 1] - 8);
    // Not above, so that the first replaces NaN.
    if (!(span.oldestNs <= first)) span.oldestNs = first;
    if (!(span.newestNs >= last)) span.newestNs = last;
  }
}

/** Exact to 2^53. */
function readUint64(message: Uint8Array, offset: number): number {
  return readUint32(message, offset + 4) * 2 ** 32 + readUint32(message, offset);
}

function readUint32(message: Uint8Array, at: number): number {
  return (message[at] | (message[at + 1] << 8) | (message[at + 2] << 16) | (message[at + 3] << 24)) >>> 0;
}
