/** Turns the kernel's refusals into sentences that say what is missing and how to give it. */
import { PmuError } from "../errors.js";
import { Errno } from "../ffi.js";
import type { Kernel } from "./kernel.js";

/** `what` is the thing that was tried, as the user would name it. */
export function explainOpenFailure(error: unknown, what: string, kernel: Kernel): Error {
  if (!(error instanceof Errno)) return error as Error;
  const options = { cause: error };
  switch (error.code) {
    case "EACCES":
    case "EPERM":
      return new PmuError("PERMISSION", `${what}: ${error.code}: ${permissionRemedy(kernel)}`, options);
    case "ENOENT":
    case "ENODEV":
    case "EOPNOTSUPP":
      return new PmuError(
        "EVENT_UNSUPPORTED",
        `${what}: this machine's PMU does not offer the event (${error.code}). \`nmictl events\` lists what it can sample; cpu-clock works everywhere.`,
        options,
      );
    case "EINVAL":
      return new PmuError(
        "EVENT_UNSUPPORTED",
        `${what}: the kernel rejects this combination of event and modifiers (EINVAL).`,
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
