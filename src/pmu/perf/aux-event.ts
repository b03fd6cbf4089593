/**
 * An event that writes into AUX areas (Intel PT and its like): on each CPU a ring of its own, with an AUX area behind it.
 * The kernel gives a ring one AUX area, which belongs to the PMU of the event that it was mapped through; mapped beside the
 * CPU's own ring it would tie that to one event (docs/decisions/aux-rings.md).
 */
import { encodeAttr, FORMAT, IOC, MMAP_PAGE, PAGE_BYTES, SAMPLE } from "../abi.js";
import { parseCpuList } from "../cpu-list.js";
import { PmuError } from "../errors.js";
import { Errno, viewMemory } from "../ffi.js";
import type { AuxRingDescriptor, EventReading, OpenEvent, OpenOnCpus, RecordFormat, ResolvedEvent } from "../source.js";
import type { Kernel } from "./kernel.js";
import { explainOpenFailure } from "./refusal.js";

/** Some hundred records of 64 bytes: one comes for each half of the area, or each time the event is scheduled out. */
export const AUX_RING_BYTES = 8 * PAGE_BYTES;
/** Of one CPU: between the 128 KiB and 4 MiB that perf takes, without privileges and with them. */
export const AUX_AREA_BYTES = 1024 * 1024;

/** What dispatchers expect at the end of the rings' records. */
const SAMPLE_TYPE = SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU;

/** Names below /sys/bus/event_source/devices of the PMUs whose drivers have setup_aux, which nothing there tells. */
const AUX_PMU = /^(intel_pt|intel_bts|cs_etm|arm_spe_\d+|hisi_ptt\d+_\d+|trbe)$/;

/** Whether events of the PMU of this name write into AUX areas. */
export function isAuxPmu(pmu: string): boolean {
  return AUX_PMU.test(pmu);
}

/** Opens the event on every CPU, disabled. Throws PmuError; then nothing stays open. */
export function openAuxEvent(kernel: Kernel, cpus: readonly number[], event: ResolvedEvent): OpenEvent {
  const opened = new OpenAuxEvent(kernel, event);
  try {
    let offline: unknown = null;
    for (const cpu of cpus) {
      try {
        opened.openOn(cpu);
      } catch (error) {
        // The CPU has gone offline since its ring was opened: the others serve.
        if (!isOffline(error)) throw error;
        offline = error;
      }
    }
    if (opened.auxRings.length === 0 && offline !== null) throw offline;
  } catch (error) {
    opened.close();
    throw explainOpenFailure(error, `event ${event.name}`, kernel);
  }
  return opened;
}

function isOffline(error: unknown): boolean {
  return error instanceof Errno && error.code === "ENODEV";
}

/** What is open on one CPU. */
interface OnCpu {
  readonly ring: AuxRingDescriptor;
  readonly id: bigint;
}

