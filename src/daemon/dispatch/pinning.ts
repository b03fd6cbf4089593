/** On which CPUs the dispatchers' threads may run, and what is wrong where they may not. */
import { formatCpuList, parseCpuList } from "../../pmu/cpu-list.js";
import { threadAffinity } from "../../pmu/ffi.js";
import { liveCpuTree, readTopology, type Topology } from "../../pmu/topology.js";
import type { DispatcherCpus } from "../config/dispatcher-cpus.js";
import { assignRings } from "./assign.js";

/** The CPUs a daemon finds. */
export interface CpuState {
  /** Those this process may run on. */
  readonly usable: readonly number[];
  readonly topology: Topology;
  /** null where sysfs is hidden: then the kernel alone decides. */
  readonly online: readonly number[] | null;
  readonly present: readonly number[] | null;
}

/** The daemon cannot run its dispatchers where it was told to. */
export class PinningError extends Error {
  override readonly name = "PinningError";
  readonly code = "DISPATCHER_CPUS_UNUSABLE";
}

/** To be called on the main thread, which is not pinned. */
export function liveCpuState(): CpuState {
  const usable = threadAffinity();
  return {
    usable,
    topology: readTopology(usable, liveCpuTree),
    online: readCpuList("online"),
    present: readCpuList("present"),
  };
}

function readCpuList(name: string): number[] | null {
  const text = liveCpuTree.read(name);
  return text === null ? null : parseCpuList(text);
}

/**
 * The CPUs of each dispatcher; null: they are not pinned. `drained` are those whose rings each drains, empty where the
 * rings' CPUs are not this machine's. `readState` is called where something is to be pinned. Throws PinningError for a CPU
 * that is not there or offline.
 */
export function planPinning(
  wanted: DispatcherCpus,
  drained: readonly (readonly number[])[],
  readState: () => CpuState,
): readonly (readonly number[])[] | null {
  switch (wanted.kind) {
    case "off":
      return null;
    case "auto":
      return nearTheirRings(drained, readState());
    case "lists": {
      const state = readState();
      wanted.lists.forEach((cpus, dispatcher) => {
        for (const cpu of cpus) checkCpu(cpu, dispatcher, state);
      });
      return wanted.lists;
    }
  }
}

/**
 * A dispatcher costs time on the CPUs whose samples it drains and on no others, and finds what it reads in their caches.
 * Of those the process may not use, as in a container with some of the machine's CPUs, it takes no notice; where none is
 * left it gets a share of what there is.
 */
function nearTheirRings(
  drained: readonly (readonly number[])[],
  { usable, topology }: CpuState,
): (readonly number[])[] {
  const shares = assignRings(usable, topology, drained.length);
  return drained.map((cpus, dispatcher) => {
    const near = cpus.filter((cpu) => usable.includes(cpu));
    const share = near.length > 0 ? near : shares[dispatcher];
    return share.length > 0 ? share : usable;
  });
}

function checkCpu(cpu: number, dispatcher: number, { online, present }: CpuState): void {
  const which = `dispatcher_cpus: CPU ${cpu} of dispatcher ${dispatcher}`;
  if (present !== null && !present.includes(cpu)) {
    throw new PinningError(`${which} does not exist: name CPUs of ${formatCpuList(present)}, which this machine has.`);
  }
  if (online !== null && !online.includes(cpu)) {
    throw new PinningError(
      `${which} is offline: bring it online (echo 1 > /sys/devices/system/cpu/cpu${cpu}/online), or name CPUs of ${formatCpuList(online)}.`,
    );
  }
}

/** What became of a dispatcher's wish. */
export interface Pinned {
  /** The CPUs its thread may run on; empty when it is not pinned. */
  readonly cpus: readonly number[];
  /** What the kernel said, where it refused. */
  readonly refusal: string | null;
}

export const NOT_PINNED: Pinned = { cpus: [], refusal: null };

/** What is wrong with the outcome, and what to do about it; null when it is as wanted. */
export function pinningProblem(dispatcher: number, wanted: readonly number[] | null, pinned: Pinned): string | null {
  const { cpus, refusal } = pinned;
  if (wanted === null || (refusal === null && wanted.every((cpu) => cpus.includes(cpu)))) return null;
  // The kernel's own refusal is EINVAL: a thread may always choose among the CPUs that it is granted.
  if (refusal?.includes("EPERM")) {
    return (
      `dispatcher_cpus: dispatcher ${dispatcher} may not be pinned, a filter of system calls forbids it (${refusal}): ` +
      "allow sched_setaffinity (under systemd with the drop-in pinning.conf.example), or set dispatcher_cpus to off."
    );
  }
  const outcome =
    refusal === null
      ? `grants only ${formatCpuList(cpus)} of`
      : `refuses (${refusal}), as it does when it grants none of`;
  return (
    `dispatcher_cpus: for dispatcher ${dispatcher} the kernel ${outcome} ${formatCpuList(wanted)}: ` +
    "name CPUs of the daemon's cpuset that are online, or widen the cpuset (AllowedCPUs= in a unit, --cpuset-cpus of a container)."
  );
}
