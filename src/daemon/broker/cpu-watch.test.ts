/** A fake kernel, whose CPUs come and go, under the real source, events and dispatcher. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PAGE_BYTES, SAMPLE } from "../../pmu/abi.js";
import { viewMemory } from "../../pmu/ffi.js";
import { FakeKernel, isAnchor } from "../../pmu/perf/fake-kernel.test-support.js";
import { addPt } from "../../pmu/perf/fake-pt.test-support.js";
import { openPerfSource } from "../../pmu/perf/source.js";
import { RingReader } from "../../pmu/ring.js";
import { RingWriter } from "../../pmu/software/ring-writer.js";
import type { RingDescriptor } from "../../pmu/source.js";
import { UNKNOWN_TOPOLOGY } from "../../pmu/topology.js";
import { openDispatcher, sampleRecord } from "../dispatch/dispatcher.test-support.js";
import type { Control } from "../dispatch/messages.js";
import { type ArmedEvent, ArmedEvents, type EventUser } from "./armed-events.js";
import { CPU_CHANGES_KEPT, CpuWatch } from "./cpu-watch.js";
import { TaskTracking } from "./task-tracking.js";

const RING_BYTES = 16_384;
const SECOND_NS = 1e9;

/** The first of two dispatchers is a real one, in this thread; the other is told and does nothing. */
class Host {
  readonly fixture = openDispatcher([]);
  readonly #cpus: number[][] = [[], []];
  /** The real one's rings by CPU; the kernel's end is the test. */
  readonly writers = new Map<number, RingWriter>();
  readonly #indexes = new Map<number, number>();
  readonly log: string[] = [];

  get threads(): { readonly cpus: readonly number[] }[] {
    return this.#cpus.map((cpus) => ({ cpus }));
  }

  addRing = async (d: number, { cpu, address, dataBytes }: RingDescriptor): Promise<void> => {
    await Promise.resolve();
    this.log.push(`add ring ${cpu} to ${d}`);
    this.#cpus[d].push(cpu);
    if (d !== 0) return;
    const memory = viewMemory(address, PAGE_BYTES + dataBytes);
    const index = this.#indexes.get(cpu) ?? this.#indexes.size;
    this.#indexes.set(cpu, index);
    this.writers.set(cpu, new RingWriter(memory, dataBytes, cpu, () => {}));
    this.fixture.dispatcher.addRing(index, { cpu, reader: new RingReader(memory, dataBytes) });
  };

