/** A dispatcher's thread: sleeps in poll on its rings and on its control fd, drains, and answers control messages. */
import { parentPort, receiveMessageOnPort, workerData } from "node:worker_threads";
import { IOC, PAGE_BYTES } from "../../pmu/abi.js";
import { Errno, ioctl, setThreadAffinity, setThreadName, threadAffinity, viewMemory } from "../../pmu/ffi.js";
import { RingReader } from "../../pmu/ring.js";
import type { RingDescriptor } from "../../pmu/source.js";
import { SlotCounters } from "../../registry/counters.js";
import { tableLayout } from "../../registry/layout.js";
import { TableWalker } from "../../registry/walk.js";
import { AtomicWords } from "../../registry/words.js";
import { monotonicClock } from "../clock.js";
import { SegmentWriter } from "../delivery/segments.js";
import { BusyClock } from "./busy-clock.js";
import { Dispatcher } from "./dispatcher.js";
import type { Answer, Control, DispatcherSetup, Request } from "./messages.js";
import { NOT_PINNED, type Pinned } from "./pinning.js";
import { PollSet } from "./poll-set.js";
import { SharedMemory } from "./shared-memory.js";
import { DISPATCHER_STAT } from "./stats.js";

/** Sleeping forever is right only when nothing is armed; a handler that waits for nothing else gets its own wake-ups. */
const POLL_FOREVER = -1;
const POLL_MS_MAX = 1000;

/** What the rings hold when these come belongs to what was before them. */
const DRAINED_BEFORE: ReadonlySet<Control["kind"]> = new Set([
  "remove formats",
  "remove tasks",
  "remove aux",
  "remove ring",
  "pace",
  "drain",
  "stop",
]);

if (parentPort === null) throw new Error("a dispatcher runs in a worker thread");
run(workerData as DispatcherSetup, parentPort);

function run(setup: DispatcherSetup, port: NonNullable<typeof parentPort>): void {
  setThreadName(`nmid-disp-${setup.index}`);
  port.postMessage({ kind: "started", pinned: pin(setup.pinTo) } satisfies Answer);
  const memory = viewMemory(setup.tableAddress, setup.tableBytes);
  const layout = tableLayout(setup.capacity, setup.dispatchers);
  const shared = new SharedMemory(setup.capacity, setup.dispatchers, setup.shared);
  const stats = shared.stats(setup.index);
  const now = monotonicClock();
  const busy = new BusyClock(stats.words, DISPATCHER_STAT.BUSY, now);
  busy.begin();
  const deliveryBell = shared.deliveryBell();
  const dispatcher = new Dispatcher({
    index: setup.index,
    walker: new TableWalker(new AtomicWords(memory), layout, setup.index, shared.removalBell()),
    counters: new SlotCounters(memory, layout),
    stats,
    segments: new SegmentWriter(viewMemory(setup.arena.address, setup.arena.bytes)),
    dirty: shared.dirty(setup.index),
    now,
    clockIsMonotonic: setup.clockIsMonotonic,
    capacity: setup.capacity,
    aux: { view: viewMemory, enable: (fd) => ioctl(fd, IOC.ENABLE, 0) },
  });
  const drain = (): void => {
    if (dispatcher.drain()) deliveryBell.ring(setup.index);
  };
  const polled = new PollSet(setup.controlFd);
  const rings = new Map<number, RingDescriptor>();
  const apply = (control: Control): void => {
    switch (control.kind) {
      case "add ring": {
        const { cpu, address, dataBytes } = control.ring;
        const reader = new RingReader(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes);
        dispatcher.addRing(control.index, { cpu, reader });
        polled.add(control.ring);
        rings.set(control.index, control.ring);
        break;
      }
      case "remove ring":
        polled.remove(rings.get(control.index) as RingDescriptor);
        dispatcher.removeRing(control.index);
        break;
      case "watch ring": {
        const { address, dataBytes } = control.ring;
        dispatcher.watchRing(address, new RingReader(viewMemory(address, PAGE_BYTES + dataBytes), dataBytes));
        break;
      }
      case "unwatch ring":
        dispatcher.unwatchRing(control.address);
        break;
      case "forget identities":
        dispatcher.forgetIdentities();
        break;
      case "attach":
        dispatcher.attach(control.spec);
        break;
      case "detach":
        dispatcher.detach(control.slot, control.generation);
        break;
      case "add formats":
        dispatcher.addFormats(control.event, control.formats);
        break;
      case "remove formats":
        dispatcher.removeFormats(control.formats);
        break;
      case "add tasks":
        dispatcher.addTaskFormats(control.formats);
        break;
      case "remove tasks":
        dispatcher.removeTaskFormats(control.formats);
        break;
      case "add aux":
        dispatcher.addAux(control.event, control.rings);
        // Of this dispatcher's CPUs alone.
        for (const ring of control.rings) if (dispatcher.auxRings.includes(ring)) polled.add(ring);
        break;
      case "remove aux":
        for (const ring of control.rings) polled.remove(ring);
        dispatcher.removeAux(control.rings);
        break;
      case "pace":
        dispatcher.setPace(control.event, control.pace);
        break;
      case "flush interval":
        dispatcher.setFlushInterval(control.intervalMs);
        break;
      case "fail":
        if (control.at === "now") fail(control.how);
        dispatcher.failAt(control.at, () => fail(control.how));
        break;
      case "hang":
        Atomics.wait(control.word, 0, 0);
        break;
      case "drain":
      case "ask":
      case "stop":
        break;
    }
  };
  // Nothing is drained before all is known: what belongs to a format or a handler still to come would be lost.
  for (const control of setup.initial) apply(control);
  if (setup.abandoned !== null) {
    dispatcher.resume(setup.abandoned);
    // For what that delivered, and for what its predecessor did not come to ring for.
    deliveryBell.ring(setup.index);
  }
  for (;;) {
    for (let message = receiveMessageOnPort(port); message !== undefined; message = receiveMessageOnPort(port)) {
      const { sequence, control } = message.message as Request;
      if (DRAINED_BEFORE.has(control.kind)) drain();
      // All of it: nobody writes there any more.
      if (control.kind === "remove aux") while (dispatcher.moreAux) drain();
      apply(control);
      port.postMessage({ kind: "done", sequence } satisfies Answer);
      if (control.kind === "stop") {
        busy.end();
        return;
      }
    }
    drain();
    const interval = dispatcher.flushIntervalMs;
    const timeoutMs = interval < 0 ? POLL_FOREVER : pollMs(interval);
    busy.end();
    polled.wait(dispatcher.moreAux ? 0 : timeoutMs);
    busy.begin();
    stats.words[DISPATCHER_STAT.WAKEUPS] += 1;
    polled.clear();
  }
}

/** A dispatcher that may not run where it should runs elsewhere: whether that will do is not for it to say. */
function pin(cpus: readonly number[] | null): Pinned {
  if (cpus === null) return NOT_PINNED;
  try {
    setThreadAffinity(cpus);
    return { cpus: threadAffinity(), refusal: null };
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
    return { cpus: [], refusal: error.message };
  }
}

function fail(how: "throw" | "exit"): never {
  if (how === "throw") throw new Error("a fault was injected");
  process.exit(1);
}

/** A handler that wants its samples at once is woken by the ring for each; the time-out is for those that wait. */
function pollMs(flushIntervalMs: number): number {
  return flushIntervalMs === 0 ? POLL_MS_MAX : Math.min(POLL_MS_MAX, Math.max(1, flushIntervalMs));
}
