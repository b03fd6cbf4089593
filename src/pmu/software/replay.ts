/** The source that plays a perf.data recording: its records as they were in the kernel's rings, at their own pace. */
import { hrtime } from "node:process";
import { BRANCH_SAMPLE, COUNT_SW, SAMPLE, sampleTypeNames, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import {
  modifierSuffix,
  nearestName,
  type ParsedEvent,
  parseEventSpec,
  requestedRate,
  splitModifiers,
} from "../event-spec.js";
import { genericEventByConfig } from "../generic-events.js";
import type { RecordedAttr } from "../perf-data/attr.js";
import type { Damage } from "../perf-data/image.js";
import { type Recording, readRecording } from "../perf-data/recording.js";
import {
  type AuxRingDescriptor,
  type EventCatalog,
  type EventReading,
  type EventRequest,
  type EventShape,
  type OpenEvent,
  type OpenTasks,
  PLAIN_ATTR,
  type RecordFormat,
  type ResolvedEvent,
  type RingDescriptor,
  type Source,
  type TaskSnapshot,
  UNGROUPED,
} from "../source.js";
import { isSwitch, isTaskRecord } from "../task-record.js";
import { type Records, runsOf } from "../task-runs.js";
import { closeAuxRings, openRecordedAux } from "./aux-pieces.js";
import type { RecordedAux } from "./aux-player.js";
import { EnabledTime } from "./enabled-time.js";
import { allocateCounts, type ProducerCount, readCount } from "./producer-counts.js";
import { ProducerThread } from "./producer-thread.js";
import { indexRecords, type RecordIndex } from "./record-index.js";
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
  const rings = openSoftwareRings(index.cpus, options.ringBytes);
  const attrs = recording.attrs.length;
  const counts = allocateCounts(attrs);
  const { speed = 1, loop = false } = options;
  const position = new Int32Array(new SharedArrayBuffer(4));
  const { bytes } = recording.image;
  const aux = openAuxOrClose(recording, index, rings);
  const data: ReplayProducerData = { rings, bytes, index, attrs, speed, loop, counts, position, aux };
  return new ReplaySource(recording, data, options.now ?? hrtime.bigint);
}

