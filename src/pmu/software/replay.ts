/** The source that plays a perf.data recording: its records as they were in the kernel's rings, at their own pace. */
import { hrtime } from "node:process";
import { PmuError } from "../errors.js";
import type { RecordedAttr } from "../perf-data/attr.js";
import type { Damage } from "../perf-data/image.js";
import { type Recording, readRecording } from "../perf-data/recording.js";
import type {
  EventCatalog,
  EventRequest,
  EventShape,
  OpenEvent,
  OpenTasks,
  ResolvedEvent,
  RingDescriptor,
  Source,
  TaskSnapshot,
} from "../source.js";
import { isSwitch, isTaskRecord } from "../task-record.js";
import { type Records, runsOf } from "../task-runs.js";
import { closeAuxRings, openRecordedAux } from "./aux-pieces.js";
import { OpenReplayEvent } from "./open-replay-event.js";
import { allocateCounts, readCount } from "./producer-counts.js";
import { ProducerThread } from "./producer-thread.js";
import { indexRecords } from "./record-index.js";
import { checkRecordedShape, formatOf, RecordedEvents } from "./recorded-events.js";
import type { ReplayCommand, ReplayEnded, ReplayProducerData } from "./replay-producer.js";
import { closeSoftwareRings, openSoftwareRings } from "./ring-memory.js";

export interface ReplaySourceOptions {
  /** A perf.data file. */
  readonly file: string;
  /** Data area of each ring, a power of two of at least one page, longer than the longest record. */
  readonly ringBytes: number;
  /** 1, the default, is the recorded pace; infinity is as fast as the dispatchers drain. */
  readonly speed?: number;
  /** Starts over at the end, with the times shifted so that they go on, and so never ends. */
  readonly loop?: boolean;
  /** CLOCK_MONOTONIC in nanoseconds, for the time an event was enabled. */
  readonly now?: () => bigint;
}

type Thread = ProducerThread<ReplayCommand, ReplayEnded>;

/** Throws PmuError RECORDING_UNREADABLE or RESOURCE, and Errno when the rings cannot be mapped. */
export function openReplaySource(options: ReplaySourceOptions): Source {
  const recording = readRecording(options.file);
  const index = indexRecords(recording);
  if (index.recordBytesMax > options.ringBytes - 8) {
    throw new PmuError(
      "RESOURCE",
      `recording ${options.file}: a record of ${index.recordBytesMax} bytes does not fit into a ring of ${options.ringBytes}: give larger rings`,
    );
  }
  const aux = openRecordedAux(recording, index);
  const rings = openSoftwareRings(index.cpus, options.ringBytes);
  const attrs = recording.attrs.length;
  const counts = allocateCounts(attrs);
  const { speed = 1, loop = false } = options;
  const position = new Int32Array(new SharedArrayBuffer(4));
  const { bytes } = recording.image;
  const data: ReplayProducerData = { rings, bytes, index, attrs, speed, loop, counts, position, aux };
  return new ReplaySource(recording, data, options.now ?? hrtime.bigint);
}

/** clockid_t */
const CLOCK_NAME = new Map([
  [0, "CLOCK_REALTIME"],
  [1, "CLOCK_MONOTONIC"],
  [4, "CLOCK_MONOTONIC_RAW"],
  [7, "CLOCK_BOOTTIME"],
  [11, "CLOCK_TAI"],
]);

function clockName({ clockId }: RecordedAttr): string {
  if (clockId === null) return "perf_clock of the recording";
  return CLOCK_NAME.get(clockId) ?? `clock ${clockId} of the recording`;
}

class ReplaySource implements Source {
  readonly kind = "replay";
  readonly clockIsMonotonic = false;
  readonly clock: string;
  readonly defaultEvent: string;
  readonly description: string;
  readonly rings: readonly RingDescriptor[];
  readonly warnings: readonly string[];
  readonly #recording: Recording;
  readonly #data: ReplayProducerData;
  readonly #events: RecordedEvents;
  readonly #nowNs: () => bigint;
  readonly #thread: Thread;
  readonly #listeners: (() => void)[] = [];
  #enabled = 0;
  /** Number of the run that is under way, or of the last one. */
  #run = 0;
  #running = false;
  #closed: Promise<void> | null = null;

