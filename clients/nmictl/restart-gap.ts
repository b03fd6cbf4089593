import type { Loss } from "../typescript/index.js";

/** Between two daemons: nobody knows how many samples there would have been. Its times are 0 where no clock can say. */
export function isRestartGap({ reason, eventWide, count, tasks, auxBytes }: Loss): boolean {
  return reason === "RESTART" && eventWide && count === 0 && tasks === 0 && auxBytes === 0;
}
