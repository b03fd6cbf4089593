/**
 * An event that writes into AUX areas (Intel PT and its like): on each CPU a ring of its own, with an AUX area behind it.
 * The kernel gives a ring one AUX area, which belongs to the PMU of the event that it was mapped through; mapped beside the
 * CPU's own ring it would tie that to one event (docs/decisions/aux-rings.md).
 */
import { encodeAttr, FORMAT, IOC, MMAP_PAGE, PAGE_BYTES, SAMPLE } from "../abi.js";
import { PmuError } from "../errors.js";
import { Errno, viewMemory } from "../ffi.js";
import type { AuxRingDescriptor, EventReading, OpenEvent, RecordFormat, ResolvedEvent } from "../source.js";
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
  const rings: AuxRingDescriptor[] = [];
  const ids: bigint[] = [];
  const wanted = new Int32Array(new SharedArrayBuffer(4));
  let closed = false;
  const close = (): void => {
    if (closed) return;
    closed = true;
    for (const ring of rings) closeRing(kernel, ring);
  };
  try {
    let offline: unknown = null;
    for (const cpu of cpus) {
      try {
        const ring = openRing(kernel, cpu, event, wanted);
        rings.push(ring);
        const id = new BigUint64Array(1);
        kernel.ioctlPointer(ring.pollFd, IOC.ID, id);
        ids.push(id[0]);
      } catch (error) {
        // The CPU has gone offline since its ring was opened: the others serve.
        if (!(error instanceof Errno && error.code === "ENODEV")) throw error;
        offline = error;
      }
    }
    if (rings.length === 0 && offline !== null) throw offline;
  } catch (error) {
    close();
    throw explainOpenFailure(error, `event ${event.name}`, kernel);
  }
  const format: RecordFormat = { ids, sampleType: SAMPLE_TYPE, sampleIdAll: true, fixedPeriod: 0 };
  return {
    formats: [format],
    auxRings: rings,
    setRate: () => true,
    enable(): void {
      Atomics.store(wanted, 0, 1);
      for (const { pollFd } of rings) kernel.ioctl(pollFd, IOC.ENABLE, 0);
    },
    disable(): void {
      // A dispatcher that has looked before may enable it once more, until it is closed.
      Atomics.store(wanted, 0, 0);
      for (const { pollFd } of rings) kernel.ioctl(pollFd, IOC.DISABLE, 0);
    },
    read: () => readTimes(kernel, rings),
    close,
  };
}

function openRing(
  kernel: Kernel,
  cpu: number,
  event: ResolvedEvent,
  wanted: Int32Array<SharedArrayBuffer>,
): AuxRingDescriptor {
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

function readTimes(kernel: Kernel, rings: readonly AuxRingDescriptor[]): EventReading {
  const reading = new BigUint64Array(4);
  let timeEnabledNs = 0;
  let timeRunningNs = 0;
  for (const { pollFd } of rings) {
    // { value, time_enabled, time_running }; 0 bytes from an event in error state.
    if (kernel.read(pollFd, reading) === 0) continue;
    timeEnabledNs += Number(reading[1]);
    timeRunningNs += Number(reading[2]);
  }
  // It has no samples to lose.
  return { lost: 0, produced: null, timeEnabledNs, timeRunningNs };
}
