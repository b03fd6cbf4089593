/** A dispatcher's thread that does nothing but dispatch: every batch is there already, and every handler wants it. */
import { parentPort, workerData } from "node:worker_threads";
import { monotonicClock } from "../src/daemon/clock.js";
import { chunkBytes, encodeChunk } from "../src/daemon/dispatch/encode.js";
import { viewMemory } from "../src/pmu/ffi.js";
import { SlotCounters } from "../src/registry/counters.js";
import { tableLayout } from "../src/registry/layout.js";
import { TableWalker } from "../src/registry/walk.js";
import { AtomicDoorbell, AtomicWords } from "../src/registry/words.js";
import { scanBatch } from "./dispatch-batch.js";
import { DurationHistogram } from "./removal-histogram.js";

export interface RemovalWorkerSetup {
  readonly tableAddress: bigint;
  readonly capacity: number;
  readonly dispatchers: number;
  readonly index: number;
  readonly samples: number;
  readonly bell: SharedArrayBuffer;
  /** Words: CONTROL, and behind them one for each dispatcher: the serial number of the order it has come to. */
  readonly control: SharedArrayBuffer;
  /** The time of the ring that was asked for, CLOCK_MONOTONIC in nanoseconds. */
  readonly rungAt: SharedArrayBuffer;
  /** One for each phase. */
  readonly histograms: readonly SharedArrayBuffer[];
}

/** What the dispatchers are told: a phase, and the serial number of the order, written last. */
export const CONTROL = { PHASE: 0, SERIAL: 1, REACHED: 2 } as const;
/** Phases from 0 on are dispatching, into the histogram with that number. */
export const PHASE = { STOP: -3, RING: -2, IDLE: -1 } as const;

/** Long enough for the thread that waits to be asleep. */
const BEFORE_RING_NS = 200_000;

if (parentPort !== null) run(workerData as RemovalWorkerSetup);

function run(setup: RemovalWorkerSetup): void {
  const { capacity, dispatchers, index, samples } = setup;
  const layout = tableLayout(capacity, dispatchers);
  const memory = viewMemory(setup.tableAddress, layout.bytes);
  const bell = new AtomicDoorbell(setup.bell);
  const walker = new TableWalker(new AtomicWords(memory), layout, index, bell);
  const counters = new SlotCounters(memory, layout);
  const control = new Int32Array(setup.control);
  const rungAt = new BigInt64Array(setup.rungAt);
  const histograms = setup.histograms.map((buffer) => new DurationHistogram(buffer));
  const batch = scanBatch(samples);
  const out = new Uint32Array(chunkBytes(samples, 0, 0) / 4);
  const now = monotonicClock();
  let histogram = new DurationHistogram();
  let lastNs = 0;
  let pendingNs = -1;
  const settle = (): void => {
    if (pendingNs >= 0) histogram.record(pendingNs);
    pendingNs = -1;
  };
  const target = {
    dispatch(slot: number): void {
      settle();
      encodeChunk(out, 0, batch.index, batch.ring, batch.selection, 0, samples, 0, 0);
      // From the end of the one before, so that announcement, retraction and the doorbell are in it.
      const nowNs = now();
      pendingNs = nowNs - lastNs;
      counters.countDispatch(slot, index, samples, 0, 0, pendingNs, nowNs);
      lastNs = nowNs;
    },
  };
  const pass = (): void => {
    lastNs = now();
    walker.walk(1, 0, target);
    // What comes behind a pass's last dispatch belongs to that one.
    if (pendingNs >= 0) pendingNs += now() - lastNs;
    settle();
  };
  for (let serial = 0, phase: number = PHASE.IDLE; ; ) {
    const told = Atomics.load(control, CONTROL.SERIAL);
    if (told !== serial) {
      serial = told;
      phase = Atomics.load(control, CONTROL.PHASE);
      if (phase >= 0) histogram = histograms[phase];
      Atomics.store(control, CONTROL.REACHED + index, serial);
      if (phase === PHASE.STOP) return;
      if (phase === PHASE.RING && index === 0) ringOnce(bell, rungAt);
    }
    if (phase >= 0) pass();
    else Atomics.wait(control, CONTROL.SERIAL, serial);
  }
}

function ringOnce(bell: AtomicDoorbell, rungAt: BigInt64Array): void {
  const until = process.hrtime.bigint() + BigInt(BEFORE_RING_NS);
  while (process.hrtime.bigint() < until);
  Atomics.store(rungAt, 0, process.hrtime.bigint());
  bell.ring();
}
