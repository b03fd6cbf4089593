/**
 * Lanes: handlers that want the same samples in the same shape share one selection and one encoding. A dispatcher's own
 * affair, no thread but its own sees them.
 *
 * What makes a lane: event, rate, filter, fields. Lanes of one rate tick together (thinning.ts), so all that
 * distinguishes two lanes of one key is what they carry: a handler that joins begins with nothing carried, beside a lane
 * that is in the middle of something; as soon as the two carry the same they are one.
 *
 * Which lanes want a sample is found by index where their filter names pids, uids, cgroups or CPUs: a thousand lanes of
 * a pid each cost a look-up a sample, not a thousand tests.
 */
import { BATCH_SAMPLES_MAX, type BatchIndex, EVENTS_MAX } from "../../pmu/record.js";
import type { DispatcherRing } from "./dispatcher.js";
import type { Selection } from "./encode.js";
import { dimensionValue, type FilterDimension, type OwnerCache } from "./filter.js";
import { Lane, type LaneRequest, NO_PAIR, PairPool, SelectionPool } from "./lane.js";
import { LaneIndex, removeFrom } from "./lane-index.js";
import type { AttachedEvent } from "./messages.js";
import type { Ownership } from "./ownership.js";
import { type EventPace, grown, paceFor, Ticker } from "./thinning.js";

/** Every sample of a batch, by its own number. */
const ALL_SAMPLES = Uint32Array.from({ length: BATCH_SAMPLES_MAX }, (_, i) => i);
const NO_LANES: readonly Lane[] = [];

/** The lanes of one armed event. */
interface EventLanes {
  readonly tickers: Map<string, { readonly ticker: Ticker; readonly wanted: AttachedEvent; lanes: number }>;
  /** Lanes whose filter no index helps with. */
  readonly scanned: Lane[];
  /** How many lanes an index finds, by dimension. */
  readonly indexed: Map<FilterDimension, number>;
  /** Lanes that took every sample of the batch, one a set of columns: others that do need not select again. */
  readonly whole: Lane[];
  /** How many of `whole` are of this batch. */
  wholes: number;
}

function wholeWith({ whole, wholes }: EventLanes, columns: number): Lane | null {
  for (let i = 0; i < wholes; i++) if (whole[i].columns === columns) return whole[i];
  return null;
}

export class LaneTable {
  /** Lanes that were selected for in the batch. */
  readonly prepared: Lane[] = [];
  preparedCount = 0;
  /** By event: samples of the batch that some handler was offered in a lane that took them. */
  readonly claimed = new Uint32Array(EVENTS_MAX);
  readonly #rings: readonly (DispatcherRing | null)[];
  readonly #owners: OwnerCache;
  readonly #selections = new SelectionPool();
  /** The dispatcher's one batch, all of it. */
  #batchSelection: Selection | null = null;
  readonly #pairs = new PairPool();
  readonly #byKey = new Map<string, Lane[]>();
  readonly #filters: LaneIndex;
  readonly #byEvent: (EventLanes | null)[] = new Array(EVENTS_MAX).fill(null);
  /** Keys with more than one lane, which may have come to carry the same. */
  readonly #split = new Set<string>();
  /** Of a merge. */
  readonly #moves = new Map<Lane, Lane>();
  readonly #kept = new Map<number, Lane[]>();
  readonly #touched: Lane[] = [];

  /** `rings` grows and changes as the dispatcher's do. */
  constructor(rings: readonly (DispatcherRing | null)[], owners: OwnerCache, ownership: Ownership | null = null) {
    this.#rings = rings;
    this.#owners = owners;
    this.#filters = new LaneIndex(owners, ownership);
  }

  /** There are rings up to there now. Those that were removed keep what is carried of them. */
  reserveRings(rings: number): void {
    for (const same of this.#byKey.values()) {
      for (const lane of same) lane.carry = grown(lane.carry, rings);
    }
    for (const lanes of this.#byEvent) {
      for (const { ticker } of lanes?.tickers.values() ?? []) ticker.reserveRings(rings);
    }
  }

