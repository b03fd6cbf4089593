/** The daemon as a service: what its process tells the service manager, from start to stop. */
import type { DaemonConfig } from "../config/config.js";
import type { Environment } from "../config/environment.js";
import type { Daemon } from "../daemon.js";
import type { Logger } from "../observe/log.js";
import { type Notifier, notifierFor } from "./notify.js";
import { Reloader } from "./reloader.js";
import { Watchdog, watchdogIntervalMs } from "./watchdog.js";

export interface ServiceOptions {
  readonly env: Environment;
  readonly pid: number;
  readonly log: Logger;
  /** Reads the configuration anew. Throws ConfigError. */
  readonly load: () => DaemonConfig;
}

export class Service {
  readonly #options: ServiceOptions;
  readonly #notifier: Notifier;
  #watchdog: Watchdog | null = null;
  #reloader: Reloader | null = null;
  #wantsReload = false;
  #stopping = false;

  constructor(options: ServiceOptions) {
    const { env, log } = options;
    this.#options = options;
    this.#notifier = notifierFor(env, (error) => log.warn({ err: error }, error.message));
  }

  /** It serves. */
  started(daemon: Daemon): void {
    if (this.#stopping) return;
    const { env, pid, log, load } = this.#options;
    const reloader = new Reloader({
      load,
      apply: (config) => daemon.reload(config),
      notifier: this.#notifier,
      status: () => daemon.status(),
      log,
    });
    this.#reloader = reloader;
    this.#notifier.ready(reloader.status);
    const intervalMs = watchdogIntervalMs(env, pid);
    if (intervalMs !== null) {
      this.#watchdog = new Watchdog({
        intervalMs,
        liveness: daemon.liveness,
        feed: () => this.#notifier.alive(reloader.status),
      });
      this.#watchdog.start();
    }
    if (this.#wantsReload) this.reload();
  }

  /** Reads the configuration again; while the daemon starts, when it has. */
  reload(): void {
    if (this.#stopping) return;
    if (this.#reloader === null) this.#wantsReload = true;
    else void this.#reloader.reload();
  }

  /** It stops, and a dispatcher that has stopped answers nothing any more: from here on the manager's own bound counts. */
  stopping(): void {
    this.#stopping = true;
    this.#watchdog?.stop();
    this.#notifier.stopping();
  }

  /** The process ends with this. */
  failed(error: Error): void {
    this.#notifier.status(`failed: ${error.message}`);
  }
}
