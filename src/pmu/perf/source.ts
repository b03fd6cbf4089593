/**
 * Live samples from the kernel. One ring per CPU, owned by a dummy event (rings.ts); every event is opened as
 * handlers need it and writes into its CPU's ring (PERF_EVENT_IOC_SET_OUTPUT), so that arming and disarming never
 * touches a mapping that a dispatcher is reading.
 */
import { TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import type { ParsedEvent } from "../events/parsed-event.js";
import { requestedRate } from "../events/rate.js";
import { type EventHost, openEventHost, parseEventSpec, resolveEventSpec } from "../events/resolve.js";
import { Errno } from "../ffi.js";
import type {
  EventCatalog,
  EventRequest,
  EventShape,
  KernelSettings,
  OpenEvent,
  OpenTasks,
  Rate,
  ResolvedEvent,
  Source,
  TaskShape,
  TaskSnapshot,
} from "../source.js";
import { isAuxPmu, openAuxEvent } from "./aux-event.js";
import { whyNotTogether } from "./budget.js";
import { listHostEvents } from "./catalog.js";
import { openPerfEvent, ringsOf } from "./event.js";
import { type Kernel, liveKernel } from "./kernel.js";
import { procSnapshot } from "./proc-snapshot.js";
import { CpuRings, type MappedRing } from "./rings.js";
import { openPerfTasks } from "./tasks.js";

const DEFAULT_FREQUENCY_HZ = 99;
const NS_PER_SECOND = 1_000_000_000;
/** kernel/events/core.c, perf_swevent_start_hrtimer. */
const CLOCK_PERIOD_NS_MIN = 10_000;
/** Of an event that writes into AUX areas, which takes no samples. */
const EACH: Rate = { kind: "period", period: 1 };
const CYCLES = "cycles";
const CPU_CLOCK = "cpu-clock";

export interface PerfSourceOptions {
  /** Data area of each CPU's ring, a power of two of at least one page. */
  readonly ringBytes: number;
  readonly kernel?: Kernel;
}

/** Throws PmuError when the kernel refuses, saying which setting or capability is missing. */
export function openPerfSource({ ringBytes, kernel = liveKernel }: PerfSourceOptions): Source {
  const rings = new CpuRings(kernel, ringBytes);
  rings.openAll();
  try {
    return new PerfSource(kernel, rings, ringBytes);
  } catch (error) {
    rings.closeAll();
    throw error;
  }
}

class PerfSource implements Source {
  readonly kind = "perf";
  readonly clock = "CLOCK_MONOTONIC";
  readonly clockIsMonotonic = true;
  readonly defaultEvent: string;
  readonly cpus: CpuRings;
  readonly #kernel: Kernel;
  readonly #ringBytes: number;
  readonly #open = new Set<{ close(): void }>();
  readonly #host: EventHost;
  #catalog: EventCatalog | null = null;
  /** kernel.perf_event_paranoid when the catalog was made. */
  #catalogParanoid: number | null = null;
  #closed = false;

  constructor(kernel: Kernel, rings: CpuRings, ringBytes: number) {
    this.#kernel = kernel;
    this.cpus = rings;
    this.#ringBytes = ringBytes;
    this.#host = openEventHost(kernel.files, kernel.pfm);
    this.defaultEvent = this.#whyNotSampled(parseEventSpec(CYCLES)) === null ? CYCLES : CPU_CLOCK;
  }

  get rings(): readonly MappedRing[] {
    return this.cpus.all;
  }

  get description(): string {
    return `perf: ${this.defaultEvent} by default, ${this.rings.length} CPUs, rings of ${this.#ringBytes / 1024} KiB`;
  }

  get settings(): KernelSettings {
    return { paranoid: this.#kernel.paranoid(), maxSampleRateHz: this.#kernel.maxSampleRate() };
  }

  whyNotOpened(event: ResolvedEvent): string | null {
    return this.#tryToOpen(event)?.message ?? null;
  }

  listEvents(): EventCatalog {
    // Finding out costs system calls for each event, and what a host grants changes with this setting alone.
    const paranoid = this.#kernel.paranoid();
    if (this.#catalog === null || paranoid !== this.#catalogParanoid) {
      this.#catalog = listHostEvents(this.#host, (event) => this.#whyNotSampled(event));
      this.#catalogParanoid = paranoid;
    }
    return this.#catalog;
  }

  resolve(request: EventRequest): readonly ResolvedEvent[] {
    const text = request.event === "" ? this.defaultEvent : request.event;
    const events = resolveEventSpec(text, this.#host);
    const rate = requestedRate(request);
    const { branchSampleType = 0 } = request;
    return events.map((event) => {
      const resolved = this.#resolved(this.#asPrecise(event), rate);
      if (branchSampleType === 0 || resolved.hasAux) return resolved;
      return { ...resolved, branchSampleType, key: `${resolved.key}/branches=${branchSampleType.toString(16)}` };
    });
  }

  #resolved(event: ParsedEvent, requested: Rate | null): ResolvedEvent {
    const hasAux = isAuxPmu(event.pmu);
    if (hasAux) checkAux(event, requested);
    const rate = hasAux ? EACH : rateOf(event, requested);
    checkRate(event, rate, this.#kernel.maxSampleRate());
    const members = event.members.map((member) => this.#resolved(member, requested));
    const { preciseMax: _, period: __, frequencyHz: ___, pmu: ____, ...rest } = event;
    if (members.some((member) => member.hasAux)) throw noGroup(event);
    const resolved = { ...rest, rate, members, hasAux };
    return { ...resolved, key: keyOf(resolved) };
  }

  /** P is what the kernel takes on a CPU of the event's. */
  #asPrecise(event: ParsedEvent): ParsedEvent {
    const members = event.members.map((member) => this.#asPrecise(member));
    if (!event.preciseMax) return { ...event, members };
    for (let preciseIp = event.preciseIp; preciseIp > 0; preciseIp--) {
      const tried = { ...event, preciseIp, preciseMax: false };
      if (this.#whyNotSampled(tried) === null) return { ...tried, members };
    }
    return { ...event, preciseIp: 0, members };
  }

  whyNotTogether(events: readonly ResolvedEvent[]): string | null {
    return whyNotTogether(this.#kernel, this.rings, events);
  }

  open(event: ResolvedEvent, shape: EventShape): OpenEvent {
    if (event.hasAux) {
      const cpus = ringsOf(this.rings, event).map(({ cpu }) => cpu);
      return this.#keep(openAuxEvent(this.#kernel, cpus, event));
    }
    return this.#keep(openPerfEvent(this.#kernel, this.rings, event, shape));
  }

  openTasks(shape: TaskShape): OpenTasks {
    return this.#keep(openPerfTasks(this.#kernel, this.rings, shape));
  }

  /** Closed with the source, if not before. */
  #keep<T extends { close(): void }>(opened: T): T {
    this.#open.add(opened);
    const close = opened.close.bind(opened);
    opened.close = () => {
      this.#open.delete(opened);
      close();
    };
    return opened;
  }

  taskSnapshot(wanted?: (pid: number) => boolean): TaskSnapshot {
    return procSnapshot(wanted);
  }

  whyNotAble(): string | null {
    return this.#whyNotSampled(parseEventSpec(this.defaultEvent));
  }

  begin(): void {}

  onEnd(): void {}

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const event of [...this.#open]) event.close();
    this.cpus.closeAll();
  }

  /** Why the event cannot be sampled here; null when it can. */
  #whyNotSampled(event: ParsedEvent): string | null {
    try {
      const refused = this.#tryToOpen(this.#resolved({ ...event, members: [] }, null));
      if (refused !== null) throw refused;
      return null;
    } catch (error) {
      if (!(error instanceof PmuError)) throw error;
      const { cause, message } = error;
      const isMissing = cause instanceof Errno && (cause.code === "ENOENT" || cause.code === "ENODEV");
      if (isMissing && !message.includes("only counts")) return "not offered by this machine's PMU";
      return message.replace(`event ${event.name}: `, "");
    }
  }

  /** On the first of its CPUs. */
  #tryToOpen(event: ResolvedEvent): PmuError | null {
    try {
      const shape = { sampleType: 0, branchCounters: false, wakeEach: false };
      openPerfEvent(this.#kernel, ringsOf(this.rings, event).slice(0, 1), event, shape).close();
      return null;
    } catch (error) {
      if (error instanceof PmuError) return error;
      throw error;
    }
  }
}

/** The request's, the event's own `period` and `freq` terms, or a default. Throws PmuError RATE_INVALID. */
function rateOf(event: ParsedEvent, requested: Rate | null): Rate {
  const { name, period, frequencyHz } = event;
  const terms: Rate[] = [];
  if (frequencyHz !== null) terms.push({ kind: "frequency", hz: frequencyHz });
  if (period !== null) terms.push({ kind: "period", period });
  const [own, second] = terms;
  if (second !== undefined || (own !== undefined && requested !== null)) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].frequency_hz and events[].period: ${name} has a rate among its terms as well: give it in one place`,
    );
  }
  if (own !== undefined || requested !== null) return own ?? (requested as Rate);
  // perf's default for what is rare enough to be told each time.
  const isEach = event.type === TYPE.TRACEPOINT || event.type === TYPE.BREAKPOINT;
  return isEach ? { kind: "period", period: 1 } : { kind: "frequency", hz: DEFAULT_FREQUENCY_HZ };
}

/** Whatever happens is written down: there is no rate to ask for. Throws PmuError. */
function checkAux(event: ParsedEvent, requested: Rate | null): void {
  if (event.members.length > 0) throw noGroup(event);
  if (requested === null && event.period === null && event.frequencyHz === null) return;
  throw new PmuError(
    "RATE_INVALID",
    `events[].frequency_hz and events[].period: ${event.name} writes into AUX areas and takes no samples: leave the rate out`,
  );
}

/** Snapshots of an AUX area in the samples of a group (PERF_SAMPLE_AUX) are not offered. */
function noGroup({ name, members }: ParsedEvent): PmuError {
  const names = [name, ...members.map((member) => member.name)].join(", ");
  return new PmuError(
    "EVENT_UNSUPPORTED",
    `events[].event: {${names}}: an event that writes into AUX areas can be in no group: ask for it by itself`,
  );
}

function checkRate(event: ParsedEvent, rate: Rate, max: number): void {
  if (rate.kind === "frequency" && rate.hz > max) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].frequency_hz: ${rate.hz} is above the kernel's maximum of ${max} (kernel.perf_event_max_sample_rate): ask for less, or raise it.`,
    );
  }
  // The kernel runs a clock's timer no faster than each 10 us whatever it is asked for, and that fast is a frozen machine.
  const leastNs = Math.max(CLOCK_PERIOD_NS_MIN, Math.ceil(NS_PER_SECOND / max));
  if (rate.kind === "period" && event.periodUnit === "ns" && rate.period < leastNs) {
    throw new PmuError(
      "RATE_INVALID",
      `events[].period: ${rate.period} ns is below the least of ${leastNs} that the kernel's maximum rate of ${max} Hz allows (kernel.perf_event_max_sample_rate): ask for more.`,
    );
  }
}

/** Equal where all that the kernel is told of two events is, but for how fast they sample. */
function keyOf(event: Omit<ResolvedEvent, "key">): string {
  const flags = [
    event.excludeUser,
    event.excludeKernel,
    event.excludeHv,
    event.excludeHost,
    event.excludeGuest,
    event.excludeIdle,
    event.pinned,
    event.sampleRead,
  ];
  const words = [event.config, event.config1, event.config2, event.config3].map((word) => word.toString(16));
  return [
    event.type,
    ...words,
    event.bpType,
    flags.map(Number).join(""),
    event.preciseIp,
    event.cpus,
    event.rate.kind,
    ...event.members.map((member) => `{${member.key}}`),
  ].join("/");
}
