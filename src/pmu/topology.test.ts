import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { liveKernel } from "./perf/kernel.js";
import { type CpuPlace, liveCpuTree, readTopology, UNPLACED } from "./topology.js";
import {
  FOUR_COMPLEXES,
  HYBRID,
  type Machine,
  SPARSE,
  TELLS_NOTHING,
  TWO_SOCKETS,
  treeOf,
} from "./topology.test-support.js";

function places({ cpus, tree }: Machine): (cpu: number) => CpuPlace {
  const topology = readTopology(cpus, tree);
  return (cpu) => topology.get(cpu) as CpuPlace;
}

describe("readTopology", () => {
  test("two sockets: threads of a core, caches and nodes by socket", () => {
    const place = places(TWO_SOCKETS);
    assert.deepEqual(place(11), { package: 1, node: 1, lastLevelCache: 1, level2Cache: 3, core: 3 });
    assert.deepEqual(place(3), place(11));
    // core_id is the same in both sockets: no level may go by it.
    assert.notEqual(place(2).core, place(3).core);
  });

  test("hybrid: efficient cores are alone in their core and share their second-level cache", () => {
    const place = places(HYBRID);
    assert.deepEqual(place(5), { package: 0, node: 0, lastLevelCache: 0, level2Cache: 4, core: 4 });
    assert.deepEqual(place(14), { package: 0, node: 0, lastLevelCache: 0, level2Cache: 12, core: 14 });
  });

  test("several last-level caches in one package", () => {
    const place = places(FOUR_COMPLEXES);
    assert.deepEqual(
      [0, 14, 15, 8, 23].map((cpu) => place(cpu).lastLevelCache),
      [0, 0, 3, 6, 9],
    );
  });

  test("sparse numbers; without a third level the second is the last", () => {
    const place = places(SPARSE);
    assert.deepEqual(place(47), { package: 3, node: 8, lastLevelCache: 47, level2Cache: 47, core: 47 });
  });

  test("what is not told, or is nonsense, is unplaced", () => {
    const nowhere = {
      package: UNPLACED,
      node: UNPLACED,
      lastLevelCache: UNPLACED,
      level2Cache: UNPLACED,
      core: UNPLACED,
    };
    assert.deepEqual(places(TELLS_NOTHING)(3), nowhere);
    const odd = treeOf({
      "cpu0/topology/physical_package_id": "-1",
      "cpu0/topology/thread_siblings_list": "",
      "cpu0/cache/index0/level": "2",
      "cpu0/cache/index0/shared_cpu_list": "nonsense",
      "cpu0/cache/index1/level": "3",
      "cpu0/nodeX/cpulist": "0",
    });
    assert.deepEqual(places({ cpus: [0], tree: odd })(0), nowhere);
  });

  test("the newer name of the list of a core's threads will do", () => {
    const { core } = places({ cpus: [3], tree: treeOf({ "cpu3/topology/core_cpus_list": "1,3" }) })(3);
    assert.equal(core, 1);
  });

  test("this machine: every CPU is in its own core, and is its lowest or shares it with one that is", () => {
    const cpus = liveKernel.onlineCpus();
    const topology = readTopology(cpus, liveCpuTree);
    assert.deepEqual([...topology.keys()], cpus);
    for (const [cpu, { core, lastLevelCache }] of topology) {
      assert.ok(core === UNPLACED || (core <= cpu && topology.get(core)?.core === core), `core of CPU ${cpu}: ${core}`);
      assert.ok(lastLevelCache === UNPLACED || topology.get(lastLevelCache)?.lastLevelCache === lastLevelCache);
    }
  });
});
