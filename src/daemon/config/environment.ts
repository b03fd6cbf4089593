/** NMID_* variables. */
import type { Problem } from "./errors.js";
import type { Layer, RawValue } from "./layers.js";
import { nearest } from "./nearest.js";
import { fromText, type Key, TOP_LEVEL_KEYS } from "./schema.js";

export type Environment = Readonly<Record<string, string | undefined>>;

const PREFIX = "NMID_";
const CONFIG_VARIABLE = "NMID_CONFIG";
/** Where nmictl finds the daemon: the client's, and set in shells that start daemons, too. */
const CLIENT_VARIABLE = "NMID_ADDRESS";
/** What Kubernetes gives every container beside a Service named nmid. */
const SERVICE_LINK = /^NMID_(SERVICE_(HOST|PORT)|PORT)(_|$)/;

const KEY_BY_VARIABLE = new Map<string, Key>(TOP_LEVEL_KEYS.map((key) => [PREFIX + key.toUpperCase(), key]));
const KNOWN = [...KEY_BY_VARIABLE.keys(), CONFIG_VARIABLE];

export interface EnvironmentLayer extends Layer {
  readonly configFile: string | undefined;
}

/** An empty variable counts as not set. */
export function readEnvironment(env: Environment): EnvironmentLayer {
  const values = new Map<Key, RawValue>();
  const problems: Problem[] = [];
  for (const [variable, text] of Object.entries(env)) {
    if (!variable.startsWith(PREFIX) || variable === CONFIG_VARIABLE || variable === CLIENT_VARIABLE) continue;
    const key = KEY_BY_VARIABLE.get(variable);
    if (key === undefined) {
      const remedy = SERVICE_LINK.test(variable)
        ? "if Kubernetes set it for a Service named nmid, set enableServiceLinks: false"
        : `did you mean ${nearest(variable, KNOWN)}?`;
      problems.push({ origin: variable, what: "unknown variable", remedy });
    } else if (text) {
      const raw = key === "listen" ? text.split(",").map((address) => address.trim()) : fromText(key, text);
      values.set(key, { raw, origin: variable });
    }
  }
  return { values, problems, configFile: env[CONFIG_VARIABLE] || undefined };
}
