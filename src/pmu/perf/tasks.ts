/** The kernel's task records: a dummy event on every CPU that counts nothing and writes them into that CPU's ring. */
import { COUNT_SW, encodeAttr, FORMAT, IOC, SAMPLE, TRACK, TYPE } from "../abi.js";
import { Errno } from "../ffi.js";
import type { OpenTasks, TaskShape } from "../source.js";
import type { CpuRing } from "./event.js";
import type { Kernel } from "./kernel.js";
import { explainOpenFailure } from "./refusal.js";

const SAMPLE_TYPE = SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU;
const EVERYWHERE = TRACK.MMAP | TRACK.MMAP2 | TRACK.COMM | TRACK.COMM_EXEC | TRACK.TASK;

/** What older kernels reject with EINVAL, newest first: 6.0, 5.8, 5.7, 5.1, 4.12. */
const NEWEST_FIRST = [
  { lost: true, track: 0n },
  { lost: false, track: TRACK.TEXT_POKE },
  { lost: false, track: TRACK.CGROUP },
  { lost: false, track: TRACK.KSYMBOL | TRACK.BPF_EVENT },
  { lost: false, track: TRACK.NAMESPACES },
] as const;

/** Opens the records' events on every CPU, disabled. Throws PmuError; then nothing stays open. */
export function openPerfTasks(kernel: Kernel, rings: readonly CpuRing[], shape: TaskShape): OpenTasks {
  const fds: number[] = [];
  const ids: bigint[] = [];
  let dropped = 0;
  const countsLost = (): boolean => dropped === 0;
  const attr = (): Uint8Array =>
    encodeAttr({
      type: TYPE.SOFTWARE,
      config: BigInt(COUNT_SW.DUMMY),
      sampleType: SAMPLE_TYPE,
      readFormat: FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING | (countsLost() ? FORMAT.LOST : 0),
      samplePeriod: 0n,
      freq: false,
      wakeup: 0,
      watermark: false,
      track:
        NEWEST_FIRST.slice(dropped).reduce((bits, { track }) => bits | track, EVERYWHERE) |
        (shape.contextSwitches ? TRACK.CONTEXT_SWITCH : 0n),
    });
  const openOn = (cpu: number): number => {
    for (;;) {
      try {
        return kernel.openEvent(attr(), cpu);
      } catch (error) {
        const isTooNew = error instanceof Errno && error.code === "EINVAL" && fds.length === 0;
        if (!isTooNew || dropped === NEWEST_FIRST.length) throw error;
        dropped++;
      }
    }
  };
  const close = (): void => {
    for (const fd of fds.splice(0)) kernel.close(fd);
  };
  try {
    const id = new BigUint64Array(1);
    for (const ring of rings) {
      let fd: number;
      try {
        fd = openOn(ring.cpu);
      } catch (error) {
        // The CPU has gone offline since its ring was opened.
        if (error instanceof Errno && error.code === "ENODEV") continue;
        throw error;
      }
      fds.push(fd);
      kernel.ioctl(fd, IOC.SET_OUTPUT, ring.anchorFd);
      kernel.ioctlPointer(fd, IOC.ID, id);
      ids.push(id[0]);
    }
  } catch (error) {
    close();
    throw explainOpenFailure(error, "tasks", kernel);
  }
  const reading = new BigUint64Array(4);
  return {
    formats: [{ ids, sampleType: SAMPLE_TYPE, sampleIdAll: true, fixedPeriod: 0 }],
    enable(): void {
      for (const fd of fds) kernel.ioctl(fd, IOC.ENABLE, 0);
    },
    disable(): void {
      for (const fd of fds) kernel.ioctl(fd, IOC.DISABLE, 0);
    },
    readLost(): number | null {
      if (!countsLost()) return null;
      let lost = 0;
      // { value, time_enabled, time_running, lost }
      for (const fd of fds) if (kernel.read(fd, reading) > 0) lost += Number(reading[3]);
      return lost;
    },
    close,
  };
}
