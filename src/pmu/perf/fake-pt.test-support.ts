/** For tests: a PMU that traces into the AUX area of an event that a FakeKernel opened, as Intel PT's driver does. */
import { AUX_FLAG, PAGE_BYTES } from "../abi.js";
import { recordedFileTree } from "../events/file-tree.js";
import { viewMemory } from "../ffi.js";
import { AuxWriter } from "../software/aux-writer.js";
import { RingWriter } from "../software/ring-writer.js";
import type { FakeKernel, OpenedEvent } from "./fake-kernel.test-support.js";

export const PT_TYPE = 8;

/** The kernel then has a PMU whose events write into AUX areas. */
export function addPt(kernel: FakeKernel): void {
  const devices = { cpu: { type: "4" }, intel_pt: { type: `${PT_TYPE}`, format: { tsc: "config:10" } } };
  kernel.files = recordedFileTree({ sys: { bus: { event_source: { devices } } } });
  kernel.auxTypes = [PT_TYPE];
}

export class FakePt {
  readonly event: OpenedEvent;
  readonly ring: RingWriter;
  readonly aux: AuxWriter;
  /** The ring's control page. */
  readonly control: BigUint64Array;
  #time = 1000;

  constructor(event: OpenedEvent) {
    if (event.ring === null || event.aux === null) throw new Error(`fd ${event.fd} has no AUX area`);
    const memory = viewMemory(event.ring.address, event.ring.bytes);
    this.event = event;
    this.control = new BigUint64Array(memory, 0, PAGE_BYTES / 8);
    this.ring = new RingWriter(memory, event.ring.bytes - PAGE_BYTES, event.cpu, () => {});
    this.aux = new AuxWriter(memory, viewMemory(event.aux.address, event.aux.bytes), this.ring);
  }

  /**
   * Writes as much as there is room for, nothing while the event is disabled; how much that was. Where that is not all
   * the run says so and the event is disabled, until somebody enables it.
   */
  trace(bytes: Uint8Array): number {
    if (!this.event.enabled) return 0;
    const written = Math.min(bytes.length, this.aux.room());
    const isFull = written < bytes.length;
    this.aux.write(bytes, 0, written, isFull ? BigInt(AUX_FLAG.TRUNCATED) : 0n, this.origin());
    if (isFull) this.event.enabled = false;
    return written;
  }

  /** A record that names a run, whether there is one or not. */
  tell(offset: number, bytes: number): void {
    this.aux.tell(offset, bytes, 0n, this.origin());
    this.ring.publish(true);
  }

  origin(): Parameters<AuxWriter["tell"]>[3] {
    return { pid: 70, tid: 71, timeNs: BigInt(this.#time++), cpu: this.event.cpu, id: this.event.id };
  }
}
