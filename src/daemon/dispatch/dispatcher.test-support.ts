/** For tests: a dispatcher over rings in plain memory, with a real table and real outboxes, and a clock that is set. */
import { MMAP_PAGE, PAGE_BYTES, RECORD, SAMPLE } from "../../pmu/abi.js";
import { TASKS_BIT } from "../../pmu/record.js";
import { RingReader } from "../../pmu/ring.js";
import { RingWriter } from "../../pmu/software/ring-writer.js";
import { plainRing } from "../../pmu/software/test-consumer.js";
import type { RecordFormat } from "../../pmu/source.js";
import type { SlotHandle } from "../../registry/table.js";
import { openTable, type TableFixture } from "../../registry/table.test-support.js";
import { bytesOf, decodeDelivery, type SampleBatchMessage } from "../delivery/delivery.test-support.js";
import { SampleMessage } from "../delivery/message.js";
import { allocateOutbox, ENTRY, outboxShape, REGION_BYTES_MIN } from "../delivery/outbox.js";
import { OutboxReader } from "../delivery/outbox-reader.js";
import { arenaBytes } from "../delivery/segment-layout.js";
import { SegmentReader, SegmentWriter } from "../delivery/segments.js";
import type { TaskSpec } from "../tasks/task-filter.js";
import { Dispatcher, type DispatcherParts } from "./dispatcher.js";
import type { FilterSpec } from "./filter.js";
import type { AttachedEvent, AttachSpec } from "./messages.js";
import type { OwnerLookup } from "./process-owner.js";
import { DispatcherStats } from "./stats.js";

export const LIVE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

export interface TestSample {
  readonly id: number;
  readonly ip: bigint;
  readonly pid: number;
  readonly tid: number;
  readonly time: number;
  readonly cpu: number;
  readonly period: number;
  readonly cpumode: number;
  readonly callchain: readonly bigint[];
  readonly cgroup: number;
}

export const SAMPLE_DEFAULTS: TestSample = {
  id: 1,
  ip: 0xffffffff81000123n,
  pid: 100,
  tid: 101,
  time: 1000,
  cpu: 0,
  period: 1,
  cpumode: 2,
  callchain: [],
  cgroup: 0,
};

/** PERF_RECORD_SAMPLE with the fields of `sampleType`, in perf_event_open(2)'s order. */
export function sampleRecord(sample: Partial<TestSample>, sampleType = LIVE): Uint8Array {
  const { id, ip, pid, tid, time, cpu, period, cpumode, callchain, cgroup } = { ...SAMPLE_DEFAULTS, ...sample };
  const fields: bigint[] = [];
  const add = (bit: number, ...values: bigint[]): void => {
    if (sampleType & bit) fields.push(...values);
  };
  add(SAMPLE.IDENTIFIER, BigInt(id));
  add(SAMPLE.IP, ip);
  add(SAMPLE.TID, BigInt(pid) | (BigInt(tid) << 32n));
  add(SAMPLE.TIME, BigInt(time));
  add(SAMPLE.ADDR, 0xaddn);
  add(SAMPLE.ID, BigInt(id));
  add(SAMPLE.STREAM_ID, 0x57aen);
  add(SAMPLE.CPU, BigInt(cpu) | (0xffffffffn << 32n));
  add(SAMPLE.PERIOD, BigInt(period));
  add(SAMPLE.CALLCHAIN, BigInt(callchain.length), ...callchain);
  add(SAMPLE.CGROUP, BigInt(cgroup));
  return record(RECORD.SAMPLE, cpumode, fields);
}

export function record(type: number, misc: number, fields: readonly bigint[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(8 + fields.length * 8));
  view.setUint32(0, type, true);
  view.setUint16(4, misc, true);
  view.setUint16(6, view.byteLength, true);
  fields.forEach((field, i) => {
    view.setBigUint64(8 + i * 8, field, true);
  });
  return new Uint8Array(view.buffer);
}

