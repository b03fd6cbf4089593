import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PAGE_BYTES, SAMPLE } from "../abi.js";
import { type OpenEvent, PLAIN_ATTR, type ResolvedEvent, UNGROUPED } from "../source.js";
import { AUX_AREA_BYTES, AUX_RING_BYTES, isAuxPmu, openAuxEvent } from "./aux-event.js";
import { errno, FakeKernel } from "./fake-kernel.test-support.js";
import { addPt, PT_TYPE } from "./fake-pt.test-support.js";
import { openPerfSource } from "./source.js";

const PT: ResolvedEvent = {
  ...PLAIN_ATTR,
  ...UNGROUPED,
  name: "intel_pt//u",
  key: "intel_pt//u",
  type: PT_TYPE,
  config: 0x300e601n,
  config1: 0x11n,
  config2: 0x22n,
  excludeKernel: true,
  excludeHv: true,
  rate: { kind: "period", period: 1 },
  periodUnit: "events",
  hasAux: true,
};

function setUp(): { kernel: FakeKernel; open: () => OpenEvent } {
  const kernel = new FakeKernel();
  addPt(kernel);
  return { kernel, open: () => openAuxEvent(kernel, kernel.cpus, PT) };
}

function assertNothingLeft(kernel: FakeKernel): void {
  assert.deepEqual(kernel.openFds, []);
  assert.equal(kernel.mappings.size, 0);
}

