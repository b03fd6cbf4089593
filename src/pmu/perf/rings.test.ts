import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PmuError } from "../errors.js";
import type { EventShape } from "../source.js";
import { FakeKernel, isAnchor } from "./fake-kernel.test-support.js";
import { CpuRings } from "./rings.js";
import { openPerfSource } from "./source.js";

const RING_BYTES = 16_384;
const SHAPE: EventShape = { sampleType: 0, branchCounters: false, wakeEach: false };
const SECOND_NS = 1e9;
const NOTHING = { gone: [], back: [], come: [] };

function openRings(): { kernel: FakeKernel; rings: CpuRings } {
  const kernel = new FakeKernel();
  const rings = new CpuRings(kernel, RING_BYTES);
  rings.openAll();
  return { kernel, rings };
}

describe("CpuRings.look", () => {
  it("sees CPUs go and come, and changes nothing by itself", () => {
    const { kernel, rings } = openRings();
    kernel.pass(SECOND_NS);
    assert.deepEqual(rings.look(), NOTHING);
    kernel.goOffline(2);
    kernel.comeOnline(7);
    for (let i = 0; i < 2; i++) {
      kernel.pass(SECOND_NS);
      assert.deepEqual(rings.look(), { gone: [2], back: [], come: [7] });
    }
    rings.close(2);
    assert.equal(rings.open(7)?.cpu, 7);
    kernel.pass(SECOND_NS);
    assert.deepEqual(rings.look(), NOTHING);
    kernel.comeOnline(2);
    assert.deepEqual(rings.look(), { gone: [], back: [], come: [2] });
  });

  it("sees a CPU that was away between two looks, however long ago the last one was", () => {
    for (const secondsBefore of [0, 1, 3600]) {
      const { kernel, rings } = openRings();
      kernel.pass(secondsBefore * SECOND_NS);
      kernel.goOffline(5);
      kernel.comeOnline(5);
      kernel.pass(SECOND_NS);
      assert.deepEqual(rings.look(), { gone: [], back: [5], come: [] });
      rings.close(5);
      rings.open(5);
      kernel.pass(SECOND_NS);
      assert.deepEqual(rings.look(), NOTHING);
    }
  });

  it("is not misled by looks close together, nor by a clock that is adjusted against the events' own", () => {
    const { kernel, rings } = openRings();
    for (let i = 0; i < 5; i++) assert.deepEqual(rings.look(), NOTHING, "no time has passed");
    // Events' time stands still within a tick of a coarse clock.
    kernel.clockNs += 9e6;
    assert.deepEqual(rings.look(), NOTHING);
    // An hour of adjustment: far behind, and running.
    kernel.pass(SECOND_NS);
    kernel.clockNs += 2 * SECOND_NS;
    const read = kernel.read.bind(kernel);
    kernel.read = (fd, buffer) => {
      kernel.pass(100);
      return read(fd, buffer);
    };
    assert.deepEqual(rings.look(), NOTHING);
  });

  it("leaves nothing open of a ring that is refused, and says that a CPU has gone again", () => {
    const { kernel, rings } = openRings();
    rings.close(2);
    rings.close(2);
    const fds = kernel.openFds;
    for (const call of ["open", "mmap"] as const) {
      kernel.refuse = (refused) => (refused === call ? "ENOMEM" : null);
      assert.throws(() => rings.open(2), PmuError);
    }
    kernel.refuse = () => null;
    kernel.goOffline(2);
    assert.equal(rings.open(2), null);
    assert.deepEqual(kernel.openFds, fds);
    assert.equal(kernel.mappings.size, 2);
    rings.closeAll();
    assert.deepEqual([kernel.openFds, kernel.mappings.size], [[], 0]);
  });
});

