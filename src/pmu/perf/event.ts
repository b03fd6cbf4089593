/** One live event, open on every CPU and writing into that CPU's ring. */
import { COUNT_SW, encodeAttr, FORMAT, IOC, SAMPLE, TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import { Errno } from "../ffi.js";
import type { EventReading, EventShape, OpenEvent, Rate, RecordFormat, ResolvedEvent } from "../source.js";
import type { Kernel } from "./kernel.js";
import { explainOpenFailure } from "./refusal.js";

const NS_PER_SECOND = 1_000_000_000;

const BASE_SAMPLE_TYPE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;

/**
 * The kernel turns a clock event's frequency into a fixed period when it opens it (kernel/events/core.c,
 * perf_swevent_init_hrtimer): we open it by period. IOC_PERIOD then changes the timer, but not what the samples say:
 * PERF_SAMPLE_PERIOD stays that of the opening (hw.last_period). So the rate of an open clock is never changed.
 */
function isClock(event: ResolvedEvent): boolean {
  return (
    event.type === TYPE.SOFTWARE &&
    (event.config === BigInt(COUNT_SW.CPU_CLOCK) || event.config === BigInt(COUNT_SW.TASK_CLOCK))
  );
}

/** What attr.sample_period takes for this event, and IOC_PERIOD where it may be used: Hz, events or nanoseconds. */
function kernelPeriod(event: ResolvedEvent, rate: Rate): bigint {
  switch (rate.kind) {
    case "frequency":
      return BigInt(isClock(event) ? Math.max(1, Math.round(NS_PER_SECOND / rate.hz)) : rate.hz);
    case "period":
      return BigInt(rate.period);
    case "all":
      throw new PmuError("RATE_INVALID", `${event.name}: a live event needs a frequency or a period`);
  }
}

export interface CpuRing {
  readonly cpu: number;
  /** The disabled dummy event whose mapping is the ring. */
  readonly anchorFd: number;
}

/** Opens `event` on every CPU, disabled, with its output redirected into the CPU's ring. */
export function openPerfEvent(
  kernel: Kernel,
  rings: readonly CpuRing[],
  event: ResolvedEvent,
  shape: EventShape,
): OpenEvent {
  let sampleType: number = BASE_SAMPLE_TYPE;
  if (shape.callchain) sampleType |= SAMPLE.CALLCHAIN;
  if (shape.cgroup) sampleType |= SAMPLE.CGROUP;
  const fds: number[] = [];
  const ids: bigint[] = [];
  let countsLost = true;
  const attrFor = (readFormat: number): Uint8Array =>
    encodeAttr({
      type: event.type,
      config: event.config,
      sampleType,
      readFormat,
      samplePeriod: kernelPeriod(event, event.rate),
      freq: event.rate.kind === "frequency" && !isClock(event),
      excludeUser: event.excludeUser,
      excludeKernel: event.excludeKernel,
      excludeHv: event.excludeHv,
      preciseIp: event.preciseIp,
      wakeup: shape.wakeEach ? 1 : 0,
      watermark: false,
    });
  const times = FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING;
  const openOn = (cpu: number): number => {
    if (countsLost) {
      try {
        return kernel.openEvent(attrFor(times | FORMAT.LOST), cpu);
      } catch (error) {
        // PERF_FORMAT_LOST came with 6.0; before, EINVAL.
        if (!(error instanceof Errno && error.code === "EINVAL" && fds.length === 0)) throw error;
        countsLost = false;
      }
    }
    return kernel.openEvent(attrFor(times), cpu);
  };
  let closed = false;
  const close = (): void => {
    if (closed) return;
    closed = true;
    for (const fd of fds) kernel.close(fd);
  };
  try {
    const id = new BigUint64Array(1);
    let offline: unknown = null;
    for (const ring of rings) {
      let fd: number;
      try {
        fd = openOn(ring.cpu);
      } catch (error) {
        // The CPU has gone offline since its ring was opened: the others serve.
        if (!(error instanceof Errno && error.code === "ENODEV")) throw error;
        offline = error;
        continue;
      }
      fds.push(fd);
      kernel.ioctl(fd, IOC.SET_OUTPUT, ring.anchorFd);
      kernel.ioctlPointer(fd, IOC.ID, id);
      ids.push(id[0]);
    }
    if (fds.length === 0 && offline !== null) throw offline;
  } catch (error) {
    close();
    throw explainOpenFailure(error, `event ${event.name}`, kernel);
  }
  const reading = new BigUint64Array(4);
  const format: RecordFormat = { ids, sampleType, sampleIdAll: true, fixedPeriod: 0 };
  return {
    formats: [format],
    setRate(rate: Rate): boolean {
      if (isClock(event)) return false;
      const value = new BigUint64Array([kernelPeriod(event, rate)]);
      try {
        for (const fd of fds) kernel.ioctlPointer(fd, IOC.PERIOD, value);
      } catch (error) {
        if (error instanceof Errno && error.code === "EINVAL") {
          throw new PmuError(
            "RATE_INVALID",
            `event ${event.name}: the kernel rejects the rate; kernel.perf_event_max_sample_rate is ${kernel.maxSampleRate()}`,
            { cause: error },
          );
        }
        throw error;
      }
      return true;
    },
    enable(): void {
      for (const fd of fds) kernel.ioctl(fd, IOC.ENABLE, 0);
    },
    disable(): void {
      for (const fd of fds) kernel.ioctl(fd, IOC.DISABLE, 0);
    },
    read(): EventReading {
      let lost = 0;
      let timeEnabledNs = 0;
      let timeRunningNs = 0;
      for (const fd of fds) {
        // { value, time_enabled, time_running, lost }; 0 bytes from an event in error state.
        if (kernel.read(fd, reading) === 0) continue;
        timeEnabledNs += Number(reading[1]);
        timeRunningNs += Number(reading[2]);
        lost += countsLost ? Number(reading[3]) : 0;
      }
      return { lost: countsLost ? lost : null, produced: null, timeEnabledNs, timeRunningNs };
    },
    close,
  };
}
