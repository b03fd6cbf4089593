/** By name, and only what is asked for: a mutated build of one need not load the others. */
import type { Target, TargetName } from "./target.js";

export async function loadTarget(name: TargetName): Promise<Target> {
  switch (name) {
    case "record":
      return (await import("./record-target.js")).recordTarget;
    case "perf-data":
      return (await import("./perf-data-target.js")).perfDataTarget;
    case "events":
      return (await import("./events-target.js")).eventsTarget;
  }
}
