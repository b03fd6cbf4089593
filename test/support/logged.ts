/** What a daemon's log says, which comes through a pipe and so a little later than what it tells of. */
import { poll } from "./conditions.js";
import type { RunningDaemon } from "./daemon.js";

/** Resolves with the first line that matches. */
export async function untilLogged(daemon: Pick<RunningDaemon, "logs">, pattern: RegExp): Promise<string> {
  return await poll(`a line of the log like ${pattern}`, () => daemon.logs.find((line) => pattern.test(line)));
}
