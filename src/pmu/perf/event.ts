/** One live event, or a group of them, open on every CPU it has and writing into that CPU's ring. */
import { FORMAT, IOC, SAMPLE } from "../abi.js";
import { parseCpuList } from "../cpu-list.js";
import { PmuError } from "../errors.js";
import { Errno } from "../ffi.js";
import type { EventReading, EventShape, OpenEvent, Rate, RecordFormat, ResolvedEvent } from "../source.js";
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
  checkShape(event, shape);
  const opening = new Opening(kernel, event, shape);
  const own = ringsOf(rings, event);
  if (own.length === 0) {
    throw new PmuError("EVENT_UNSUPPORTED", `event ${event.name}: none of its CPUs (${event.cpus}) is online`);
  }
  let { cpu } = own[0];
  try {
    let offline: unknown = null;
    for (const ring of own) {
      cpu = ring.cpu;
      try {
        opening.openOn(ring);
      } catch (error) {
        // The CPU has gone offline since its ring was opened: the others serve.
        if (!(error instanceof Errno && error.code === "ENODEV")) throw error;
        offline = error;
      }
    }
    if (opening.leaders.length === 0 && offline !== null) throw offline;
  } catch (error) {
    opening.close();
    throw (
      explainShapeFailure(error, event, shape) ??
      explainOpenFailure(error, `event ${event.name}`, kernel, { event, cpu })
    );
  }
  return new OpenPerfEvent(kernel, event, opening);
}

/** What is open so far. */
class Opening {
  /** One for each CPU. */
  readonly leaders: number[] = [];
  /** Of all members, by their place in the group. */
  readonly members: number[][];
  /** Of the leader and of the members that sample. */
  readonly ids: bigint[][];
  readonly #kernel: Kernel;
  readonly #event: ResolvedEvent;
  readonly #wakeEach: boolean;
  readonly #carried: CarriedFields;
  #closed = false;

  constructor(kernel: Kernel, event: ResolvedEvent, shape: EventShape) {
    this.#kernel = kernel;
    this.#event = event;
    this.#wakeEach = shape.wakeEach;
    this.#carried = new CarriedFields({
      ...shape,
      sampleType: shape.sampleType | (event.sampleRead ? SAMPLE.READ : 0),
    });
    this.members = event.members.map(() => []);
    this.ids = [event, ...(event.sampleRead ? [] : event.members)].map(() => []);
  }

  get countsLost(): boolean {
    return this.#carried.countsLost;
  }

  get carried(): CarriedAttr {
    const { attr } = this.#carried;
    const group = this.#event.sampleRead ? FORMAT.GROUP | FORMAT.ID : 0;
    return { ...attr, readFormat: attr.readFormat | group };
  }

  get all(): readonly number[] {
    return [...this.members.flat(), ...this.leaders];
  }

  openOn(ring: CpuRing): void {
    const leader = this.#openLeader(ring.cpu);
    this.leaders.push(leader);
    this.#direct(leader, ring, 0);
    for (const [i, member] of this.#event.members.entries()) {
      const fd = this.#kernel.openEvent(this.#attr(member, true), ring.cpu, leader);
      this.members[i].push(fd);
      if (!this.#event.sampleRead) this.#direct(fd, ring, i + 1);
    }
  }

  #openLeader(cpu: number): number {
    for (;;) {
      try {
        return this.#kernel.openEvent(this.#attr(this.#event, false), cpu);
      } catch (error) {
        const isTooNew = error instanceof Errno && error.code === "EINVAL" && this.leaders.length === 0;
        if (!isTooNew || !this.#carried.dropNewest()) throw error;
      }
    }
  }

  #attr(event: ResolvedEvent, isMember: boolean): Uint8Array {
    return attrOf(event, {
      carried: this.carried,
      wakeEach: this.#wakeEach,
      isMember,
      rate: isMember && this.#event.sampleRead ? null : event.rate,
    });
  }

  /** Into the ring; `place` is 0 for the leader. */
  #direct(fd: number, ring: CpuRing, place: number): void {
    this.#kernel.ioctl(fd, IOC.SET_OUTPUT, ring.anchorFd);
    const id = new BigUint64Array(1);
    this.#kernel.ioctlPointer(fd, IOC.ID, id);
    this.ids[place].push(id[0]);
  }

  /** Idempotent. Members before their leaders, whose end would make them events of their own. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const fd of this.all) this.#kernel.close(fd);
  }
}

class OpenPerfEvent implements OpenEvent {
  readonly formats: readonly RecordFormat[];
  readonly #kernel: Kernel;
  readonly #event: ResolvedEvent;
  readonly #opening: Opening;
  readonly #reading: BigUint64Array;

  constructor(kernel: Kernel, event: ResolvedEvent, opening: Opening) {
    this.#kernel = kernel;
    this.#event = event;
    this.#opening = opening;
    this.formats = opening.ids.map((ids, member) => ({
      ids,
      sampleIdAll: true,
      fixedPeriod: 0,
      ...opening.carried,
      member,
    }));
    this.#reading = new BigUint64Array(GROUP_HEAD_WORDS + (1 + event.members.length) * GROUP_VALUE_WORDS);
  }

  setRate(rate: Rate): boolean {
    const sampling = this.#event.sampleRead ? [] : this.#event.members;
    if ([this.#event, ...sampling].some(isClock)) return false;
    const { leaders, members } = this.#opening;
    const value = new BigUint64Array([kernelPeriod(this.#event, rate)]);
    try {
      for (const fd of [...leaders, ...(sampling.length > 0 ? members.flat() : [])]) {
        this.#kernel.ioctlPointer(fd, IOC.PERIOD, value);
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
    return true;
  }

  enable(): void {
    for (const fd of this.#opening.leaders) this.#kernel.ioctl(fd, IOC.ENABLE, 0);
  }

  disable(): void {
    for (const fd of this.#opening.leaders) this.#kernel.ioctl(fd, IOC.DISABLE, 0);
  }

  read(): EventReading {
    const { leaders, members, countsLost } = this.#opening;
    const sum = { lost: 0, timeEnabledNs: 0, timeRunningNs: 0 };
    for (const fd of leaders) {
      const { lost, enabled, running } = this.#readOne(fd);
      sum.lost += lost;
      sum.timeEnabledNs += enabled;
      sum.timeRunningNs += running;
    }
    // A group runs as a whole: the leader's times are its members'.
    if (!this.#event.sampleRead) for (const fd of members.flat()) sum.lost += this.#readOne(fd).lost;
    return { ...sum, lost: countsLost ? sum.lost : null, produced: null };
  }

  /** All 0 from an event in error state, which reads 0 bytes. */
  #readOne(fd: number): { readonly lost: number; readonly enabled: number; readonly running: number } {
    const words = this.#reading;
    if (this.#kernel.read(fd, words) === 0) return { lost: 0, enabled: 0, running: 0 };
    // { value, time_enabled, time_running, lost }, or with the group's { nr, time_enabled, time_running, { value, id, lost }[nr] }.
    const lostAt = this.#event.sampleRead ? GROUP_HEAD_WORDS + 2 : 3;
    return {
      lost: this.#opening.countsLost ? Number(words[lostAt]) : 0,
      enabled: Number(words[1]),
      running: Number(words[2]),
    };
  }

  close(): void {
    this.#opening.close();
  }
}

/** PERF_FORMAT_GROUP with times: nr, time_enabled, time_running. */
const GROUP_HEAD_WORDS = 3;
/** PERF_FORMAT_ID and PERF_FORMAT_LOST: value, id, lost. */
const GROUP_VALUE_WORDS = 3;
