/** Delivery messages from their bytes. Sample columns become typed arrays without an object for any sample. */
import { endianness } from "node:os";
import { MalformedMessageError } from "./errors.js";
import type { Delivery, End, Loss, SampleBatch, Started } from "./messages.js";
import { WIRE_FIXED32, WIRE_FIXED64, WIRE_LENGTH_DELIMITED, WIRE_VARINT, WireReader } from "./wire.js";

// Field numbers of proto/nmi.proto.
const DELIVERY_STARTED = 1;
const DELIVERY_SAMPLES = 2;
const DELIVERY_LOSS = 4;
const DELIVERY_END = 5;
const BATCH_EVENT_INDEX = 1;
const BATCH_SEQUENCE = 2;
const COLUMN_TIME = 3;
const COLUMN_IP = 4;
const COLUMN_PID = 5;
const COLUMN_TID = 6;
const COLUMN_CPU = 7;
const COLUMN_PERIOD = 8;
const COLUMN_CALLCHAIN = 9;
const COLUMN_CALLCHAIN_LENGTH = 10;

const COLUMN_ELEMENT_BYTES: Readonly<Record<number, 4 | 8>> = {
  [COLUMN_TIME]: 8,
  [COLUMN_IP]: 8,
  [COLUMN_PID]: 4,
  [COLUMN_TID]: 4,
  [COLUMN_CPU]: 4,
  [COLUMN_PERIOD]: 8,
  [COLUMN_CALLCHAIN]: 8,
  [COLUMN_CALLCHAIN_LENGTH]: 4,
};

if (endianness() !== "LE") throw new Error("sample columns are little-endian memory, and this host is not");

/** Every Delivery but samples, as the proto's own deserializer gives it. */
export interface ControlDelivery {
  readonly started?: Omit<Started, "kind">;
  readonly loss?: Omit<Loss, "kind">;
  readonly end?: Omit<End, "kind">;
}

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
    if (field !== DELIVERY_SAMPLES && field !== DELIVERY_STARTED && field !== DELIVERY_LOSS && field !== DELIVERY_END) {
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
  return undefined;
}

/** `pieces`: start and end of each part of the SampleBatch in `message`. */
function decodeSamples(message: Uint8Array, pieces: readonly number[], span: TimeSpan | undefined): SampleBatch {
  let eventIndex = 0;
  let sequence = 0;
  const runs: number[][] = [];
  for (let column = COLUMN_TIME; column <= COLUMN_CALLCHAIN_LENGTH; column++) runs[column] = [];
  for (let piece = 0; piece < pieces.length; piece += 2) {
    const reader = new WireReader(message, pieces[piece], pieces[piece + 1]);
    while (reader.next()) {
      const { field } = reader;
      if (field in COLUMN_ELEMENT_BYTES) {
        takeRun(reader, COLUMN_ELEMENT_BYTES[field], runs[field]);
      } else if (field === BATCH_EVENT_INDEX) {
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

  const time = column64(message, runs[COLUMN_TIME]);
  const ip = column64(message, runs[COLUMN_IP]);
  const pid = column32(message, runs[COLUMN_PID]);
  const tid = column32(message, runs[COLUMN_TID]);
  const cpu = column32(message, runs[COLUMN_CPU]);
  const period = column64(message, runs[COLUMN_PERIOD]);
  const callchain = column64(message, runs[COLUMN_CALLCHAIN]);
  const callchainLength = column32(message, runs[COLUMN_CALLCHAIN_LENGTH]);
  const columns = { time, ip, pid, tid, cpu, period, callchainLength };
  const length = Math.max(...Object.values(columns).map((column) => column.length));
  for (const [name, column] of Object.entries(columns)) {
    if (column.length !== 0 && column.length !== length) {
      throw new MalformedMessageError(`column ${name} holds ${column.length} of ${length} samples`, pieces[0]);
    }
  }
  let addresses = 0;
  for (const chainLength of callchainLength) addresses += chainLength;
  if (addresses !== callchain.length) {
    throw new MalformedMessageError(
      `callchain holds ${callchain.length} addresses, its lengths add up to ${addresses}`,
      pieces[0],
    );
  }
  if (span !== undefined) measureSpan(message, runs[COLUMN_TIME], span);
  return { kind: "samples", eventIndex, sequence, length, ...columns, callchain };
}

/** Notes start and end of a column's packed run, or of a single element that its sender did not pack. */
function takeRun(reader: WireReader, elementBytes: 4 | 8, runs: number[]): void {
  let length: number = elementBytes;
  if (reader.wireType === WIRE_LENGTH_DELIMITED) {
    length = reader.uint32();
    if (length % elementBytes !== 0) {
      throw new MalformedMessageError(`column ${reader.field} has a run of ${length} bytes`, reader.offset);
    }
  } else {
    reader.expect(elementBytes === 8 ? WIRE_FIXED64 : WIRE_FIXED32);
  }
  const start = reader.take(length);
  runs.push(start, start + length);
}

function column64(message: Uint8Array, runs: readonly number[]): BigUint64Array {
  const [start, end] = runs;
  if (runs.length === 2 && (message.byteOffset + start) % 8 === 0) {
    return new BigUint64Array(message.buffer, message.byteOffset + start, (end - start) / 8);
  }
  const bytes = joinRuns(message, runs);
  return new BigUint64Array(bytes.buffer, 0, bytes.length / 8);
}

function column32(message: Uint8Array, runs: readonly number[]): Uint32Array {
  const [start, end] = runs;
  if (runs.length === 2 && (message.byteOffset + start) % 4 === 0) {
    return new Uint32Array(message.buffer, message.byteOffset + start, (end - start) / 4);
  }
  const bytes = joinRuns(message, runs);
  return new Uint32Array(bytes.buffer, 0, bytes.length / 4);
}

/** The runs end to end in memory of their own, which is aligned for any element. */
function joinRuns(message: Uint8Array, runs: readonly number[]): Uint8Array {
  let length = 0;
  for (let i = 0; i < runs.length; i += 2) length += runs[i + 1] - runs[i];
  const joined = new Uint8Array(length);
  let at = 0;
  for (let i = 0; i < runs.length; i += 2) {
    joined.set(message.subarray(runs[i], runs[i + 1]), at);
    at += runs[i + 1] - runs[i];
  }
  return joined;
}

function measureSpan(message: Uint8Array, runs: readonly number[], span: TimeSpan): void {
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
