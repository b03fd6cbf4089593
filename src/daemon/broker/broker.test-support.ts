/** For tests: a broker on a fake source, whose one dispatcher is the test itself. */
import { openTable } from "../../registry/table.test-support.js";
import type { DaemonLimits } from "../config/config.js";
import { TestArena, TestDispatcher } from "../delivery/delivery.test-support.js";
import { FlushPacer, FlushTimes } from "../delivery/flush.js";
import { MemoryBudget, StreamMemory } from "../delivery/memory.js";
import { OutboxWriter } from "../delivery/outbox.js";
import type { AttachSpec, Control } from "../dispatch/messages.js";
import { HISTOGRAM_WORDS, LatencyHistogram } from "../observe/histogram.js";
import { NO_RECORDS } from "../state/records.js";
import { ArmedEvents } from "./armed-events.js";
import { BooksAudit } from "./audit.js";
import { Broker, type BrokerParts } from "./broker.js";
import { FakeSource } from "./fake-source.test-support.js";
import { KernelLossWatch } from "./kernel-loss.js";
import type { RegisterRequestMessage } from "./request.js";
import { Tally } from "./tally.js";
import { TaskTracking } from "./task-tracking.js";

export const LIMITS: DaemonLimits = {
  memoryMaxBytes: 2 ** 29,
  queueMaxBytes: 2 ** 24,
  queueDefaultBytes: 2 ** 20,
  flushIntervalDefaultMs: 400,
  flushIntervalDefaultMaxMs: 2000,
  flushIntervalMaxMs: 60_000,
  slowDispatchUs: 1024,
  overloadRateFloorHz: 100,
  overloadRaiseAfterMs: 10_000,
  leaseDefaultMs: 60_000,
  leaseMaxMs: 60_000,
  deregisterTimeoutDefaultMs: 5000,
  messageMaxBytes: 2 ** 20,
  filterEntriesMax: 16,
  eventsPerHandlerMax: 16,
};

export interface LogLine {
  readonly event: string;
  readonly fields: Record<string, unknown>;
}

export interface BrokerFixture {
  readonly broker: Broker;
  readonly parts: BrokerParts;
  readonly source: FakeSource;
  readonly log: LogLine[];
  /** What the dispatcher has been told. */
  readonly told: Control[];
  /** Fails what the dispatcher is told next, when it is of this kind. */
  failOn: Control["kind"] | null;
  /** The dispatcher's side of a handler. */
  dispatcherOf(slot: number): TestDispatcher;
  request(name: string, queue?: RegisterRequestMessage["queue"]): RegisterRequestMessage;
}

export function openBroker(capacity = 64, limits: Partial<DaemonLimits> = {}): BrokerFixture {
  const source = new FakeSource("synthetic");
  const { table, counters } = openTable(capacity);
  const arena = new TestArena();
  const log: LogLine[] = [];
  const told: Control[] = [];
  const clock = { nowNs: 1e9 };
  let time = 0;
  const tellAll = async (control: Control): Promise<void> => {
    await Promise.resolve();
    if (fixture.failOn === control.kind) {
      fixture.failOn = null;
      throw new Error(`${control.kind} failed`);
    }
    told.push(control);
  };
  const armedEvents = new ArmedEvents({ source, tellAll, onArmed() {}, onRetired() {}, onProblem() {} });
  const histogram = (): LatencyHistogram => new LatencyHistogram(new Float64Array(HISTOGRAM_WORDS));
  const parts: BrokerParts = {
    source,
    fallback: false,
    table,
    counters,
    host: { threads: [{ segments: arena.reader }], tellAll },
    armedEvents,
    kernelLoss: new KernelLossWatch(armedEvents),
    auxBytes: { delivered: 0, lost: 0 },
    taskTracking: new TaskTracking({ source, tellAll, lostRecords: () => 0, onProblem() {} }),
    machine: { look: () => Promise.resolve() },
    limits: { ...LIMITS, ...limits },
    tally: new Tally(),
    audit: new BooksAudit((event, fields) => log.push({ event, fields })),
    removalWait: histogram(),
    dispatchToStream: histogram(),
    sampleToStream: null,
    outboxMemory: new MemoryBudget(2 ** 27),
    flushPacer: new FlushPacer({
      baseMs: LIMITS.flushIntervalDefaultMs,
      maxMs: LIMITS.flushIntervalDefaultMaxMs,
      onChange: (intervalMs) => void tellAll({ kind: "flush interval", intervalMs }),
    }),
    flushTimes: new FlushTimes(() => clock.nowNs),
    streamMemory: new StreamMemory(2 ** 27, capacity),
    records: NO_RECORDS,
    now: () => clock.nowNs,
    log: (event, fields) => log.push({ event, fields }),
  };
  const fixture: BrokerFixture = {
    broker: new Broker(parts),
    parts,
    source,
    log,
    told,
    failOn: null,
    dispatcherOf: (slot) => {
      const attached = told.findLast((control) => control.kind === "attach" && control.spec.slot === slot);
      const { outbox, shape } = (attached as { readonly spec: AttachSpec }).spec;
      return new TestDispatcher(arena, new OutboxWriter(outbox, 0, shape), counters, 0, () => time++, slot);
    },
    request: (name, queue = null) => ({
      name,
      events: [],
      filter: null,
      fields: [],
      queue,
      lease_ms: 0,
      tasks: false,
      context_switches: false,
      branch_sample_type: 0,
      exclusive: false,
    }),
  };
  return fixture;
}
