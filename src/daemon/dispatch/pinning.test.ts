import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { readTopology, UNKNOWN_TOPOLOGY } from "../../pmu/topology.js";
import { TWO_SOCKETS } from "../../pmu/topology.test-support.js";
import { type CpuState, liveCpuState, PinningError, pinningProblem, planPinning } from "./pinning.js";

function state(usable: readonly number[], more: Partial<CpuState> = {}): () => CpuState {
  return () => ({ usable, topology: UNKNOWN_TOPOLOGY, online: usable, present: usable, ...more });
}

const auto = { kind: "auto" } as const;

describe("planPinning", () => {
  test("off pins nothing", () => {
    const unasked = () => assert.fail("the machine was looked at");
    assert.equal(planPinning({ kind: "off" }, [[0], [1]], unasked), null);
  });

  test("auto: where the rings are that it drains, as far as the process may go there", () => {
    assert.deepEqual(
      planPinning(
        auto,
        [
          [0, 1],
          [2, 3],
        ],
        state([0, 1, 2, 3]),
      ),
      [
        [0, 1],
        [2, 3],
      ],
    );
    assert.deepEqual(
      planPinning(
        auto,
        [
          [0, 1],
          [2, 3],
        ],
        state([1, 2, 3]),
      ),
      [[1], [2, 3]],
    );
  });

  test("auto: a share of what there is, by topology, where its rings are out of reach or another machine's", () => {
    const topology = readTopology(TWO_SOCKETS.cpus, TWO_SOCKETS.tree);
    const sockets = [
      [0, 8, 2, 10, 4, 12, 6, 14],
      [1, 9, 3, 11, 5, 13, 7, 15],
    ];
    assert.deepEqual(planPinning(auto, [[], []], state(TWO_SOCKETS.cpus, { topology })), sockets);
    // In a container with four of eight CPUs.
    assert.deepEqual(
      planPinning(
        auto,
        [
          [0, 1, 2, 3],
          [4, 5, 6, 7],
        ],
        state([0, 1, 2, 3]),
      ),
      [
        [0, 1, 2, 3],
        [2, 3],
      ],
    );
  });

  test("auto: a dispatcher for which no CPU is left may run on all", () => {
    assert.deepEqual(planPinning(auto, [[4], [5], []], state([4, 5])), [[4], [5], [4, 5]]);
  });

  test("lists are taken as they are, also beyond what the process may use now", () => {
    const lists = [[3], [0, 3]];
    assert.deepEqual(
      planPinning({ kind: "lists", lists }, [[], []], state([0], { online: [0, 3], present: null })),
      lists,
    );
    // sysfs is hidden: the kernel decides.
    assert.deepEqual(planPinning({ kind: "lists", lists }, [], state([0], { online: null, present: null })), lists);
  });

  test("a CPU that is not there, or is offline, is named with the remedy", () => {
    const machine = state([0, 1], { online: [0, 1], present: [0, 1, 2] });
    const plan =
      (...lists: number[][]) =>
      () =>
        planPinning({ kind: "lists", lists }, [], machine);
    assert.throws(plan([0], [1, 7]), (error) => {
      assert.ok(error instanceof PinningError && error.code === "DISPATCHER_CPUS_UNUSABLE");
      assert.equal(
        error.message,
        "dispatcher_cpus: CPU 7 of dispatcher 1 does not exist: name CPUs of 0-2, which this machine has.",
      );
      return true;
    });
    assert.throws(plan([2]), {
      message:
        "dispatcher_cpus: CPU 2 of dispatcher 0 is offline: bring it online (echo 1 > /sys/devices/system/cpu/cpu2/online), or name CPUs of 0-1.",
    });
  });

  test("this machine has the CPUs that this process may use", () => {
    const { usable, online, present, topology } = liveCpuState();
    assert.ok(usable.length > 0);
    for (const cpu of usable) {
      assert.ok((online?.includes(cpu) ?? true) && (present?.includes(cpu) ?? true) && topology.has(cpu), `CPU ${cpu}`);
    }
  });
});

describe("pinningProblem", () => {
  test("none where nothing was wanted, or more was granted", () => {
    assert.equal(pinningProblem(0, null, { cpus: [], refusal: null }), null);
    assert.equal(pinningProblem(0, [1], { cpus: [1], refusal: null }), null);
  });

  test("what the kernel left out, and what it refused", () => {
    assert.match(
      pinningProblem(1, [4, 5, 6], { cpus: [4], refusal: null }) ?? "",
      /^dispatcher_cpus: for dispatcher 1 the kernel grants only 4 of 4-6: name CPUs of the daemon's cpuset/,
    );
    assert.match(
      pinningProblem(0, [9], { cpus: [], refusal: "sched_setaffinity: EINVAL" }) ?? "",
      /^dispatcher_cpus: for dispatcher 0 the kernel refuses \(sched_setaffinity: EINVAL\), .* none of 9: name CPUs/,
    );
  });

  test("what the kernel would not even be asked", () => {
    assert.match(
      pinningProblem(2, [0], { cpus: [], refusal: "sched_setaffinity: EPERM" }) ?? "",
      /^dispatcher_cpus: dispatcher 2 may not be pinned, a filter .*EPERM.*: allow sched_setaffinity .*pinning\.conf\.example/,
    );
  });
});
