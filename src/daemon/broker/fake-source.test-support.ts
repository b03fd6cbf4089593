/** For tests: a source whose events write down what is done to them, in one log with what dispatchers are told. */
import { sampleTypeNames } from "../../pmu/abi.js";
import { PmuError } from "../../pmu/errors.js";
import {
  needsCounter,
  openEventHost,
  type ParsedEvent,
  recordedFileTree,
  requestedRate,
  resolveEventSpec,
} from "../../pmu/event-spec.js";
import type {
  EventReading,
  EventRequest,
  EventShape,
  OpenEvent,
  OpenTasks,
  Rate,
  ResolvedEvent,
  Source,
  SourceKind,
  TaskShape,
  TaskSnapshot,
} from "../../pmu/source.js";
import type { Control } from "../dispatch/messages.js";

/** One PMU of two instances, so that a name can mean several events. */
const PMU_FILES = { type: "9", format: { event: "config:0-7" } };
const HOST = openEventHost(
  recordedFileTree({
    sys: {
      bus: { event_source: { devices: { uncore_imc_0: PMU_FILES, uncore_imc_1: { ...PMU_FILES, type: "10" } } } },
    },
  }),
);

export class FakeEvent implements OpenEvent {
  readonly formats;
  readonly event: ResolvedEvent;
  readonly shape: EventShape;
  enabled = false;
  closed = false;
  reading: EventReading = { lost: 0, produced: 0, timeEnabledNs: 0, timeRunningNs: 0 };
  readonly #source: FakeSource;
  readonly #id: number;

  constructor(source: FakeSource, id: number, event: ResolvedEvent, shape: EventShape) {
    this.#source = source;
    this.#id = id;
    this.event = event;
    this.shape = shape;
    this.formats = [{ ids: [BigInt(id)], sampleType: 0, sampleIdAll: true, fixedPeriod: 0 }];
  }

  setRate(rate: Rate): boolean {
    if (!this.#source.ratesInPlace) return false;
    this.#do(`rate ${rateText(rate)}`);
    return true;
  }

  enable(): void {
    this.#do("enable");
    this.enabled = true;
  }

  disable(): void {
    this.#do("disable");
    this.enabled = false;
  }

  read(): EventReading {
    if (this.closed) throw new Error(`event ${this.#id} is closed`);
    return this.reading;
  }

  close(): void {
    this.#do("close");
    this.closed = true;
  }

  #do(what: string): void {
    const error = this.#source.refuse(what);
    if (error !== null) throw error;
    if (this.closed) throw new Error(`${what} of event ${this.#id}, which is closed`);
    this.#source.log.push(`${what} ${this.#id}`);
  }
}

export class FakeSource implements Source {
  readonly kind: SourceKind;
  readonly description = "fake";
  readonly clock = "CLOCK_MONOTONIC";
  readonly clockIsMonotonic = true;
  readonly defaultEvent = "cycles";
  readonly rings = [];
  readonly log: string[] = [];
  readonly opened: FakeEvent[] = [];
  tasksOpened = 0;
  tasksLost: number | null = 0;
  /** Whether the rate of an open event can be changed. */
  ratesInPlace = true;
  /** What its PMU has. */
  counters = Number.POSITIVE_INFINITY;
  /** Says with what a step fails: `open`, or as it would be written down, without the event's number. */
  refuse: (what: string) => Error | null = () => null;

  constructor(kind: SourceKind = "perf") {
    this.kind = kind;
  }

  get live(): FakeEvent[] {
    return this.opened.filter(({ closed }) => !closed);
  }

  listEvents(): { events: []; pmus: [] } {
    return { events: [], pmus: [] };
  }

  resolve(request: EventRequest): readonly ResolvedEvent[] {
    const rate: Rate = requestedRate(request) ?? { kind: "frequency", hz: 99 };
    const resolved = (event: ParsedEvent): ResolvedEvent => {
      const members = event.members.map(resolved);
      return { ...event, rate, members, key: [event.name, rate.kind, ...members.map(({ key }) => key)].join("/") };
    };
    return resolveEventSpec(request.event === "" ? this.defaultEvent : request.event, HOST).map(resolved);
  }

  /** Each event but software ones takes a counter. */
  whyNotTogether(events: readonly ResolvedEvent[]): string | null {
    const opened = [...new Map(events.map((event) => [event.key, event])).values()];
    const all = opened.flatMap((event) => [event, ...event.members]).filter(needsCounter);
    return all.length > this.counters ? `there are ${this.counters} counters` : null;
  }

  open(event: ResolvedEvent, shape: EventShape): FakeEvent {
    const error = this.refuse("open");
    if (error !== null) throw error;
    const opened = new FakeEvent(this, this.opened.length, event, shape);
    const fields = sampleTypeNames(shape.sampleType).map((name) => name.toLowerCase());
    if (shape.wakeEach) fields.push("wakeEach");
    this.log.push(["open", this.opened.length, rateText(event.rate), ...fields].join(" "));
    this.opened.push(opened);
    return opened;
  }

  openTasks({ contextSwitches }: TaskShape): OpenTasks {
    const error = this.refuse("open tasks");
    if (error !== null) throw error;
    const id = this.tasksOpened++;
    this.log.push(`open tasks ${id}${contextSwitches ? " switches" : ""}`);
    return {
      formats: [{ ids: [BigInt(1000 + id)], sampleType: 0, sampleIdAll: true, fixedPeriod: 0 }],
      enable: () => void this.log.push(`enable tasks ${id}`),
      disable: () => void this.log.push(`disable tasks ${id}`),
      readLost: () => this.tasksLost,
      close: () => void this.log.push(`close tasks ${id}`),
    };
  }

  taskSnapshot(): TaskSnapshot {
    return { formats: [], runs: (async function* () {})() };
  }

  /** What dispatchers are told, in the same log. */
  readonly tellAll = async (control: Control): Promise<void> => {
    // Answered later, as by another thread.
    await Promise.resolve();
    if (control.kind === "pace") this.log.push(`pace ${control.pace.frequencyHz ?? control.pace.period ?? "unknown"}`);
    else if (control.kind === "add formats") this.log.push(`add ${control.formats[0].ids} to ${control.event}`);
    else if (control.kind === "remove formats") this.log.push(`remove ${control.formats[0].ids}`);
    else this.log.push(control.kind);
  };

  /** What happened since the last call. */
  takeLog(): string[] {
    return this.log.splice(0);
  }

  begin(): void {}

  onEnd(): void {}

  async close(): Promise<void> {}
}

export function refusedRate(): PmuError {
  return new PmuError("RATE_INVALID", "the kernel rejects the rate");
}

function rateText(rate: Rate): string {
  return rate.kind === "frequency" ? `${rate.hz}Hz` : rate.kind === "period" ? `${rate.period}` : "all";
}
