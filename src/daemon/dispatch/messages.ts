/** What the main thread tells a dispatcher and what it answers: one tagged union a direction. */
import type { AuxRingDescriptor, RecordFormat, RingDescriptor } from "../../pmu/source.js";
import type { OutboxShape } from "../delivery/outbox.js";
import type { TaskSpec } from "../tasks/task-filter.js";
import type { FilterSpec } from "./filter.js";
import type { Pinned } from "./pinning.js";
import type { EventPace } from "./thinning.js";

/** Of an event without samples of its own, a group's member. */
export const NOT_ARMED = -1;

/** One of a handler's events, as its dispatchers need it. */
export interface AttachedEvent {
  /** Index among the armed events, or NOT_ARMED. */
  readonly armed: number;
  /** What the handler asked for; both 0 means every sample. */
  readonly frequencyHz: number;
  readonly period: number;
}

export interface AttachSpec {
  readonly slot: number;
  readonly generation: number;
  readonly outbox: SharedArrayBuffer;
  readonly shape: OutboxShape;
  readonly events: readonly AttachedEvent[];
  readonly filter: FilterSpec;
  /** Beside the six of every batch: see columns.ts. */
  readonly columns: number;
  /** How long the handler lets its samples wait, and whether the daemon decides: then it changes. */
  readonly flushIntervalMs: number;
  readonly flushIsDaemons: boolean;
  /** Null: no task records. */
  readonly tasks: TaskSpec | null;
  /** Whether the handler is given what its events write into AUX areas. */
  readonly aux: boolean;
}

export type Control =
  | { readonly kind: "attach"; readonly spec: AttachSpec }
  | { readonly kind: "detach"; readonly slot: number; readonly generation: number }
  /** Records with these ids belong to armed event `event` from now on. */
  | { readonly kind: "add formats"; readonly event: number; readonly formats: readonly RecordFormat[] }
  /** Whatever the rings hold is drained first. */
  | { readonly kind: "remove formats"; readonly formats: readonly RecordFormat[] }
  /** Task records with these ids may come from now on. */
  | { readonly kind: "add tasks"; readonly formats: readonly RecordFormat[] }
  /** Whatever the rings hold is drained first. */
  | { readonly kind: "remove tasks"; readonly formats: readonly RecordFormat[] }
  /** Armed event `event` writes into these rings' AUX areas; each is drained by the dispatcher of its CPU. */
  | { readonly kind: "add aux"; readonly event: number; readonly rings: readonly AuxRingDescriptor[] }
  /** Whatever they hold is drained first. They may be unmapped when it is answered. */
  | { readonly kind: "remove aux"; readonly rings: readonly AuxRingDescriptor[] }
  /** Whatever the rings hold is drained first, at the old pace. */
  | { readonly kind: "pace"; readonly event: number; readonly pace: EventPace }
  /** Of all handlers that leave it to the daemon. */
  | { readonly kind: "flush interval"; readonly intervalMs: number }
  /** Another ring to drain, by the index that no other has now; known before what is to write into it is enabled. */
  | { readonly kind: "add ring"; readonly index: number; readonly ring: RingDescriptor }
  /** Whatever the rings hold is drained first. Once answered, no one looks at the ring's memory. */
  | { readonly kind: "remove ring"; readonly index: number }
  /** The ring of a CPU that any dispatcher drains: where it tells what processes did. Before what writes into it is enabled. */
  | { readonly kind: "watch ring"; readonly ring: RingDescriptor }
  /** Nothing writes into it any more. Once answered, nobody looks at its memory for that. */
  | { readonly kind: "unwatch ring"; readonly address: bigint }
  /** What processes did on a CPU that has just come was told nobody. */
  | { readonly kind: "forget identities" }
  /** Drains everything the rings hold now; the answer comes when every handler has been offered it. */
  | { readonly kind: "drain" }
  /** For tests of what happens when a dispatcher dies: now, or inside its next dispatch. */
  | { readonly kind: "fail"; readonly at: FaultPoint; readonly how: "throw" | "exit" }
  /** For tests of what happens when a dispatcher hangs: it does nothing until the word is not 0. */
  | { readonly kind: "hang"; readonly word: Int32Array<SharedArrayBuffer> }
  /** Whether the dispatcher lives: nothing else is to do. */
  | { readonly kind: "ask" }
  | { readonly kind: "stop" };

/**
 * `entered`: announced, nothing selected yet. `matched`: samples are selected and counted, none is encoded. `counted`:
 * every handler has been offered the batch and it is counted, but the ring's tail is not stored.
 */
export type FaultPoint = "now" | "entered" | "matched" | "counted";

/** Each control message is answered in order. */
export type Request = { readonly sequence: number; readonly control: Control };
export type Answer =
  /** Comes first, before anything is drained. */
  { readonly kind: "started"; readonly pinned: Pinned } | { readonly kind: "done"; readonly sequence: number };

export interface DispatcherSetup {
  readonly index: number;
  readonly tableAddress: bigint;
  readonly tableBytes: number;
  readonly capacity: number;
  readonly dispatchers: number;
  /** The CPUs to run on; null: any. */
  readonly pinTo: readonly number[] | null;
  readonly clockIsMonotonic: boolean;
  /** The dispatcher's arena of segments, in this process. */
  readonly arena: { readonly address: bigint; readonly bytes: number };
  /** Of a SharedMemory. */
  readonly shared: SharedArrayBuffer;
  /** Its rings, and what the dispatchers had been told when this one was started: its state is made of it. */
  readonly initial: readonly Control[];
  /** Slots that its predecessor died in; null when it has none. */
  readonly abandoned: readonly number[] | null;
  /** Readable when there is a control message. */
  readonly controlFd: number;
}
