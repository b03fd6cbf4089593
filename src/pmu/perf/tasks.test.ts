import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { FORMAT, TRACK } from "../abi.js";
import { PmuError } from "../errors.js";
import type { OpenTasks } from "../source.js";
import type { CpuRing } from "./event.js";
import { FakeKernel } from "./fake-kernel.test-support.js";
import { openPerfTasks } from "./tasks.js";

function setUp(): { kernel: FakeKernel; rings: CpuRing[]; open(contextSwitches?: boolean): OpenTasks } {
  const kernel = new FakeKernel();
  const rings = kernel.cpus.map((cpu) => {
    const attr = new Uint8Array(128);
    attr[0] = 1;
    attr[8] = 9;
    return { cpu, anchorFd: kernel.openEvent(attr, cpu) };
  });
  return {
    kernel,
    rings,
    open: (contextSwitches = false) => openPerfTasks(kernel, rings, { contextSwitches }),
  };
}

describe("openPerfTasks", () => {
  it("writes every CPU's records into its ring, switches only on request", () => {
    const { kernel, rings, open } = setUp();
    const tasks = open();
    assert.deepEqual(
      kernel.openEvents.map(({ cpu, output, enabled }) => [cpu, output, enabled]),
      rings.map(({ cpu, anchorFd }) => [cpu, anchorFd, false]),
    );
    const all = Object.values(TRACK).reduce((bits, bit) => bits | bit);
    assert.ok(kernel.openEvents.every(({ attr }) => attr.track === (all & ~TRACK.CONTEXT_SWITCH)));
    assert.deepEqual(
      tasks.formats[0].ids,
      kernel.openEvents.map(({ id }) => id),
    );
    tasks.enable();
    assert.ok(kernel.openEvents.every(({ enabled }) => enabled));
    tasks.disable();
    assert.ok(kernel.openEvents.every(({ enabled }) => !enabled));
    tasks.close();
    tasks.close();
    open(true);
    assert.ok(kernel.openEvents.every(({ attr }) => attr.track === all));
  });

  it("does without what an older kernel does not know, and counts losses where it can", () => {
    const { kernel, open } = setUp();
    kernel.reading = () => [0n, 1n, 1n, 5n];
    assert.equal(open().readLost(), 15);
    for (const [unknown, left] of [
      [TRACK.TEXT_POKE, TRACK.CGROUP],
      [TRACK.NAMESPACES, TRACK.MMAP2],
    ] as const) {
      kernel.refuse = (call, { attr }) => (call === "open" && (attr.track & unknown) !== 0n ? "EINVAL" : null);
      const before = kernel.events.length;
      const tasks = open();
      const attrs = kernel.events.slice(before).map(({ attr }) => attr);
      assert.equal(attrs.length, 3);
      assert.ok(attrs.every(({ track }) => (track & unknown) === 0n && (track & left) !== 0n));
      assert.ok(attrs.every(({ readFormat }) => (readFormat & BigInt(FORMAT.LOST)) === 0n));
      assert.equal(tasks.readLost(), null);
    }
  });

  it("serves the CPUs that are left, and closes what it opened when one refuses", () => {
    const { kernel, open } = setUp();
    kernel.refuse = (call, { cpu }) => (call === "open" && cpu === 2 ? "ENODEV" : null);
    open().close();
    for (const [code, message] of [
      ["EACCES", /^tasks: .*perf_event_paranoid/],
      ["EINVAL", /^tasks: /],
    ] as const) {
      kernel.refuse = (call, { cpu }) => (call === "open" && cpu === 5 ? code : null);
      assert.throws(
        () => open(),
        (error: unknown) => error instanceof PmuError && message.test(error.message),
      );
      assert.equal(kernel.openEvents.length, 0);
    }
  });
});
