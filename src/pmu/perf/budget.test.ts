import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { filesOf, type MachineName } from "../events/machines.test-support.js";
import type { Source } from "../source.js";
import { FakeKernel } from "./fake-kernel.test-support.js";
import { openPerfSource } from "./source.js";

function setUp(counters: number, machine: MachineName = "intel-server"): { kernel: FakeKernel; source: Source } {
  const kernel = new FakeKernel();
  kernel.files = filesOf(machine);
  const source = openPerfSource({ ringBytes: 16_384, kernel });
  kernel.counters = counters;
  return { kernel, source };
}

function ask({ kernel, source }: { kernel: FakeKernel; source: Source }, ...specs: string[]): string | null {
  const answer = source.whyNotTogether(specs.flatMap((event) => source.resolve({ event })));
  assert.deepEqual(kernel.openEvents, [], "nothing stays open");
  return answer;
}

describe("whyNotTogether", () => {
  it("lets stand what the PMU can count at once", () => {
    const machine = setUp(2);
    assert.equal(ask(machine, "cycles", "instructions"), null);
    assert.equal(
      ask(machine, "cycles", "instructions", "cache-misses"),
      "the PMU of CPU 0 cannot count cycles, instructions, cache-misses at once",
    );
    assert.equal(ask(machine), null);
  });

  it("counts the members of a group, and nothing twice", () => {
    const machine = setUp(3);
    assert.equal(ask(machine, "{cycles,instructions}:S", "{cycles,instructions}:S", "branches", "branches"), null);
    // The group's own instructions are beside those of another handler.
    assert.match(ask(machine, "{cycles,instructions}:S", "instructions", "branches") ?? "", /cannot count/);
  });

  it("does not count what needs no counter", () => {
    const machine = setUp(1);
    assert.equal(ask(machine, "cycles", "cpu-clock", "page-faults", "sched:sched_switch", "mem:0x1000"), null);
  });

  it("sees what others have pinned, on whichever CPU", () => {
    const machine = setUp(3);
    machine.kernel.pinnedByOthers = (cpu) => (cpu === 5 ? 2 : 0);
    assert.equal(ask(machine, "cycles"), null);
    assert.match(ask(machine, "cycles", "instructions") ?? "", /^the counters of CPU 5 .* are pinned by others/);
  });

  it("asks each PMU for itself", () => {
    const machine = setUp(1);
    assert.equal(ask(machine, "cycles", "intel_pt//"), null);
    assert.match(ask(machine, "cycles", "cpu/r1/", "intel_pt//") ?? "", /cannot count cycles, cpu\/r1\/ at once/);
  });

  it("asks each type of core for itself", () => {
    const machine = setUp(1, "intel-hybrid");
    assert.equal(ask(machine, "cycles"), null);
    assert.match(ask(machine, "cpu_core/cycles/", "cpu_core/r1/") ?? "", /cannot count/);
  });

  it("leaves it to the opening to say what is wrong with one event", () => {
    const machine = setUp(4);
    machine.kernel.refuse = (call, { attr }) => (call === "open" && attr.type !== 1 ? "ENOENT" : null);
    assert.equal(ask(machine, "cycles"), null);
    assert.equal(ask(machine, "cycles", "instructions"), null);
  });
});
