import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { filesOf, type MachineName } from "../events/machines.test-support.js";
import type { EventInfo } from "../source.js";
import { FakeKernel } from "./fake-kernel.test-support.js";
import { openPerfSource } from "./source.js";

interface Listed {
  readonly kernel: FakeKernel;
  readonly pmus: readonly string[];
  find(name: string): EventInfo | undefined;
}

/** `countOnly` are types of PMUs whose drivers refuse to sample, as those of the uncore do. */
function list(machine: MachineName, countOnly: readonly number[] = []): Listed {
  const kernel = new FakeKernel();
  kernel.files = filesOf(machine);
  kernel.refuse = (call, { attr }) =>
    call === "open" && countOnly.includes(attr.type) && attr.samplePeriod > 0n ? "EINVAL" : null;
  const { events, pmus } = openPerfSource({ ringBytes: 16_384, kernel }).listEvents();
  assert.deepEqual(kernel.openEvents, []);
  return {
    kernel,
    pmus: pmus.map(({ name, type, cpus }) => `${name} ${type} ${cpus}`.trim()),
    find: (name) => events.find((event) => event.name === name),
  };
}

describe("the catalog of a server", () => {
  const { find, pmus } = list("intel-server", [14, ...[0, 1, 2, 3, 4, 5].map((i) => 20 + i)]);

  it("has the events that PMUs name, with what they mean", () => {
    const event = find("cpu/mem-loads/");
    assert.deepEqual([event?.group, event?.type, event?.config, event?.canSample], ["cpu", 4, 0x1cdn, true]);
    assert.match(event?.description ?? "", /event=0xcd,umask=0x1,ldlat=3/);
    assert.equal(find("power/energy-pkg.unit/"), undefined);
  });

  it("says of what only counts that it only counts", () => {
    const event = find("uncore_imc_0/cas_count_read/");
    assert.equal(event?.canSample, false);
    assert.match(event?.reason ?? "", /^the PMU only counts the event, it cannot sample it/);
  });

  it("has tracepoints by name, and not those of ftrace's own", () => {
    const event = find("sched:sched_switch");
    assert.deepEqual([event?.type, event?.config, event?.group, event?.canSample], [2, 315n, "sched", true]);
    assert.equal(find("ftrace:function"), undefined);
  });

  it("shows the form of breakpoints", () => {
    assert.equal(find("mem:<address>[/<length>][:<rwx>]")?.canSample, true);
  });

  it("lists PMUs with their CPUs", () => {
    assert.ok(pmus.includes("uncore_imc_5 25 0,28") && pmus.includes("cpu 4"), pmus.join("; "));
  });
});

describe("the catalog of other machines", () => {
  it("says what must be mounted before tracepoints can be had", () => {
    const event = list("vm").find("<subsystem>:<event>");
    assert.equal(event?.canSample, false);
    assert.match(event?.reason ?? "", /mount -t tracefs/);
    assert.match(list("amd").find("<subsystem>:<event>")?.reason ?? "", /may not read it/);
  });

  it("has an event once for each type of core that names it", () => {
    const { find } = list("intel-hybrid");
    assert.equal(find("cpu_core/mem-loads/")?.type, 4);
    // None of its CPUs is among those of the test.
    assert.equal(find("cpu_atom/mem-loads/")?.canSample, false);
    assert.match(find("cpu_atom/mem-loads/")?.reason ?? "", /none of its CPUs \(16-23\) is online/);
  });
});
