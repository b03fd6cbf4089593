import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, it } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { type FilterSpec, filterBytes, filterKey, OwnerCache, SampleFilter } from "./filter.js";
import { LaneIndex } from "./lane-index.js";

const ALL = { pids: [], cpus: [], uids: [], cgroupIds: [], excludeUser: false, excludeKernel: false };

describe("SampleFilter", () => {
  it("knows when there is nothing to test", () => {
    const owners = new OwnerCache();
    assert.equal(new SampleFilter(ALL, owners).passesAll, true);
    for (const part of [
      { pids: [0] },
      { cpus: [0] },
      { uids: [0] },
      { cgroupIds: [1] },
      { excludeUser: true },
      { excludeKernel: true },
    ]) {
      assert.equal(new SampleFilter({ ...ALL, ...part }, owners).passesAll, false, JSON.stringify(part));
    }
  });
});

describe("filterBytes", () => {
  it("is nothing for a filter that names nothing", () => {
    assert.equal(filterBytes({ ...ALL, excludeUser: true }), 0);
  });

  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const heapBytes = (): number => {
    collect();
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const range = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

  for (const entries of [4, 100, 1024, 16_384]) {
    for (const lists of [1, 2]) {
      it(`is about what a dispatcher comes to hold: ${lists} lists of ${entries}`, () => {
        const index = new LaneIndex(new OwnerCache());
        const kept: unknown[] = [];
        const before = heapBytes();
        let estimate = 0;
        for (let first = 1; first < 100_000; first += entries) {
          const pids = range(4_000_000 + first, entries);
          const spec: FilterSpec = { ...ALL, pids, cgroupIds: lists === 1 ? [] : range(5e9 + first, entries) };
          const key = filterKey(spec);
          kept.push(spec, key, index.of(key, spec));
          estimate += filterBytes(spec);
        }
        const held = heapBytes() - before;
        assert.ok(kept.length > 0);
        assert.ok(estimate > held * 0.9 && estimate < held * 2, `${estimate} bytes for ${held}`);
      });
    }
  }
});

describe("OwnerCache", () => {
  it("knows this process's owner, and that of nobody who has gone", () => {
    const owners = new OwnerCache();
    assert.equal(owners.owner(process.pid, 0), process.geteuid?.());
    assert.equal(owners.owner(2 ** 23, 0), -1);
    assert.equal(owners.owner(0xffffffff, 0), -1);
    assert.equal(owners.owner(0, 0), -1, "the idle task has no directory");
  });

  it("remembers an owner for a second, and looks again then", async () => {
    const child = spawn("sleep", ["60"], { stdio: "ignore" });
    await once(child, "spawn");
    const owners = new OwnerCache();
    const pid = child.pid as number;
    const uid = process.geteuid?.();
    const exit = once(child, "exit");
    assert.equal(owners.owner(pid, 5e9), uid);
    child.kill("SIGKILL");
    await exit;
    assert.equal(owners.owner(pid, 5e9 + 999_999_999), uid);
    assert.equal(owners.owner(pid, 6e9), -1);
  });
});
