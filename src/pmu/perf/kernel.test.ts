import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { liveKernel } from "./kernel.js";

describe("liveKernel", () => {
  it("knows this machine", () => {
    const cpus = liveKernel.onlineCpus();
    assert.ok(cpus.length > 0 && cpus.every((cpu, i) => Number.isInteger(cpu) && (i === 0 || cpu > cpus[i - 1])));
    const paranoid = liveKernel.paranoid();
    assert.ok(paranoid === null || Number.isInteger(paranoid));
    assert.ok(liveKernel.maxSampleRate() > 0);
    assert.equal(typeof liveKernel.hasPerfmon(), "boolean");
  });
});
