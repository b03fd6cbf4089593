/**
 * The handler table's shared memory: a file on tmpfs, mapped by the daemon, readable from outside at any moment.
 *
 *   0          header: magic, version (published last), sizes; list head and high-water mark on lines of their own;
 *              then the layout as JSON, so that an outside reader needs nothing but the file
 *   slotsAt    slot 0 │ slot 1 │ … │ slot capacity-1, each slotStride bytes:
 *
 *              ┌ control line ─ state|generation, next, event mask       written by registrars and removers
 *              ├ identity     ─ name, events, filter flags, limits       written in CLAIMED, constant until FREE
 *              ├ delivery     ─ delivered, queue bytes, losses           written by the delivering thread
 *              ├ dispatcher 0 ─ running │ its counters                   written by dispatcher 0 alone
 *              ├ dispatcher 1 ─ …
 *
 * Words with different writers are on different cache lines (64 bytes). Every offset is computed from the one before.
 *
 * Counters are IEEE doubles that hold whole numbers below 2^53: one plain aligned store each, so an outside reader
 * never sees half of one, and no BigInt is allocated per count.
 */

/**
 * A slot's life. Who may make each move:
 *
 *        registrar: CAS            registrar: CAS             remover: CAS
 *   FREE ──────────────► CLAIMED ────────────────► ACTIVE ────────────────► DRAINING
 *    ▲  generation + 1      │                                                   │
 *    │                      │ registrar: CAS (gives up)                         │ remover: CAS, once every running[d]
 *    └──────────────────────┴───────────────────────────────────────────────────┘ has been seen 0 since DRAINING
 *
 * Dispatchers never change a state. They may be inside a handler only while it is ACTIVE or DRAINING.
 */
export const STATE = { FREE: 0, CLAIMED: 1, ACTIVE: 2, DRAINING: 3 } as const;
export const STATE_NAMES = ["FREE", "CLAIMED", "ACTIVE", "DRAINING"] as const;

const STATE_BITS = 3;
export const STATE_MASK = (1 << STATE_BITS) - 1;
/** Generations count from 1 and wrap to 1: 29 bits beside the state. */
export const GENERATION_MAX = 2 ** (32 - STATE_BITS) - 1;

/** State and generation share one word, so that one CAS decides both and a stale handle can never win. */
export function packState(generation: number, state: number): number {
  return (generation << STATE_BITS) | state | 0;
}

export function stateOf(word: number): number {
  return word & STATE_MASK;
}

export function generationOf(word: number): number {
  return word >>> STATE_BITS;
}

export const CAPACITY_MAX = 65_536;
export const DISPATCHERS_MAX = 64;

/** handler_id: below 2^45, so it survives JavaScript's numbers. Never 0, since generations count from 1. */
export function handlerId(generation: number, slot: number): number {
  return generation * CAPACITY_MAX + slot;
}

export function slotOfId(id: number): number {
  return id % CAPACITY_MAX;
}

export function generationOfId(id: number): number {
  return Math.floor(id / CAPACITY_MAX);
}

export const LINE_BYTES = 64;
export const MAGIC = "NMIDHTBL";
export const LAYOUT_VERSION = 3;

/** Why samples of a handler were lost: index into a slot's `losses`, and LossReason's numbers on the wire. */
export const LOSS_REASONS = [
  "LOSS_REASON_UNSPECIFIED",
  "QUEUE_FULL",
  "QUEUE_DROPPED_OLDEST",
  "STREAM_BROKEN",
  "DISCARDED",
  "LEASE_EXPIRED",
  "DISCONNECTED",
  "SHUTDOWN",
  "KERNEL",
  "DISPATCHER_DIED",
  "MEMORY",
  "RESTART",
] as const;

export type FieldType = "u32" | "f64" | "text";

export interface Field {
  readonly name: string;
  /** Bytes from the start of the header, the slot, or the dispatcher's block. */
  readonly offset: number;
  readonly type: FieldType;
  /** Elements; for text, bytes (UTF-8, padded with NUL). */
  readonly count: number;
}

class LayoutBuilder {
  readonly fields: Field[] = [];
  #next: number;

  constructor(start = 0) {
    this.#next = start;
  }

