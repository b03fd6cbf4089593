/**
 * Live samples from the kernel. One ring per CPU, owned by a dummy event that never counts; every event is opened as
 * handlers need it and writes into its CPU's ring (PERF_EVENT_IOC_SET_OUTPUT), so that arming and disarming never
 * touches a mapping that a dispatcher is reading.
 */
import { COUNT_SW, encodeAttr, PAGE_BYTES, SAMPLE, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import { genericEvents, parseEventSpec, requestedRate } from "../event-spec.js";
import { Errno } from "../ffi.js";
import type {
  EventCatalog,
  EventInfo,
  EventRequest,
  EventShape,
  OpenEvent,
  Rate,
  ResolvedEvent,
  RingDescriptor,
  Source,
} from "../source.js";
import { type CpuRing, openPerfEvent } from "./event.js";
import { type Kernel, liveKernel } from "./kernel.js";
import { explainMapFailure, explainOpenFailure } from "./refusal.js";

const DEFAULT_FREQUENCY_HZ = 99;
const NS_PER_SECOND = 1_000_000_000;
/** kernel/events/core.c, perf_swevent_start_hrtimer. */
const CLOCK_PERIOD_NS_MIN = 10_000;
const CYCLES = "cycles";
const CPU_CLOCK = "cpu-clock";

/** Half of the ring, as perf does: a wake-up costs more than it drains, and the other half is time enough to come. */
const WATERMARK_SHARE = 1 / 2;

interface MappedRing extends CpuRing, RingDescriptor {}

export interface PerfSourceOptions {
  /** Data area of each CPU's ring, a power of two of at least one page. */
  readonly ringBytes: number;
  readonly kernel?: Kernel;
}

/** Throws PmuError when the kernel refuses, saying which setting or capability is missing. */
export function openPerfSource({ ringBytes, kernel = liveKernel }: PerfSourceOptions): Source {
  const rings = openRings(kernel, ringBytes);
  return new PerfSource(kernel, rings, ringBytes);
}

function openRings(kernel: Kernel, ringBytes: number): MappedRing[] {
  const rings: MappedRing[] = [];
  try {
    for (const cpu of kernel.onlineCpus()) {
      const anchorFd = openAnchor(kernel, cpu, ringBytes);
      // A CPU that went offline between the listing and the opening has nothing to sample.
      if (anchorFd === null) continue;
      let address: bigint;
      try {
        address = kernel.mapShared(anchorFd, PAGE_BYTES + ringBytes);
      } catch (error) {
        kernel.close(anchorFd);
        throw explainMapFailure(error, ringBytes / 1024, kernel);
      }
      rings.push({ cpu, anchorFd, address, dataBytes: ringBytes, pollFd: anchorFd, pollKind: "perf" });
    }
  } catch (error) {
    closeRings(kernel, rings, ringBytes);
    throw error;
  }
  return rings;
}

function openAnchor(kernel: Kernel, cpu: number, ringBytes: number): number | null {
  const attr = encodeAttr({
    type: TYPE.SOFTWARE,
    config: BigInt(COUNT_SW.DUMMY),
    sampleType: SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU,
    readFormat: 0,
    samplePeriod: 0n,
    freq: false,
    excludeUser: false,
    excludeKernel: false,
    excludeHv: false,
    preciseIp: 0,
    wakeup: ringBytes * WATERMARK_SHARE,
    watermark: true,
  });
  try {
    return kernel.openEvent(attr, cpu);
  } catch (error) {
    if (error instanceof Errno && error.code === "ENODEV") return null;
    throw explainOpenFailure(error, `sampling CPU ${cpu}`, kernel);
  }
}

function closeRings(kernel: Kernel, rings: readonly MappedRing[], ringBytes: number): void {
  for (const ring of rings) {
    kernel.unmap(ring.address, PAGE_BYTES + ringBytes);
    kernel.close(ring.anchorFd);
  }
}

class PerfSource implements Source {
  readonly kind = "perf";
  readonly clock = "CLOCK_MONOTONIC";
  readonly clockIsMonotonic = true;
  readonly description: string;
  readonly defaultEvent: string;
  readonly rings: readonly MappedRing[];
  readonly #kernel: Kernel;
  readonly #ringBytes: number;
  readonly #open = new Set<OpenEvent>();
  #catalog: EventCatalog | null = null;
  #closed = false;

  constructor(kernel: Kernel, rings: readonly MappedRing[], ringBytes: number) {
    this.#kernel = kernel;
    this.rings = rings;
    this.#ringBytes = ringBytes;
    this.defaultEvent = this.#whyNotSampled(CYCLES) === null ? CYCLES : CPU_CLOCK;
    this.description = `perf: ${this.defaultEvent} by default, ${rings.length} CPUs, rings of ${ringBytes / 1024} KiB`;
  }

  listEvents(): EventCatalog {
    // What a host offers does not change while it runs, and finding out costs a system call an event.
    this.#catalog ??= {
      events: genericEvents().map((event): EventInfo => {
        const reason = this.#whyNotSampled(event.name);
        return { ...event, canSample: reason === null, reason: reason ?? "" };
      }),
      pmus: this.#kernel.pmus(),
    };
    return this.#catalog;
  }

  resolve(request: EventRequest): ResolvedEvent {
    const event = parseEventSpec(request.event === "" ? this.defaultEvent : request.event);
    const rate: Rate = requestedRate(request) ?? { kind: "frequency", hz: DEFAULT_FREQUENCY_HZ };
    const max = this.#kernel.maxSampleRate();
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
    return { ...event, rate, key: `${event.type}/${event.config}/${event.name}/${rate.kind}` };
  }

  open(event: ResolvedEvent, shape: EventShape): OpenEvent {
    const opened = openPerfEvent(this.#kernel, this.rings, event, shape);
    this.#open.add(opened);
    const close = opened.close.bind(opened);
    opened.close = () => {
      this.#open.delete(opened);
      close();
    };
    return opened;
  }

  begin(): void {}

  onEnd(): void {}

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const event of [...this.#open]) event.close();
    closeRings(this.#kernel, this.rings, this.#ringBytes);
  }

  /** Tries to open the event for sampling on the first CPU; null when that works, else the reason. */
  #whyNotSampled(name: string): string | null {
    try {
      const event = this.resolve({ event: name });
      openPerfEvent(this.#kernel, this.rings.slice(0, 1), event, {
        callchain: false,
        cgroup: false,
        wakeEach: false,
      }).close();
      return null;
    } catch (error) {
      const { message } = error as Error;
      return error instanceof PmuError && error.code === "EVENT_UNSUPPORTED"
        ? "not offered by this machine's PMU"
        : message;
    }
  }
}
