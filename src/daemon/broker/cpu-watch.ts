/**
 * CPUs that come and go while events are armed. A CPU that has gone gives its ring back, drained; one that has come gets
 * a ring, a dispatcher, and all that is armed. Nothing of this is in handlers' books: nobody knows what would have been
 * sampled on a CPU meanwhile. It is told in the status instead, with times.
 */
import type { OpenOnCpus, OpenTasks, RecordFormat, RingDescriptor, Source, SourceCpus } from "../../pmu/source.js";
import type { Topology } from "../../pmu/topology.js";
import { assignLate } from "../dispatch/assign.js";
import type { DispatcherHost } from "../dispatch/host.js";
import type { ArmedEvent, ArmedEvents } from "./armed-events.js";
import type { TaskTracking } from "./task-tracking.js";

export type CpuChangeKind = "GONE" | "COME" | "BACK";

/** Times are Unix seconds. */
export interface CpuChange {
  readonly cpu: number;
  readonly kind: CpuChangeKind;
  /** Noticed; whoever comes is sampled from then on. */
  readonly at: number;
  /** The last look that found the CPU watched: it is not known when after that it went. 0: it never was. */
  readonly watchedUntil: number;
}

export interface CpuWatchParts {
  readonly source: Pick<Source, "cpus" | "rings">;
  readonly host: Pick<DispatcherHost, "addRing" | "removeRing" | "tellAll"> & {
    readonly threads: readonly { readonly cpus: readonly number[] }[];
  };
  readonly armedEvents: Pick<ArmedEvents, "all" | "inTurn">;
  readonly taskTracking: Pick<TaskTracking, "inTurn">;
  readonly topologyOf: (cpus: readonly number[]) => Topology;
  /** Unix time in seconds. */
  readonly wallClock: () => number;
  readonly log: (level: "info" | "warn" | "error", fields: Record<string, unknown>, message: string) => void;
}

/** What is told of; older ones are counted only. */
export const CPU_CHANGES_KEPT = 64;

const MESSAGES: Readonly<Record<CpuChangeKind, string>> = {
  GONE: "a CPU has gone offline: it is not sampled until it is back",
  COME: "a CPU has come online: it is sampled from now on",
  BACK: "a CPU was offline for a while: it is sampled again from now on",
};

export class CpuWatch {
  readonly #parts: CpuWatchParts;
  readonly #changes: CpuChange[] = [];
  readonly #dispatcherOf = new Map<number, number>();
  /** When a CPU that is not watched any more was seen last. */
  readonly #watchedUntil = new Map<number, number>();
  /** Online, and without a ring for a reason that has been logged. */
  readonly #refused = new Set<number>();
  #lookedAt: number;
  /** Since the start. */
  readonly counts: Record<CpuChangeKind, number> = { GONE: 0, COME: 0, BACK: 0 };

  constructor(parts: CpuWatchParts) {
    this.#parts = parts;
    this.#lookedAt = parts.wallClock();
  }

  get watched(): readonly number[] {
    return this.#parts.source.rings.map(({ cpu }) => cpu).sort((a, b) => a - b);
  }

  /** The latest, oldest first. */
  get changes(): readonly CpuChange[] {
    return this.#changes;
  }

  /** Resolves when what has changed is done. No two at a time. */
  async look(): Promise<void> {
    const { cpus } = this.#parts.source;
    if (cpus === undefined) return;
    const { gone, back, come } = cpus.look();
    for (const cpu of this.#refused) if (!come.includes(cpu)) this.#refused.delete(cpu);
    for (const cpu of gone) await this.#inTurn((tasks) => this.#remove(cpu, cpus, tasks, "GONE"));
    for (const cpu of back) {
      // In one turn: nobody joins what is open nowhere.
      await this.#inTurn(async (tasks) => {
        await this.#remove(cpu, cpus, tasks, null);
        await this.#add(cpu, cpus, tasks, "BACK");
      });
    }
    for (const cpu of come) {
      if (!this.#refused.has(cpu)) await this.#inTurn((tasks) => this.#add(cpu, cpus, tasks, "COME"));
    }
    this.#lookedAt = this.#parts.wallClock();
  }

