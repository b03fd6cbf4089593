/**
 * The configuration in force, which a reload changes in part: what sizes memory, opens sockets or starts threads stays as
 * it was when the daemon started. A configuration that will not do changes nothing.
 */
import { isDeepStrictEqual } from "node:util";
import type { DaemonConfig, DaemonLimits } from "./config.js";
import { ConfigError } from "./errors.js";
import { RELATIONS, relationHolds } from "./limits.js";
import { KEYS, type Key } from "./schema.js";

/** What takes effect while the daemon runs; registrations that were made before keep what they were promised. */
export const RELOADABLE: ReadonlySet<Key> = new Set([
  "log_level",
  "overload",
  "policy",
  "limits.queue_max_bytes",
  "limits.queue_default_bytes",
  "limits.flush_interval_max_ms",
  "limits.overload_rate_floor_hz",
  "limits.overload_raise_after_ms",
  "limits.lease_default_ms",
  "limits.lease_max_ms",
  "limits.deregister_timeout_default_ms",
  "limits.filter_entries_max",
  "limits.events_per_handler_max",
]);

export interface ReloadReport {
  /** Keys whose new values are in force. */
  readonly changed: readonly Key[];
  /** Keys whose new values wait for a restart. */
  readonly pending: readonly Key[];
}

/** What belongs to the configuration and is not in its file: certificates, policies. */
export interface Reloadable {
  /**
   * Reads and checks what the configuration names, and returns what puts it in force, which must not fail. Throws, with
   * the remedy in the message, when it will not do: then nothing of the reload takes effect.
   */
  prepare(config: DaemonConfig): Promise<() => void> | (() => void);
}

export class LiveConfig {
  readonly #reloadables: Reloadable[] = [];
  #current: DaemonConfig;

  constructor(config: DaemonConfig) {
    this.#current = config;
  }

  get current(): DaemonConfig {
    return this.#current;
  }

  /** In force at the time of asking: not to be kept. */
  get limits(): DaemonLimits {
    return this.#current.limits;
  }

  onReload(reloadable: Reloadable): void {
    this.#reloadables.push(reloadable);
  }

  /** Rejects with ConfigError, or with what a Reloadable threw; then all is as it was. One at a time. */
  async reload(fresh: DaemonConfig): Promise<ReloadReport> {
    const different = KEYS.filter(
      (key) => !isDeepStrictEqual(configValue(this.#current, key), configValue(fresh, key)),
    );
    const changed = different.filter((key) => RELOADABLE.has(key));
    const next = withValues(this.#current, fresh, changed);
    checkRelations(next);
    const commits: (() => void)[] = [];
    for (const reloadable of this.#reloadables) commits.push(await reloadable.prepare(next));
    this.#current = next;
    for (const commit of commits) commit();
    return { changed, pending: different.filter((key) => !RELOADABLE.has(key)) };
  }
}

type Part = Record<string, unknown>;

/** DaemonConfig has the file's keys in camel case, and its sections as objects, of which `limits` is more than one. */
function partsOf(config: DaemonConfig, section: string): Part[] {
  if (section === "limits") return [config.limits, config.connectionLimits] as unknown as Part[];
  const part = section === "" ? config : (config as unknown as Part)[section];
  return part === null || part === undefined ? [] : [part as Part];
}

/** The object that holds the key's value, and its name there; null where there is none, as in a section that is off. */
function locate(config: DaemonConfig, key: Key): { readonly part: Part; readonly name: string } | null {
  const [last = "", section = ""] = key.split(".").reverse();
  const name = last.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
  const part = partsOf(config, section).find((candidate) => Object.hasOwn(candidate, name));
  return part === undefined ? null : { part, name };
}

/** Undefined where the configuration has no such value. */
export function configValue(config: DaemonConfig, key: Key): unknown {
  const place = locate(config, key);
  return place?.part[place.name];
}

function withValues(config: DaemonConfig, from: DaemonConfig, keys: readonly Key[]): DaemonConfig {
  const next = structuredClone(config);
  for (const key of keys) {
    const place = locate(next, key);
    if (place === null) throw new Error(`the configuration holds no ${key} to be reloaded`);
    place.part[place.name] = configValue(from, key);
  }
  return next;
}

/** The file's values agree with each other; those of them that wait for a restart are not the ones in force. */
function checkRelations(config: DaemonConfig): void {
  const broken = RELATIONS.filter((relation) => !relationHolds(relation, (key) => configValue(config, key) as number));
  if (broken.length === 0) return;
  throw new ConfigError(
    broken.map(({ small, large, reason }) => ({
      origin: `${small} and ${large}`,
      what: `do not agree while some of what was changed waits for a restart: ${reason}`,
      remedy: "restart the daemon, or change only what can be reloaded",
    })),
  );
}
