import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, it } from "node:test";
import { OwnerCache, SampleFilter } from "./filter.js";

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
