/** Parsers of option values, and the defaults that depend on who runs the command. */
import { InvalidArgumentError } from "commander";
import { NmiError, type TlsOptions } from "../typescript/index.js";

const UINT32_MAX = 0xffff_ffff;
// Beyond this a CPU list is a typing error, and expanding it would take memory for nothing.
const CPU_MAX = 65_535;
// Node's timers fire at once beyond 2^31 - 1 ms.
const SECONDS_MAX = 2_147_483;

export interface GlobalOptions {
  readonly address: string;
  readonly json: boolean;
  readonly caFile?: string;
  readonly certFile?: string;
  readonly keyFile?: string;
}

/** All three or none. Throws NmiError. */
export function tlsOptions({
  caFile,
  certFile,
  keyFile,
}: Omit<GlobalOptions, "address" | "json">): TlsOptions | undefined {
  if (caFile === undefined && certFile === undefined && keyFile === undefined) return undefined;
  if (caFile === undefined || certFile === undefined || keyFile === undefined) {
    throw new NmiError("TLS_FILE", "TLS needs --ca-file, --cert-file and --key-file, all three of them");
  }
  return { caFile, certFile, keyFile };
}

/** Where nmid listens unless told otherwise. */
export function defaultAddress(
  env: NodeJS.ProcessEnv = process.env,
  uid: number | undefined = process.getuid?.(),
): string {
  if (env.NMID_ADDRESS) return env.NMID_ADDRESS;
  if (uid !== 0 && env.XDG_RUNTIME_DIR) return `unix:${env.XDG_RUNTIME_DIR}/nmid/nmid.sock`;
  return "unix:/run/nmid/nmid.sock";
}

export function parseUint(text: string, max = UINT32_MAX): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > max) throw new InvalidArgumentError(`Not an integer from 0 to ${max}.`);
  return value;
}

export function parsePositive(text: string): number {
  const value = parseUint(text, Number.MAX_SAFE_INTEGER);
  if (value === 0) throw new InvalidArgumentError("Not above 0.");
  return value;
}

export function parsePositiveUint32(text: string): number {
  const value = parseUint(text);
  if (value === 0) throw new InvalidArgumentError("Not above 0.");
  return value;
}

export function parseSeconds(text: string): number {
  const value = Number(text);
  if (!/^\d*\.?\d+$/.test(text) || value <= 0 || value > SECONDS_MAX) {
    throw new InvalidArgumentError(`Not a number of seconds above 0 and up to ${SECONDS_MAX}.`);
  }
  return value;
}

/** A handler id as `nmictl handlers` prints it. */
export function parseHandlerId(text: string): number {
  return parseUint(text, Number.MAX_SAFE_INTEGER);
}

/** "1,2" appended to what earlier uses of the option gave. */
export function collectUints(text: string, earlier: readonly number[] = []): readonly number[] {
  return [...earlier, ...text.split(",").map((item) => parseUint(item.trim()))];
}

/**
 * Events as `perf record -e` takes them: several with commas between them, but for those commas that are a group's, or
 * between a PMU's slashes. What is between two commas goes to the daemon as it is.
 */
export function collectEvents(text: string, earlier: readonly string[] = []): readonly string[] {
  const events: string[] = [];
  let from = 0;
  let inGroup = false;
  let inTerms = false;
  // A breakpoint has one slash, before its length.
  let isBreakpoint = startsBreakpoint(text, 0);
  for (let index = 0; index < text.length; index++) {
    const letter = text[index];
    if (inTerms && letter === "'" && text[index - 1] === "=") {
      // A quoted value, name='a,b', where it ends.
      index = Math.max(index, text.indexOf("'", index + 1));
    } else if (letter === "/") inTerms = !inTerms && !isBreakpoint;
    else if (inTerms) continue;
    else if (letter === "{" || letter === "}") inGroup = letter === "{";
    if (letter !== "," && letter !== "{") continue;
    isBreakpoint = startsBreakpoint(text, index + 1);
    if (letter === "{" || inGroup) continue;
    events.push(text.slice(from, index));
    from = index + 1;
  }
  return [...earlier, ...events, text.slice(from)];
}

function startsBreakpoint(text: string, from: number): boolean {
  return text.slice(from).trimStart().startsWith("mem:");
}

export function collectTexts(text: string, earlier: readonly string[] = []): readonly string[] {
  return [...earlier, text];
}

/** What `nmictl subscribe` can show. */
const FIELDS = ["AUX", "CALLCHAIN"] as const;
export type ShownField = (typeof FIELDS)[number];

export function collectFields(text: string, earlier: readonly ShownField[] = []): readonly ShownField[] {
  const field = FIELDS.find((name) => name === text.toUpperCase());
  if (field === undefined) throw new InvalidArgumentError(`Allowed choices are ${FIELDS.join(", ")}.`);
  return [...earlier, field];
}

/** The kernel's list format, "0-3,8", appended to what earlier uses of the option gave. */
export function collectCpus(text: string, earlier: readonly number[] = []): readonly number[] {
  const cpus = [...earlier];
  for (const range of text.split(",")) {
    const [first, last = first] = range.split("-").map((end) => parseUint(end.trim(), CPU_MAX));
    if (range.split("-").length > 2 || last < first) throw new InvalidArgumentError(`"${range}" is no range of CPUs.`);
    for (let cpu = first; cpu <= last; cpu++) cpus.push(cpu);
  }
  return cpus;
}
