/** What a machine offers, for those who ask before they register. */
import { TYPE } from "../abi.js";
import { eventOf, type ParsedEvent } from "../events/parsed-event.js";
import { type EventHost, resolveEventSpec } from "../events/resolve.js";
import { whyNoTracepoints } from "../events/tracefs.js";
import { genericEvents } from "../generic-events.js";
import type { EventCatalog, EventInfo, PmuInfo } from "../source.js";

/** null when the event can be sampled here. */
type WhyNot = (event: ParsedEvent) => string | null;

/** Generic events, those that PMUs name, tracepoints, and the form of breakpoints, in that order. */
export function listHostEvents(host: EventHost, whyNot: WhyNot): EventCatalog {
  const events = [
    ...genericEvents().map((event) => described(host, whyNot, event)),
    ...pmuEvents(host, whyNot),
    ...tracepoints(host, whyNot),
    breakpoints(host, whyNot),
  ];
  return { events, pmus: pmusOf(host) };
}

function pmusOf({ pmus }: EventHost): PmuInfo[] {
  return pmus.names.flatMap((name) => {
    const pmu = pmus.find(name);
    return pmu === null ? [] : [{ name, type: pmu.type, cpus: pmu.cpus }];
  });
}

type Described = Omit<EventInfo, "canSample" | "reason">;

/** Tries what the name means; of several events all must be had. */
function described(host: EventHost, whyNot: WhyNot, event: Described): EventInfo {
  let reason: string | null = null;
  try {
    for (const one of resolveEventSpec(event.name, host)) reason ??= whyNot(one);
  } catch (error) {
    reason = (error as Error).message;
  }
  return { ...event, canSample: reason === null, reason: reason ?? "" };
}

function pmuEvents(host: EventHost, whyNot: WhyNot): EventInfo[] {
  return host.pmus.names.flatMap((name) => {
    const pmu = host.pmus.find(name);
    if (pmu === null) return [];
    return [...pmu.events].map(([event, terms]) =>
      described(host, whyNot, {
        name: `${name}/${event}/`,
        aliases: [],
        type: pmu.type,
        config: configOf(host, `${name}/${event}/`),
        description: `${terms} of ${name}`,
        group: name,
      }),
    );
  });
}

function configOf(host: EventHost, spec: string): bigint {
  try {
    return resolveEventSpec(spec, host)[0].config;
  } catch {
    return 0n;
  }
}

/** Thousands: only their ids are read, and one answers for all whether they can be sampled. */
function tracepoints({ tracefs }: EventHost, whyNot: WhyNot): EventInfo[] {
  let reason: string | null | undefined;
  const events: EventInfo[] = [];
  for (const subsystem of tracefs.subsystems) {
    for (const event of tracefs.events(subsystem)) {
      const id = tracefs.id(subsystem, event);
      // Some directories are of ftrace's own and have none.
      if (id === null) continue;
      const name = `${subsystem}:${event}`;
      if (reason === undefined) reason = whyNot(eventOf({ type: TYPE.TRACEPOINT, config: id }, name, []));
      events.push({
        name,
        aliases: [],
        type: TYPE.TRACEPOINT,
        config: id,
        description: "Tracepoint",
        group: subsystem,
        canSample: reason === null,
        reason: reason ?? "",
      });
    }
  }
  return events.length > 0 ? events : noTracepoints(whyNoTracepoints(tracefs));
}

function noTracepoints(reason: string | null): EventInfo[] {
  const pattern = { name: "<subsystem>:<event>", aliases: [], type: TYPE.TRACEPOINT, config: 0n, group: "tracepoint" };
  if (reason === null) return [];
  return [{ ...pattern, description: "Tracepoints, sched:sched_switch", canSample: false, reason }];
}

/** An address that any process may have; nothing is there to be hit. */
const TRIAL_BREAKPOINT = "mem:0x1000/1:w";

function breakpoints(host: EventHost, whyNot: WhyNot): EventInfo {
  const [trial] = resolveEventSpec(TRIAL_BREAKPOINT, host);
  const reason = whyNot(trial);
  return {
    name: "mem:<address>[/<length>][:<rwx>]",
    aliases: [],
    type: TYPE.BREAKPOINT,
    config: 0n,
    description: "Hardware breakpoint: accesses to 1, 2, 4 or 8 bytes, or execution, at an address",
    group: "breakpoint",
    canSample: reason === null,
    reason: reason ?? "",
  };
}