describe("what is open on CPUs that come and go", () => {
  it("an event keeps its other CPUs, its readings and its rate", () => {
    const kernel = new FakeKernel();
    const source = openPerfSource({ ringBytes: RING_BYTES, kernel });
    kernel.reading = ({ cpu }) => [0n, BigInt(100 + cpu), BigInt(50 + cpu), BigInt(cpu)];
    const [event] = source.resolve({ event: "cycles", frequencyHz: 500 });
    const opened = source.open(event, SHAPE);
    const { onCpus } = opened;
    assert.ok(onCpus !== undefined && source.cpus !== undefined);
    opened.enable();
    opened.setRate({ kind: "frequency", hz: 200 });
    const before = opened.read();
    const [gone] = kernel.openEvents.filter(({ cpu }) => cpu === 2);
    kernel.goOffline(2);
    assert.deepEqual(
      onCpus.disable(2).map(({ ids }) => ids),
      [[gone.id]],
    );
    assert.equal(gone.enabled, false);
    onCpus.close(2);
    source.cpus.close(2);
    assert.ok(gone.closed);
    assert.deepEqual(opened.read(), before, "what it has counted there stays");
    assert.equal(opened.formats[0].ids.length, 2);
    assert.ok(kernel.openEvents.every(({ enabled }) => enabled));
    kernel.comeOnline(2);
    source.cpus.open(2);
    const [format] = onCpus.open(2);
    const [back] = kernel.openEvents.filter(({ cpu }) => cpu === 2);
    assert.deepEqual(format.ids, [back.id]);
    assert.deepEqual([back.enabled, back.attr.samplePeriod], [false, 200n], "the rate that is in force");
    assert.equal(back.output, source.rings.find(({ cpu }) => cpu === 2)?.pollFd);
    onCpus.enable(2);
    assert.ok(back.enabled);
    assert.equal(opened.read().lost, (before.lost ?? 0) + 2);
    opened.close();
    assert.deepEqual(kernel.openEvents, []);
  });

  it("a group comes whole or not at all, and what has no such CPU is passed over", () => {
    const kernel = new FakeKernel();
    const source = openPerfSource({ ringBytes: RING_BYTES, kernel });
    const [group] = source.resolve({ event: "{cycles,instructions}:S", frequencyHz: 500 });
    const opened = source.open(group, SHAPE);
    const elsewhere = source.open({ ...group, cpus: "0-5" }, SHAPE);
    kernel.comeOnline(7);
    source.cpus?.open(7);
    const fds = kernel.openFds;
    kernel.refuse = (call, { leader }) => (call === "open" && leader !== null ? "EMFILE" : null);
    assert.throws(() => opened.onCpus?.open(7), { code: "RESOURCE" });
    kernel.refuse = (call) => (call === "open" ? "ENODEV" : null);
    assert.deepEqual(opened.onCpus?.open(7), [], "gone again");
    kernel.refuse = () => null;
    assert.deepEqual(elsewhere.onCpus?.open(7), []);
    assert.deepEqual(kernel.openFds, fds);
    assert.equal(opened.onCpus?.open(7).length, 1);
    assert.deepEqual(
      kernel.openEvents.filter(({ cpu }) => cpu === 7).map(({ attr }) => attr.config),
      [0n, 1n],
    );
    assert.deepEqual(opened.onCpus?.disable(3), []);
    opened.onCpus?.close(3);
    assert.equal(opened.formats[0].ids.length, 4);
  });

  it("task records keep their count of losses", () => {
    const kernel = new FakeKernel();
    const source = openPerfSource({ ringBytes: RING_BYTES, kernel });
    kernel.reading = () => [0n, 0n, 0n, 4n];
    const tasks = source.openTasks({ contextSwitches: false });
    tasks.enable();
    assert.equal(tasks.readLost(), 12);
    const ids = tasks.formats[0].ids.slice();
    kernel.goOffline(0);
    assert.deepEqual(tasks.onCpus?.disable(0)[0].ids, [ids[0]]);
    tasks.onCpus?.close(0);
    source.cpus?.close(0);
    assert.equal(tasks.readLost(), 12);
    kernel.comeOnline(0);
    source.cpus?.open(0);
    const added = tasks.onCpus?.open(0)[0].ids ?? [];
    tasks.onCpus?.enable(0);
    assert.ok(kernel.openEvents.every(({ enabled }) => enabled));
    assert.deepEqual(tasks.formats[0].ids, [...ids.slice(1), ...added]);
    assert.equal(tasks.readLost(), 16);
  });

  it("everything is closed with the source, wherever it is by then", async () => {
    const kernel = new FakeKernel();
    const source = openPerfSource({ ringBytes: RING_BYTES, kernel });
    source.open(source.resolve({ event: "cycles" })[0], SHAPE);
    source.openTasks({ contextSwitches: true });
    kernel.comeOnline(9);
    source.cpus?.open(9);
    source.cpus?.close(2);
    assert.equal(kernel.events.filter((event) => isAnchor(event) && !event.closed).length, 3);
    await source.close();
    assert.deepEqual([kernel.openFds, kernel.mappings.size], [[], 0]);
  });
});
