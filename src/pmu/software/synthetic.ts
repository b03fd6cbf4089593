/** The source for load tests: a seeded generator of genuine perf records at a given rate. */
import { availableParallelism } from "node:os";
import { hrtime } from "node:process";
import { SAMPLE, sampleTypeNames } from "../abi.js";
import { PmuError } from "../errors.js";
import { genericEvents, parseEventSpec, requestedRate } from "../event-spec.js";
import type {
  EventCatalog,
  EventReading,
  EventRequest,
  EventShape,
  OpenEvent,
  OpenTasks,
  RecordFormat,
  ResolvedEvent,
  RingDescriptor,
  Source,
  TaskSnapshot,
} from "../source.js";
import { type Records, runsOf } from "../task-runs.js";
import { EnabledTime } from "./enabled-time.js";
import { allocateCounts, type CountsBuffer, readCount } from "./producer-counts.js";
import { ProducerThread } from "./producer-thread.js";
import { closeSoftwareRings, openSoftwareRings } from "./ring-memory.js";
import { syntheticSampleType } from "./synthetic-event.js";
import type { SyntheticCommand, SyntheticProducerData } from "./synthetic-producer.js";

export interface SyntheticSourceOptions {
  /** Samples a second of each enabled event, all rings together. */
  readonly ratePerSecond: number;
  /** How many rings; by default as many as the process has CPUs. */
  readonly cpus?: number | null;
  /** The same seed generates the same samples, times aside. */
  readonly seed: number;
  /** Data area of each ring, a power of two of at least one page. */
  readonly ringBytes: number;
  /** CLOCK_MONOTONIC in nanoseconds, for the time an event was enabled. */
  readonly now?: () => bigint;
}

type Thread = ProducerThread<SyntheticCommand, never>;

/** Throws Errno when the rings cannot be mapped. */
export function openSyntheticSource(options: SyntheticSourceOptions): Source {
  const count = options.cpus ?? availableParallelism();
  const rings = openSoftwareRings(
    Array.from({ length: count }, (_, cpu) => cpu),
    options.ringBytes,
  );
  const data: SyntheticProducerData = { rings };
  const thread: Thread = new ProducerThread(
    new URL("./synthetic-producer.js", import.meta.url),
    "nmid-synthetic",
    data,
    () => {},
  );
  return new SyntheticSource(options, rings, thread);
}

class SyntheticSource implements Source {
  readonly kind = "synthetic";
  readonly clock = "CLOCK_MONOTONIC";
  readonly clockIsMonotonic = true;
  readonly defaultEvent = "cpu-clock";
  readonly description: string;
  readonly rings: readonly RingDescriptor[];
  readonly #options: SyntheticSourceOptions;
  readonly #thread: Thread;
  #eventsOpened = 0;
  #nextId = 1n;
  #closed: Promise<void> | null = null;

  constructor(options: SyntheticSourceOptions, rings: readonly RingDescriptor[], thread: Thread) {
    this.#options = options;
    this.rings = rings;
    this.#thread = thread;
    const { ratePerSecond, seed, ringBytes } = options;
    this.description = `synthetic: ${ratePerSecond} samples/s of each event, seed ${seed}, ${rings.length} CPUs, rings of ${ringBytes / 1024} KiB`;
  }

  listEvents(): EventCatalog {
    return { events: genericEvents().map((event) => ({ ...event, canSample: true, reason: "" })), pmus: [] };
  }

  resolve(request: EventRequest): readonly ResolvedEvent[] {
    const event = parseEventSpec(request.event === "" ? this.defaultEvent : request.event);
    return [{ ...event, key: event.name, rate: requestedRate(request) ?? { kind: "all" } }];
  }

  whyNotTogether(): null {
    return null;
  }

  open(event: ResolvedEvent, shape: EventShape): OpenEvent {
    checkShape(shape);
    const callchain = (shape.sampleType & SAMPLE.CALLCHAIN) !== 0;
    const ids = this.rings.map(() => this.#nextId++);
    const counts = allocateCounts(1);
    const number = this.#eventsOpened++;
    this.#thread.post({
      kind: "open",
      event: number,
      counts,
      options: {
        ids,
        cpus: this.rings.map(({ cpu }) => cpu),
        ratePerSecond: this.#options.ratePerSecond,
        seed: this.#options.seed,
        callchain,
        wakeEach: shape.wakeEach,
        excludeUser: event.excludeUser,
        excludeKernel: event.excludeKernel,
      },
    });
    const format: RecordFormat = {
      ids,
      sampleType: syntheticSampleType(callchain),
      sampleIdAll: true,
      fixedPeriod: 0,
    };
    return new OpenSyntheticEvent(this.#thread, number, format, counts, this.#options.now ?? hrtime.bigint);
  }

  /** Nobody runs here. */
  openTasks(): OpenTasks {
    return { formats: [], enable() {}, disable() {}, readLost: () => 0, close() {} };
  }

  taskSnapshot(): TaskSnapshot {
    return { formats: [], runs: runsOf(noRecords()) };
  }

  begin(): void {}

  onEnd(): void {}

  close(): Promise<void> {
    this.#closed ??= this.#thread.stop().then(() => closeSoftwareRings(this.rings));
    return this.#closed;
  }
}

function* noRecords(): Records {}

function checkShape({ sampleType }: EventShape): void {
  if ((sampleType & SAMPLE.CGROUP) !== 0) {
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      "synthetic samples carry no cgroup: leave out filter.cgroups and CGROUP, or use --source perf",
    );
  }
  const missing = sampleTypeNames(sampleType & ~SAMPLE.CALLCHAIN);
  if (missing.length > 0) {
    throw new PmuError(
      "SHAPE_UNSUPPORTED",
      `fields[]: synthetic samples carry no ${missing.join(", ")}: leave it out, or use --source perf`,
    );
  }
}

class OpenSyntheticEvent implements OpenEvent {
  readonly formats: readonly RecordFormat[];
  readonly #thread: Thread;
  readonly #event: number;
  readonly #counts: CountsBuffer;
  readonly #time: EnabledTime;
  #closed = false;

  constructor(thread: Thread, event: number, format: RecordFormat, counts: CountsBuffer, nowNs: () => bigint) {
    this.#thread = thread;
    this.#event = event;
    this.formats = [format];
    this.#counts = counts;
    this.#time = new EnabledTime(nowNs);
  }

  /** The generator's rate is its own; slower handlers are thinned behind the ring. */
  setRate(): boolean {
    return true;
  }

  enable(): void {
    if (this.#closed || this.#time.running) return;
    this.#time.start();
    this.#thread.post({ kind: "enable", event: this.#event });
  }

  /** As with the kernel's, no sample is written once this has returned. */
  disable(): void {
    if (!this.#time.running) return;
    this.#time.stop();
    this.#thread.post({ kind: "disable", event: this.#event });
    this.#thread.settle();
  }

  read(): EventReading {
    const timeNs = this.#time.readNs();
    return { ...readCount(this.#counts, 0), timeEnabledNs: timeNs, timeRunningNs: timeNs };
  }

  close(): void {
    if (this.#closed) return;
    this.disable();
    this.#closed = true;
    this.#thread.post({ kind: "close", event: this.#event });
  }
}