  removeRing = async (cpu: number): Promise<void> => {
    await Promise.resolve();
    this.log.push(`remove ring ${cpu}`);
    for (const cpus of this.#cpus) if (cpus.includes(cpu)) cpus.splice(cpus.indexOf(cpu), 1);
    if (!this.writers.delete(cpu)) return;
    this.fixture.dispatcher.drain();
    this.fixture.dispatcher.removeRing(this.#indexes.get(cpu) as number);
  };

  tellAll = async (control: Control): Promise<void> => {
    await Promise.resolve();
    const { dispatcher } = this.fixture;
    if (control.kind === "pace") dispatcher.setPace(control.event, control.pace);
    else if (control.kind === "add formats") dispatcher.addFormats(control.event, control.formats);
    else if (control.kind === "add tasks") dispatcher.addTaskFormats(control.formats);
    else {
      dispatcher.drain();
      if (control.kind === "remove formats") dispatcher.removeFormats(control.formats);
      else if (control.kind === "remove tasks") dispatcher.removeTaskFormats(control.formats);
    }
    if ("rings" in control) this.log.push(`${control.kind} ${control.rings.map(({ cpu }) => cpu).join()}`);
    this.log.push("formats" in control ? `${control.kind} ${control.formats.flatMap(({ ids }) => ids).length}` : "");
  };

  takeLog(): string[] {
    return this.log.splice(0).filter((line) => line !== "");
  }
}

interface Line {
  readonly level: string;
  readonly fields: Record<string, unknown>;
  readonly message: string;
}

async function setUp({ prepare = (_kernel: FakeKernel): void => {} } = {}): Promise<{
  kernel: FakeKernel;
  host: Host;
  armedEvents: ArmedEvents;
  taskTracking: TaskTracking;
  watch: CpuWatch;
  lines: Line[];
  clock: { seconds: number };
  arm(event: string, hz: number): Promise<{ armed: ArmedEvent; user: EventUser }>;
  /** A second later. */
  look(): Promise<void>;
  sample(cpu: number, event: string, time: number): void;
}> {
  const kernel = new FakeKernel();
  kernel.cpus = [0, 2];
  prepare(kernel);
  kernel.reading = ({ cpu }) => [0n, 10n, 10n, BigInt(cpu)];
  const source = openPerfSource({ ringBytes: RING_BYTES, kernel });
  const host = new Host();
  for (const ring of source.rings) await host.addRing(0, ring);
  const { tellAll } = host;
  const armedEvents = new ArmedEvents({ source, tellAll, onArmed() {}, onRetired() {}, onProblem() {} });
  const taskTracking = new TaskTracking({ source, tellAll, lostRecords: () => 0, onProblem() {} });
  const lines: Line[] = [];
  const clock = { seconds: 1000 };
  const watch = new CpuWatch({
    source,
    host,
    armedEvents,
    taskTracking,
    topologyOf: () => UNKNOWN_TOPOLOGY,
    wallClock: () => clock.seconds,
    log: (level, fields, message) => lines.push({ level, fields, message }),
  });
  host.takeLog();
  return {
    kernel,
    host,
    armedEvents,
    taskTracking,
    watch,
    lines,
    clock,
    arm: async (event, hz) => {
      const [resolved] = source.resolve({ event, frequencyHz: hz });
      const user: EventUser = { event: resolved, sampleType: 0, branchCounters: false, wakeEach: false };
      const [armed] = await armedEvents.acquire([user]);
      await armedEvents.start([armed]);
      return { armed, user };
    },
    look: () => {
      kernel.pass(SECOND_NS);
      clock.seconds++;
      return watch.look();
    },
    sample: (cpu, event, time) => {
      const opened = kernel.openEvents.find((one) => one.cpu === cpu && one.attr.config === CONFIG[event]);
      assert.ok(opened?.enabled, `${event} is enabled on CPU ${cpu}`);
      assert.equal(opened.output, kernel.events.findLast((one) => one.cpu === cpu && isAnchor(one))?.fd);
      const writer = host.writers.get(cpu) as RingWriter;
      const bytes = sampleRecord({ id: Number(opened.id), time, cpu, period: 1 }, SAMPLE_TYPE);
      writer.append(bytes, 0, bytes.length);
      writer.publish(false);
    },
  };
}

const SAMPLE_TYPE = SAMPLE.IDENTIFIER | SAMPLE.IP | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU | SAMPLE.PERIOD;
const CONFIG: Readonly<Record<string, bigint>> = { cycles: 0n, instructions: 1n };

/** CPUs of all that is open. */
function opened({ events }: FakeKernel): number[] {
  return events
    .filter(({ closed }) => !closed)
    .map(({ cpu }) => cpu)
    .sort((a, b) => a - b);
}

describe("CpuWatch", () => {
  it("drains the ring of a CPU that has gone to its end, and gives it back; the others go on", async () => {
    const { kernel, host, watch, lines, arm, look, sample } = await setUp();
    const { armed } = await arm("cycles", 1000);
    const handler = host.fixture.add();
    const lost = armed.open.read().lost;
    host.takeLog();
    sample(2, "cycles", 1);
    sample(2, "cycles", 2);
    kernel.goOffline(2);
    await look();
    assert.deepEqual(handler.takeTimes(), [1, 2]);
    assert.deepEqual(host.takeLog(), ["remove ring 2", "remove formats 1"]);
    assert.deepEqual(opened(kernel), [0, 0], "an event and its ring's anchor");
    assert.equal(kernel.mappings.size, 1);
    assert.equal(armed.open.read().lost, lost, "what was lost there stays in the books");
    assert.deepEqual(watch.watched, [0]);
    assert.deepEqual(watch.changes, [{ cpu: 2, kind: "GONE", at: 1001, watchedUntil: 1000 }]);
    sample(0, "cycles", 3);
    host.fixture.dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), [3]);
    await look();
    assert.equal(lines.length, 1, "told once");
    assert.equal(lines[0].level, "warn");
  });

  it("samples a CPU that has come, and one that is back on the dispatcher that it had", async () => {
    const { kernel, host, watch, lines, arm, look, sample } = await setUp();
    await arm("cycles", 1000);
    await arm("instructions", 500);
    const handler = host.fixture.add({ events: [{ armed: 0 }, { armed: 1 }] });
    kernel.comeOnline(7);
    host.takeLog();
    await look();
    // The dispatcher with the fewest rings.
    assert.deepEqual(host.takeLog(), ["add ring 7 to 1", "add formats 1", "add formats 1"]);
    assert.ok(kernel.openEvents.filter(({ cpu }) => cpu === 7).every(({ enabled }) => enabled));
    kernel.goOffline(2);
    await look();
    kernel.comeOnline(2);
    await look();
    assert.deepEqual(host.threads, [{ cpus: [0, 2] }, { cpus: [7] }]);
    sample(2, "cycles", 5);
    sample(2, "instructions", 6);
    host.fixture.dispatcher.drain();
    assert.deepEqual(handler.takeTimes().sort(), [5, 6]);
    assert.deepEqual(watch.changes, [
      { cpu: 7, kind: "COME", at: 1001, watchedUntil: 0 },
      { cpu: 2, kind: "GONE", at: 1002, watchedUntil: 1001 },
      { cpu: 2, kind: "COME", at: 1003, watchedUntil: 1001 },
    ]);
    assert.deepEqual(
      lines.map(({ level, fields }) => [level, fields.cpu, fields.dispatcher]),
      [
        ["info", 7, 1],
        ["warn", 2, undefined],
        ["info", 2, 0],
      ],
    );
  });

  it("opens anew what is open on a CPU that was away between two looks", async () => {
    const { kernel, host, watch, arm, look, sample } = await setUp();
    await arm("cycles", 1000);
    const handler = host.fixture.add();
    sample(2, "cycles", 1);
    kernel.goOffline(2);
    kernel.comeOnline(2);
    await look();
    assert.deepEqual(opened(kernel), [0, 0, 2, 2]);
    assert.ok(kernel.events.every(({ dead, closed }) => closed || !dead));
    sample(2, "cycles", 2);
    host.fixture.dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), [1, 2]);
    assert.deepEqual(watch.changes, [{ cpu: 2, kind: "BACK", at: 1001, watchedUntil: 1000 }]);
    await look();
    assert.deepEqual(watch.counts, { GONE: 0, COME: 0, BACK: 1 });
  });

  it("takes its turn between registrations and removals", async () => {
    const { kernel, host, armedEvents, arm, look } = await setUp();
    const first = await arm("cycles", 1000);
    host.takeLog();
    kernel.goOffline(2);
    const steps = [
      look().then(() => "looked"),
      arm("instructions", 100).then(() => "armed"),
      armedEvents.release([first.armed], [first.user]).then(() => "released"),
    ];
    await Promise.all(steps);
    // Whatever came first, each was whole: nothing is left of CPU 2, and all that is armed is open on CPU 0 alone.
    assert.deepEqual(
      kernel.openEvents.map(({ cpu, attr, enabled }) => [cpu, attr.config, enabled]),
      [[0, CONFIG.instructions, true]],
    );
    const log = host.takeLog();
    const at = log.indexOf("remove ring 2");
    assert.deepEqual(log.slice(at, at + 2), ["remove ring 2", "remove formats 1"], "no step of others between");
  });

  it("tells task records of a CPU's coming and going", async () => {
    const { kernel, host, taskTracking, look } = await setUp();
    await taskTracking.acquire({ contextSwitches: false });
    host.takeLog();
    kernel.goOffline(2);
    await look();
    assert.deepEqual(host.takeLog(), ["remove ring 2", "remove tasks 1"]);
    kernel.comeOnline(2);
    await look();
    assert.deepEqual(host.takeLog(), ["add ring 2 to 0", "add tasks 1"]);
    assert.ok(kernel.openEvents.length === 2 && kernel.openEvents.every(({ enabled }) => enabled));
  });

  it("gives the AUX area of a CPU back that has gone, and tells of another when it has come", async () => {
    const { kernel, host, arm, look } = await setUp({ prepare: addPt });
    const { armed } = await arm("intel_pt//", 0);
    host.takeLog();
    kernel.goOffline(2);
    await look();
    assert.deepEqual(host.takeLog(), ["remove aux 2", "remove ring 2", "remove formats 1"]);
    assert.deepEqual(
      armed.open.auxRings?.map(({ cpu }) => cpu),
      [0],
    );
    assert.equal(kernel.mappings.size, 3, "a ring, and an AUX event's two");
    kernel.comeOnline(2);
    await look();
    assert.deepEqual(host.takeLog(), ["add ring 2 to 0", "add formats 1", "add aux 2"]);
    assert.deepEqual(
      kernel.openEvents.map(({ cpu, enabled, aux }) => [cpu, enabled, aux !== null]),
      [
        [0, true, true],
        [2, true, true],
      ],
    );
  });

  it("goes on without what it cannot have, says so once, and tries again when the CPU comes again", async () => {
    const { kernel, host, watch, lines, arm, look } = await setUp();
    await arm("cycles", 1000);
    await arm("instructions", 1000);
    kernel.refuse = (call) => (call === "mmap" ? "EPERM" : null);
    kernel.comeOnline(7);
    await look();
    await look();
    assert.deepEqual(
      lines.map(({ level, fields }) => [level, fields.cpu]),
      [["error", 7]],
    );
    assert.deepEqual(watch.watched, [0, 2]);
    kernel.goOffline(7);
    await look();
    kernel.refuse = (call, { attr }) => (call === "open" && attr.config === CONFIG.instructions ? "EMFILE" : null);
    kernel.comeOnline(7);
    host.takeLog();
    await look();
    assert.deepEqual(host.takeLog(), ["add ring 7 to 1", "add formats 1"]);
    assert.deepEqual(
      lines.slice(1).map(({ level, fields }) => [level, fields.event]),
      [
        ["error", "instructions"],
        ["info", undefined],
      ],
    );
    assert.deepEqual(
      kernel.openEvents.filter(({ cpu }) => cpu === 7).map(({ attr, enabled }) => [attr.config, enabled]),
      [[CONFIG.cycles, true]],
    );
  });

  it("keeps the latest changes and counts all", async () => {
    const { kernel, watch, look } = await setUp();
    for (let i = 0; i < CPU_CHANGES_KEPT; i++) {
      kernel.goOffline(2);
      await look();
      kernel.comeOnline(2);
      await look();
    }
    assert.deepEqual(watch.counts, { GONE: CPU_CHANGES_KEPT, COME: CPU_CHANGES_KEPT, BACK: 0 });
    assert.equal(watch.changes.length, CPU_CHANGES_KEPT);
    assert.equal(watch.changes.at(-1)?.at, 1000 + 2 * CPU_CHANGES_KEPT);
  });
});