  get size(): number {
    let lanes = 0;
    for (const same of this.#byKey.values()) lanes += same.length;
    return lanes;
  }

  setPace(event: number, pace: EventPace): void {
    for (const { ticker, wanted } of this.#byEvent[event]?.tickers.values() ?? []) ticker.pace = paceFor(wanted, pace);
  }

  /**
   * The lane that a handler begins in: one that carried nothing when batch `serial` began, or a new one, which has
   * selected nothing of the batch yet.
   */
  join(request: LaneRequest, pace: EventPace, serial: number): Lane {
    const { event, columns } = request;
    const rate = `${event.frequencyHz}/${event.period}`;
    const key = `${event.armed} ${rate} ${columns} ${request.filterKey}`;
    const same = this.#byKey.get(key) ?? [];
    let lane = same.find((other) => !(other.serial === serial ? other.carriedBefore : other.carried !== 0));
    if (lane === undefined) {
      lane = this.#open(key, rate, request, pace);
      same.push(lane);
      this.#byKey.set(key, same);
      if (same.length > 1) this.#split.add(key);
    }
    lane.members++;
    return lane;
  }

  #open(key: string, rate: string, request: LaneRequest, pace: EventPace): Lane {
    const { event } = request;
    this.#byEvent[event.armed] ??= { tickers: new Map(), scanned: [], indexed: new Map(), whole: [], wholes: 0 };
    const lanes = this.#byEvent[event.armed] as EventLanes;
    const known = lanes.tickers.get(rate);
    const ticker = known?.ticker ?? new Ticker(event.armed, paceFor(event, pace), this.#rings.length);
    lanes.tickers.set(rate, { ticker, wanted: event, lanes: (known?.lanes ?? 0) + 1 });
    const shared = this.#filters.of(request.filterKey, request.filter);
    const lane = new Lane(key, request, ticker, shared.filter, this.#rings.length);
    this.#filters.add(shared, lane);
    if (shared.by === null) lanes.scanned.push(lane);
    else lanes.indexed.set(shared.by.dimension, (lanes.indexed.get(shared.by.dimension) ?? 0) + 1);
    return lane;
  }

  leave(lane: Lane): void {
    if (--lane.members === 0) this.#close(lane);
  }

  #close(lane: Lane): void {
    const same = this.#byKey.get(lane.key) as Lane[];
    removeFrom(same, lane);
    if (same.length === 0) this.#byKey.delete(lane.key);
    if (same.length < 2) this.#split.delete(lane.key);
    const lanes = this.#byEvent[lane.event] as EventLanes;
    for (const [rate, user] of lanes.tickers) {
      if (user.ticker === lane.ticker && --user.lanes === 0) lanes.tickers.delete(rate);
    }
    const by = this.#filters.remove(lane);
    if (by === null) removeFrom(lanes.scanned, lane);
    else {
      const rest = (lanes.indexed.get(by.dimension) as number) - 1;
      if (rest === 0) lanes.indexed.delete(by.dimension);
      else lanes.indexed.set(by.dimension, rest);
    }
    if (lanes.tickers.size === 0) this.#byEvent[lane.event] = null;
  }

  /** Lanes of one key that have come to carry the same become one; says whose handlers are to go where. */
  merge(): ReadonlyMap<Lane, Lane> {
    this.#moves.clear();
    for (const key of this.#split) this.#mergeKey([...(this.#byKey.get(key) as Lane[])]);
    return this.#moves;
  }

  /** Compares those that carry the same sum: of a thousand that carry something else each none is compared. */
  #mergeKey(same: readonly Lane[]): void {
    const kept = this.#kept;
    kept.clear();
    for (const lane of same) {
      const alike = kept.get(lane.carried);
      const twin = alike?.find((other) => other.carriesSameAs(lane));
      if (twin !== undefined) {
        twin.members += lane.members;
        this.#moves.set(lane, twin);
        this.#close(lane);
      } else if (alike === undefined) kept.set(lane.carried, [lane]);
      else alike.push(lane);
    }
    kept.clear();
  }

  /** Selects for every lane what it takes of the batch, which is `ring`'s. */
  prepare(batch: BatchIndex, ring: number, serial: number, nowNs: number): void {
    this.#selections.end = 0;
    this.#pairs.end = 0;
    this.preparedCount = 0;
    for (let e = 0; e < batch.events; e++) {
      const event = batch.eventAt[e];
      const lanes = this.#byEvent[event];
      if (lanes === null) continue;
      for (const { ticker } of lanes.tickers.values()) ticker.mark(batch, ring);
      lanes.wholes = 0;
      for (const lane of lanes.scanned) this.select(lane, batch, ring, serial, nowNs);
      if (lanes.indexed.size > 0) this.#selectIndexed(event, lanes, batch, ring, serial, nowNs);
    }
  }

  /** A handler has opened the lane in the middle of the batch. */
  prepareNew(lane: Lane, batch: BatchIndex, ring: number, serial: number, nowNs: number): void {
    const lanes = this.#byEvent[lane.event] as EventLanes;
    // The first lane of its rate: nobody has marked the batch. Any other lane's ticks are marked already.
    for (const user of lanes.tickers.values()) {
      if (user.ticker === lane.ticker && user.lanes === 1) lane.ticker.mark(batch, ring);
    }
    this.select(lane, batch, ring, serial, nowNs);
  }

  #selectIndexed(
    event: number,
    { indexed }: EventLanes,
    batch: BatchIndex,
    ring: number,
    serial: number,
    nowNs: number,
  ): void {
    const { cpu, reader } = this.#rings[ring] as DispatcherRing;
    const touched = this.#touched;
    let count = 0;
    for (const dimension of indexed.keys()) {
      for (let i = 0; i < batch.count; i++) {
        if (batch.event[i] !== event) continue;
        const value = dimensionValue(dimension, batch, reader, i, cpu, this.#owners, nowNs);
        const filters = this.#filters.find(dimension, value);
        if (filters === undefined) continue;
        for (const { lanes } of filters) {
          for (const lane of lanes.get(event) ?? NO_LANES) {
            if (lane.firstPair === NO_PAIR) touched[count++] = lane;
            this.#pairs.add(lane, i);
          }
        }
      }
    }
    for (let t = 0; t < count; t++) this.select(touched[t], batch, ring, serial, nowNs);
  }

  #begin(lane: Lane, serial: number): void {
    lane.serial = serial;
    lane.selection = this.#selections;
    lane.from = this.#selections.end;
    lane.to = lane.from;
    lane.weight = 0;
    lane.chunkFrom = 0;
    lane.chunkTo = 0;
    lane.carriedBefore = lane.carried !== 0;
    lane.offered = false;
    this.prepared[this.preparedCount++] = lane;
  }

  /** From the lane's pairs where an index has found them, else from all samples of the batch. */
  select(lane: Lane, batch: BatchIndex, ring: number, serial: number, nowNs: number): void {
    this.#begin(lane, serial);
    const isWhole = lane.filter.passesAll && lane.ticker.pace.kind === "every" && lane.carry[ring] === 0;
    if (isWhole) {
      this.#selectWhole(lane, batch);
      return;
    }
    const pairs = this.#pairs;
    if (lane.firstPair === NO_PAIR) {
      this.#selections.reserve(batch.countOf[lane.event]);
      for (let i = 0; i < batch.count; i++)
        if (batch.event[i] === lane.event) this.#consider(lane, batch, ring, i, nowNs);
    } else {
      for (let pair = lane.firstPair; pair !== NO_PAIR; pair = pairs.next[pair]) {
        this.#selections.reserve(1);
        this.#consider(lane, batch, ring, pairs.sample[pair], nowNs);
      }
      lane.firstPair = NO_PAIR;
      lane.lastPair = NO_PAIR;
    }
    lane.carried = 0;
    for (const weight of lane.carry) lane.carried += weight;
  }

  #consider(lane: Lane, batch: BatchIndex, ring: number, i: number, nowNs: number): void {
    const { filter } = lane;
    const { cpu, reader } = this.#rings[ring] as DispatcherRing;
    if (!filter.passesAll && !filter.passes(batch, reader, i, cpu, nowNs)) return;
    const weight = lane.carry[ring] + batch.period[i];
    if (lane.ticker.ticks[i] === 0) {
      lane.carry[ring] = weight;
      return;
    }
    lane.carry[ring] = 0;
    const selections = this.#selections;
    selections.sample[selections.end] = i;
    selections.period[selections.end++] = weight;
    lane.to = selections.end;
  }