function openAuxOrClose(recording: Recording, index: RecordIndex, rings: readonly RingDescriptor[]): RecordedAux {
  try {
    return openRecordedAux(recording, index);
  } catch (error) {
    closeSoftwareRings(rings);
    throw error;
  }
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
    this.#nowNs = nowNs;
    this.rings = data.rings;
    const first = recording.attrs.find((attr) => !isDummy(attr)) ?? (recording.attrs[0] as RecordedAttr);
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
    const events = this.#recording.attrs.map((attr) => {
      const generic = genericEventByConfig(attr.type, attr.config);
      const pace = attr.isFrequency ? `at ${attr.samplePeriod} Hz` : `every ${attr.samplePeriod} events`;
      return {
        name: attr.name,
        aliases: [],
        type: attr.type,
        config: attr.config,
        description: `${generic?.description ?? "An event of the recording"} (recorded ${pace})`,
        group: generic?.group ?? "recording",
        canSample: true,
        reason: "",
      };
    });
    return { events, pmus: [] };
  }

  whyNotTogether(): null {
    return null;
  }

  resolve(request: EventRequest): readonly ResolvedEvent[] {
    const indexes = this.#findAttrs(request.event === "" ? this.defaultEvent : request.event);
    return indexes.map((index) => this.#resolved(index, request));
  }

  #resolved(index: number, request: EventRequest): ResolvedEvent {
    const attr = this.#recording.attrs[index] as RecordedAttr;
    const { name, type, config, config1, config2, config3, bpType } = attr;
    const { excludeUser, excludeKernel, excludeHv, preciseIp } = attr;
    return {
      ...PLAIN_ATTR,
      ...UNGROUPED,
      ...{ name, type, config, config1, config2, config3, bpType, excludeUser, excludeKernel, excludeHv, preciseIp },
      format: this.#tracepointFormat(attr),
      key: `${index}/${name}`,
      rate: requestedRate(request) ?? { kind: "all" },
      periodUnit: isClock(attr) ? "ns" : "events",
      hasAux: index === this.#data.aux.attr,
    };
  }

  #tracepointFormat({ type, config }: RecordedAttr): string {
    if (type !== TYPE.TRACEPOINT) return "";
    const { TRACING_DATA } = this.#recording.features;
    return TRACING_DATA?.tracepoints.find(({ id }) => BigInt(id) === config)?.text ?? "";
  }

  /** By name as recorded, which several may share; else by base name or by type and config, if the modifiers ask for no less than was recorded. */
  #findAttrs(text: string): readonly number[] {
    const { attrs } = this.#recording;
    const exact = attrs.flatMap(({ name }, index) => (name === text ? [index] : []));
    if (exact.length > 0) return exact;
    const { base, modifiers } = splitModifiers(text);
    const generic = parsedOrNull(text);
    const related = attrs.flatMap((attr, index) => {
      const sameName = splitModifiers(attr.name).base === base;
      const sameEvent = generic !== null && generic.type === attr.type && generic.config === attr.config;
      return sameName || sameEvent ? [index] : [];
    });
    const suits = related.find(
      (index) => modifiers === null || (generic !== null && sameLevels(generic, attrs[index] as RecordedAttr)),
    );
    if (suits !== undefined) return [suits];
    const names = attrs.map(({ name }) => name);
    const holds = `the recording holds ${names.join(", ")}`;
    if (related.length > 0) {
      const why =
        "was recorded with other modifiers: leave them out, and use filter.exclude_user or filter.exclude_kernel";
      throw new PmuError("EVENT_UNKNOWN", `event ${JSON.stringify(text)} ${why}; ${holds}`);
    }
    const nearest = nearestName(text, names);
    const hint = nearest === null ? "" : `did you mean ${JSON.stringify(nearest)}? `;
    throw new PmuError("EVENT_UNKNOWN", `event ${JSON.stringify(text)} was not recorded: ${hint}${holds}`);
  }

  open(event: ResolvedEvent, shape: EventShape): OpenEvent {
    const index = Number.parseInt(event.key, 10);
    const attr = this.#recording.attrs[index] as RecordedAttr;
    this.#checkShape(attr, shape);
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

  #checkShape(attr: RecordedAttr, shape: EventShape): void {
    const { name, branchSampleType } = attr;
    const isStruct = (attr.sampleType & SAMPLE.WEIGHT_STRUCT) !== 0;
    const sampleType = attr.sampleType | (isStruct ? SAMPLE.WEIGHT : 0);
    if ((shape.sampleType & ~sampleType & SAMPLE.CALLCHAIN) !== 0) {
      throw new PmuError(
        "SHAPE_UNSUPPORTED",
        `fields[]: ${name} was recorded without callchains: leave out CALLCHAIN, or record with -g`,
      );
    }
    if ((shape.sampleType & ~sampleType & SAMPLE.CGROUP) !== 0) {
      throw new PmuError(
        "SHAPE_UNSUPPORTED",
        `filter.cgroups: ${name} was recorded without cgroups: leave it and CGROUP out, or record with --all-cgroups`,
      );
    }
    const missing = sampleTypeNames(shape.sampleType & ~sampleType);
    if (shape.branchCounters && (Number(branchSampleType) & BRANCH_SAMPLE.COUNTERS) === 0)
      missing.push("BRANCH_COUNTERS");
    if (missing.length > 0) {
      throw new PmuError(
        "SHAPE_UNSUPPORTED",
        `fields[]: ${name} was recorded without ${missing.join(", ")}: leave it out, or record with it`,
      );
    }
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

function formatOf(attr: RecordedAttr): RecordFormat {
  return {
    // Samples that name no event are all of one, whatever ids the file lists for it.
    ids: (attr.sampleType & (SAMPLE.ID | SAMPLE.IDENTIFIER)) === 0 ? [] : attr.ids,
    sampleType: attr.sampleType,
    sampleIdAll: attr.sampleIdAll,
    // perf, too, takes the attr's where the records have none.
    fixedPeriod: (attr.sampleType & SAMPLE.PERIOD) === 0 ? attr.samplePeriod : 0,
    readFormat: attr.readFormat,
    branchSampleType: Number(attr.branchSampleType),
    sampleRegsUser: attr.sampleRegsUser,
    sampleRegsIntr: attr.sampleRegsIntr,
    sampleStackUser: attr.sampleStackUser,
  };
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

function isDummy({ type, config }: RecordedAttr): boolean {
  return type === TYPE.SOFTWARE && config === BigInt(COUNT_SW.DUMMY);
}

function isClock({ type, config }: RecordedAttr): boolean {
  return type === TYPE.SOFTWARE && (config === BigInt(COUNT_SW.CPU_CLOCK) || config === BigInt(COUNT_SW.TASK_CLOCK));
}

function parsedOrNull(text: string): ParsedEvent | null {
  try {
    return parseEventSpec(text);
  } catch (error) {
    if (error instanceof PmuError) return null;
    throw error;
  }
}

type Levels = Pick<RecordedAttr, "excludeUser" | "excludeKernel" | "excludeHv">;

function sameLevels(asked: Levels, recorded: Levels): boolean {
  const levels = ({ excludeUser, excludeKernel, excludeHv }: Levels): string =>
    modifierSuffix({ excludeUser, excludeKernel, excludeHv });
  return levels(asked) === levels(recorded);
}

interface ReplayControl {
  /** Of all that was ever played of the recorded event, whoever had it open. */
  readonly count: () => ProducerCount;
  readonly enable: () => void;
  readonly disable: () => void;
  readonly close: () => void;
}

class OpenReplayEvent implements OpenEvent {
  readonly formats: readonly RecordFormat[];
  readonly auxRings: readonly AuxRingDescriptor[];
  readonly #time: EnabledTime;
  readonly #control: ReplayControl;
  /** What was counted while this one was enabled, up to the last disable; and where it stood at the last enable. */
  #counted: ProducerCount = { produced: 0, lost: 0 };
  #countedFrom: ProducerCount = { produced: 0, lost: 0 };
  #closed = false;

  constructor(
    format: RecordFormat,
    auxRings: readonly AuxRingDescriptor[],
    nowNs: () => bigint,
    control: ReplayControl,
  ) {
    this.auxRings = auxRings;
    this.formats = [format];
    this.#time = new EnabledTime(nowNs);
    this.#control = control;
  }

  /** The recording's rate is its own; slower handlers are thinned behind the ring. */
  setRate(): boolean {
    return true;
  }

  enable(): void {
    if (this.#closed || this.#time.running) return;
    this.#time.start();
    this.#countedFrom = this.#control.count();
    this.#control.enable();
  }

  /** As with the kernel's, no sample is written once this has returned. */
  disable(): void {
    if (!this.#time.running) return;
    this.#control.disable();
    this.#counted = this.#count();
    this.#time.stop();
  }

  #count(): ProducerCount {
    const { produced, lost } = this.#counted;
    if (!this.#time.running) return this.#counted;
    const now = this.#control.count();
    return {
      produced: produced + now.produced - this.#countedFrom.produced,
      lost: lost + now.lost - this.#countedFrom.lost,
    };
  }

  /** `lost` is what the recording's own LOST records said while this was enabled; the replay itself loses nothing. */
  read(): EventReading {
    const timeNs = this.#time.readNs();
    return { ...this.#count(), timeEnabledNs: timeNs, timeRunningNs: timeNs };
  }

  close(): void {
    if (this.#closed) return;
    this.disable();
    this.#closed = true;
    this.#control.close();
  }
}
