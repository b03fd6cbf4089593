/**
 * What a dispatcher counts, in shared memory that the main thread reads at any time: one part of it a dispatcher,
 * written by it alone; doubles, as in the handler table.
 */
import { EVENTS_MAX } from "../../pmu/record.js";
import { HISTOGRAM_WORDS } from "../observe/histogram.js";
import { RING_FILL_WORDS } from "./ring-fill.js";

export const DISPATCHER_STAT = {
  WAKEUPS: 0,
  DRAINS: 1,
  SAMPLES: 2,
  CORRUPT_BYTES: 3,
  STRAY_SAMPLES: 4,
  /** Of the batch that is being offered, or was last. What a restarted dispatcher goes on from. */
  BATCH_SERIAL: 5,
  /** Ring of the batch that is being offered plus 1, and the position behind it; 0 between batches. */
  OFFERING_RING: 6,
  OFFERING_UNTIL: 7,
  /** See busy-clock.ts. */
  BUSY: 8,
  /** Of the batch whose samples have been counted last. */
  COUNTED_SERIAL: 9,
  /** Of any type, as the kernel's LOST records tell. */
  LOST_RECORDS: 10,
  TASK_RECORDS: 11,
  /** Drained of AUX areas, and such as records named that no area held. */
  AUX_BYTES: 12,
  AUX_CORRUPT_BYTES: 13,
  /** Runs behind which the kernel had no room for more. */
  AUX_TRUNCATED: 14,
  /** Given back unread, since the kernel had no room for the record that would tell of them. */
  AUX_UNTOLD_BYTES: 15,
} as const;
export const EVENT_STAT = { SAMPLES: 0, UNCLAIMED: 1, THROTTLED: 2, UNTHROTTLED: 3 } as const;

const DISPATCHER_WORDS = 16;
const EVENT_WORDS = 4;
const WORDS_PER_LINE = 8;
const RING_FILL_AT = roundUp(DISPATCHER_WORDS);
const EVENTS_AT = roundUp(RING_FILL_AT + RING_FILL_WORDS);
const HISTOGRAM_AT = EVENTS_AT + EVENTS_MAX * EVENT_WORDS;
export const STATS_BYTES = (HISTOGRAM_AT + HISTOGRAM_WORDS) * 8;

function roundUp(words: number): number {
  return Math.ceil(words / WORDS_PER_LINE) * WORDS_PER_LINE;
}

export class DispatcherStats {
  readonly buffer: SharedArrayBuffer;
  readonly words: Float64Array;
  /** From a sample's time to its dispatch. */
  readonly ringToDispatch: Float64Array;
  /** How full rings were when their drain began: see ring-fill.ts. */
  readonly ringFill: Float64Array;

  /** STATS_BYTES of `buffer` from `at` on. */
  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(STATS_BYTES), at = 0) {
    this.buffer = buffer;
    this.words = new Float64Array(buffer, at, STATS_BYTES / 8);
    this.ringToDispatch = new Float64Array(buffer, at + HISTOGRAM_AT * 8, HISTOGRAM_WORDS);
    this.ringFill = new Float64Array(buffer, at + RING_FILL_AT * 8, RING_FILL_WORDS);
  }

  /** Index into `words`. */
  event(event: number, stat: number): number {
    return EVENTS_AT + event * EVENT_WORDS + stat;
  }
}
