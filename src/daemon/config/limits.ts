/**
 * Every number that bounds the daemon and may be configured, in one place, with the relations that must hold among
 * them. Keys are the configuration file's; units are in the names.
 */
import { CAPACITY_MAX, DISPATCHERS_MAX } from "../../registry/layout.js";
import { MEMORY_BYTES_PER_DISPATCHER, MEMORY_BYTES_PER_HANDLER, MEMORY_BYTES_PER_SHARE } from "../delivery/memory.js";
import { EVENTS_PER_HANDLER_MAX, REGION_BYTES_MIN } from "../delivery/outbox.js";

export interface Range {
  readonly min: number;
  readonly max: number;
  readonly default: number;
  /** The value must be a power of two. */
  readonly powerOfTwo?: boolean;
}

const KIB = 1024;
const MIB = 1024 * KIB;
const HOUR_MS = 3_600_000;

/** Node fires a timer with a longer delay at once. */
export const TIMER_MS_MAX = 2 ** 31 - 1;

export const RANGES = {
  dispatchers: { min: 1, max: DISPATCHERS_MAX, default: 1 },
  capacity: { min: 1, max: CAPACITY_MAX, default: 256 },
  // The default plus the control page is 516 KiB, what perf_event_mlock_kb allows an unprivileged user for each CPU.
  ring_kib: { min: 8, max: 65_536, default: 512, powerOfTwo: true },
  // Unless it is set it is more where many handlers and dispatchers need it: memoryDefault. Half of it may be one arena,
  // and koffi makes no view of 4 GiB or more: it ends the process.
  "limits.memory_max_bytes": { min: 32 * MIB, max: 4096 * MIB, default: 512 * MIB },
  "limits.queue_max_bytes": { min: REGION_BYTES_MIN, max: 1024 * MIB, default: 64 * MIB },
  "limits.queue_default_bytes": { min: REGION_BYTES_MIN, max: 1024 * MIB, default: 4 * MIB },
  "limits.flush_interval_default_ms": { min: 0, max: TIMER_MS_MAX, default: 400 },
  "limits.flush_interval_default_max_ms": { min: 0, max: TIMER_MS_MAX, default: 2000 },
  "limits.flush_interval_max_ms": { min: 1, max: TIMER_MS_MAX, default: 60_000 },
  "limits.slow_dispatch_us": { min: 1, max: 8192, default: 1024 },
  "limits.lease_default_ms": { min: 1, max: TIMER_MS_MAX, default: 10_000 },
  "limits.lease_max_ms": { min: 1, max: TIMER_MS_MAX, default: HOUR_MS },
  "limits.deregister_timeout_default_ms": { min: 1, max: TIMER_MS_MAX, default: 5_000 },
  "limits.message_max_bytes": { min: 4 * KIB, max: 64 * MIB, default: MIB },
  "limits.filter_entries_max": { min: 1, max: 65_536, default: 1024 },
  // As many as there may be handlers, and calls beside.
  "limits.connections_max": { min: 1, max: 65_536, default: 4096 },
  "limits.connections_per_peer_max": { min: 1, max: 65_536, default: 1024 },
  "limits.streams_per_connection_max": { min: 1, max: 65_536, default: 1024 },
  "limits.streams_per_peer_max": { min: 1, max: 1_048_576, default: 4096 },
  "limits.requests_per_second_max": { min: 1, max: 1_000_000, default: 2000 },
  "limits.control_frames_per_second_max": { min: 1, max: 1_000_000, default: 1000 },
  // Requests are small; what is more are frames for their own sake.
  "limits.receive_bytes_per_second_max": { min: 64 * KIB, max: 1024 * MIB, default: 8 * MIB },
  "limits.handshake_timeout_ms": { min: 1, max: TIMER_MS_MAX, default: 10_000 },
  "limits.keepalive_interval_ms": { min: 1, max: TIMER_MS_MAX, default: 60_000 },
  "limits.keepalive_timeout_ms": { min: 1, max: TIMER_MS_MAX, default: 20_000 },
  // About what a handler gets that names no rate: what is slower costs next to nothing, and would say as much.
  "limits.overload_rate_floor_hz": { min: 1, max: 1_000_000, default: 100 },
  "limits.overload_raise_after_ms": { min: 1, max: HOUR_MS, default: 10_000 },
  "limits.events_per_handler_max": { min: 1, max: EVENTS_PER_HANDLER_MAX, default: EVENTS_PER_HANDLER_MAX },
} as const satisfies Record<string, Range>;

export type NumberKey = keyof typeof RANGES;

/** unix(7): sun_path has 108 bytes, the last of which ends the string. */
export const SOCKET_PATH_BYTES_MAX = 107;

export const SYNTHETIC = {
  ratePerSecond: { min: 1, max: 100_000_000 },
  cpus: { min: 1, max: 1024 },
  seed: { min: 0, max: 2 ** 32 - 1, default: 1 },
} as const;

