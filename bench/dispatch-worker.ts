/**
 * What a dispatch of the daemon's own Dispatcher takes: from the drain of one batch by many handlers less that by one.
 * In a thread of its own, as in the daemon: a walk that has met another target before is compiled for both.
 */
import { parentPort } from "node:worker_threads";
import { monotonicClock } from "../src/daemon/clock.js";
import { allocateOutbox, outboxShape } from "../src/daemon/delivery/outbox.js";
import { OutboxReader } from "../src/daemon/delivery/outbox-reader.js";
import { arenaBytes } from "../src/daemon/delivery/segment-layout.js";
import { SegmentReader, SegmentWriter } from "../src/daemon/delivery/segments.js";
import { Dispatcher } from "../src/daemon/dispatch/dispatcher.js";
import { DispatcherStats } from "../src/daemon/dispatch/stats.js";
import { mapAnonymous, unmap, viewMemory } from "../src/pmu/ffi.js";
import { SlotCounters } from "../src/registry/counters.js";
import { tableLayout } from "../src/registry/layout.js";
import { formatTable, HandlerTable } from "../src/registry/table.js";
import { TableWalker } from "../src/registry/walk.js";
import { AtomicDoorbell, AtomicWords } from "../src/registry/words.js";
import { SampleRing, SYNTHETIC_FORMAT } from "./dispatch-batch.js";
import { median } from "./lib/stats.js";

export interface DispatchTime {
  readonly samples: number;
  readonly dispatchNs: number;
}

const SAMPLES = [1, 16, 256, 1024] as const;
const FEW = 1;
const MANY = 33;
const DRAINS = 400;
const WARM_UP_DRAINS = 3000;
const SHAPE = outboxShape(256 * 1024, 1, 1);
/** The largest batch for each handler, should none share. */
const SEGMENT_BYTES = 16 * 1024 * 1024;
const PASSES_ALL = { pids: [], cpus: [], uids: [], cgroupIds: [], excludeUser: false, excludeKernel: false };

class Setup {
  readonly #ring = new SampleRing();
  readonly #outboxes: readonly OutboxReader[];
  readonly #dispatcher: Dispatcher;
  readonly #tableAddress: bigint;
  readonly #tableBytes: number;
  readonly #arena = new SharedArrayBuffer(arenaBytes(SEGMENT_BYTES));
  readonly #segments = new SegmentReader(this.#arena);

  constructor(handlers: number) {
    this.#tableBytes = tableLayout(handlers, 1).bytes;
    this.#tableAddress = mapAnonymous(this.#tableBytes);
    const memory = viewMemory(this.#tableAddress, this.#tableBytes);
    const layout = formatTable(memory, { capacity: handlers, dispatchers: 1, daemonPid: process.pid, startedAt: 0 });
    const doorbell = new AtomicDoorbell(new SharedArrayBuffer(4));
    this.#dispatcher = new Dispatcher({
      index: 0,
      walker: new TableWalker(new AtomicWords(memory), layout, 0, doorbell),
      counters: new SlotCounters(memory, layout),
      stats: new DispatcherStats(),
      segments: new SegmentWriter(this.#arena),
      dirty: new Int32Array(new SharedArrayBuffer(Math.ceil(handlers / 32) * 4)),
      now: monotonicClock(),
      clockIsMonotonic: false,
      capacity: handlers,
      aux: { view: viewMemory, enable: () => {} },
    });
    this.#dispatcher.addRing(0, { cpu: 0, reader: this.#ring.reader });
    this.#dispatcher.addFormats(0, [SYNTHETIC_FORMAT]);
    const table = new HandlerTable(memory, layout, doorbell);
    this.#outboxes = Array.from({ length: handlers }, () => this.#register(table));
  }

  #register(table: HandlerTable): OutboxReader {
    const handle = table.claim();
    if (handle === null) throw new Error("the table is full");
    table.setEventMask(handle, 1, 0);
    const outbox = allocateOutbox(1, SHAPE);
    this.#dispatcher.attach({
      ...handle,
      outbox,
      shape: SHAPE,
      events: [{ armed: 0, frequencyHz: 0, period: 0 }],
      filter: PASSES_ALL,
      columns: 0,
      tasks: null,
      aux: false,
      flushIntervalMs: 100,
      flushIsDaemons: false,
    });
    table.activate(handle);
    return new OutboxReader(outbox, 0, SHAPE, this.#segments);
  }

  /** One drain of one batch, in nanoseconds. */
  drain(samples: number): number {
    this.#ring.fill(samples);
    const start = process.hrtime.bigint();
    this.#dispatcher.drain();
    const ns = Number(process.hrtime.bigint() - start);
    let taken = 0;
    for (const outbox of this.#outboxes) {
      while (outbox.peek()) {
        taken += outbox.entry.samples;
        outbox.drop();
      }
    }
    if (taken !== samples * this.#outboxes.length) throw new Error(`${taken} samples dispatched`);
    return ns;
  }

  close(): void {
    unmap(this.#tableAddress, this.#tableBytes);
  }
}

function measure(): DispatchTime[] {
  const few = new Setup(FEW);
  const many = new Setup(MANY);
  for (let i = 0; i < WARM_UP_DRAINS; i++) {
    few.drain(SAMPLES[i % 3] as number);
    many.drain(SAMPLES[i % 3] as number);
  }
  const times = SAMPLES.map((samples) => {
    const fewNs: number[] = [];
    const manyNs: number[] = [];
    for (let i = 0; i < DRAINS; i++) {
      fewNs.push(few.drain(samples));
      manyNs.push(many.drain(samples));
    }
    return { samples, dispatchNs: (median(manyNs) - median(fewNs)) / (MANY - FEW) };
  });
  few.close();
  many.close();
  return times;
}

parentPort?.postMessage(measure());
