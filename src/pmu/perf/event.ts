/** One live event, or a group of them, open on every CPU it has and writing into that CPU's ring. */
import { FORMAT, IOC, SAMPLE } from "../abi.js";
import { parseCpuList } from "../cpu-list.js";
import { PmuError } from "../errors.js";
import { Errno } from "../ffi.js";
import type { EventReading, EventShape, OpenEvent, OpenOnCpus, Rate, RecordFormat, ResolvedEvent } from "../source.js";
import { attrOf, isClock, kernelPeriod } from "./attr.js";
import { type CarriedAttr, CarriedFields, checkShape, explainShapeFailure } from "./carried-fields.js";
import type { Kernel } from "./kernel.js";
import { explainOpenFailure } from "./refusal.js";

export interface CpuRing {
  readonly cpu: number;
  /** The disabled dummy event whose mapping is the ring. */
  readonly anchorFd: number;
}

/** The rings of the CPUs that the event's PMU has. */
export function ringsOf<Ring extends CpuRing>(rings: readonly Ring[], { cpus }: ResolvedEvent): readonly Ring[] {
  if (cpus === "") return rings;
  const own = new Set(parseCpuList(cpus));
  return rings.filter(({ cpu }) => own.has(cpu));
}

/**
 * Opens `event` on every CPU, disabled, with its output redirected into the CPU's ring, and its members in its group.
 * Throws PmuError; then nothing stays open.
 */
export function openPerfEvent(
  kernel: Kernel,
  rings: readonly CpuRing[],
  event: ResolvedEvent,
  shape: EventShape,
): OpenEvent {
  const opened = new OpenPerfEvent(kernel, rings, event, shape);
  const own = ringsOf(rings, event);
  if (own.length === 0) {
    throw new PmuError("EVENT_UNSUPPORTED", `event ${event.name}: none of its CPUs (${event.cpus}) is online`);
  }
  try {
    let offline: unknown = null;
    for (const ring of own) {
      try {
        opened.openOn(ring);
      } catch (error) {
        // The CPU has gone offline since its ring was opened: the others serve.
        if (!isOffline(error)) throw error;
        offline = error;
      }
    }
    if (opened.isNowhere && offline !== null) throw offline;
  } catch (error) {
    opened.close();
    throw error;
  }
  return opened;
}

function isOffline(error: unknown): boolean {
  const cause = error instanceof PmuError ? error.cause : error;
  return cause instanceof Errno && cause.code === "ENODEV";
}

/** What is open on one CPU. */
interface OnCpu {
  readonly leader: number;
  readonly members: number[];
  /** Of the leader and of the members that sample. */
  readonly ids: bigint[];
}

class OpenPerfEvent implements OpenEvent {
  readonly onCpus: OpenOnCpus = {
    open: (cpu) => this.#openLate(cpu),
    enable: (cpu) => this.#ofCpu(cpu, ({ leader }) => this.#kernel.ioctl(leader, IOC.ENABLE, 0)),
    disable: (cpu) => {
      this.#ofCpu(cpu, ({ leader }) => this.#kernel.ioctl(leader, IOC.DISABLE, 0));
      return this.#formatsOf(cpu);
    },
    close: (cpu) => this.#closeOn(cpu),
  };
  readonly #kernel: Kernel;
  readonly #rings: readonly CpuRing[];
  readonly #event: ResolvedEvent;
  readonly #shape: EventShape;
  readonly #carried: CarriedFields;
  readonly #cpus = new Map<number, OnCpu>();
  /** Of the CPUs that it was closed on. */
  readonly #before = { lost: 0, timeEnabledNs: 0, timeRunningNs: 0 };
  readonly #reading: BigUint64Array;
  /** Set since it was opened, for the leader and for members that sample. */
  #rate: Rate | null = null;
  /** The kernel has taken it: what it carries is settled. */
  #isSettled = false;

  constructor(kernel: Kernel, rings: readonly CpuRing[], event: ResolvedEvent, shape: EventShape) {
    checkShape(event, shape);
    this.#kernel = kernel;
    this.#rings = rings;
    this.#event = event;
    this.#shape = shape;
    const sampleType = shape.sampleType | (event.sampleRead ? SAMPLE.READ : 0);
    this.#carried = new CarriedFields({ ...shape, sampleType }, event.branchSampleType);
    this.#reading = new BigUint64Array(GROUP_HEAD_WORDS + (1 + event.members.length) * GROUP_VALUE_WORDS);
  }

  get isNowhere(): boolean {
    return this.#cpus.size === 0;
  }

  get formats(): readonly RecordFormat[] {
    return this.#formats([...this.#cpus.values()]);
  }

