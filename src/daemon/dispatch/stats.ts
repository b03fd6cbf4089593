/**
 * What a dispatcher counts, in shared memory that the main thread reads at any time. One SharedArrayBuffer a dispatcher,
 * written by it alone; doubles, as in the handler table.
 */
import { EVENTS_MAX } from "../../pmu/record.js";
import { HISTOGRAM_WORDS } from "../observe/histogram.js";

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
} as const;
export const EVENT_STAT = { SAMPLES: 0, UNCLAIMED: 1, THROTTLED: 2, UNTHROTTLED: 3 } as const;

const DISPATCHER_WORDS = 8;
const EVENT_WORDS = 4;
const EVENTS_AT = DISPATCHER_WORDS;
const HISTOGRAM_AT = EVENTS_AT + EVENTS_MAX * EVENT_WORDS;
const WORDS = HISTOGRAM_AT + HISTOGRAM_WORDS;

export class DispatcherStats {
  readonly buffer: SharedArrayBuffer;
  readonly words: Float64Array;
  /** From a sample's time to its dispatch. */
  readonly ringToDispatch: Float64Array;

  constructor(buffer: SharedArrayBuffer = new SharedArrayBuffer(WORDS * 8)) {
    this.buffer = buffer;
    this.words = new Float64Array(buffer);
    this.ringToDispatch = new Float64Array(buffer, HISTOGRAM_AT * 8, HISTOGRAM_WORDS);
  }

  /** Index into `words`. */
  event(event: number, stat: number): number {
    return EVENTS_AT + event * EVENT_WORDS + stat;
  }
}
