#!/usr/bin/env node
/** The command line of nmid. Answers go to standard output, everything about the run to standard error. */
import { dirname } from "node:path";
import { Command, CommanderError, Option } from "commander";
import { type BrokerClient, connect, NmiError } from "../typescript/index.js";
import * as commands from "./commands.js";
import {
  collectCpus,
  collectEvents,
  collectFields,
  collectTexts,
  collectUints,
  defaultAddress,
  type GlobalOptions,
  parseHandlerId,
  parsePositive,
  parsePositiveUint32,
  parseSeconds,
  parseUint,
  tlsOptions,
} from "./options.js";
import { Output, printable } from "./output.js";
import { parseBranchFilter } from "./record/branch-filter.js";
import type { RecordOptions } from "./record/options.js";
import { record } from "./record/record.js";
import { type SubscribeOptions, subscribe } from "./subscribe.js";
import { table } from "./table.js";
import { type VerifyOptions, verify } from "./verify/verify.js";

const EXIT_SIGINT = 130;

const output = new Output(process.stdout);
const program = new Command("nmictl");

function note(line: string): void {
  process.stderr.write(`nmictl: ${printable(line)}\n`);
}

/** Runs `use` with a client of the daemon that the options name. */
async function withClient<T>(use: (client: BrokerClient, options: GlobalOptions) => Promise<T>): Promise<T> {
  const options = program.opts<GlobalOptions>();
  using client = connect(options.address, { tls: tlsOptions(options) });
  return await use(client, options);
}

/** Aborts with the first SIGINT or SIGTERM, whose name is the reason; the second ends the process at once. */
function stopSignal(): AbortSignal {
  const stop = new AbortController();
  const onSignal = (name: NodeJS.Signals) => {
    if (stop.signal.aborted) process.exit(EXIT_SIGINT);
    stop.abort(name);
  };
  process.on("SIGINT", onSignal).on("SIGTERM", onSignal);
  return stop.signal;
}

function defineProgram(): void {
  program
    .description("Talks to nmid, which shares the samples of performance counters among its clients.")
    .option("--address <address>", "unix:PATH or HOST:PORT of the daemon", defaultAddress())
    .option("--ca-file <file>", "speak TLS: PEM file of who signed the daemon's certificate")
    .option("--cert-file <file>", "PEM file of the certificate to show it")
    .option("--key-file <file>", "PEM file of that certificate's key")
    .option("--json", "one JSON object a line, for programs; integers that may be above 2^53 are strings", false)
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, "nmictl: ")) })
    .exitOverride();

  program
    .command("status")
    .description("what the daemon is doing")
    .action(() => withClient((client, { json }) => commands.status(client, output, json)));

  program
    .command("events")
    .description("what can be counted and sampled here, and why not where it cannot")
    .argument("[pattern]", "part of a name, or a whole one with * for anything")
    .action((pattern?: string) => withClient((client, { json }) => commands.events(client, output, json, pattern)));

  program
    .command("handlers")
    .description("the registered handlers")
    .action(() => withClient((client, { json }) => commands.handlers(client, output, json)));

  program
    .command("watch")
    .description("the handlers, then a line for each change")
    .action(() =>
      withClient((client, { json }) =>
        commands.watch(client, output, json, AbortSignal.any([stopSignal(), output.gone])),
      ),
    );

  program
    .command("deregister")
    .description("remove a handler and print its final books")
    .argument("<id>", "as `nmictl handlers` shows it", parseHandlerId)
    .option("--timeout <ms>", "how long the removal may wait", parseUint)
    .option("--discard", "count what is queued as lost instead of sending it")
    .action((id: number, options: { timeout?: number; discard?: true }) =>
      withClient((client, { json }) => commands.deregister(client, output, json, id, options)),
    );

  program
    .command("table")
    .description("the handler table as its file shows it, without the daemon's help")
    .option("--runtime-dir <dir>", "the daemon's runtime directory (default: where its Unix socket is)")
    .option("--all", "free slots too", false)
    .action(({ runtimeDir, all }: { runtimeDir?: string; all: boolean }) => {
      const { address, json } = program.opts<GlobalOptions>();
      const socket = address.startsWith("unix:") ? address : defaultAddress({});
      return table(output, json, runtimeDir ?? dirname(socket.slice("unix:".length)), all);
    });

  defineSubscribe();
  defineRecord();
  defineVerify();
}

function defineSubscribe(): void {
  program
    .command("subscribe")
    .description("register a handler, print its samples, and its books at the end")
    .option(
      "-e, --event <name>",
      "in perf's syntax, several with commas; may be repeated (default: the daemon's)",
      collectEvents,
    )
    .addOption(
      new Option("-F, --frequency <hz>", "samples a second, of each event")
        .argParser(parsePositiveUint32)
        .conflicts("period"),
    )
    .option("-c, --period <n>", "a sample each N events", parsePositive)
    .option("-p, --pid <pids>", "only these processes; may be repeated", collectUints)
    .option("-C, --cpu <list>", "only these CPUs, such as 0-3,8", collectCpus)
    .option("-u, --uid <uids>", "only processes of these users; may be repeated", collectUints)
    .option("--cgroup <path>", "only processes in this cgroup; may be repeated", collectTexts)
    .option("--exclude-user", "no samples from user space")
    .option("--exclude-kernel", "no samples from the kernel")
    .option("-g, --call-graph", "with callchains")
    .addOption(
      new Option(
        "--field <name>",
        "CALLCHAIN, or AUX: what events such as intel_pt// write into AUX areas, a line a piece, with the data in --json; may be repeated",
      ).argParser(collectFields),
    )
    .option("--name <name>", "of the handler (default: nmictl-PID)")
    .option("--duration <seconds>", "stop after this time", parseSeconds)
    .option("--count <n>", "stop after this many samples", parsePositive)
    .option("--max-bytes <n>", "bound of the daemon's queue for the handler", parsePositive)
    .addOption(
      new Option("--overflow <policy>", "when the queue is full").choices(["drop-newest", "drop-oldest", "disconnect"]),
    )
    .option("--flush-interval <ms>", "the longest a sample waits for company", parseUint)
    .option("--lease <ms>", "how long the handler outlives its stream", parsePositiveUint32)
    .option("--quiet", "only the books")
    .action((options: SubscribeOptions) =>
      withClient(async (client, { address, json }) => {
        const local = address.startsWith("unix:");
        process.exitCode = await subscribe(client, options, { output, note, json, local, signal: stopSignal() });
      }),
    );
}

