/**
 * Logging, on the main thread only: dispatchers never log.
 *
 * Everything goes to stdout, as one JSON object a line where stdout is a pipe or a file (what journald, docker and log
 * shippers expect), and as readable lines where it is a terminal. stderr stays free for what precedes or ends logging:
 * usage errors and Node's own crash reports.
 */
import { isatty } from "node:tty";
import { type DestinationStream, type LevelWithSilent, type Logger, pino } from "pino";
import pretty from "pino-pretty";

export type { Logger } from "pino";
export type LogLevel = LevelWithSilent;

/** Where lines go: anything with write(); a stream that says it is a terminal gets readable lines. */
export interface LogStream extends DestinationStream {
  readonly isTTY?: boolean;
}

const STDOUT_FD = 1;

/** Bound of what waits for a reader of stdout that is stuck; what does not fit is dropped. */
const PENDING_BYTES_MAX = 1 << 20;

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
    },
    destination(stream),
  );
}

function destination(stream: LogStream | undefined): DestinationStream {
  if (stream !== undefined) return stream.isTTY === true ? readable(stream) : stream;
  if (isatty(STDOUT_FD)) return readable(process.stdout);
  // Asynchronous, so that a stuck log reader does not stall the main thread; pino flushes it when the process exits.
  return pino.destination({ fd: STDOUT_FD, sync: false, maxLength: PENDING_BYTES_MAX });
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
