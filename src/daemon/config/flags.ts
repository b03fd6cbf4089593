/** The daemon's command line. */
import { Command, CommanderError, Option } from "commander";
import { DISPATCHER_CPUS_SYNTAX } from "./dispatcher-cpus.js";
import type { Problem } from "./errors.js";
import type { Layer, RawValue } from "./layers.js";
import { RANGES } from "./limits.js";
import { nearest } from "./nearest.js";
import { fromText, type Key, LOG_LEVELS, OVERLOAD_POLICIES, RESTART_POLICIES } from "./schema.js";
import { SOURCE_SYNTAX } from "./source-spec.js";

const KEY_BY_OPTION = new Map<string, Key>([
  ["listen", "listen"],
  ["socketMode", "socket_mode"],
  ["socketGroup", "socket_group"],
  ["metrics", "metrics"],
  ["policy", "policy"],
  ["runtimeDir", "runtime_dir"],
  ["source", "source"],
  ["dispatchers", "dispatchers"],
  ["dispatcherCpus", "dispatcher_cpus"],
  ["capacity", "capacity"],
  ["logLevel", "log_level"],
  ["overload", "overload"],
  ["restart", "restart"],
]);

export interface FlagsLayer extends Layer {
  readonly configFile: string | undefined;
  readonly checkConfig: boolean;
  /** The text of --help or --version, when one of them was given. */
  readonly print: string | undefined;
}

/** @param defaults what --help shows for the keys whose default depends on the user. */
function declare(version: string, defaults: ReadonlyMap<Key, string>): Command {
  const repeat = (value: string, previous: string[] = []) => [...previous, value];
  return new Command("nmid")
    .description("One PMU interrupt, many consumers: shares perf_event samples among gRPC clients.")
    .option("--config <file>", "YAML file; NMID_CONFIG names one, too")
    .addOption(
      new Option(
        "--listen <address>",
        `unix:PATH or HOST:PORT, repeatable (default: ${defaults.get("listen")})`,
      ).argParser(repeat),
    )
    .option("--socket-mode <mode>", `permissions of Unix sockets (default: ${defaults.get("socket_mode")})`)
    .option(
      "--socket-group <group>",
      "group of Unix sockets (default: auto, which is nmid where there is such a group)",
    )
    .option("--metrics <address>", `HOST:PORT for Prometheus, or off (default: ${defaults.get("metrics")})`)
    .option("--policy <file>", "who may do what, a YAML file, or default (default: default)")
    .option("--runtime-dir <dir>", `where the handler table lives, on tmpfs (default: ${defaults.get("runtime_dir")})`)
    .option("--source <source>", `${SOURCE_SYNTAX} (default: ${defaults.get("source")})`)
    .option("--dispatchers <n>", `threads that drain rings (default: ${RANGES.dispatchers.default})`)
    .option("--dispatcher-cpus <cpus>", `${DISPATCHER_CPUS_SYNTAX} (default: ${defaults.get("dispatcher_cpus")})`)
    .option("--capacity <n>", `slots in the handler table (default: ${RANGES.capacity.default})`)
    .option("--log-level <level>", `${LOG_LEVELS.join(", ")} (default: ${defaults.get("log_level")})`)
    .option(
      "--overload <policy>",
      `${OVERLOAD_POLICIES.join(" or ")}: when dispatchers do not keep up, only say so, or lower rates, too (default: ${defaults.get("overload")})`,
    )
    .option(
      "--restart <policy>",
      `${RESTART_POLICIES.join(" or ")}: whether SIGTERM leaves handlers, within their lease, to the daemon that is started next (default: ${defaults.get("restart")})`,
    )
    .option("--check-config", "print the effective configuration as YAML, or what is wrong with it, and exit")
    .version(version, "--version", "print the version and exit")
    .helpOption("-h, --help", "print this and exit")
    .addHelpText(
      "after",
      "\nA flag goes before its variable (--log-level: NMID_LOG_LEVEL), that before the file's key (log_level).",
    );
}

/** `argv` without node and script. */
export function readFlags(argv: readonly string[], version: string, defaults: ReadonlyMap<Key, string>): FlagsLayer {
  let output = "";
  const problems: Problem[] = [];
  const command = declare(version, defaults)
    .exitOverride()
    .allowUnknownOption()
    .allowExcessArguments()
    .configureOutput({ writeOut: (text) => (output += text), writeErr: () => {} });
  try {
    command.parse([...argv], { from: "user" });
    problems.push(...unknown(command));
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    if (error.exitCode === 0) {
      return { values: new Map(), problems: [], configFile: undefined, checkConfig: false, print: output };
    }
    problems.push({ origin: "flags", what: error.message.replace(/^error: /, ""), remedy: "see nmid --help" });
  }
  const options: Record<string, unknown> = command.opts();
  const values = new Map<Key, RawValue>();
  for (const [option, value] of Object.entries(options)) {
    const key = KEY_BY_OPTION.get(option);
    if (key === undefined) continue;
    const raw = typeof value === "string" ? fromText(key, value) : value;
    values.set(key, { raw, origin: `flag ${flagName(option)}` });
  }
  const configFile = typeof options.config === "string" ? options.config : undefined;
  return { values, problems, configFile, checkConfig: options.checkConfig === true, print: undefined };
}

function flagName(option: string): string {
  return `--${option.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function unknown(command: Command): Problem[] {
  const known = command.options.map((option) => option.long ?? option.flags);
  const problems: Problem[] = [];
  for (const [index, argument] of command.args.entries()) {
    if (argument.startsWith("-")) {
      const [flag = argument] = argument.split("=", 1);
      const remedy = `did you mean ${nearest(flag, [...known, "--help"])}?`;
      problems.push({ origin: `flag ${flag}`, what: "unknown flag", remedy });
    } else if (!command.args[index - 1]?.startsWith("-")) {
      // An argument right behind an unknown flag is taken for its value and not complained of twice.
      problems.push({ origin: `argument ${argument}`, what: "nmid takes no arguments", remedy: "see nmid --help" });
    }
  }
  return problems;
}