  constructor(recording: Recording, data: ReplayProducerData, nowNs: () => bigint) {
    this.#recording = recording;
    this.#data = data;
    this.#events = new RecordedEvents(recording, data);
    this.#nowNs = nowNs;
    this.rings = data.rings;
    const first = this.#events.first;
    this.clock = clockName(first);
    this.defaultEvent = first.name;
    const ringKib = (data.rings[0] as RingDescriptor).dataBytes / 1024;
    const { count, damage } = data.index;
    const pace = `${data.speed === 1 ? "" : `, speed ${Number.isFinite(data.speed) ? data.speed : "max"}`}${data.loop ? ", loop" : ""}`;
    this.description = `replay: ${recording.file}, ${count} records, ${data.rings.length} CPUs, rings of ${ringKib} KiB${pace}`;
    this.warnings = [...recording.damage, ...(damage === null ? [] : [damage])].map(describeDamage);
    const entry = new URL("./replay-producer.js", import.meta.url);
    this.#thread = new ProducerThread(entry, "nmid-replay", data, ({ run }) => this.#ended(run));
  }

  listEvents(): EventCatalog {
    return this.#events.list();
  }

  whyNotTogether(): null {
    return null;
  }

  resolve(request: EventRequest): readonly ResolvedEvent[] {
    return this.#events.resolve(request);
  }

  open(event: ResolvedEvent, shape: EventShape): OpenEvent {
    const index = Number.parseInt(event.key, 10);
    const attr = this.#recording.attrs[index] as RecordedAttr;
    checkRecordedShape(attr, shape);
    const format = formatOf(attr);
    const { counts } = this.#data;
    return new OpenReplayEvent(format, event.hasAux ? this.#data.aux.rings : [], this.#nowNs, {
      count: () => readCount(counts, index),
      enable: () => {
        this.#enabled++;
        this.#thread.post({ kind: "enable", attr: index, wakeEach: shape.wakeEach });
      },
      disable: () => {
        this.#enabled--;
        this.#thread.post({ kind: "disable", attr: index, wakeEach: shape.wakeEach });
        this.#thread.settle();
      },
      close: () => {
        // Not as soon as nothing is enabled: an event that changes its shape is disabled for a moment.
        if (this.#enabled === 0) this.#abandon();
      },
    });
  }

  /** The producer writes them whatever event is enabled: they tell of tasks, not of the event that was opened to get them. */
  openTasks(): OpenTasks {
    return {
      formats: this.#recording.attrs.map(formatOf),
      enable: () => {},
      disable: () => {},
      // What the recording lost nobody can make good.
      readLost: () => 0,
      close: () => {},
    };
  }

  taskSnapshot(): TaskSnapshot {
    const end = this.#running ? Atomics.load(this.#data.position, 0) : 0;
    return { formats: this.#recording.attrs.map(formatOf), runs: runsOf(taskRecords(this.#data, end)) };
  }

  begin(): void {
    if (this.#running) return;
    this.#running = true;
    this.#run++;
    this.#thread.post({ kind: "begin", run: this.#run });
  }

  /** Nobody is there to see the rest: the next begin starts over. */
  #abandon(): void {
    if (!this.#running) return;
    this.#running = false;
    this.#thread.post({ kind: "abandon" });
  }

  #ended(run: number): void {
    // A run that was abandoned while its end was on the way has not ended for anybody.
    if (!this.#running || run !== this.#run) return;
    this.#running = false;
    for (const listener of this.#listeners) listener();
  }

  onEnd(listener: () => void): void {
    this.#listeners.push(listener);
  }

  close(): Promise<void> {
    this.#running = false;
    this.#closed ??= this.#thread.stop().then(() => {
      closeSoftwareRings(this.rings);
      closeAuxRings(this.#data.aux.rings);
    });
    return this.#closed;
  }
}

function describeDamage({ offset, message }: Damage): string {
  return `the recording is damaged at byte ${offset}: ${message}`;
}

/** The recording's task records before record `end`; switches are of the moment. */
function* taskRecords({ bytes, index }: ReplayProducerData, end: number): Records {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let record = 0; record < end; record++) {
    const at = index.offset[record];
    const type = view.getUint32(at, true);
    yield isTaskRecord(type) && !isSwitch(type) ? bytes.subarray(at, at + view.getUint16(at + 6, true)) : null;
  }
}