  #selectWhole(lane: Lane, batch: BatchIndex): void {
    const lanes = this.#byEvent[lane.event] as EventLanes;
    const twin = lanes.wholes === 0 ? null : lanes.whole[0];
    if (wholeWith(lanes, lane.columns) === null) lanes.whole[lanes.wholes++] = lane;
    if (twin !== null) {
      lane.selection = twin.selection;
      lane.from = twin.from;
      lane.to = twin.to;
    } else if (batch.countOf[lane.event] === batch.count) {
      // The usual case: the batch is the selection.
      this.#batchSelection ??= { sample: ALL_SAMPLES, period: batch.period };
      lane.selection = this.#batchSelection;
      lane.from = 0;
      lane.to = batch.count;
    } else this.#selectEvent(lane, batch);
  }

  #selectEvent(lane: Lane, batch: BatchIndex): void {
    const selections = this.#selections;
    selections.reserve(batch.countOf[lane.event]);
    const { sample, period } = selections;
    let end = selections.end;
    for (let i = 0; i < batch.count; i++) {
      if (batch.event[i] !== lane.event) continue;
      sample[end] = i;
      period[end++] = batch.period[i];
    }
    selections.end = end;
    lane.to = end;
  }

  /** Counts in `claimed`, by event, the samples that a lane took which was offered to a handler. */
  claim(batch: BatchIndex): void {
    this.claimed.fill(0);
    for (let p = 0; p < this.preparedCount; p++) {
      const { offered, event, selection, from, to } = this.prepared[p];
      if (!offered || this.claimed[event] === batch.countOf[event]) continue;
      if (to - from === batch.countOf[event]) {
        this.claimed[event] = to - from;
        continue;
      }
      for (let k = from; k < to; k++) {
        const i = selection.sample[k];
        this.claimed[event] += 1 - batch.claimed[i];
        batch.claimed[i] = 1;
      }
    }
  }

  /** The lane whose selection this one shares, which may be itself. */
  leaderOf(lane: Lane): Lane {
    const lanes = this.#byEvent[lane.event];
    const leader = lanes === null ? null : wholeWith(lanes, lane.columns);
    const isShared =
      leader?.serial === lane.serial &&
      leader.selection === lane.selection &&
      leader.from === lane.from &&
      leader.to === lane.to;
    return isShared ? leader : lane;
  }
}
