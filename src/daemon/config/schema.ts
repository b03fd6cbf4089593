/** The keys of the configuration: what each accepts, wherever it is given. */
import { z } from "zod";
import { type Parsed, parseListenAddress, parseTcpAddress, type TcpAddress } from "./address.js";
import { DISPATCHER_CPUS_SYNTAX, parseDispatcherCpus } from "./dispatcher-cpus.js";
import { type NumberKey, RANGES, type Range } from "./limits.js";
import { parseSource, SOURCE_SYNTAX } from "./source-spec.js";

export const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/** What the daemon does when its dispatchers do not keep up. */
export const OVERLOAD_POLICIES = ["report", "lower"] as const;
export type OverloadPolicy = (typeof OVERLOAD_POLICIES)[number];

/** What SIGTERM does to handlers: leaves them, with what is left of their lease, to the next daemon, or ends them. */
export const RESTART_POLICIES = ["keep", "end"] as const;
export type RestartPolicy = (typeof RESTART_POLICIES)[number];

function parsed<T>(parse: (text: string) => Parsed<T>) {
  return z.string({ error: ({ input }) => `${show(input)} is not text` }).transform((text, context): T => {
    const result = parse(text);
    if (result.ok) return result.value;
    context.addIssue({ code: "custom", message: result.what, params: { remedy: result.remedy } });
    return z.NEVER;
  });
}

function parseMetrics(text: string): Parsed<TcpAddress | null> {
  return text === "off" ? { ok: true, value: null } : parseTcpAddress(text);
}

const DEFAULT_POLICY = "default";

function parsePolicyPath(text: string): Parsed<string | null> {
  if (text === DEFAULT_POLICY) return { ok: true, value: null };
  return text === "" || text.includes("\0")
    ? { ok: false, what: `${show(text)} is not a path`, remedy: "give a policy file, or default" }
    : { ok: true, value: text };
}

function parseRuntimeDir(text: string): Parsed<string> {
  return text === "" || text.includes("\0")
    ? { ok: false, what: `${show(text)} is not a path`, remedy: "give a directory" }
    : { ok: true, value: text };
}

function parseSocketMode(text: string): Parsed<number> {
  return /^0?[0-7]{3}$/.test(text)
    ? { ok: true, value: Number.parseInt(text, 8) }
    : { ok: false, what: `${show(text)} is no mode of a file`, remedy: SOCKET_MODE_REMEDY };
}

/** A number in YAML is decimal, or octal with 0o, and what was meant cannot be told from it. */
const SOCKET_MODE_REMEDY = 'give three octal digits in quotes, such as "0660"';

function parseSocketGroup(text: string): Parsed<string | null> {
  if (text === "auto") return { ok: true, value: null };
  return /^[^\s:\0]+$/.test(text)
    ? { ok: true, value: text }
    : { ok: false, what: `${show(text)} is no name of a group`, remedy: "give a group's name, or auto" };
}

function parseTlsFile(text: string): Parsed<string | null> {
  if (text === "off") return { ok: true, value: null };
  return text === "" || text.includes("\0")
    ? { ok: false, what: `${show(text)} is not a path`, remedy: "give a PEM file, or off" }
    : { ok: true, value: text };
}

/** Flags and variables are text. */
const INSECURE = new Map<unknown, boolean>([
  ["true", true],
  ["false", false],
]);

function whole(range: Range) {
  return z
    .int({ error: ({ input }) => `${show(input)} is not a whole number` })
    .min(range.min, { error: ({ input }) => `${show(input)} is below ${range.min}`, abort: true })
    .max(range.max, { error: ({ input }) => `${show(input)} is above ${range.max}`, abort: true })
    .refine((value) => !range.powerOfTwo || Number.isInteger(Math.log2(value)), {
      error: ({ input }) => `${show(input)} is not a power of two`,
    });
}

const numbers = Object.fromEntries(Object.entries<Range>(RANGES).map(([key, range]) => [key, whole(range)])) as Record<
  NumberKey,
  ReturnType<typeof whole>
>;

const listenAddress = parsed(parseListenAddress);

