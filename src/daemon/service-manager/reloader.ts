/** SIGHUP: reads the configuration again, puts in force what can be, and tells the service manager and the log. */
import type { DaemonConfig } from "../config/config.js";
import { ConfigError } from "../config/errors.js";
import type { ReloadReport } from "../config/live.js";
import type { Notifier } from "./notify.js";

export interface ReloaderParts {
  /** Throws ConfigError. */
  readonly load: () => DaemonConfig;
  /** Rejects when the configuration will not do. */
  readonly apply: (config: DaemonConfig) => Promise<ReloadReport>;
  readonly notifier: Pick<Notifier, "reloading" | "ready">;
  /** What the daemon does, for the manager's status line. */
  readonly status: () => string;
  readonly log: {
    info(fields: object, message: string): void;
    warn(fields: object, message: string): void;
    error(fields: object, message: string): void;
  };
}

export class Reloader {
  readonly #parts: ReloaderParts;
  #running: Promise<void> | null = null;
  /** The file may have changed after the running reload read it. */
  #again = false;
  /** Why the last one was refused; null when it was not. */
  #refusal: string | null = null;

  constructor(parts: ReloaderParts) {
    this.#parts = parts;
  }

  /** One line for the manager. */
  get status(): string {
    const status = this.#parts.status();
    return this.#refusal === null ? status : `${status}; RELOAD REFUSED, the old configuration stays: ${this.#refusal}`;
  }

  /** Resolves when what was asked for is done. */
  reload(): Promise<void> {
    if (this.#running !== null) this.#again = true;
    this.#running ??= this.#run().finally(() => {
      this.#running = null;
    });
    return this.#running;
  }

  async #run(): Promise<void> {
    const { notifier } = this.#parts;
    notifier.reloading();
    do {
      this.#again = false;
      await this.#once();
    } while (this.#again);
    notifier.ready(this.status);
  }

  async #once(): Promise<void> {
    const { load, apply, log } = this.#parts;
    try {
      const { changed, pending } = await apply(load());
      this.#refusal = null;
      log.info({ changed }, "configuration reloaded");
      if (pending.length > 0) log.warn({ pending }, `changed, but not before a restart: ${pending.join(", ")}`);
    } catch (error) {
      this.#refusal = (error as Error).message;
      const fields = error instanceof ConfigError ? { problems: error.problems } : { err: error };
      log.error(fields, `reload refused, the old configuration stays: ${this.#refusal}`);
    }
  }
}