export function format(ids: readonly number[], sampleType = LIVE, fixedPeriod = 0): RecordFormat {
  return { ids: ids.map(BigInt), sampleType, sampleIdAll: true, fixedPeriod };
}

export class TestRing {
  readonly cpu: number;
  readonly memory: ArrayBuffer;
  readonly reader: RingReader;
  readonly writer: RingWriter;

  /** `position`: where both ends stand, so that records wrap where the test wants them to. */
  constructor(cpu: number, dataBytes: number, position = 0) {
    this.cpu = cpu;
    this.memory = plainRing(dataBytes);
    const control = new BigUint64Array(this.memory, 0, PAGE_BYTES / 8);
    control[MMAP_PAGE.DATA_HEAD / 8] = BigInt(position);
    control[MMAP_PAGE.DATA_TAIL / 8] = BigInt(position);
    this.reader = new RingReader(this.memory, dataBytes);
    this.writer = new RingWriter(this.memory, dataBytes, cpu, () => {});
  }

  /** False when the ring is full. */
  write(bytes: Uint8Array): boolean {
    if (this.writer.room() < bytes.length) return false;
    this.writer.append(bytes, 0, bytes.length);
    this.writer.publish(false);
    return true;
  }
}

export interface Loss {
  readonly event: number;
  readonly samples: number;
  readonly period: number;
}

const ALL: FilterSpec = { pids: [], cpus: [], uids: [], cgroupIds: [], excludeUser: false, excludeKernel: false };

export interface HandlerOptions {
  readonly events?: readonly Partial<AttachedEvent>[];
  readonly filter?: Partial<FilterSpec>;
  readonly callchain?: boolean;
  /** Other columns, by columns.ts. */
  readonly columns?: number;
  readonly tasks?: TaskSpec | null;
  readonly regionBytes?: number;
  readonly aux?: boolean;
  readonly flushIntervalMs?: number;
  readonly flushIsDaemons?: boolean;
}

export class TestHandler {
  readonly handle: SlotHandle;
  readonly reader: OutboxReader;
  readonly losses: Loss[] = [];

  constructor(handle: SlotHandle, reader: OutboxReader) {
    this.handle = handle;
    this.reader = reader;
  }

  /** Decodes and takes everything in the outbox: one batch a chunk. */
  take(): SampleBatchMessage[] {
    const batches: SampleBatchMessage[] = [];
    const message = new SampleMessage();
    while (this.reader.peek()) {
      const { kind, event, samples, period, segment } = this.reader.entry;
      this.reader.take();
      if (kind === ENTRY.LOSS) this.losses.push({ event, samples, period });
      else {
        message.begin();
        message.add(this.reader.segments, segment);
        message.finish(event, 0);
        const batch = decodeDelivery(bytesOf(message)).samples;
        message.release();
        if (batch === undefined) throw new Error("no samples");
        if (batch.time.length !== samples) throw new Error(`${batch.time.length} samples, not ${samples}`);
        batches.push(batch);
      }
    }
    return batches;
  }

  takeTimes(): number[] {
    return this.take().flatMap((batch) => batch.time);
  }
}

export interface DispatcherFixture extends TableFixture {
  readonly dispatcher: Dispatcher;
  /** Another thread takes the dead one's place: the same rings, counters and outboxes, a state of its own. */
  replace(abandoned: readonly number[], prepare: (dispatcher: Dispatcher) => void): void;
  readonly rings: readonly TestRing[];
  readonly segments: SegmentReader;
  readonly stats: DispatcherStats;
  readonly dirty: Int32Array;
  readonly clock: { nowNs: number };
  add(options?: HandlerOptions): TestHandler;
}