  /** Neither handlers nor their task records come or go meanwhile. */
  #inTurn(step: (tasks: OpenTasks | null) => Promise<void>): Promise<void> {
    const { armedEvents, taskTracking } = this.#parts;
    return armedEvents.inTurn(() => taskTracking.inTurn(step));
  }

  /** Nothing writes into the ring any more, then it is drained to its end, then it is given back. */
  async #remove(cpu: number, cpus: SourceCpus, tasks: OpenTasks | null, kind: CpuChangeKind | null): Promise<void> {
    const { host } = this.#parts;
    const events = this.#armed();
    const formats = events.flatMap(({ onCpus }) => onCpus.disable(cpu));
    const taskFormats = tasks?.onCpus?.disable(cpu) ?? [];
    host.threads.forEach((thread, dispatcher) => {
      if (thread.cpus.includes(cpu)) this.#dispatcherOf.set(cpu, dispatcher);
    });
    const auxRings = events.flatMap(({ onCpus }) => onCpus.auxRings?.(cpu) ?? []);
    if (auxRings.length > 0) await host.tellAll({ kind: "remove aux", rings: auxRings });
    await host.removeRing(cpu);
    if (formats.length > 0) await host.tellAll({ kind: "remove formats", formats });
    if (taskFormats.length > 0) await host.tellAll({ kind: "remove tasks", formats: taskFormats });
    for (const { onCpus } of events) onCpus.close(cpu);
    tasks?.onCpus?.close(cpu);
    cpus.close(cpu);
    this.#watchedUntil.set(cpu, this.#lookedAt);
    if (kind !== null) this.#note(cpu, kind, {});
  }

  /** Dispatchers know the ring, and how to read what comes, before anything is enabled. */
  async #add(cpu: number, cpus: SourceCpus, tasks: OpenTasks | null, kind: CpuChangeKind): Promise<void> {
    const { host } = this.#parts;
    const ring = this.#openRing(cpu, cpus);
    if (ring === null) return;
    const dispatcher = this.#choose(cpu);
    await host.addRing(dispatcher, ring);
    const opened: OpenOnCpus[] = [];
    for (const { armed, onCpus } of this.#armed()) {
      const formats = this.#openOn(cpu, armed.event.name, onCpus);
      if (formats.length === 0) continue;
      await host.tellAll({ kind: "add formats", event: armed.index, formats });
      const rings = onCpus.auxRings?.(cpu) ?? [];
      if (rings.length > 0) await host.tellAll({ kind: "add aux", event: armed.index, rings });
      if (armed.enabled) opened.push(onCpus);
    }
    if (tasks?.onCpus !== undefined) {
      const formats = this.#openOn(cpu, "tasks", tasks.onCpus);
      if (formats.length > 0) await host.tellAll({ kind: "add tasks", formats });
      opened.push(tasks.onCpus);
    }
    for (const onCpus of opened) onCpus.enable(cpu);
    // What processes did there until now was told nobody.
    if (tasks !== null) await host.tellAll({ kind: "forget identities" });
    this.#note(cpu, kind, { dispatcher });
  }

  /** null where the CPU has gone again, which the next look sees, or where its ring is refused. */
  #openRing(cpu: number, cpus: SourceCpus): RingDescriptor | null {
    try {
      return cpus.open(cpu);
    } catch (error) {
      this.#refused.add(cpu);
      this.#parts.log("error", { err: error, cpu }, "a CPU has come online and cannot be sampled");
      return null;
    }
  }

  #armed(): { readonly armed: ArmedEvent; readonly onCpus: OpenOnCpus }[] {
    return this.#parts.armedEvents.all.flatMap((armed) => {
      const { onCpus } = armed.open;
      return onCpus === undefined ? [] : [{ armed, onCpus }];
    });
  }

  /** One that is refused keeps no other from being sampled there. */
  #openOn(cpu: number, event: string, onCpus: OpenOnCpus): readonly RecordFormat[] {
    try {
      return onCpus.open(cpu);
    } catch (error) {
      this.#parts.log("error", { err: error, cpu, event }, "an event cannot be opened on a CPU that has come online");
      return [];
    }
  }

  /** Where it was: lanes carry its weight there. */
  #choose(cpu: number): number {
    const shares = this.#parts.host.threads.map((thread) => thread.cpus);
    const known = this.#dispatcherOf.get(cpu);
    return known ?? assignLate(cpu, shares, this.#parts.topologyOf([cpu, ...shares.flat()]));
  }

  #note(cpu: number, kind: CpuChangeKind, fields: Record<string, unknown>): void {
    const change: CpuChange = {
      cpu,
      kind,
      at: this.#parts.wallClock(),
      watchedUntil: this.#watchedUntil.get(cpu) ?? 0,
    };
    this.counts[kind]++;
    this.#changes.push(change);
    if (this.#changes.length > CPU_CHANGES_KEPT) this.#changes.shift();
    const level = kind === "COME" ? "info" : "warn";
    this.#parts.log(level, { cpu, ...fields, not_sampled_since: change.watchedUntil || undefined }, MESSAGES[kind]);
  }
}
