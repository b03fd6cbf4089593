/** Entry of the worker thread that generates samples. */
import { hrtime } from "node:process";
import { PAGE_BYTES } from "../abi.js";
import { signalEventfd, viewMemory } from "../ffi.js";
import type { RingDescriptor } from "../source.js";
import { type CountsBuffer, storeCount } from "./producer-counts.js";
import { producerSetup, runProducer } from "./producer-loop.js";
import { RingWriter } from "./ring-writer.js";
import { SyntheticEvent, type SyntheticEventOptions } from "./synthetic-event.js";

export interface SyntheticProducerData {
  readonly rings: readonly RingDescriptor[];
}

export type SyntheticCommand =
  | {
      readonly kind: "open";
      readonly event: number;
      readonly options: SyntheticEventOptions;
      /** Of this event alone. */
      readonly counts: CountsBuffer;
    }
  | { readonly kind: "enable" | "disable" | "close"; readonly event: number };

interface Entry {
  readonly event: SyntheticEvent;
  readonly counts: CountsBuffer;
  enabled: boolean;
}

/** Fewer, larger batches cost less than many small ones; a millisecond is what the reader does not notice. */
const TICK_MS = 1;

function main(): void {
  const setup = producerSetup();
  const { rings } = setup.data as SyntheticProducerData;
  const writers = rings.map(
    ({ address, dataBytes, cpu, pollFd }) =>
      new RingWriter(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes, cpu, () => signalEventfd(pollFd)),
  );
  const entries = new Map<number, Entry>();

  const obey = (command: SyntheticCommand): void => {
    if (command.kind === "open") {
      const event = new SyntheticEvent(writers, command.options);
      entries.set(command.event, { event, counts: command.counts, enabled: false });
      return;
    }
    const entry = entries.get(command.event);
    if (entry === undefined) return;
    if (command.kind === "close") entries.delete(command.event);
    else if (command.kind === "disable") entry.enabled = false;
    else {
      entry.enabled = true;
      entry.event.start(monotonicNs());
    }
  };

  const step = (): number => {
    const nowNs = monotonicNs();
    let nextDueNs = Number.POSITIVE_INFINITY;
    for (const { event, counts, enabled } of entries.values()) {
      if (!enabled) continue;
      nextDueNs = Math.min(nextDueNs, event.tick(nowNs));
      storeCount(counts, 0, event);
    }
    return Math.max(TICK_MS, (nextDueNs - nowNs) / 1e6);
  };

  runProducer(setup, obey, step);
}

/** CLOCK_MONOTONIC; a double is exact to 104 days of uptime, and a quarter of a microsecond off after 70 years. */
function monotonicNs(): number {
  return Number(hrtime.bigint());
}

main();