export function openDispatcher(
  cpus: readonly number[] = [0],
  dataBytes = 65_536,
  position = 0,
  segmentBytes = 2 ** 24,
  aux: DispatcherParts["aux"] = { view: () => new ArrayBuffer(0), enable: () => {} },
  ownerOf: OwnerLookup = () => null,
): DispatcherFixture {
  const capacity = 40;
  const table = openTable(capacity);
  const rings = cpus.map((cpu) => new TestRing(cpu, dataBytes, position));
  const stats = new DispatcherStats();
  const dirty = new Int32Array(Math.ceil(capacity / 32));
  const clock = { nowNs: 1e9 };
  const arena = new SharedArrayBuffer(arenaBytes(segmentBytes));
  const segments = new SegmentReader(arena);
  const start = (): Dispatcher => {
    const started = new Dispatcher({
      index: 0,
      ownerOf: (pid, tid) => ownerOf(pid, tid),
      walker: table.walker(),
      counters: table.counters,
      stats,
      segments: new SegmentWriter(arena),
      dirty,
      now: () => clock.nowNs,
      clockIsMonotonic: true,
      capacity,
      aux,
    });
    for (const [index, ring] of rings.entries()) {
      started.addRing(index, ring);
      started.watchRing(BigInt(index), new RingReader(ring.memory, ring.reader.dataBytes));
    }
    return started;
  };
  const attached: AttachSpec[] = [];
  const readers: OutboxReader[] = [];
  let dispatcher = start();
  return {
    ...table,
    get dispatcher() {
      return dispatcher;
    },
    segments,
    replace: (abandoned, prepare) => {
      segments.recount((count) => {
        for (const reader of readers) reader.countSegments(count);
      });
      dispatcher = start();
      prepare(dispatcher);
      for (const spec of attached) dispatcher.attach(spec);
      dispatcher.resume(abandoned);
    },
    rings,
    stats,
    dirty,
    clock,
    add: ({
      events = [{}],
      filter,
      callchain = false,
      columns = 0,
      tasks = null,
      aux: wantsAux = false,
      regionBytes = REGION_BYTES_MIN,
      flushIntervalMs = 100,
      flushIsDaemons = false,
    } = {}) => {
      const handle = table.table.claim();
      if (handle === null) throw new Error("the table is full");
      const wanted = events.map((event) => ({ armed: 0, frequencyHz: 0, period: 0, ...event }));
      const shape = outboxShape(regionBytes, 1, wanted.length);
      const outbox = allocateOutbox(1, shape);
      const mask = [0, 0];
      for (const { armed } of wanted) mask[armed >>> 5] |= 1 << (armed & 31);
      if (tasks !== null) mask[TASKS_BIT >>> 5] |= 1 << (TASKS_BIT & 31);
      table.table.setEventMask(handle, mask[0], mask[1]);
      const spec: AttachSpec = {
        slot: handle.slot,
        generation: handle.generation,
        outbox,
        shape,
        events: wanted,
        filter: { ...ALL, ...filter },
        tasks,
        aux: wantsAux,
        columns: columns | (callchain ? SAMPLE.CALLCHAIN : 0),
        flushIntervalMs,
        flushIsDaemons,
      };
      attached.push(spec);
      dispatcher.attach(spec);
      table.table.activate(handle);
      const reader = new OutboxReader(outbox, 0, shape, segments);
      readers.push(reader);
      return new TestHandler(handle, reader);
    },
  };
}

export function write(
  fixture: DispatcherFixture,
  samples: readonly Partial<TestSample>[],
  sampleType = LIVE,
  ring = 0,
): void {
  for (const sample of samples) {
    if (!fixture.rings[ring].write(sampleRecord(sample, sampleType))) throw new Error("the ring is full");
  }
}

export function eventStat({ stats }: DispatcherFixture, event: number, stat: number): number {
  return stats.words[stats.event(event, stat)];
}

export function numbered(count: number, sample: Partial<TestSample> = {}): Partial<TestSample>[] {
  return Array.from({ length: count }, (_, i) => ({ time: i + 1, ...sample }));
}
