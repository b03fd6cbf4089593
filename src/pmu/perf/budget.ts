/**
 * Whether a PMU has counters for a set of events. Nobody outside the kernel knows the constraints of all PMUs, so the
 * kernel is asked: the events are opened as one pinned group, which it refuses where they cannot stand beside each other,
 * and enabled, which ends in error where others have pinned what is left. It costs microseconds in which what is flexible
 * may be left out.
 */
import { FORMAT, IOC, TYPE } from "../abi.js";
import { needsCounter } from "../events/parsed-event.js";
import { PMU_TYPE_SHIFT } from "../events/pmu-event.js";
import { Errno } from "../ffi.js";
import type { ResolvedEvent } from "../source.js";
import { attrOf } from "./attr.js";
import { type CpuRing, ringsOf } from "./event.js";
import type { Kernel } from "./kernel.js";

/** Never reached while the trial lasts: precise events must sample to be opened. */
const TRIAL_RATE = { kind: "period", period: 2 ** 40 } as const;

const CORE_PMU = BigInt(TYPE.RAW);

/** Which PMU's counters it takes: perf_event_attr.type of the PMU. */
function pmuOf({ type, config }: ResolvedEvent): bigint {
  if (type !== TYPE.HARDWARE && type !== TYPE.HW_CACHE) return BigInt(type);
  const extended = config >> PMU_TYPE_SHIFT;
  return extended === 0n ? CORE_PMU : extended;
}

/**
 * Each once however many handlers want it, with its members, which are events of their own. What writes into AUX areas
 * takes no counter, and would not start without its area.
 */
function counting(events: readonly ResolvedEvent[]): ResolvedEvent[] {
  const opened = new Map(events.map((event) => [event.key, event]));
  const all = [...opened.values()].flatMap((event) => [event, ...event.members]);
  return all.filter((event) => needsCounter(event) && !event.hasAux);
}

/** The reason, or null when they can all count at once on every CPU. */
export function whyNotTogether(
  kernel: Kernel,
  rings: readonly CpuRing[],
  events: readonly ResolvedEvent[],
): string | null {
  const all = counting(events);
  for (const pmu of new Set(all.map(pmuOf))) {
    const group = all.filter((event) => pmuOf(event) === pmu);
    for (const { cpu } of rings) {
      const here = group.filter((event) => ringsOf(rings, event).some((ring) => ring.cpu === cpu));
      const why = here.length === 0 ? null : tryOn(kernel, cpu, here);
      if (why !== null) return why;
    }
  }
  return null;
}

function tryOn(kernel: Kernel, cpu: number, events: readonly ResolvedEvent[]): string | null {
  const names = events.map(({ name }) => name).join(", ");
  const fds: number[] = [];
  try {
    for (const [i, event] of events.entries()) {
      const attr = attrOf(
        { ...event, pinned: i === 0 },
        {
          carried: { sampleType: 0, readFormat: FORMAT.TOTAL_TIME_ENABLED },
          wakeEach: false,
          isMember: i > 0,
          rate: TRIAL_RATE,
        },
      );
      fds.push(kernel.openEvent(attr, cpu, fds[0]));
    }
    kernel.ioctl(fds[0], IOC.ENABLE, 0);
    // 0 bytes: the group is in error state, since a pinned one waits for nobody.
    if (kernel.read(fds[0], new BigUint64Array(2)) > 0) return null;
    return `the counters of CPU ${cpu} that ${names} need are pinned by others (the NMI watchdog, sysctl kernel.nmi_watchdog=0; or another tool)`;
  } catch (error) {
    // What one event alone is refused for, its opening says better. The first of a group stands for itself.
    if (!(error instanceof Errno) || error.code !== "EINVAL" || fds.length === 0) return null;
    return `the PMU of CPU ${cpu} cannot count ${names} at once`;
  } finally {
    for (const fd of fds.reverse()) kernel.close(fd);
  }
}
