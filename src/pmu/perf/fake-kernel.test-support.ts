/** For tests: a kernel that refuses on demand and keeps account of every fd and mapping. Rings are real memory. */
import { IOC, MMAP_PAGE, PAGE_BYTES, TRACK } from "../abi.js";
import { type FileTree, recordedFileTree } from "../events/file-tree.js";
import { needsCounter } from "../events/parsed-event.js";
import type { PfmEncoder } from "../events/resolve.js";
import { Errno, mapAnonymous, unmap, viewMemory } from "../ffi.js";
import type { Kernel } from "./kernel.js";

/** A machine with one PMU, of which only the type is told. */
const ONE_PMU = { sys: { bus: { event_source: { devices: { cpu: { type: "4" } } } } } };

/** linux/errno.h; the FFI library knows their names. */
const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EIO: 5,
  E2BIG: 7,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  ENODEV: 19,
  EINVAL: 22,
  ENFILE: 23,
  EMFILE: 24,
  ENOSPC: 28,
  EOPNOTSUPP: 95,
} as const;
export type ErrnoName = keyof typeof ERRNO;

export function errno(call: string, name: ErrnoName): Errno {
  return new Errno(call, ERRNO[name]);
}

/** struct perf_event_attr, as far as tests look. */
export interface OpenedAttr {
  readonly type: number;
  readonly config: bigint;
  readonly samplePeriod: bigint;
  readonly sampleType: bigint;
  readonly readFormat: bigint;
  readonly branchSampleType: bigint;
  readonly sampleRegsUser: bigint;
  readonly sampleStackUser: number;
  readonly sampleRegsIntr: bigint;
  /** TRACK bits. */
  readonly track: bigint;
  readonly freq: boolean;
  readonly watermark: boolean;
  readonly excludeKernel: boolean;
  readonly wakeup: number;
  readonly disabled: boolean;
  readonly pinned: boolean;
  readonly preciseIp: number;
  readonly bpType: number;
  readonly config1: bigint;
  readonly config2: bigint;
}

export interface OpenedEvent {
  readonly fd: number;
  readonly cpu: number;
  readonly attr: OpenedAttr;
  readonly id: bigint;
  /** The fd of its group's leader; null where it leads or is in no group. */
  readonly leader: number | null;
  enabled: boolean;
  /** The fd whose ring it writes into. */
  output: number | null;
  period: bigint | null;
  closed: boolean;
  ring: { readonly address: bigint; readonly bytes: number } | null;
  aux: { readonly address: bigint; readonly bytes: number } | null;
  /** Its CPU has gone down since: it stays open, and samples no more. */
  dead: boolean;
  /** What read(2) of an anchor tells. */
  timeEnabledNs: number;
}

function decodeAttr(bytes: Uint8Array): OpenedAttr {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const flags = view.getBigUint64(40, true);
  const has = (bit: bigint): boolean => ((flags >> bit) & 1n) === 1n;
  return {
    type: view.getUint32(0, true),
    config: view.getBigUint64(8, true),
    samplePeriod: view.getBigUint64(16, true),
    sampleType: view.getBigUint64(24, true),
    readFormat: view.getBigUint64(32, true),
    disabled: has(0n),
    pinned: has(2n),
    branchSampleType: view.getBigUint64(72, true),
    sampleRegsUser: view.getBigUint64(80, true),
    sampleStackUser: view.getUint32(88, true),
    sampleRegsIntr: view.getBigUint64(96, true),
    track: flags & Object.values(TRACK).reduce((bits, bit) => bits | bit),
    excludeKernel: has(5n),
    preciseIp: Number((flags >> 15n) & 3n),
    bpType: view.getUint32(52, true),
    config1: view.getBigUint64(56, true),
    config2: view.getBigUint64(64, true),
    freq: has(10n),
    watermark: has(14n),
    wakeup: view.getUint32(48, true),
  };
}