  add(name: string, type: FieldType, count = 1): number {
    const size = type === "f64" ? 8 : type === "u32" ? 4 : 1;
    const offset = Math.ceil(this.#next / size) * size;
    this.fields.push({ name, offset, type, count });
    this.#next = offset + size * count;
    return offset;
  }

  /** The first field behind a change of writer: on a cache line of its own. */
  addOnNewLine(name: string, type: FieldType, count = 1): number {
    this.end();
    return this.add(name, type, count);
  }

  end(): number {
    this.#next = Math.ceil(this.#next / LINE_BYTES) * LINE_BYTES;
    return this.#next;
  }
}

const header = new LayoutBuilder();
header.add("magic", "text", 8);
export const HEADER = {
  VERSION: header.add("version", "u32"),
  SLOTS_AT: header.add("slots_at", "u32"),
  JSON_AT: header.add("json_at", "u32"),
  JSON_BYTES: header.add("json_bytes", "u32"),
  CAPACITY: header.add("capacity", "u32"),
  DISPATCHERS: header.add("dispatchers", "u32"),
  SLOT_STRIDE: header.add("slot_stride", "u32"),
  DAEMON_PID: header.add("daemon_pid", "u32"),
  /** Seconds since the epoch. */
  STARTED_AT: header.add("started_at", "f64"),
  /** Slot index + 1 of the list's first slot; 0 while the list is empty. */
  LIST_HEAD: header.addOnNewLine("list_head", "u32"),
  /** Slots ever taken into the list. */
  HIGH_WATER: header.addOnNewLine("high_water", "u32"),
} as const;
const HEADER_FIELDS_END = header.end();

const slot = new LayoutBuilder();
export const SLOT = {
  STATE: slot.add("state_generation", "u32"),
  /** Slot index + 1 of the next slot in the list; 0 at its end. Written once, before the slot is linked. */
  NEXT: slot.add("next", "u32"),
  /** Bit e % 32 of word e / 32: the handler wants samples of armed event e. */
  EVENT_MASK: slot.add("event_mask", "u32", 2),
  NAME: slot.addOnNewLine("name", "text", 64),
  EVENTS: slot.add("events", "text", 128),
  FILTER_FLAGS: slot.add("filter_flags", "u32"),
  QUEUE_MAX_BYTES: slot.add("queue_max_bytes", "f64"),
  REGISTERED_AT: slot.add("registered_at", "f64"),
  DELIVERED: slot.addOnNewLine("delivered", "f64"),
  QUEUE_BYTES: slot.add("queue_bytes", "f64"),
  LOSSES: slot.add("losses", "f64", LOSS_REASONS.length),
} as const;
/** The event mask's words, counted from the slot's first word. */
export const EVENT_WORDS = { LOW: SLOT.EVENT_MASK / 4, HIGH: SLOT.EVENT_MASK / 4 + 1 } as const;
const DISPATCHERS_AT = slot.end();

/** 1 us to 8.2 ms, and beyond. */
export const DISPATCH_TIME_BUCKETS = 15;

const dispatcher = new LayoutBuilder();
export const DISPATCHER = {
  /** 1 from the announcement of a dispatch to its retraction. */
  RUNNING: dispatcher.add("running", "u32"),
  DISPATCHES: dispatcher.addOnNewLine("dispatches", "f64"),
  MATCHED: dispatcher.add("matched", "f64"),
  QUEUE_FULL: dispatcher.add("queue_full", "f64"),
  LONGEST_DISPATCH_NS: dispatcher.add("longest_dispatch_ns", "f64"),
  LAST_DISPATCH_NS: dispatcher.add("last_dispatch_ns", "f64"),
  /** Serial number of the last batch whose dispatch to the handler has ended; a restarted dispatcher goes on behind it. */
  OFFERED: dispatcher.add("offered", "f64"),
  DISPATCH_NS_SUM: dispatcher.add("dispatch_ns_sum", "f64"),
  /** Dispatches by duration: bucket i took up to 2^i us and more than the one before; the last has no bound. */
  DISPATCH_TIME: dispatcher.add("dispatch_time", "f64", DISPATCH_TIME_BUCKETS),
  MEMORY: dispatcher.add("memory", "f64"),
} as const;
const DISPATCHER_STRIDE = dispatcher.end();

/** Bits of a slot's filter_flags. */
export const FILTER_FLAG = { PIDS: 1, CPUS: 2, UIDS: 4, CGROUPS: 8, EXCLUDE_USER: 16, EXCLUDE_KERNEL: 32 } as const;

/** The table's geometry for one capacity and dispatcher count. All numbers are bytes. */
export interface TableLayout {
  readonly capacity: number;
  readonly dispatchers: number;
  readonly slotsAt: number;
  readonly slotStride: number;
  readonly bytes: number;
  /** The layout block that outside readers go by. */
  readonly json: Uint8Array;
  readonly jsonAt: number;
}

export function tableLayout(capacity: number, dispatchers: number): TableLayout {
  if (!Number.isInteger(capacity) || capacity < 1 || capacity > CAPACITY_MAX) {
    throw new RangeError(`capacity ${capacity}: not between 1 and ${CAPACITY_MAX}`);
  }
  if (!Number.isInteger(dispatchers) || dispatchers < 1 || dispatchers > DISPATCHERS_MAX) {
    throw new RangeError(`dispatchers ${dispatchers}: not between 1 and ${DISPATCHERS_MAX}`);
  }
  const slotStride = DISPATCHERS_AT + dispatchers * DISPATCHER_STRIDE;
  const json = new TextEncoder().encode(
    JSON.stringify({
      version: LAYOUT_VERSION,
      states: STATE_NAMES,
      header: header.fields,
      slots: { stride: slotStride, fields: slot.fields },
      dispatchers: { offset: DISPATCHERS_AT, stride: DISPATCHER_STRIDE, fields: dispatcher.fields },
      lossReasons: LOSS_REASONS,
      filterFlags: FILTER_FLAG,
    }),
  );
  const slotsAt = Math.ceil((HEADER_FIELDS_END + json.byteLength) / 4096) * 4096;
  return {
    capacity,
    dispatchers,
    slotsAt,
    slotStride,
    bytes: slotsAt + capacity * slotStride,
    json,
    jsonAt: HEADER_FIELDS_END,
  };
}

/** Byte offset of a slot. */
export function slotAt(layout: TableLayout, index: number): number {
  return layout.slotsAt + index * layout.slotStride;
}

/** Byte offset of dispatcher `d`'s block in a slot. */
export function dispatcherAt(layout: TableLayout, index: number, d: number): number {
  return slotAt(layout, index) + DISPATCHERS_AT + d * DISPATCHER_STRIDE;
}