/** One schema a key; keys of the file's sections are written `limits.x`, `tls.x`. */
export const settingsSchema = z.object({
  listen: z.preprocess(
    (input) => (typeof input === "string" ? [input] : input),
    z.array(listenAddress, { error: ({ input }) => `${show(input)} is not an address or a list of addresses` }).min(1, {
      error: "names no address",
    }),
  ),
  socket_mode: parsed(parseSocketMode),
  socket_group: parsed(parseSocketGroup),
  "tls.cert": parsed(parseTlsFile),
  "tls.key": parsed(parseTlsFile),
  "tls.client_ca": parsed(parseTlsFile),
  insecure: z.preprocess(
    (input) => INSECURE.get(input) ?? input,
    z.boolean({ error: ({ input }) => `${show(input)} is neither true nor false` }),
  ),
  metrics: parsed(parseMetrics),
  policy: parsed(parsePolicyPath),
  runtime_dir: parsed(parseRuntimeDir),
  source: parsed(parseSource),
  // In a file a single CPU is a number.
  dispatcher_cpus: z.preprocess(
    (input) => (Number.isInteger(input) ? String(input) : input),
    parsed(parseDispatcherCpus),
  ),
  log_level: z.enum(LOG_LEVELS, { error: ({ input }) => `${show(input)} is no log level` }),
  overload: z.enum(OVERLOAD_POLICIES, { error: ({ input }) => `${show(input)} is no policy for overload` }),
  restart: z.enum(RESTART_POLICIES, { error: ({ input }) => `${show(input)} is no policy for restarts` }),
  ...numbers,
});

/** Values as parsed, before relative paths are resolved. */
export type Settings = z.output<typeof settingsSchema>;
export type Key = keyof Settings;

export const KEYS = Object.keys(settingsSchema.shape) as Key[];

const LIMITS_PREFIX = "limits.";
export const LIMIT_KEYS = KEYS.filter((key) => key.startsWith(LIMITS_PREFIX)).map((key) =>
  key.slice(LIMITS_PREFIX.length),
);
const TLS_PREFIX = "tls.";
export const TLS_KEYS = KEYS.filter((key) => key.startsWith(TLS_PREFIX)).map((key) => key.slice(TLS_PREFIX.length));
export const TOP_LEVEL_KEYS = KEYS.filter((key) => !key.startsWith(LIMITS_PREFIX) && !key.startsWith(TLS_PREFIX));

export function isKey(name: string): name is Key {
  return Object.hasOwn(settingsSchema.shape, name);
}

function isNumberKey(key: Key): key is NumberKey {
  return Object.hasOwn(RANGES, key);
}

/** What to write, for a key whose value was refused. */
export function remedyFor(key: Key): string {
  if (isNumberKey(key)) {
    const range: Range = RANGES[key];
    return `give ${range.powerOfTwo ? "a power of two" : "a whole number"} from ${range.min} to ${range.max}`;
  }
  switch (key) {
    case "listen":
      return "give unix:PATH or HOST:PORT, or a list of these";
    case "socket_mode":
      return SOCKET_MODE_REMEDY;
    case "socket_group":
      return "give a group's name, or auto";
    case "tls.cert":
    case "tls.key":
    case "tls.client_ca":
      return "give a PEM file, or off";
    case "insecure":
      return "give true or false";
    case "metrics":
      return "give HOST:PORT or off";
    case "policy":
      return "give a policy file, or default";
    case "runtime_dir":
      return "give a directory";
    case "source":
      return `give ${SOURCE_SYNTAX}`;
    case "dispatcher_cpus":
      return `give ${DISPATCHER_CPUS_SYNTAX}`;
    case "log_level":
      return `give one of ${LOG_LEVELS.join(", ")}`;
    case "overload":
      return `give ${OVERLOAD_POLICIES.join(" or ")}`;
    case "restart":
      return `give ${RESTART_POLICIES.join(" or ")}`;
  }
}

/** Flags and environment variables are text; a number among them is what the file's number would be. */
export function fromText(key: Key, text: string): unknown {
  return isNumberKey(key) && /^\d{1,15}$/.test(text) ? Number(text) : text;
}

export interface Complaint {
  readonly what: string;
  readonly remedy: string;
}

/** What is wrong with a raw value of a key; empty when it will do. */
export function check(key: Key, raw: unknown): Complaint[] {
  if (raw === null || raw === undefined) return [{ what: "has no value", remedy: remedyFor(key) }];
  const result = settingsSchema.shape[key].safeParse(raw);
  if (result.success) return [];
  return result.error.issues.map((issue) => {
    const remedy: unknown = issue.code === "custom" ? issue.params?.remedy : undefined;
    return { what: issue.message, remedy: typeof remedy === "string" ? remedy : remedyFor(key) };
  });
}

function show(input: unknown): string {
  return JSON.stringify(input) ?? String(input);
}
