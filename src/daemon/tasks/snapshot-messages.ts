/** A source's snapshot as messages of a stream. */
import type { TaskSnapshot } from "../../pmu/source.js";
import { TrailerTable } from "../../pmu/task-record.js";
import { type OwnerLookup, procOwner } from "../dispatch/process-owner.js";
import { encodeTaskRecord } from "./encode-record.js";
import { ProtoWriter } from "./proto-writer.js";
import { type TaskFilter, threadAt } from "./task-filter.js";

/** Field numbers of proto/nmi.proto. */
const DELIVERY_TASKS = 3;
const TASKS = { SNAPSHOT: 1, SNAPSHOT_COMPLETE: 2 } as const;
/** A message ends with the first record beyond this many bytes. */
const MESSAGE_BYTES = 32 * 1024;
/** One run of records is linear: no index is ever cut off. */
const NO_MASK = -1;

/** Whether a process is one of those whose records go to the filter's handler: as it is now. */
export function mayBeTold({ owner }: TaskFilter, ownerOf: OwnerLookup = procOwner): (pid: number) => boolean {
  if (owner === null) return () => true;
  return (pid) => {
    const found = ownerOf(pid, pid);
    return found !== null && owner.uids.includes(found.uid) && (owner.gid === null || owner.gid === found.gid);
  };
}

/**
 * nmi.v1.Delivery messages, each made when it is asked for; the last says that the snapshot is complete, also when what
 * it is made from cannot be read to its end, of which `onError` hears.
 */
export async function* snapshotMessages(
  { formats, runs }: TaskSnapshot,
  filter: TaskFilter,
  onError: (error: Error) => void,
  isTold = mayBeTold(filter),
): AsyncGenerator<Buffer> {
  const trailers = new TrailerTable();
  for (const format of formats) trailers.add(format);
  const writer = new ProtoWriter();
  let message = beginMessage(writer);
  try {
    for await (const run of runs) {
      // Asked again of each run: what was read of a process was its own only if it is still the same user's.
      const told = new Map<number, boolean>();
      for (let at = 0; at < run.length; at += run[at + 1] >>> 18) {
        if (!filter.wants(run, NO_MASK, at)) continue;
        const thread = filter.owner === null ? null : threadAt(run[at]);
        if (thread !== null) {
          const pid = run[at + thread.pid];
          const isKnown = told.get(pid) ?? isTold(pid);
          told.set(pid, isKnown);
          if (!isKnown) continue;
        }
        encodeTaskRecord(writer, run, NO_MASK, at, trailers);
        if (writer.length < MESSAGE_BYTES) continue;
        yield finishMessage(writer, message);
        message = beginMessage(writer);
      }
    }
  } catch (error) {
    onError(error as Error);
  }
  writer.bool(TASKS.SNAPSHOT_COMPLETE, true);
  yield finishMessage(writer, message);
}

function beginMessage(writer: ProtoWriter): number {
  writer.reset();
  const message = writer.begin(DELIVERY_TASKS);
  writer.bool(TASKS.SNAPSHOT, true);
  return message;
}

function finishMessage(writer: ProtoWriter, message: number): Buffer {
  writer.end(message);
  return Buffer.from(writer.bytes.subarray(0, writer.length));
}