/** Of the recorded pace. */
export const REPLAY = { speed: { min: 0.001, max: 1_000_000, default: 1 } } as const;

/** Widest uint32 as a protobuf varint: what one pid in a filter may take of a message. */
const FILTER_ENTRY_BYTES = 5;

/** `small` times `scale` must not exceed `large`. */
export interface Relation {
  readonly small: NumberKey;
  readonly large: NumberKey;
  readonly scale: number;
  readonly reason: string;
}

export const RELATIONS: readonly Relation[] = [
  {
    small: "capacity",
    large: "limits.memory_max_bytes",
    scale: MEMORY_BYTES_PER_HANDLER,
    reason: `each handler's stream needs memory of its own, which takes ${MEMORY_BYTES_PER_HANDLER} bytes of the whole`,
  },
  {
    small: "dispatchers",
    large: "limits.memory_max_bytes",
    scale: MEMORY_BYTES_PER_DISPATCHER,
    reason: `each dispatcher needs segments of every size, which takes ${MEMORY_BYTES_PER_DISPATCHER} bytes of the whole`,
  },
  {
    small: "dispatchers",
    large: "limits.queue_default_bytes",
    scale: REGION_BYTES_MIN,
    reason: `a queue has a region for each dispatcher, of ${REGION_BYTES_MIN} bytes at least`,
  },
  {
    small: "limits.queue_default_bytes",
    large: "limits.queue_max_bytes",
    scale: 1,
    reason: "a handler that asks for nothing must not get more than a handler may ask for",
  },
  {
    small: "limits.flush_interval_default_ms",
    large: "limits.flush_interval_default_max_ms",
    scale: 1,
    reason: "the default grows from the one to the other with the number of streams",
  },
  {
    small: "limits.flush_interval_default_max_ms",
    large: "limits.flush_interval_max_ms",
    scale: 1,
    reason: "a handler that asks for nothing must not wait longer than a handler may ask for",
  },
  {
    small: "limits.lease_default_ms",
    large: "limits.lease_max_ms",
    scale: 1,
    reason: "a handler that asks for nothing must not live longer than a handler may ask for",
  },
  {
    small: "limits.connections_per_peer_max",
    large: "limits.connections_max",
    scale: 1,
    reason: "one peer must not have more connections than all together",
  },
  {
    small: "limits.filter_entries_max",
    large: "limits.message_max_bytes",
    scale: FILTER_ENTRY_BYTES,
    reason: `a filter of the largest size must fit into one message, at ${FILTER_ENTRY_BYTES} bytes an entry`,
  },
];

export interface Handlers {
  readonly capacity: number;
  readonly dispatchers: number;
}

/** What limits.memory_max_bytes must be for each handler's own part of the segments to be there for sure. */
export function memoryForShares({ capacity, dispatchers }: Handlers): number {
  return MEMORY_BYTES_PER_SHARE * capacity * dispatchers;
}

/** limits.memory_max_bytes where nobody has set it: enough for every handler's own part, as far as it may be. */
export function memoryDefault(handlers: Handlers): number {
  const range = RANGES["limits.memory_max_bytes"];
  return Math.min(range.max, Math.max(range.default, memoryForShares(handlers)));
}

/** What an operator must know of a limits.memory_max_bytes below memoryForShares; null where it is not. */
export function memoryShortfall(handlers: Handlers, memoryMaxBytes: number): string | null {
  const wanted = memoryForShares(handlers);
  if (memoryMaxBytes >= wanted) return null;
  const { max } = RANGES["limits.memory_max_bytes"];
  const raise = wanted <= max ? `raise limits.memory_max_bytes to ${wanted}, or lower` : "lower";
  return (
    `limits.memory_max_bytes (${memoryMaxBytes}) is below ${MEMORY_BYTES_PER_SHARE} for each of ${handlers.capacity} handlers and ` +
    `${handlers.dispatchers} dispatchers: a handler's own part of it is not guaranteed, and readers that are stuck can take it. ` +
    `To have the guarantee ${raise} capacity or dispatchers`
  );
}

export function relationHolds(relation: Relation, value: (key: NumberKey) => number): boolean {
  return value(relation.small) * relation.scale <= value(relation.large);
}

for (const [key, range] of Object.entries<Range>(RANGES)) {
  if (!(range.min <= range.default && range.default <= range.max)) throw new Error(`${key}: default out of range`);
}
for (const relation of RELATIONS) {
  if (!relationHolds(relation, (key) => RANGES[key].default)) throw new Error(`default breaks: ${relation.reason}`);
}
const defaults: Handlers = { capacity: RANGES.capacity.default, dispatchers: RANGES.dispatchers.default };
const shortfall = memoryShortfall(defaults, RANGES["limits.memory_max_bytes"].default);
if (shortfall !== null) throw new Error(`default breaks: ${shortfall}`);