class OpenAuxEvent implements OpenEvent {
  readonly onCpus: OpenOnCpus = {
    open: (cpu) => this.#openLate(cpu),
    auxRings: (cpu) => this.#on(cpu).map(({ ring }) => ring),
    enable: (cpu) => {
      for (const { ring } of this.#on(cpu)) this.#enable(ring);
    },
    disable: (cpu) => {
      for (const { ring } of this.#on(cpu)) this.#disable(ring);
      return this.#formatsOf(this.#on(cpu));
    },
    close: (cpu) => this.#closeOn(cpu),
  };
  readonly #kernel: Kernel;
  readonly #event: ResolvedEvent;
  readonly #cpus = new Map<number, OnCpu>();
  readonly #reading = new BigUint64Array(4);
  /** Of the CPUs that it was closed on. */
  readonly #before = { timeEnabledNs: 0, timeRunningNs: 0 };

  constructor(kernel: Kernel, event: ResolvedEvent) {
    this.#kernel = kernel;
    this.#event = event;
  }

  get formats(): readonly RecordFormat[] {
    return [this.#formatOf([...this.#cpus.values()])];
  }

  get auxRings(): readonly AuxRingDescriptor[] {
    return [...this.#cpus.values()].map(({ ring }) => ring);
  }

  #on(cpu: number): readonly OnCpu[] {
    const open = this.#cpus.get(cpu);
    return open === undefined ? [] : [open];
  }

  #formatOf(open: readonly OnCpu[]): RecordFormat {
    return { ids: open.map(({ id }) => id), sampleType: SAMPLE_TYPE, sampleIdAll: true, fixedPeriod: 0 };
  }

  #formatsOf(open: readonly OnCpu[]): readonly RecordFormat[] {
    return open.length === 0 ? [] : [this.#formatOf(open)];
  }

  /** Throws Errno or PmuError; then it is not open there. */
  openOn(cpu: number): void {
    const ring = openRing(this.#kernel, cpu, this.#event);
    const id = new BigUint64Array(1);
    try {
      this.#kernel.ioctlPointer(ring.pollFd, IOC.ID, id);
    } catch (error) {
      closeRing(this.#kernel, ring);
      throw error;
    }
    this.#cpus.set(cpu, { ring, id: id[0] });
  }

  #openLate(cpu: number): readonly RecordFormat[] {
    const { cpus, name } = this.#event;
    if (cpus !== "" && !parseCpuList(cpus).includes(cpu)) return [];
    try {
      this.openOn(cpu);
    } catch (error) {
      // Gone again, which the next look sees.
      if (isOffline(error)) return [];
      throw explainOpenFailure(error, `event ${name}`, this.#kernel);
    }
    return this.#formatsOf(this.#on(cpu));
  }

  setRate(): boolean {
    return true;
  }

  enable(): void {
    for (const { ring } of this.#cpus.values()) this.#enable(ring);
  }

  disable(): void {
    for (const { ring } of this.#cpus.values()) this.#disable(ring);
  }

  #enable({ wanted, pollFd }: AuxRingDescriptor): void {
    Atomics.store(wanted, 0, 1);
    this.#kernel.ioctl(pollFd, IOC.ENABLE, 0);
  }

  /** A dispatcher that has looked before may enable it once more, until it is closed. */
  #disable({ wanted, pollFd }: AuxRingDescriptor): void {
    Atomics.store(wanted, 0, 0);
    this.#kernel.ioctl(pollFd, IOC.DISABLE, 0);
  }

  read(): EventReading {
    const sum = { ...this.#before };
    for (const { ring } of this.#cpus.values()) this.#addTimes(ring, sum);
    // It has no samples to lose.
    return { ...sum, lost: 0, produced: null };
  }

  #addTimes({ pollFd }: AuxRingDescriptor, sum: { timeEnabledNs: number; timeRunningNs: number }): void {
    const words = this.#reading;
    // { value, time_enabled, time_running }; 0 bytes from an event in error state.
    if (this.#kernel.read(pollFd, words) === 0) return;
    sum.timeEnabledNs += Number(words[1]);
    sum.timeRunningNs += Number(words[2]);
  }

  #closeOn(cpu: number): void {
    for (const { ring } of this.#on(cpu)) {
      this.#addTimes(ring, this.#before);
      this.#cpus.delete(cpu);
      closeRing(this.#kernel, ring);
    }
  }

  /** Idempotent. */
  close(): void {
    for (const { ring } of this.#cpus.values()) closeRing(this.#kernel, ring);
    this.#cpus.clear();
  }
}

function openRing(kernel: Kernel, cpu: number, event: ResolvedEvent): AuxRingDescriptor {
  const attr = encodeAttr({
    ...event,
    sampleType: SAMPLE_TYPE,
    readFormat: FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING,
    // It takes no samples; perf, too, asks for the least.
    samplePeriod: 1n,
    freq: false,
    wakeup: AUX_RING_BYTES / 2,
    watermark: true,
  });
  const fd = kernel.openEvent(attr, cpu);
  let address: bigint | null = null;
  try {
    address = kernel.mapShared(fd, PAGE_BYTES + AUX_RING_BYTES);
    const control = new BigUint64Array(viewMemory(address, PAGE_BYTES));
    // The kernel looks at them when the area is mapped: behind the data, both in bytes.
    const auxAt = PAGE_BYTES + AUX_RING_BYTES;
    control[MMAP_PAGE.AUX_OFFSET / 8] = BigInt(auxAt);
    control[MMAP_PAGE.AUX_SIZE / 8] = BigInt(AUX_AREA_BYTES);
    const auxAddress = kernel.mapShared(fd, AUX_AREA_BYTES, auxAt);
    const wanted = new Int32Array(new SharedArrayBuffer(4));
    const data = { cpu, address, dataBytes: AUX_RING_BYTES, pollFd: fd, pollKind: "perf" } as const;
    return { ...data, auxAddress, auxBytes: AUX_AREA_BYTES, eventFd: fd, wanted };
  } catch (error) {
    if (address !== null) kernel.unmap(address, PAGE_BYTES + AUX_RING_BYTES);
    kernel.close(fd);
    throw explainAuxFailure(error, event);
  }
}

function explainAuxFailure(error: unknown, { name }: ResolvedEvent): unknown {
  if (!(error instanceof Errno) || error.call !== "mmap") return error;
  const kib = (AUX_AREA_BYTES + AUX_RING_BYTES + PAGE_BYTES) / 1024;
  switch (error.code) {
    case "EPERM":
      return new PmuError(
        "RESOURCE",
        `event ${name}: an AUX area takes ${kib} KiB of locked memory a CPU: EPERM: kernel.perf_event_mlock_kb and RLIMIT_MEMLOCK are used up. Raise one of them (\`sysctl kernel.perf_event_mlock_kb=…\`, LimitMEMLOCK=), or give CAP_IPC_LOCK.`,
        { cause: error },
      );
    case "EOPNOTSUPP":
      return new PmuError(
        "EVENT_UNSUPPORTED",
        `event ${name}: its PMU's driver offers no AUX area (EOPNOTSUPP): leave AUX and the event out.`,
        { cause: error },
      );
    case "ENOMEM":
      return new PmuError(
        "RESOURCE",
        `event ${name}: no memory for an AUX area of ${kib} KiB a CPU (ENOMEM): free some.`,
        { cause: error },
      );
    default:
      return error;
  }
}

/** The area first: it belongs to the ring. */
function closeRing(kernel: Kernel, { address, auxAddress, auxBytes, pollFd }: AuxRingDescriptor): void {
  kernel.unmap(auxAddress, auxBytes);
  kernel.unmap(address, PAGE_BYTES + AUX_RING_BYTES);
  kernel.close(pollFd);
}