  #formats(cpus: readonly OnCpu[]): readonly RecordFormat[] {
    const sampling = this.#event.sampleRead ? 1 : 1 + this.#event.members.length;
    return Array.from({ length: sampling }, (_, member) => ({
      ids: cpus.map(({ ids }) => ids[member]),
      sampleIdAll: true,
      fixedPeriod: 0,
      ...this.#carriedAttr,
      member,
    }));
  }

  #formatsOf(cpu: number): readonly RecordFormat[] {
    const open = this.#cpus.get(cpu);
    return open === undefined ? [] : this.#formats([open]);
  }

  #ofCpu(cpu: number, act: (open: OnCpu) => void): void {
    const open = this.#cpus.get(cpu);
    if (open !== undefined) act(open);
  }

  get #carriedAttr(): CarriedAttr {
    const { attr } = this.#carried;
    const group = this.#event.sampleRead ? FORMAT.GROUP | FORMAT.ID : 0;
    return { ...attr, readFormat: attr.readFormat | group };
  }

  /** Throws PmuError; then it is not open there. */
  openOn(ring: CpuRing): void {
    const { cpu } = ring;
    try {
      const open: OnCpu = { leader: this.#openLeader(cpu), members: [], ids: [] };
      this.#cpus.set(cpu, open);
      this.#direct(open, open.leader, ring);
      for (const member of this.#event.members) {
        const fd = this.#kernel.openEvent(this.#attr(member, true), cpu, open.leader);
        open.members.push(fd);
        if (!this.#event.sampleRead) this.#direct(open, fd, ring);
      }
    } catch (error) {
      this.#ofCpu(cpu, (open) => this.#closeFds(open));
      this.#cpus.delete(cpu);
      const event = this.#event;
      throw (
        explainShapeFailure(error, event, this.#shape) ??
        explainOpenFailure(error, `event ${event.name}`, this.#kernel, { event, cpu })
      );
    }
  }

  #openLate(cpu: number): readonly RecordFormat[] {
    const ring = ringsOf(this.#rings, this.#event).find((one) => one.cpu === cpu);
    if (ring === undefined) return [];
    try {
      this.openOn(ring);
    } catch (error) {
      // Gone again, which the next look sees.
      if (isOffline(error)) return [];
      throw error;
    }
    return this.#formatsOf(cpu);
  }

  #openLeader(cpu: number): number {
    for (;;) {
      try {
        const fd = this.#kernel.openEvent(this.#attr(this.#event, false), cpu);
        this.#isSettled = true;
        return fd;
      } catch (error) {
        const isTooNew = error instanceof Errno && error.code === "EINVAL" && !this.#isSettled;
        if (!isTooNew || !this.#carried.dropNewest()) throw error;
      }
    }
  }

  #attr(event: ResolvedEvent, isMember: boolean): Uint8Array {
    return attrOf(event, {
      carried: this.#carriedAttr,
      wakeEach: this.#shape.wakeEach,
      isMember,
      rate: isMember && this.#event.sampleRead ? null : (this.#rate ?? event.rate),
    });
  }

  /** Into the ring. */
  #direct(open: OnCpu, fd: number, ring: CpuRing): void {
    this.#kernel.ioctl(fd, IOC.SET_OUTPUT, ring.anchorFd);
    const id = new BigUint64Array(1);
    this.#kernel.ioctlPointer(fd, IOC.ID, id);
    open.ids.push(id[0]);
  }

  setRate(rate: Rate): boolean {
    const sampling = this.#event.sampleRead ? [] : this.#event.members;
    if ([this.#event, ...sampling].some(isClock)) return false;
    const value = new BigUint64Array([kernelPeriod(this.#event, rate)]);
    try {
      for (const { leader, members } of this.#cpus.values()) {
        for (const fd of [leader, ...(sampling.length > 0 ? members : [])]) {
          this.#kernel.ioctlPointer(fd, IOC.PERIOD, value);
        }
      }
    } catch (error) {
      if (error instanceof Errno && error.code === "EINVAL") {
        throw new PmuError(
          "RATE_INVALID",
          `event ${this.#event.name}: the kernel rejects the rate; kernel.perf_event_max_sample_rate is ${this.#kernel.maxSampleRate()}`,
          { cause: error },
        );
      }
      throw error;
    }
    this.#rate = rate;
    return true;
  }

  enable(): void {
    for (const { leader } of this.#cpus.values()) this.#kernel.ioctl(leader, IOC.ENABLE, 0);
  }

  disable(): void {
    for (const { leader } of this.#cpus.values()) this.#kernel.ioctl(leader, IOC.DISABLE, 0);
  }

  read(): EventReading {
    const sum = { ...this.#before };
    for (const open of this.#cpus.values()) this.#addReading(open, sum);
    return { ...sum, lost: this.#carried.countsLost ? sum.lost : null, produced: null };
  }

  #addReading({ leader, members }: OnCpu, sum: { lost: number; timeEnabledNs: number; timeRunningNs: number }): void {
    const { lost, enabled, running } = this.#readOne(leader);
    sum.lost += lost;
    sum.timeEnabledNs += enabled;
    sum.timeRunningNs += running;
    // A group runs as a whole: the leader's times are its members'.
    if (!this.#event.sampleRead) for (const fd of members) sum.lost += this.#readOne(fd).lost;
  }

  /** All 0 from an event in error state, which reads 0 bytes. */
  #readOne(fd: number): { readonly lost: number; readonly enabled: number; readonly running: number } {
    const words = this.#reading;
    if (this.#kernel.read(fd, words) === 0) return { lost: 0, enabled: 0, running: 0 };
    // { value, time_enabled, time_running, lost }, or with the group's { nr, time_enabled, time_running, { value, id, lost }[nr] }.
    const lostAt = this.#event.sampleRead ? GROUP_HEAD_WORDS + 2 : 3;
    return {
      lost: this.#carried.countsLost ? Number(words[lostAt]) : 0,
      enabled: Number(words[1]),
      running: Number(words[2]),
    };
  }

  #closeOn(cpu: number): void {
    this.#ofCpu(cpu, (open) => {
      this.#addReading(open, this.#before);
      this.#closeFds(open);
      this.#cpus.delete(cpu);
    });
  }

  /** Members before their leader, whose end would make them events of their own. */
  #closeFds({ leader, members }: OnCpu): void {
    for (const fd of [...members, leader]) this.#kernel.close(fd);
  }

  /** Idempotent. */
  close(): void {
    for (const open of this.#cpus.values()) this.#closeFds(open);
    this.#cpus.clear();
  }
}

/** PERF_FORMAT_GROUP with times: nr, time_enabled, time_running. */
const GROUP_HEAD_WORDS = 3;
/** PERF_FORMAT_ID and PERF_FORMAT_LOST: value, id, lost. */
const GROUP_VALUE_WORDS = 3;