const COUNT_SW_DUMMY = 9n;

export class FakeKernel implements Kernel {
  /** Every event ever opened, rings' anchors included. */
  readonly events: OpenedEvent[] = [];
  readonly mappings = new Map<bigint, number>();
  /** Says with which error a call fails, or null. */
  refuse: (call: "open" | "mmap" | "aux mmap" | "ioctl" | "period" | "output", event: OpenedEvent) => ErrnoName | null =
    () => null;
  /** What read(2) of an event gives: value, time_enabled, time_running, lost. Empty: 0 bytes. */
  reading: (event: OpenedEvent) => readonly bigint[] = () => [0n, 0n, 0n, 0n];
  cpus: number[] = [0, 2, 5];
  /** PMUs whose drivers have AUX areas. */
  auxTypes: number[] = [];
  perfmon = true;
  paranoidLevel: number | null = 2;
  sampleRateMax = 100_000;
  /** How many events the PMU of a CPU can count at once. */
  counters = Number.POSITIVE_INFINITY;
  /** How many of them others have pinned, on each CPU. */
  pinnedByOthers: (cpu: number) => number = () => 0;
  /** What anchors have been enabled for, and CLOCK_MONOTONIC; moved by `pass`. */
  clockNs = 1e9;
  files: FileTree = recordedFileTree(ONE_PMU);
  pfm: PfmEncoder = () => null;
  readonly #offline = new Set<number>();
  #nextFd = 100;

  get openFds(): number[] {
    return this.events.filter(({ closed }) => !closed).map(({ fd }) => fd);
  }

  /** Without the rings' anchors. */
  get openEvents(): OpenedEvent[] {
    return this.events.filter((event) => !event.closed && !isAnchor(event));
  }

  /** Time goes by; what is enabled on a CPU that has not gone down is enabled for as long. */
  pass(ns: number): void {
    this.clockNs += ns;
    for (const event of this.events) if (event.enabled && !event.dead) event.timeEnabledNs += ns;
  }

  /** As the kernel does: what is open on the CPU stays open, and counts no more even when the CPU is back. */
  goOffline(cpu: number): void {
    this.cpus = this.cpus.filter((other) => other !== cpu);
    this.#offline.add(cpu);
    for (const event of this.events) if (event.cpu === cpu) event.dead = true;
  }

  comeOnline(cpu: number): void {
    this.cpus = [...this.cpus, cpu].sort((a, b) => a - b);
    this.#offline.delete(cpu);
  }

