/** One lane, and where what the lanes take of a batch is kept. */
import type { Selection } from "./encode.js";
import type { FilterSpec, SampleFilter } from "./filter.js";
import type { AttachedEvent } from "./messages.js";
import type { Ticker } from "./thinning.js";

const NEVER = -1;
const NOTHING: Selection = { sample: new Uint32Array(0), period: new Float64Array(0) };
export const NO_PAIR = -1;

/** What one handler wants of one event. */
export interface LaneRequest {
  readonly event: AttachedEvent;
  readonly filter: FilterSpec;
  /** filterKey of it: to make one takes as long as the filter is, so whoever asks for several lanes makes it once. */
  readonly filterKey: string;
  /** Beside the six of every batch: see columns.ts. */
  readonly columns: number;
}

export class Lane {
  readonly key: string;
  /** Armed event. */
  readonly event: number;
  readonly ticker: Ticker;
  readonly filter: SampleFilter;
  readonly filterKey: string;
  readonly columns: number;
  /** Weight of matching samples left out since the last one sent, by ring. */
  carry: Float64Array;
  carried = 0;
  /** Handlers that have joined. */
  members = 0;

  /** Serial number of the batch that what follows is about. */
  serial = NEVER;
  /** What the lane takes of the batch: this part of that selection. */
  selection: Selection = NOTHING;
  from = 0;
  to = 0;
  /** Sum of the selected samples' weights; known once its chunks are planned. */
  weight = 0;
  /** The lane's chunks; none before they are planned. */
  chunkFrom = 0;
  chunkTo = 0;
  /** Whether the lane carried anything when the batch began. */
  carriedBefore = false;
  /** A handler has been offered the batch. */
  offered = false;

  /** Where the indexed samples of the batch begin and end in the list of pairs. */
  firstPair = NO_PAIR;
  lastPair = NO_PAIR;

  constructor(
    key: string,
    { event, filterKey, columns }: LaneRequest,
    ticker: Ticker,
    filter: SampleFilter,
    rings: number,
  ) {
    this.key = key;
    this.event = event.armed;
    this.ticker = ticker;
    this.filter = filter;
    this.filterKey = filterKey;
    this.columns = columns;
    this.carry = new Float64Array(rings);
  }

  carriesSameAs(other: Lane): boolean {
    return this.carry.every((weight, ring) => weight === other.carry[ring]);
  }
}

/** Selections of all lanes, one behind the other; grows to what one batch has ever needed. */
export class SelectionPool implements Selection {
  sample = new Uint32Array(4096);
  period = new Float64Array(4096);
  end = 0;

  reserve(more: number): void {
    if (this.end + more <= this.sample.length) return;
    const length = 2 ** Math.ceil(Math.log2(this.end + more));
    const [sample, period] = [new Uint32Array(length), new Float64Array(length)];
    sample.set(this.sample);
    period.set(this.period);
    this.sample = sample;
    this.period = period;
  }
}

/** Which sample goes to which lane, as linked lists, one a lane. */
export class PairPool {
  sample = new Uint32Array(4096);
  next = new Int32Array(4096);
  end = 0;

  add(lane: Lane, sample: number): void {
    if (this.end === this.sample.length) this.#grow();
    const pair = this.end++;
    this.sample[pair] = sample;
    this.next[pair] = NO_PAIR;
    if (lane.lastPair === NO_PAIR) lane.firstPair = pair;
    else this.next[lane.lastPair] = pair;
    lane.lastPair = pair;
  }

  #grow(): void {
    const [sample, next] = [new Uint32Array(this.end * 2), new Int32Array(this.end * 2)];
    sample.set(this.sample);
    next.set(this.next);
    this.sample = sample;
    this.next = next;
  }
}
