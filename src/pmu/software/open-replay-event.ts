/** A recorded event while somebody has it open: what of the recording was played for it. */
import type { AuxRingDescriptor, EventReading, OpenEvent, RecordFormat } from "../source.js";
import { EnabledTime } from "./enabled-time.js";
import type { ProducerCount } from "./producer-counts.js";

export interface ReplayControl {
  /** Of all that was ever played of the recorded event, whoever had it open. */
  readonly count: () => ProducerCount;
  readonly enable: () => void;
  readonly disable: () => void;
  readonly close: () => void;
}

export class OpenReplayEvent implements OpenEvent {
  readonly formats: readonly RecordFormat[];
  readonly auxRings: readonly AuxRingDescriptor[];
  readonly #time: EnabledTime;
  readonly #control: ReplayControl;
  /** What was counted while this one was enabled, up to the last disable; and where it stood at the last enable. */
  #counted: ProducerCount = { produced: 0, lost: 0 };
  #countedFrom: ProducerCount = { produced: 0, lost: 0 };
  #closed = false;

  constructor(
    format: RecordFormat,
    auxRings: readonly AuxRingDescriptor[],
    nowNs: () => bigint,
    control: ReplayControl,
  ) {
    this.auxRings = auxRings;
    this.formats = [format];
    this.#time = new EnabledTime(nowNs);
    this.#control = control;
  }

  /** The recording's rate is its own; slower handlers are thinned behind the ring. */
  setRate(): boolean {
    return true;
  }

  enable(): void {
    if (this.#closed || this.#time.running) return;
    this.#time.start();
    this.#countedFrom = this.#control.count();
    this.#control.enable();
  }

  /** As with the kernel's, no sample is written once this has returned. */
  disable(): void {
    if (!this.#time.running) return;
    this.#control.disable();
    this.#counted = this.#count();
    this.#time.stop();
  }

  #count(): ProducerCount {
    const { produced, lost } = this.#counted;
    if (!this.#time.running) return this.#counted;
    const now = this.#control.count();
    return {
      produced: produced + now.produced - this.#countedFrom.produced,
      lost: lost + now.lost - this.#countedFrom.lost,
    };
  }

  /** `lost` is what the recording's own LOST records said while this was enabled; the replay itself loses nothing. */
  read(): EventReading {
    const timeNs = this.#time.readNs();
    return { ...this.#count(), timeEnabledNs: timeNs, timeRunningNs: timeNs };
  }

  close(): void {
    if (this.#closed) return;
    this.disable();
    this.#closed = true;
    this.#control.close();
  }
}
