/** Looks at what may have changed in the machine: once a second while anything is armed, and before a registration. */
import type { CpuWatch } from "./cpu-watch.js";
import type { SettingsWatch } from "./settings-watch.js";

export interface MachineWatchParts {
  readonly cpus: Pick<CpuWatch, "look">;
  readonly settings: Pick<SettingsWatch, "look">;
  readonly onProblem: (error: Error) => void;
}

export class MachineWatch {
  readonly #parts: MachineWatchParts;
  #looking: Promise<void> | null = null;
  #stopped = false;

  constructor(parts: MachineWatchParts) {
    this.#parts = parts;
  }

  /** One look serves all who ask while it lasts. Never rejects: the daemon goes on with what it has. */
  look(): Promise<void> {
    if (this.#stopped) return Promise.resolve();
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null;
    });
    return this.#looking;
  }

  async #look(): Promise<void> {
    const { cpus, settings, onProblem } = this.#parts;
    // The rates first: an event is opened on a CPU that has come at the rate that it has.
    await settings.look().catch(onProblem);
    await cpus.look().catch(onProblem);
  }

  /** Resolves when no look is under way; none begins afterwards. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#looking;
  }
}
