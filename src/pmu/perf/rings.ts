/**
 * One ring per online CPU. A ring belongs to a dummy event that writes nothing: its anchor. The anchor is enabled all
 * the same, since the kernel takes the events of a CPU that goes down off it for good and says so to nobody: they stay
 * open, poll shows nothing, and enabling them again succeeds without effect. What is left is that their time stands still.
 */
import { COUNT_SW, encodeAttr, FORMAT, IOC, PAGE_BYTES, SAMPLE, TYPE } from "../abi.js";
import { Errno } from "../ffi.js";
import type { CpuLook, RingDescriptor } from "../source.js";
import type { CpuRing } from "./event.js";
import type { Kernel } from "./kernel.js";
import { explainMapFailure, explainOpenFailure } from "./refusal.js";

/** Half of the ring, as perf does: a wake-up costs more than it drains, and the other half is time enough to come. */
const WATERMARK_SHARE = 1 / 2;
/** An event's time may be as coarse as the scheduler's tick (10 ms with HZ=100) where the machine has no better clock. */
const BEHIND_NS_MIN = 25_000_000;

export interface MappedRing extends CpuRing, RingDescriptor {}

interface Witness {
  /** time_enabled of the anchor, and when it was read. */
  enabledNs: number;
  atNs: number;
}

export class CpuRings {
  /** Of the CPUs that are watched now: always the same array. */
  readonly all: MappedRing[] = [];
  readonly #kernel: Kernel;
  readonly #ringBytes: number;
  readonly #witnesses = new Map<number, Witness>();
  /** struct read_format: value, time_enabled. */
  readonly #reading = new BigUint64Array(2);

  constructor(kernel: Kernel, ringBytes: number) {
    this.#kernel = kernel;
    this.#ringBytes = ringBytes;
  }

  /** Throws PmuError; then nothing stays open. */
  openAll(): void {
    try {
      for (const cpu of this.#kernel.onlineCpus()) this.open(cpu);
    } catch (error) {
      this.closeAll();
      throw error;
    }
  }

  /** null where the CPU has gone offline since it was listed. Throws PmuError; then nothing of it stays open. */
  open(cpu: number): MappedRing | null {
    const kernel = this.#kernel;
    const dataBytes = this.#ringBytes;
    const anchorFd = this.#openAnchor(cpu);
    if (anchorFd === null) return null;
    let address: bigint;
    try {
      address = kernel.mapShared(anchorFd, PAGE_BYTES + dataBytes);
    } catch (error) {
      kernel.close(anchorFd);
      throw explainMapFailure(error, dataBytes / 1024, kernel);
    }
    kernel.ioctl(anchorFd, IOC.ENABLE, 0);
    const ring: MappedRing = { cpu, anchorFd, address, dataBytes, pollFd: anchorFd, pollKind: "perf" };
    this.#witnesses.set(cpu, { enabledNs: 0, atNs: kernel.nowNs() });
    this.all.push(ring);
    return ring;
  }

  /** Idempotent. */
  close(cpu: number): void {
    const at = this.all.findIndex((ring) => ring.cpu === cpu);
    if (at < 0) return;
    const [ring] = this.all.splice(at, 1);
    this.#witnesses.delete(cpu);
    this.#kernel.unmap(ring.address, PAGE_BYTES + ring.dataBytes);
    this.#kernel.close(ring.anchorFd);
  }

  closeAll(): void {
    for (const { cpu } of [...this.all]) this.close(cpu);
  }

  look(): CpuLook {
    const online = new Set(this.#kernel.onlineCpus());
    const watched = new Set(this.all.map(({ cpu }) => cpu));
    const [gone, back]: number[][] = [[], []];
    for (const ring of this.all) {
      if (!online.has(ring.cpu)) gone.push(ring.cpu);
      else if (this.#hasStopped(ring)) back.push(ring.cpu);
    }
    return { gone, back, come: [...online].filter((cpu) => !watched.has(cpu)) };
  }

  /** Two readings in a row are equal also where the time is coarse; then it is not behind the clock. */
  #hasStopped(ring: MappedRing): boolean {
    const witness = this.#witnesses.get(ring.cpu) as Witness;
    const enabledNs = this.#readEnabled(ring);
    const atNs = this.#kernel.nowNs();
    const isBehind = atNs - witness.atNs - (enabledNs - witness.enabledNs) > BEHIND_NS_MIN;
    if (isBehind && this.#readEnabled(ring) === enabledNs) return true;
    witness.enabledNs = enabledNs;
    witness.atNs = atNs;
    return false;
  }

  #readEnabled({ anchorFd }: MappedRing): number {
    this.#kernel.read(anchorFd, this.#reading);
    return Number(this.#reading[1]);
  }

  #openAnchor(cpu: number): number | null {
    const attr = encodeAttr({
      type: TYPE.SOFTWARE,
      config: BigInt(COUNT_SW.DUMMY),
      sampleType: SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU,
      readFormat: FORMAT.TOTAL_TIME_ENABLED,
      samplePeriod: 0n,
      freq: false,
      wakeup: this.#ringBytes * WATERMARK_SHARE,
      watermark: true,
    });
    try {
      return this.#kernel.openEvent(attr, cpu);
    } catch (error) {
      if (error instanceof Errno && error.code === "ENODEV") return null;
      throw explainOpenFailure(error, `sampling CPU ${cpu}`, this.#kernel);
    }
  }
}
