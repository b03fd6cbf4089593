/** The kernel's task records: a dummy event on every CPU that counts nothing and writes them into that CPU's ring. */
import { COUNT_SW, encodeAttr, FORMAT, IOC, SAMPLE, TRACK, TYPE } from "../abi.js";
import { Errno } from "../ffi.js";
import type { OpenOnCpus, OpenTasks, RecordFormat, TaskShape } from "../source.js";
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
  const opened = new OpenPerfTasks(kernel, rings, shape);
  try {
    for (const { cpu } of rings) opened.openOn(cpu);
  } catch (error) {
    opened.close();
    throw error;
  }
  return opened;
}

class OpenPerfTasks implements OpenTasks {
  readonly onCpus: OpenOnCpus = {
    open: (cpu) => this.openOn(cpu),
    enable: (cpu) => this.#onCpu(cpu, ({ fd }) => this.#kernel.ioctl(fd, IOC.ENABLE, 0)),
    disable: (cpu) => {
      this.#onCpu(cpu, ({ fd }) => this.#kernel.ioctl(fd, IOC.DISABLE, 0));
      return this.#formatsOf(cpu);
    },
    close: (cpu) => this.#onCpu(cpu, (open) => this.#closeOn(cpu, open)),
  };
  readonly #kernel: Kernel;
  readonly #rings: readonly CpuRing[];
  readonly #shape: TaskShape;
  readonly #cpus = new Map<number, { readonly fd: number; readonly id: bigint }>();
  readonly #reading = new BigUint64Array(4);
  #dropped = 0;
  /** The kernel has taken it: what it tells is settled. */
  #isSettled = false;
  /** Of the CPUs that it was closed on. */
  #lostBefore = 0;

  constructor(kernel: Kernel, rings: readonly CpuRing[], shape: TaskShape) {
    this.#kernel = kernel;
    this.#rings = rings;
    this.#shape = shape;
  }

  get formats(): readonly RecordFormat[] {
    return [tasksFormat(Array.from(this.#cpus.values(), ({ id }) => id))];
  }

  get #countsLost(): boolean {
    return this.#dropped === 0;
  }

  #formatsOf(cpu: number): readonly RecordFormat[] {
    const open = this.#cpus.get(cpu);
    return open === undefined ? [] : [tasksFormat([open.id])];
  }

  #onCpu(cpu: number, act: (open: { readonly fd: number }) => void): void {
    const open = this.#cpus.get(cpu);
    if (open !== undefined) act(open);
  }

  /** Throws PmuError; then it is not open there. */
  openOn(cpu: number): readonly RecordFormat[] {
    const ring = this.#rings.find((one) => one.cpu === cpu);
    if (ring === undefined) return [];
    let fd = -1;
    try {
      fd = this.#openFd(cpu);
      const id = new BigUint64Array(1);
      this.#kernel.ioctl(fd, IOC.SET_OUTPUT, ring.anchorFd);
      this.#kernel.ioctlPointer(fd, IOC.ID, id);
      this.#cpus.set(cpu, { fd, id: id[0] });
      return this.#formatsOf(cpu);
    } catch (error) {
      if (fd >= 0) this.#kernel.close(fd);
      // The CPU has gone offline since its ring was opened.
      if (error instanceof Errno && error.code === "ENODEV") return [];
      throw explainOpenFailure(error, "tasks", this.#kernel);
    }
  }

  #openFd(cpu: number): number {
    for (;;) {
      try {
        const fd = this.#kernel.openEvent(this.#attr(), cpu);
        this.#isSettled = true;
        return fd;
      } catch (error) {
        const isTooNew = error instanceof Errno && error.code === "EINVAL" && !this.#isSettled;
        if (!isTooNew || this.#dropped === NEWEST_FIRST.length) throw error;
        this.#dropped++;
      }
    }
  }

  #attr(): Uint8Array {
    return encodeAttr({
      type: TYPE.SOFTWARE,
      config: BigInt(COUNT_SW.DUMMY),
      sampleType: SAMPLE_TYPE,
      readFormat: FORMAT.TOTAL_TIME_ENABLED | FORMAT.TOTAL_TIME_RUNNING | (this.#countsLost ? FORMAT.LOST : 0),
      samplePeriod: 0n,
      freq: false,
      wakeup: 0,
      watermark: false,
      track:
        NEWEST_FIRST.slice(this.#dropped).reduce((bits, { track }) => bits | track, EVERYWHERE) |
        (this.#shape.contextSwitches ? TRACK.CONTEXT_SWITCH : 0n),
    });
  }

  enable(): void {
    for (const { fd } of this.#cpus.values()) this.#kernel.ioctl(fd, IOC.ENABLE, 0);
  }

  disable(): void {
    for (const { fd } of this.#cpus.values()) this.#kernel.ioctl(fd, IOC.DISABLE, 0);
  }

  readLost(): number | null {
    if (!this.#countsLost) return null;
    let lost = this.#lostBefore;
    for (const { fd } of this.#cpus.values()) lost += this.#lostOf(fd);
    return lost;
  }

  #lostOf(fd: number): number {
    // { value, time_enabled, time_running, lost }
    return this.#countsLost && this.#kernel.read(fd, this.#reading) > 0 ? Number(this.#reading[3]) : 0;
  }

  #closeOn(cpu: number, { fd }: { readonly fd: number }): void {
    this.#lostBefore += this.#lostOf(fd);
    this.#kernel.close(fd);
    this.#cpus.delete(cpu);
  }

  /** Idempotent. */
  close(): void {
    for (const { fd } of this.#cpus.values()) this.#kernel.close(fd);
    this.#cpus.clear();
  }
}

function tasksFormat(ids: readonly bigint[]): RecordFormat {
  return { ids, sampleType: SAMPLE_TYPE, sampleIdAll: true, fixedPeriod: 0 };
}