function defineRecord(): void {
  program
    .command("record")
    .description("record samples as perf record does, to a file that perf report, script and annotate read")
    .argument("[command...]", "run and recorded, with whom it forks; after --")
    .option(
      "-e, --event <name>",
      "in perf's syntax, several with commas; may be repeated (default: the daemon's)",
      collectEvents,
    )
    .addOption(
      new Option("-F, --frequency <hz>", "samples a second, of each event (default: 4000)")
        .argParser(parsePositiveUint32)
        .conflicts("period"),
    )
    .option("-c, --period <n>", "a sample each N events", parsePositive)
    .option("-o, --output <file>", "the recording, or - for standard output", "perf.data")
    .option("-g", "with callchains")
    .addOption(new Option("--call-graph <mode>", "how callchains are made").choices(["fp", "dwarf"]))
    .option("-b, --branch-any", "with the branches before it")
    .addOption(
      new Option("-j, --branch-filter <kinds>", "with branches of these kinds and levels, such as any_call,u")
        .argParser(parseBranchFilter)
        .conflicts("branchAny"),
    )
    .option("-d, --data", "with data addresses")
    .option("-W, --weight", "with weights")
    .option("--phys-data", "with physical data addresses")
    .option("--data-page-size", "with the sizes of the pages of data addresses")
    .option("--code-page-size", "with the sizes of the pages of instructions")
    .option("--transaction", "with flags of memory transactions")
    .option("--all-cgroups", "with cgroups")
    .option("-R, --raw-samples", "with raw data (default for tracepoints)")
    .option("--user-regs", "with the registers of user space")
    .option("--intr-regs", "with the registers at the interrupt")
    .option("-p, --pid <pids>", "these processes and whom they fork; may be repeated", collectUints)
    .option("-a, --all-cpus", "everything")
    .option("-C, --cpu <list>", "only these CPUs, such as 0-3,8", collectCpus)
    .option("-u, --uid <uids>", "only processes of these users; may be repeated", collectUints)
    .option("--switch-events", "with context switches")
    .option("--no-buildid", "without the build ids of what was mapped")
    .option("--duration <seconds>", "stop after this time", parseSeconds)
    .action((command: string[], options: RecordOptions) =>
      withClient(async (client) => {
        const commandLine = ["nmictl", ...process.argv.slice(2)];
        process.exitCode = await record(client, options, command, { note, commandLine, signal: stopSignal() });
      }),
    );
}

function defineVerify(): void {
  program
    .command("verify")
    .description(
      "load the daemon with handlers of all kinds, and check that every sample is accounted for on both sides",
    )
    .option("--seconds <n>", "how long", parseSeconds, 30)
    .option("--handlers <n>", "how many at a time, beside one that gets everything", (text) => parseUint(text), 12)
    .option("--seed <n>", "of what they do; a run that failed says which it was", (text) => parseUint(text))
    .option(
      "-e, --event <name>",
      "in perf's syntax, several with commas; may be repeated (default: the daemon's)",
      collectEvents,
    )
    .option(
      "-F, --frequency <hz>",
      "of the fastest handler (default: every sample, or 99 from the kernel)",
      parsePositiveUint32,
    )
    .action(async (options: VerifyOptions) => {
      const globals = program.opts<GlobalOptions>();
      const { address, json } = globals;
      const tls = tlsOptions(globals);
      process.exitCode = await verify(options, { output, note, json, address, tls, signal: stopSignal() });
    });
}

/** The failure in one line, with what to do about it where that is known. */
function explain(error: unknown): string {
  const { address } = program.opts<GlobalOptions>();
  if (!(error instanceof Error)) return String(error);
  if (error instanceof NmiError && error.code === "UNAVAILABLE") {
    return `no daemon answers at ${address}: start it with \`npm start\`, or check --address (${error.message.replace(/\s*Resolution note:\s*$/, "")})`;
  }
  if (error instanceof NmiError && error.code === "DEADLINE_EXCEEDED") {
    return `${error.message}; \`nmictl table\` shows the handlers of a daemon that does not answer`;
  }
  return error.message;
}

try {
  defineProgram();
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    process.exitCode = error.exitCode;
  } else {
    note(explain(error).replace(/\s*\n\s*/g, "; "));
    process.exitCode = 1;
  }
}
// The connection to a daemon that has stopped answering would keep this process running.
await new Promise((resolve) => process.stdout.write("", resolve));
process.exit();
