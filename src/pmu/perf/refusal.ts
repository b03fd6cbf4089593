/** Turns the kernel's refusals into sentences that say what is missing and how to give it. */
import { TYPE } from "../abi.js";
import { PmuError } from "../errors.js";
import { needsCounter } from "../events/parsed-event.js";
import { Errno } from "../ffi.js";
import type { ResolvedEvent } from "../source.js";
import { attrOf } from "./attr.js";
import type { Kernel } from "./kernel.js";

/** The event that could not be opened, and a CPU on which to find out more. */
export interface Attempt {
  readonly event: ResolvedEvent;
  readonly cpu: number;
}

/** `what` is the thing that was tried, as the user would name it. */
export function explainOpenFailure(error: unknown, what: string, kernel: Kernel, attempt?: Attempt): Error {
  if (!(error instanceof Errno)) return error as Error;
  const options = { cause: error };
  switch (error.code) {
    case "EACCES":
    case "EPERM":
      return new PmuError("PERMISSION", `${what}: ${error.code}: ${permissionRemedy(kernel)}`, options);
    case "ENOENT":
    case "ENODEV":
    case "EOPNOTSUPP": {
      const found = attempt === undefined ? null : diagnose(kernel, attempt);
      if (found !== null) return new PmuError("EVENT_UNSUPPORTED", `${what}: ${found} (${error.code}).`, options);
      return new PmuError(
        "EVENT_UNSUPPORTED",
        `${what}: this machine's PMU does not offer the event (${error.code}). \`nmictl events\` lists what it can sample; cpu-clock works everywhere.`,
        options,
      );
    }
    case "EINVAL":
      return new PmuError(
        "EVENT_UNSUPPORTED",
        `${what}: ${(attempt === undefined ? null : diagnose(kernel, attempt)) ?? REJECTED} (EINVAL).`,
        options,
      );
    case "E2BIG":
      return new PmuError(
        "EVENT_UNSUPPORTED",
        `${what}: this kernel is older than 6.3 and knows no config3 (E2BIG): leave the term out, or take a newer kernel.`,
        options,
      );
    case "ENOSPC":
      return new PmuError(
        "RESOURCE",
        `${what}: all hardware breakpoints of a CPU are taken, x86 has four (ENOSPC): end other breakpoints, or debuggers.`,
        options,
      );
    case "EBUSY":
      return new PmuError(
        "RESOURCE",
        `${what}: another tool holds the counter exclusively (EBUSY). Stop it, or use another event.`,
        options,
      );
    case "EMFILE":
    case "ENFILE":
      return new PmuError(
        "RESOURCE",
        `${what}: out of file descriptors (${error.code}); every event takes one for each CPU. Raise RLIMIT_NOFILE (LimitNOFILE= in the unit, \`ulimit -n\`).`,
        options,
      );
    case "ENOMEM":
      return new PmuError("RESOURCE", `${what}: the kernel is out of memory for it (ENOMEM).`, options);
    default:
      return new PmuError("SYSCALL", `${what}: ${error.message}`, options);
  }
}

/** For mmap of a ring, where EPERM means the locked-memory limits. */
export function explainMapFailure(error: unknown, ringKib: number, kernel: Kernel): Error {
  if (error instanceof Errno && error.code === "EPERM") {
    return new PmuError(
      "RESOURCE",
      `mapping a ring of ${ringKib} KiB: EPERM: kernel.perf_event_mlock_kb and RLIMIT_MEMLOCK are used up. Raise one of them (\`sysctl kernel.perf_event_mlock_kb=…\`, LimitMEMLOCK=), give CAP_IPC_LOCK, or lower ring_kib.`,
      { cause: error },
    );
  }
  return explainOpenFailure(error, `mapping a ring of ${ringKib} KiB`, kernel);
}

function permissionRemedy(kernel: Kernel): string {
  const paranoid = kernel.paranoid();
  const setting =
    paranoid === null ? "kernel.perf_event_paranoid cannot be read" : `kernel.perf_event_paranoid is ${paranoid}`;
  if (!kernel.hasPerfmon()) {
    return `${setting} and the daemon lacks CAP_PERFMON: run it as root, give it the capability (AmbientCapabilities=CAP_PERFMON in a unit, or \`setcap cap_perfmon+ep\` on a copy of node), or \`sysctl kernel.perf_event_paranoid=0\`.`;
  }
  if (paranoid !== null && paranoid > 2) {
    return `${setting}, where CAP_PERFMON alone is not enough on Debian's kernels: \`sysctl kernel.perf_event_paranoid=2\`.`;
  }
  return `${setting} and CAP_PERFMON is held, yet the kernel refuses: a security module, a seccomp filter (container run times block perf_event_open by default) or kernel lockdown forbids it.`;
}

const REJECTED = "the kernel rejects this combination of event and modifiers";

/** One errno has many reasons: what the kernel would take instead tells some of them apart. null when nothing does. */
function diagnose(kernel: Kernel, { event, cpu }: Attempt): string | null {
  const opens = (other: ResolvedEvent, samples: boolean): boolean => {
    const options = {
      carried: { sampleType: 0, readFormat: 0 },
      wakeEach: false,
      isMember: false,
      rate: samples ? other.rate : null,
    };
    try {
      kernel.close(kernel.openEvent(attrOf(other, options), cpu));
      return true;
    } catch {
      return false;
    }
  };
  if (!needsCounter(event) && event.type !== TYPE.BREAKPOINT && event.members.length === 0) return null;
  if (event.members.length > 0) {
    return "the PMU cannot count this group at once, or its events do not go together: give fewer, or leave the braces out";
  }
  if (event.type === TYPE.BREAKPOINT) {
    return "the CPU has no such breakpoint: x86 watches for w, rw or x, at addresses that are multiples of the length";
  }
  if (event.preciseIp > 0 && opens({ ...event, preciseIp: 0, excludeGuest: false }, true)) {
    return `the PMU cannot sample the event with a precision of ${event.preciseIp}: give fewer p, or P for the most there is`;
  }
  if (opens({ ...event, preciseIp: 0 }, false)) return "the PMU only counts the event, it cannot sample it";
  const plain = { ...event, preciseIp: 0, excludeUser: false, excludeKernel: false, excludeHv: false };
  if (opens({ ...plain, excludeHost: false, excludeGuest: false, excludeIdle: false }, false)) {
    return "the PMU only counts the event, and in all modes: it cannot sample it, and takes no modifiers";
  }
  return null;
}
