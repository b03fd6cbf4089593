import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type CpuPlace, readTopology, UNKNOWN_TOPOLOGY } from "../../pmu/topology.js";
import {
  FOUR_COMPLEXES,
  HYBRID,
  type Machine,
  SPARSE,
  TELLS_NOTHING,
  TWO_SOCKETS,
} from "../../pmu/topology.test-support.js";
import { assignLate, assignRings } from "./assign.js";

const shares = ({ cpus, tree }: Machine, dispatchers: number) =>
  assignRings(cpus, readTopology(cpus, tree), dispatchers).map((share) => share.join(" "));

describe("assignRings", () => {
  test("two sockets: whole sockets, then halves of them, then cores, then threads", () => {
    assert.deepEqual(shares(TWO_SOCKETS, 1), ["0 8 2 10 4 12 6 14 1 9 3 11 5 13 7 15"]);
    assert.deepEqual(shares(TWO_SOCKETS, 2), ["0 8 2 10 4 12 6 14", "1 9 3 11 5 13 7 15"]);
    assert.deepEqual(shares(TWO_SOCKETS, 4), ["0 8 2 10", "4 12 6 14", "1 9 3 11", "5 13 7 15"]);
    assert.deepEqual(shares(TWO_SOCKETS, 8), ["0 8", "2 10", "4 12", "6 14", "1 9", "3 11", "5 13", "7 15"]);
    assert.deepEqual(shares(TWO_SOCKETS, 16), "0 8 2 10 4 12 6 14 1 9 3 11 5 13 7 15".split(" "));
  });

  test("shares that cannot be even are cut where that tears the fewest cores apart", () => {
    // 5 + 6 + 5 would tear two cores, 6 + 5 + 5 tears one.
    assert.deepEqual(shares(TWO_SOCKETS, 3), ["0 8 2 10 4 12", "6 14 1 9 3", "11 5 13 7 15"]);
  });

  test("hybrid: clusters of efficient cores stay together", () => {
    assert.deepEqual(shares(HYBRID, 2), ["0 1 2 3 4 5 6 7", "8 9 10 11 12 13 14 15"]);
    assert.deepEqual(shares(HYBRID, 4), ["0 1 2 3", "4 5 6 7", "8 9 10 11", "12 13 14 15"]);
  });

  test("core complexes with caches of their own", () => {
    assert.deepEqual(shares(FOUR_COMPLEXES, 4), [
      "0 12 1 13 2 14",
      "3 15 4 16 5 17",
      "6 18 7 19 8 20",
      "9 21 10 22 11 23",
    ]);
    assert.deepEqual(
      shares(FOUR_COMPLEXES, 2).map((share) => share.split(" ").length),
      [12, 12],
    );
    // A share of less than a complex does not take from two.
    assert.deepEqual(shares(FOUR_COMPLEXES, 12)[3], "3 15");
  });

  test("sparse numbers", () => {
    assert.deepEqual(shares(SPARSE, 2), ["0 2 3", "40 41 47"]);
    assert.deepEqual(shares(SPARSE, 4), ["0 2", "3", "40 41", "47"]);
  });

  test("where nothing is known: blocks of neighbours, the longer ones first", () => {
    assert.deepEqual(shares(TELLS_NOTHING, 4), ["0 1", "2 3", "4", "5"]);
    assert.deepEqual(assignRings([4, 2, 9, 0, 7], UNKNOWN_TOPOLOGY, 2), [
      [0, 2, 4],
      [7, 9],
    ]);
  });

  test("more dispatchers than rings: the last ones get none", () => {
    assert.deepEqual(assignRings([1, 0], UNKNOWN_TOPOLOGY, 4), [[0], [1], [], []]);
    assert.deepEqual(assignRings([], UNKNOWN_TOPOLOGY, 2), [[], []]);
  });

  test("whatever the machine: each ring once, shares within one ring of each other, no dearer than any other cut", () => {
    for (const machine of [TWO_SOCKETS, HYBRID, FOUR_COMPLEXES, SPARSE, TELLS_NOTHING]) {
      const topology = readTopology(machine.cpus, machine.tree);
      for (let dispatchers = 1; dispatchers <= machine.cpus.length; dispatchers++) {
        const dealt = assignRings(machine.cpus, topology, dispatchers);
        const lengths = dealt.map((share) => share.length);
        assert.deepEqual(
          dealt.flat().sort((a, b) => a - b),
          [...machine.cpus],
        );
        assert.ok(Math.max(...lengths) - Math.min(...lengths) <= 1, `${dispatchers}: ${lengths}`);
        // The number of ways grows beyond what a test may take.
        if (dispatchers > 8) continue;
        const least = Math.min(...everyWay(dealt.flat(), dispatchers).map((way) => tornCores(way, topology)));
        assert.equal(tornCores(dealt, topology), least, `${dispatchers} dispatchers`);
      }
    }
  });
});

function tornCores(dealt: readonly (readonly number[])[], topology: ReadonlyMap<number, CpuPlace>): number {
  const coreOf = (cpu: number) => topology.get(cpu)?.core ?? cpu;
  const pairs = dealt.slice(1).map((share, d) => [dealt[d].at(-1) as number, share[0]]);
  return pairs.filter(([a, b]) => coreOf(a) === coreOf(b)).length;
}

/** All ways to cut the list into runs whose lengths differ by one at most. */
function everyWay(list: readonly number[], parts: number): number[][][] {
  if (parts === 1) return [[[...list]]];
  const short = Math.floor(list.length / parts);
  const lengths = list.length % parts === 0 ? [short] : [short, short + 1];
  return lengths.flatMap((length) =>
    everyWay(list.slice(length), parts - 1).map((rest) => [list.slice(0, length), ...rest]),
  );
}

describe("assignLate", () => {
  const { cpus, tree } = TWO_SOCKETS;
  const topology = readTopology(cpus, tree);

  test("a CPU that has come goes to those who have the fewest rings, near its neighbours", () => {
    const shares = [
      [0, 8, 2, 10],
      [4, 6, 14],
      [1, 9, 3],
    ];
    // The sibling of 4 has it near, the sibling of 9's package there, 0's core is full.
    assert.equal(assignLate(12, shares, topology), 1);
    assert.equal(assignLate(11, shares, topology), 2);
    assert.equal(assignLate(15, [[0], [1]], topology), 1);
    assert.equal(assignLate(0, [[8, 2], [1], []], topology), 2, "even shares before near ones");
  });

  test("where nothing is known, the first of those with the fewest", () => {
    assert.equal(assignLate(3, [[0, 1], [2], [4]], UNKNOWN_TOPOLOGY), 1);
    assert.equal(assignLate(3, [[]], UNKNOWN_TOPOLOGY), 0);
  });
});
