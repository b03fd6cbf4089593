/**
 * The kernel's settings of perf events, which change while events are armed: an administrator sets them, and the kernel
 * lowers kernel.perf_event_max_sample_rate by itself when its interrupts take too long. What samples faster than that is
 * throttled, and could not be opened anew, so it is held below; what is open stays valid whatever the paranoid level.
 */
import type { KernelSettings, Source } from "../../pmu/source.js";
import type { ArmedEvent, ArmedEvents } from "./armed-events.js";
import { isFaster, rateText } from "./rates.js";

export interface SettingsWatchParts {
  readonly source: Pick<Source, "kind" | "settings" | "whyNotOpened">;
  readonly armedEvents: Pick<ArmedEvents, "all" | "holdBelow" | "kernelMaxHz">;
  readonly log: (level: "info" | "warn", fields: Record<string, unknown>, message: string) => void;
}

export class SettingsWatch {
  readonly #parts: SettingsWatchParts;
  readonly #refused = new Map<ArmedEvent, string>();
  #seen: KernelSettings | null;

  constructor(parts: SettingsWatchParts) {
    this.#parts = parts;
    this.#seen = parts.source.settings ?? null;
  }

  /** As of the last look; null where no kernel is asked. */
  get settings(): KernelSettings | null {
    return this.#seen;
  }

  /** Why the kernel would not open an event now that is open; empty when it would. */
  refused(armed: ArmedEvent): string {
    return this.#refused.get(armed) ?? "";
  }

  /** Resolves when what has changed is done. No two at a time. */
  async look(): Promise<void> {
    const { source, armedEvents } = this.#parts;
    const now = source.settings;
    const before = this.#seen;
    if (now === undefined || before === null) return;
    this.#seen = now;
    for (const armed of this.#refused.keys()) if (!armedEvents.all.includes(armed)) this.#refused.delete(armed);
    if (now.paranoid !== before.paranoid) this.#paranoidChanged(before.paranoid, now.paranoid);
    if (now.maxSampleRateHz !== armedEvents.kernelMaxHz) await this.#maxRateChanged(before, now);
  }

  async #maxRateChanged(before: KernelSettings, { maxSampleRateHz }: KernelSettings): Promise<void> {
    const { armedEvents, log } = this.#parts;
    const rates = new Map(armedEvents.all.map((armed) => [armed, armed.rate]));
    await armedEvents.holdBelow(maxSampleRateHz);
    const changed = armedEvents.all.flatMap((armed) => {
      const was = rates.get(armed);
      if (was === undefined || (!isFaster(was, armed.rate) && !isFaster(armed.rate, was))) return [];
      return [{ event: armed.event.name, was: rateText(was), now: rateText(armed.rate) }];
    });
    if (before.maxSampleRateHz === maxSampleRateHz) return;
    const isLower = maxSampleRateHz < before.maxSampleRateHz;
    log(
      isLower ? "warn" : "info",
      { was_hz: before.maxSampleRateHz, now_hz: maxSampleRateHz, events: changed },
      isLower
        ? "kernel.perf_event_max_sample_rate is lower than before: the kernel lowers it when its interrupts take too long; events are held below it"
        : "kernel.perf_event_max_sample_rate is higher than before",
    );
  }

  #paranoidChanged(was: number | null, now: number | null): void {
    const { source, armedEvents, log } = this.#parts;
    this.#refused.clear();
    for (const armed of armedEvents.all) {
      const why = source.whyNotOpened?.({ ...armed.event, rate: armed.rate }) ?? null;
      if (why !== null) this.#refused.set(armed, why);
    }
    const events = Array.from(this.#refused, ([{ event }, reason]) => ({ event: event.name, reason }));
    log(
      events.length > 0 ? "warn" : "info",
      { was, now, events },
      events.length > 0
        ? "kernel.perf_event_paranoid has changed: these events go on as they are, and would be refused from now on"
        : "kernel.perf_event_paranoid has changed: all that is armed is still allowed",
    );
  }
}
