/**
 * Logging, on the main thread only: dispatchers never log.
 *
 * Everything goes to stdout, as one JSON object a line where stdout is a pipe or a file (what journald, docker and log
 * shippers expect), and as readable lines where it is a terminal. Where stdout is the journal's, each line begins with its
 * priority, as sd-daemon(3) says. stderr stays free for what precedes or ends logging: usage errors and Node's own crash
 * reports.
 *
 * What must not be in a log is taken out here, whoever logs it: tokens by their key, addresses of the kernel by their looks.
 */
import { fstatSync } from "node:fs";
import { isatty } from "node:tty";
import { type DestinationStream, type LevelWithSilent, type Logger, pino } from "pino";
import pretty from "pino-pretty";
import { withoutKernelAddresses } from "./kernel-address.js";

export type { Logger } from "pino";
export type LogLevel = LevelWithSilent;

/** Where lines go: anything with write(); a stream that says it is a terminal gets readable lines. */
export interface LogStream extends DestinationStream {
  readonly isTTY?: boolean;
}

const STDOUT_FD = 1;
const METADATA = Symbol.for("pino.metadata");

/** Bound of what waits for a reader of stdout that is stuck; what does not fit is dropped. */
const PENDING_BYTES_MAX = 1 << 20;

/** Who holds one can take over a handler, or speak as somebody else. */
const SECRETS = ["token", "resume_token", "authorization"];
const CENSORED = "(secret)";

/** syslog(3)'s priorities; what pino calls fatal ends the daemon: critical. */
const PRIORITIES: readonly (readonly [atLeast: number, priority: string])[] = [
  [60, "<2>"],
  [50, "<3>"],
  [40, "<4>"],
  [30, "<6>"],
];
const PRIORITY_DEBUG = "<7>";

/**
 * A logger that writes `level` and above to `stream`, by default stdout. Lines carry `level` as a word and `time` in
 * ISO 8601, and neither pid nor host name, which journald and docker add themselves.
 */
export function createLogger(level: LogLevel, stream?: LogStream): Logger {
  return pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: SECRETS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: CENSORED },
    },
    new Outlet(destination(stream), stream === undefined && isJournal(STDOUT_FD, process.env.JOURNAL_STREAM)),
  );
}

/**
 * Whether the file is the one that systemd has connected to the journal: JOURNAL_STREAM holds its device and inode. The
 * variable alone says nothing, for it is inherited by whoever has stdout redirected elsewhere.
 */
export function isJournal(fd: number, journalStream: string | undefined): boolean {
  if (journalStream === undefined) return false;
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return journalStream === `${dev}:${ino}`;
}

/** What every line passes, whoever it is for. */
class Outlet implements DestinationStream {
  /** Asks pino to set lastLevel before each line. */
  readonly [METADATA] = true;
  lastLevel = 0;
  readonly #inner: DestinationStream & { flushSync?(): void };
  readonly #hasPriority: boolean;

  constructor(inner: DestinationStream, hasPriority: boolean) {
    this.#inner = inner;
    this.#hasPriority = hasPriority;
  }

  write(line: string): void {
    const hidden = withoutKernelAddresses(line);
    this.#inner.write(this.#hasPriority ? priorityOf(this.lastLevel) + hidden : hidden);
  }

  /** Called by pino after a fatal line. */
  flushSync(): void {
    this.#inner.flushSync?.();
  }
}

function priorityOf(level: number): string {
  return PRIORITIES.find(([atLeast]) => level >= atLeast)?.[1] ?? PRIORITY_DEBUG;
}

function destination(stream: LogStream | undefined): DestinationStream {
  if (stream !== undefined) return stream.isTTY === true ? readable(stream) : stream;
  if (isatty(STDOUT_FD)) return readable(process.stdout);
  return new Stdout();
}

/**
 * Asynchronous, so that a stuck log reader does not stall the main thread; pino flushes it when the process exits. A disk that
 * is full is no reason to stop: what waits is tried again with the next line. It is not flushed then, which sonic-boom would
 * try for ever.
 */
class Stdout implements DestinationStream {
  readonly #stream: ReturnType<typeof pino.destination>;
  #fails = false;

  constructor() {
    // Before pino's own, which flushes.
    process.once("exit", () => {
      if (this.#fails) this.#stream.destroy();
    });
    this.#stream = pino.destination({ fd: STDOUT_FD, sync: false, maxLength: PENDING_BYTES_MAX });
    this.#stream.on("error", () => {
      this.#fails = true;
    });
    this.#stream.on("drain", () => {
      this.#fails = false;
    });
  }

  write(line: string): void {
    this.#stream.write(line);
  }

  flushSync(): void {
    if (!this.#fails) this.#stream.flushSync();
  }
}

/** Formats in-process and writes at once: pino-pretty's own stream would lose the last lines before an exit. */
function readable(stream: LogStream): DestinationStream {
  const format = pretty.prettyFactory({
    translateTime: "SYS:HH:MM:ss.l",
    messageFormat: (record, messageKey) => withoutControls(String(record[messageKey] ?? "")),
  });
  return {
    write(line) {
      stream.write(format(line) ?? line);
    },
  };
}

/** Messages may quote what clients sent: it must neither steer the terminal nor forge a line. */
function withoutControls(text: string): string {
  return text.replace(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}