describe("an event with AUX areas", () => {
  it("has a ring and an area of its own on every CPU, and writes into nobody else's", () => {
    const { kernel, open } = setUp();
    const event = open();
    assert.deepEqual(
      event.auxRings?.map(({ cpu, dataBytes, auxBytes }) => ({ cpu, dataBytes, auxBytes })),
      kernel.cpus.map((cpu) => ({ cpu, dataBytes: AUX_RING_BYTES, auxBytes: AUX_AREA_BYTES })),
    );
    for (const { attr, output, enabled } of kernel.openEvents) {
      assert.equal(output, null);
      assert.equal(enabled, false);
      assert.equal(attr.sampleType, BigInt(SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU));
      assert.deepEqual([attr.samplePeriod, attr.freq, attr.config], [1n, false, PT.config]);
      assert.deepEqual([attr.config1, attr.config2], [PT.config1, PT.config2]);
    }
    assert.deepEqual(event.formats[0].ids.length, kernel.cpus.length);
    event.close();
    event.close();
    assertNothingLeft(kernel);
  });

  it("is enabled and disabled everywhere, and says what dispatchers may do", () => {
    const { kernel, open } = setUp();
    const event = open();
    const wanted = () => event.auxRings?.map((ring) => ring.wanted[0]);
    event.enable();
    assert.ok(kernel.openEvents.every(({ enabled }) => enabled));
    assert.deepEqual(wanted(), [1, 1, 1]);
    event.disable();
    assert.ok(kernel.openEvents.every(({ enabled }) => !enabled));
    assert.deepEqual(wanted(), [0, 0, 0]);
    event.close();
  });

  it("leaves nothing behind where the kernel refuses, and says what to raise", () => {
    const refusals = [
      ["EPERM", /intel_pt\/\/u: an AUX area takes 1060 KiB of locked memory a CPU: EPERM: kernel.perf_event_mlock_kb/],
      ["EOPNOTSUPP", /its PMU's driver offers no AUX area/],
      ["ENOMEM", /no memory for an AUX area of 1060 KiB a CPU/],
      ["EINVAL", /the kernel rejects this combination/],
    ] as const;
    for (const [name, message] of refusals) {
      const { kernel, open } = setUp();
      kernel.refuse = (call, { cpu }) => (call === "aux mmap" && cpu === 2 ? name : null);
      assert.throws(open, message);
      assertNothingLeft(kernel);
    }
  });

  it("is refused where the PMU has no AUX areas after all", () => {
    const { kernel, open } = setUp();
    kernel.auxTypes = [];
    assert.throws(open, /offers no AUX area \(EOPNOTSUPP\)/);
    assertNothingLeft(kernel);
  });

  it("does without a CPU that has gone offline, and not without all", () => {
    const { kernel, open } = setUp();
    kernel.refuse = (call, { cpu }) => (call === "open" && cpu === 0 ? "ENODEV" : null);
    const event = open();
    assert.deepEqual(
      event.auxRings?.map(({ cpu }) => cpu),
      [2, 5],
    );
    event.close();
    kernel.refuse = (call) => (call === "open" ? "ENODEV" : null);
    assert.throws(open, /does not offer the event/);
    assertNothingLeft(kernel);
  });

  it("keeps its other CPUs and its times when one goes, and has an area there when it comes", () => {
    const { kernel, open } = setUp();
    kernel.reading = ({ cpu }) => [0n, BigInt(100 + cpu), BigInt(50 + cpu)];
    const event = open();
    const { onCpus } = event;
    assert.ok(onCpus !== undefined);
    event.enable();
    const before = event.read();
    const [gone] = kernel.openEvents.filter(({ cpu }) => cpu === 2);
    const rings = onCpus.auxRings?.(2) ?? [];
    kernel.goOffline(2);
    assert.deepEqual(
      onCpus.disable(2).map(({ ids }) => ids),
      [[gone.id]],
    );
    assert.deepEqual([gone.enabled, rings.map(({ cpu, wanted }) => [cpu, wanted[0]])], [false, [[2, 0]]]);
    assert.ok(event.auxRings?.filter(({ cpu }) => cpu !== 2).every(({ wanted }) => wanted[0] === 1));
    onCpus.close(2);
    onCpus.close(2);
    assert.deepEqual([onCpus.disable(2), onCpus.auxRings?.(2)], [[], []]);
    assert.deepEqual(
      event.auxRings?.map(({ cpu }) => cpu),
      [0, 5],
    );
    assert.equal(kernel.mappings.size, 4);
    assert.deepEqual(event.read(), before, "what it has run there stays");
    assert.deepEqual(onCpus.open(2), [], "gone again");
    kernel.comeOnline(2);
    const [format] = onCpus.open(2);
    const [again] = kernel.openEvents.filter(({ cpu }) => cpu === 2);
    assert.deepEqual([format.ids, again.enabled], [[again.id], false]);
    assert.deepEqual(
      onCpus.auxRings?.(2).map(({ pollFd, auxBytes }) => [pollFd, auxBytes]),
      [[again.fd, AUX_AREA_BYTES]],
    );
    assert.deepEqual(event.formats[0].ids.length, 3);
    onCpus.enable(2);
    assert.deepEqual([again.enabled, event.auxRings?.map(({ wanted }) => wanted[0])], [true, [1, 1, 1]]);
    event.close();
    assertNothingLeft(kernel);
  });

  it("is as before where a CPU that has come is refused, and is on no CPU that its PMU has not", () => {
    const { kernel } = setUp();
    const event = openAuxEvent(kernel, [0], { ...PT, cpus: "0-2" });
    for (const call of ["open", "aux mmap"] as const) {
      kernel.refuse = (refused) => (refused === call ? "ENOMEM" : null);
      assert.throws(() => event.onCpus?.open(2), { code: "RESOURCE" });
    }
    kernel.refuse = () => null;
    assert.deepEqual(event.onCpus?.open(5), []);
    assert.deepEqual(
      event.auxRings?.map(({ cpu }) => cpu),
      [0],
    );
    assert.equal(kernel.mappings.size, 2);
    event.close();
    assertNothingLeft(kernel);
  });

  it("has an area where the kernel wants it: behind the data, told in the control page", () => {
    const { kernel } = setUp();
    const attr = new Uint8Array(128);
    attr[0] = PT_TYPE;
    const fd = kernel.openEvent(attr, 0);
    assert.throws(() => kernel.mapShared(fd, AUX_AREA_BYTES, PAGE_BYTES), errno("mmap", "EINVAL"), "no ring yet");
  });

  it("is what an event of such a PMU resolves to, with its terms and no rate", async () => {
    const { kernel } = setUp();
    const source = openPerfSource({ ringBytes: PAGE_BYTES, kernel });
    const [event, ...others] = source.resolve({ event: "intel_pt/tsc/u" });
    assert.deepEqual(others, []);
    assert.deepEqual([event.hasAux, event.type, event.config], [true, PT_TYPE, 1n << 10n]);
    assert.equal(source.whyNotTogether([event]), null);
    const refusals = [
      [{ event: "intel_pt//", frequencyHz: 99 }, /writes into AUX areas and takes no samples: leave the rate out/],
      [{ event: "intel_pt/period=3/" }, /leave the rate out/],
      [{ event: "{intel_pt//,cpu-clock}" }, /can be in no group/],
      [{ event: "{cpu-clock,intel_pt//}" }, /can be in no group/],
    ] as const;
    for (const [request, message] of refusals) assert.throws(() => source.resolve(request), message);
    source.open(event, { sampleType: 0, branchCounters: false, wakeEach: false }).enable();
    assert.ok(kernel.openEvents.every(({ aux, enabled }) => aux !== null && enabled));
    await source.close();
    assertNothingLeft(kernel);
  });

  it("takes no counter from others", () => {
    const { kernel } = setUp();
    kernel.counters = 1;
    const source = openPerfSource({ ringBytes: PAGE_BYTES, kernel });
    const events = ["intel_pt//", "cycles"].flatMap((event) => source.resolve({ event }));
    assert.equal(source.whyNotTogether(events), null);
  });

  it("is one of a PMU that is known for its area", () => {
    assert.ok(["intel_pt", "intel_bts", "cs_etm", "arm_spe_0"].every(isAuxPmu));
    assert.equal(["cpu", "cs_etm0", "uncore_imc_0", ""].some(isAuxPmu), false);
  });
});
