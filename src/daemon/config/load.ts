/**
 * Puts the daemon's configuration together: flags before NMID_* variables before the file before defaults. Every place
 * is checked, also where a stronger one overrides it, and all problems are reported at once.
 */
import { readFileSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import {
  checkSocketPath,
  formatListenAddress,
  formatTcpAddress,
  type ListenAddress,
  plainTcpProblem,
} from "./address.js";
import type { DaemonConfig, TlsFiles } from "./config.js";
import { type Environment, readEnvironment } from "./environment.js";
import { ConfigError, type Problem } from "./errors.js";
import { readFileLayer } from "./file.js";
import { readFlags } from "./flags.js";
import type { Layer, RawValue } from "./layers.js";
import { memoryDefault, type NumberKey, RANGES, RELATIONS, relationHolds } from "./limits.js";
import { renderConfig } from "./render.js";
import { check, KEYS, type Key, type Settings, settingsSchema } from "./schema.js";
import type { SourceSpec } from "./source-spec.js";

/** What the loader asks of the process it runs in. */
export interface ConfigIo {
  readonly uid: number;
  /** Relative paths are taken from here, those in the file, too. */
  readonly cwd: string;
  /** The daemon's version, for --version. */
  readonly version: string;
  /** Throws what node:fs throws. */
  readonly readTextFile: (path: string) => string;
}

export type ConfigResult =
  | { readonly action: "run"; readonly config: DaemonConfig }
  /** --help, --version or --check-config: write `text` to standard output and exit. */
  | { readonly action: "print"; readonly text: string; readonly exitCode: 0 };

export function processIo(version: string): ConfigIo {
  return {
    uid: process.getuid?.() ?? 0,
    cwd: process.cwd(),
    version,
    readTextFile: (path) => readFileSync(path, "utf8"),
  };
}

/**
 * `argv` without node and script. Pure but for reading the file that --config or NMID_CONFIG names.
 * Throws ConfigError.
 */
export function loadConfig(argv: readonly string[], env: Environment, io: ConfigIo): ConfigResult {
  const defaults = defaultLayer(env, io.uid);
  const flags = readFlags(argv, io.version, new Map([...defaults].map(([key, { raw }]) => [key, String(raw)])));
  if (flags.print !== undefined) return { action: "print", text: flags.print, exitCode: 0 };
  const environment = readEnvironment(env);
  const file = readFile(flags.configFile ?? environment.configFile, io);

  const problems = [flags, environment, file].flatMap((layer) => layer.problems);
  const merged = merge([flags, environment, file], defaults, problems);
  const { origins, refused } = merged;
  const settings = deriveMemory(merged);
  const listenIsDefault = origins.get("listen")?.startsWith("default") ?? true;
  const config = freeze(assemble(settings, io.cwd, listenIsDefault));
  const origin = (key: Key): string => origins.get(key) ?? "default";
  problems.push(...crossCheck(config, settings, origin, refused));
  if (problems.length > 0) throw new ConfigError(problems);
  return flags.checkConfig
    ? { action: "print", text: renderConfig(config, origin), exitCode: 0 }
    : { action: "run", config };
}

function defaultLayer(env: Environment, uid: number): Map<Key, RawValue> {
  const { dir, origin } = defaultRuntimeDir(env, uid);
  return new Map<Key, RawValue>([
    ["listen", { raw: `unix:${join(dir, "nmid.sock")}`, origin }],
    ["socket_mode", { raw: "0660", origin: "default" }],
    ["socket_group", { raw: "auto", origin: "default" }],
    ["tls.cert", { raw: "off", origin: "default" }],
    ["tls.key", { raw: "off", origin: "default" }],
    ["tls.client_ca", { raw: "off", origin: "default" }],
    ["insecure", { raw: false, origin: "default" }],
    ["metrics", { raw: "127.0.0.1:9810", origin: "default" }],
    ["policy", { raw: "default", origin: "default" }],
    ["runtime_dir", { raw: dir, origin }],
    ["source", { raw: "auto", origin: "default" }],
    ["dispatcher_cpus", { raw: "off", origin: "default" }],
    ["log_level", { raw: "info", origin: "default" }],
    ["overload", { raw: "report", origin: "default" }],
    ["restart", { raw: "keep", origin: "default" }],
    ...Object.entries(RANGES).map(([key, range]): [Key, RawValue] => [
      key as NumberKey,
      { raw: range.default, origin: "default" },
    ]),
  ]);
}

function defaultRuntimeDir(env: Environment, uid: number): { readonly dir: string; readonly origin: string } {
  // systemd's RuntimeDirectory=, the first of them.
  const given = env.RUNTIME_DIRECTORY?.split(":", 1)[0];
  if (given !== undefined && isAbsolute(given)) return { dir: given, origin: "default from RUNTIME_DIRECTORY" };
  if (uid === 0) return { dir: "/run/nmid", origin: "default" };
  const xdg = env.XDG_RUNTIME_DIR;
  // The XDG specification ignores relative ones.
  if (xdg !== undefined && isAbsolute(xdg)) return { dir: join(xdg, "nmid"), origin: "default from XDG_RUNTIME_DIR" };
  return { dir: `/tmp/nmid-${uid}`, origin: "default" };
}

function readFile(path: string | undefined, io: ConfigIo): Layer {
  if (path === undefined) return { values: new Map(), problems: [] };
  let text: string;
  try {
    text = io.readTextFile(resolve(io.cwd, path));
  } catch (error) {
    const what = `cannot be read: ${error instanceof Error ? error.message : String(error)}`;
    const remedy = "name a readable YAML file with --config or NMID_CONFIG, or neither";
    return { values: new Map(), problems: [{ origin: path, what, remedy }] };
  }
  return readFileLayer(text, path);
}

interface Merged {
  readonly settings: Settings;
  readonly origins: Map<Key, string>;
  /** Keys of which some place gave a value that will not do: what is built from them says nothing. */
  readonly refused: ReadonlySet<Key>;
}

/** Takes the first value of each key, strongest layer first, and adds what is wrong with any to `problems`. */
function merge(layers: readonly Layer[], defaults: ReadonlyMap<Key, RawValue>, problems: Problem[]): Merged {
  const chosen: Partial<Record<Key, unknown>> = {};
  const origins = new Map<Key, string>();
  const refused = new Set<Key>();
  for (const key of KEYS) {
    for (const { values } of [...layers, { values: defaults }]) {
      const value = values.get(key);
      if (value === undefined) continue;
      const complaints = check(key, value.raw);
      problems.push(...complaints.map((complaint) => ({ origin: value.origin, ...complaint })));
      if (complaints.length > 0) refused.add(key);
      else if (!origins.has(key)) {
        chosen[key] = value.raw;
        origins.set(key, value.origin);
      }
    }
  }
  return { settings: settingsSchema.parse(chosen), origins, refused };
}

function assemble(settings: Settings, cwd: string, listenIsDefault: boolean): DaemonConfig {
  return {
    listen: settings.listen.map(
      (address): ListenAddress =>
        address.kind === "unix" ? { kind: "unix", path: resolve(cwd, address.path) } : address,
    ),
    listenIsDefault,
    socketMode: settings.socket_mode,
    socketGroup: settings.socket_group,
    tls: tlsFiles(settings, cwd),
    insecure: settings.insecure,
    metrics: settings.metrics,
    policy: settings.policy === null ? null : resolve(cwd, settings.policy),
    runtimeDir: resolve(cwd, settings.runtime_dir),
    source: resolveSource(settings.source, cwd),
    dispatchers: settings.dispatchers,
    dispatcherCpus: settings.dispatcher_cpus,
    capacity: settings.capacity,
    logLevel: settings.log_level,
    overload: settings.overload,
    restart: settings.restart,
    ringKib: settings.ring_kib,
    limits: {
      memoryMaxBytes: settings["limits.memory_max_bytes"],
      queueMaxBytes: settings["limits.queue_max_bytes"],
      queueDefaultBytes: settings["limits.queue_default_bytes"],
      flushIntervalDefaultMs: settings["limits.flush_interval_default_ms"],
      flushIntervalDefaultMaxMs: settings["limits.flush_interval_default_max_ms"],
      flushIntervalMaxMs: settings["limits.flush_interval_max_ms"],
      slowDispatchUs: settings["limits.slow_dispatch_us"],
      overloadRateFloorHz: settings["limits.overload_rate_floor_hz"],
      overloadRaiseAfterMs: settings["limits.overload_raise_after_ms"],
      leaseDefaultMs: settings["limits.lease_default_ms"],
      leaseMaxMs: settings["limits.lease_max_ms"],
      deregisterTimeoutDefaultMs: settings["limits.deregister_timeout_default_ms"],
      messageMaxBytes: settings["limits.message_max_bytes"],
      filterEntriesMax: settings["limits.filter_entries_max"],
      eventsPerHandlerMax: settings["limits.events_per_handler_max"],
    },
    connectionLimits: {
      connectionsMax: settings["limits.connections_max"],
      connectionsPerPeerMax: settings["limits.connections_per_peer_max"],
      streamsPerConnectionMax: settings["limits.streams_per_connection_max"],
      streamsPerPeerMax: settings["limits.streams_per_peer_max"],
      requestsPerSecondMax: settings["limits.requests_per_second_max"],
      controlFramesPerSecondMax: settings["limits.control_frames_per_second_max"],
      receiveBytesPerSecondMax: settings["limits.receive_bytes_per_second_max"],
      handshakeTimeoutMs: settings["limits.handshake_timeout_ms"],
      keepaliveIntervalMs: settings["limits.keepalive_interval_ms"],
      keepaliveTimeoutMs: settings["limits.keepalive_timeout_ms"],
    },
  };
}

/** Who sets no limit gets one that is large enough for the handlers and dispatchers there may be. */
function deriveMemory({ settings, origins }: Merged): Settings {
  const key = "limits.memory_max_bytes";
  const derived = memoryDefault(settings);
  if (origins.get(key) !== "default" || derived === settings[key]) return settings;
  origins.set(key, `default for ${settings.capacity} handlers and ${settings.dispatchers} dispatchers`);
  return { ...settings, [key]: derived };
}

/** null unless all three are named: what is missing is a problem of its own. */
function tlsFiles(settings: Settings, cwd: string): TlsFiles | null {
  const { "tls.cert": cert, "tls.key": key, "tls.client_ca": clientCa } = settings;
  if (cert === null || key === null || clientCa === null) return null;
  return { cert: resolve(cwd, cert), key: resolve(cwd, key), clientCa: resolve(cwd, clientCa) };
}

function resolveSource(source: SourceSpec, cwd: string): SourceSpec {
  return source.kind === "replay" ? { ...source, file: resolve(cwd, source.file) } : source;
}

/** What can only be judged of the whole. */
function crossCheck(
  config: DaemonConfig,
  settings: Settings,
  origin: (key: Key) => string,
  refused: ReadonlySet<Key>,
): Problem[] {
  const problems: Problem[] = [];
  for (const relation of RELATIONS) {
    const { small, large, scale, reason } = relation;
    if (refused.has(small) || refused.has(large) || relationHolds(relation, (key) => settings[key])) continue;
    const factor = scale === 1 ? "" : `, times ${scale},`;
    problems.push({
      origin: `${origin(small)} and ${origin(large)}`,
      what: `${small} (${settings[small]})${factor} is above ${large} (${settings[large]}): ${reason}`,
      remedy: `lower ${small} or raise ${large}`,
    });
  }
  const { dispatchers, dispatcherCpus } = config;
  if (dispatcherCpus.kind === "lists" && dispatcherCpus.lists.length !== dispatchers && !refused.has("dispatchers")) {
    const lists = dispatcherCpus.lists.length;
    problems.push({
      origin: `${origin("dispatcher_cpus")} and ${origin("dispatchers")}`,
      what: `dispatcher_cpus has CPUs for ${lists} ${lists === 1 ? "dispatcher" : "dispatchers"} and dispatchers is ${dispatchers}`,
      remedy: `give as many lists, separated by ";", as there are dispatchers, or set dispatchers to ${lists}`,
    });
  }
  problems.push(...checkTls(config, settings, origin, refused));
  if (!refused.has("listen")) problems.push(...checkAddresses(config, origin, refused));
  return problems;
}

const TLS_FILE_KEYS = ["tls.cert", "tls.key", "tls.client_ca"] as const;

function checkTls(
  config: DaemonConfig,
  settings: Settings,
  origin: (key: Key) => string,
  refused: ReadonlySet<Key>,
): Problem[] {
  if (TLS_FILE_KEYS.some((key) => refused.has(key))) return [];
  const given = TLS_FILE_KEYS.filter((key) => settings[key] !== null);
  const missing = TLS_FILE_KEYS.filter((key) => settings[key] === null);
  const [first] = given;
  if (first !== undefined && missing.length > 0) {
    const what = `${missing.join(" and ")} ${missing.length === 1 ? "is" : "are"} missing: both sides must show a certificate`;
    return [{ origin: origin(first), what, remedy: "name a PEM file for each of tls.cert, tls.key and tls.client_ca" }];
  }
  if (config.tls !== null && config.insecure) {
    const what = "insecure has no meaning beside tls, which every connection over TCP then speaks";
    return [{ origin: origin("insecure"), what, remedy: "drop one of the two" }];
  }
  if (config.tls !== null || config.insecure || refused.has("listen") || refused.has("insecure")) return [];
  return config.listen.flatMap((address): Problem[] => {
    const problem = plainTcpProblem(address);
    return problem === null ? [] : [{ origin: origin("listen"), ...problem }];
  });
}

function checkAddresses(config: DaemonConfig, origin: (key: Key) => string, refused: ReadonlySet<Key>): Problem[] {
  const problems: Problem[] = [];
  const seen = new Set<string>();
  for (const address of config.listen) {
    if (address.kind === "unix") {
      const checked = checkSocketPath(address.path);
      if (!checked.ok) problems.push({ origin: origin("listen"), what: checked.what, remedy: checked.remedy });
    }
    const text = formatListenAddress(address);
    if (seen.has(text))
      problems.push({ origin: origin("listen"), what: `${text} is given twice`, remedy: "give it once" });
    // Port 0 is another port each time.
    if (!(address.kind === "tcp" && address.port === 0)) seen.add(text);
  }
  if (config.metrics !== null && !refused.has("metrics") && seen.has(formatTcpAddress(config.metrics))) {
    problems.push({
      origin: `${origin("metrics")} and ${origin("listen")}`,
      what: `gRPC and metrics both listen on ${formatTcpAddress(config.metrics)}`,
      remedy: "give each a port of its own",
    });
  }
  return problems;
}

function freeze<T extends object>(value: T): T {
  for (const part of Object.values(value)) {
    if (typeof part === "object" && part !== null) freeze(part);
  }
  return Object.freeze(value);
}