  openEvent(attr: Uint8Array, cpu: number, groupFd?: number): number {
    if (this.#offline.has(cpu)) throw errno("perf_event_open", "ENODEV");
    const fd = this.#nextFd++;
    const event: OpenedEvent = {
      fd,
      cpu,
      attr: decodeAttr(attr),
      id: BigInt(fd) + 1000n,
      enabled: false,
      output: null,
      period: null,
      closed: false,
      dead: false,
      timeEnabledNs: 0,
      leader: groupFd ?? null,
      ring: null,
      aux: null,
    };
    this.#check("perf_event_open", "open", event);
    if (groupFd !== undefined && this.#event(groupFd).cpu !== cpu) throw errno("perf_event_open", "EINVAL");
    // As the kernel's validate_group: whether the whole group fits onto an empty PMU.
    const group = this.events.filter(
      ({ fd: other, leader, closed }) => !closed && (other === groupFd || leader === groupFd),
    );
    if (takesCounter(event) && [...group, event].filter(takesCounter).length > this.counters) {
      throw errno("perf_event_open", "EINVAL");
    }
    this.events.push(event);
    return fd;
  }

  ioctl(fd: number, request: number, value: number): void {
    const event = this.#event(fd);
    if (request === IOC.SET_OUTPUT) {
      this.#check("ioctl", "output", event);
      if (this.#event(value).cpu !== event.cpu) throw errno("ioctl", "EINVAL");
      event.output = value;
      return;
    }
    this.#check("ioctl", "ioctl", event);
    if (request === IOC.ENABLE) event.enabled = true;
    else if (request === IOC.DISABLE) event.enabled = false;
    else throw errno("ioctl", "EINVAL");
  }

  ioctlPointer(fd: number, request: number, data: BigUint64Array): void {
    const event = this.#event(fd);
    if (request === IOC.ID) data[0] = event.id;
    else if (request === IOC.PERIOD) {
      this.#check("ioctl", "period", event);
      event.period = data[0];
    } else throw errno("ioctl", "EINVAL");
  }

  mapShared(fd: number, length: number, offset = 0): bigint {
    const event = this.#event(fd);
    this.#check("mmap", offset === 0 ? "mmap" : "aux mmap", event);
    if (offset !== 0) this.#checkAux(event, length, offset);
    const address = mapAnonymous(length);
    this.mappings.set(address, length);
    if (offset === 0) event.ring = { address, bytes: length };
    else event.aux = { address, bytes: length };
    return address;
  }

  /** kernel/events/core.c, perf_mmap: what it wants of an AUX area. */
  #checkAux({ ring, aux, attr }: OpenedEvent, length: number, offset: number): void {
    if (ring === null || aux !== null) throw errno("mmap", "EINVAL");
    const control = new BigUint64Array(viewMemory(ring.address, PAGE_BYTES));
    const agrees =
      control[MMAP_PAGE.AUX_OFFSET / 8] === BigInt(offset) && control[MMAP_PAGE.AUX_SIZE / 8] === BigInt(length);
    if (!agrees || offset < ring.bytes || (length & (length - 1)) !== 0) throw errno("mmap", "EINVAL");
    if (!this.auxTypes.includes(attr.type)) throw errno("mmap", "EOPNOTSUPP");
  }

  unmap(address: bigint, length: number): void {
    if (this.mappings.get(address) !== length) throw new Error(`no mapping of ${length} bytes at ${address}`);
    this.mappings.delete(address);
    unmap(address, length);
  }

  read(fd: number, buffer: BigUint64Array): number {
    const event = this.#event(fd);
    if (this.#isInError(event)) return 0;
    const values = isAnchor(event) ? [0n, BigInt(event.timeEnabledNs)] : this.reading(event);
    buffer.set(values);
    return values.length * 8;
  }

  close(fd: number): void {
    this.#event(fd).closed = true;
  }

  onlineCpus(): number[] {
    return this.cpus;
  }

  paranoid(): number | null {
    return this.paranoidLevel;
  }

  maxSampleRate(): number {
    return this.sampleRateMax;
  }

  nowNs(): number {
    return this.clockNs;
  }

  hasPerfmon(): boolean {
    return this.perfmon;
  }

  /** A pinned group that does not find its counters free. */
  #isInError({ fd, cpu, attr, enabled }: OpenedEvent): boolean {
    if (!attr.pinned || !enabled) return false;
    const group = this.openEvents.filter((event) => event.fd === fd || event.leader === fd);
    return group.filter(takesCounter).length > this.counters - this.pinnedByOthers(cpu);
  }

  #check(call: string, kind: Parameters<FakeKernel["refuse"]>[0], event: OpenedEvent): void {
    const name = this.refuse(kind, event);
    if (name !== null) throw errno(call, name);
  }

  /** Using an fd that is not open is a bug in the source, wherever it is found. */
  #event(fd: number): OpenedEvent {
    const event = this.events.find((candidate) => candidate.fd === fd && !candidate.closed);
    if (event === undefined) throw new Error(`fd ${fd} is not open`);
    return event;
  }
}

export function isAnchor({ attr }: OpenedEvent): boolean {
  return attr.type === 1 && attr.config === COUNT_SW_DUMMY && attr.track === 0n;
}

function takesCounter({ attr }: OpenedEvent): boolean {
  return needsCounter(attr);
}
