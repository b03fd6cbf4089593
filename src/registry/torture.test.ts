import assert from "node:assert/strict";
import { once } from "node:events";
import { it } from "node:test";
import { Worker } from "node:worker_threads";
import { SlotCounters } from "./counters.js";
import { tableLayout } from "./layout.js";
import { formatTable, HandlerTable, type SlotHandle } from "./table.js";
import { asMapped, TORTURE, type TortureSetup } from "./torture.test-support.js";
import { AtomicDoorbell } from "./words.js";

const CAPACITY = 4;
const DISPATCHERS = 2;
const REMOVALS = 20_000;

it("real threads never dispatch to a handler that was removed, and lose no count", { timeout: 120_000 }, async () => {
  const memory = new SharedArrayBuffer(tableLayout(CAPACITY, DISPATCHERS).bytes);
  const bell = new SharedArrayBuffer(4);
  const owners = new SharedArrayBuffer((CAPACITY + TORTURE.WORDS) * 4);
  const words = new Int32Array(owners);
  const layout = formatTable(asMapped(memory), {
    capacity: CAPACITY,
    dispatchers: DISPATCHERS,
    daemonPid: 1,
    startedAt: 0,
  });
  const table = new HandlerTable(asMapped(memory), layout, new AtomicDoorbell(bell));
  const counters = new SlotCounters(asMapped(memory), layout);
  const workers = Array.from({ length: DISPATCHERS }, (_, dispatcher) => {
    const workerData: TortureSetup = {
      memory,
      bell,
      owners,
      capacity: CAPACITY,
      dispatchers: DISPATCHERS,
      dispatcher,
    };
    return new Worker(new URL("./torture.test-support.js", import.meta.url), { workerData });
  });
  const exits = workers.map((worker) => once(worker, "exit"));
  let counted = 0;
  try {
    while (Atomics.load(words, CAPACITY + TORTURE.STARTED) < DISPATCHERS) await new Promise(setImmediate);
    const live: SlotHandle[] = [];
    for (let removals = 0; removals < REMOVALS; ) {
      const handle = live.length < CAPACITY ? table.claim() : null;
      if (handle !== null) {
        table.setEventMask(handle, 1, 0);
        Atomics.store(words, handle.slot, handle.generation);
        table.activate(handle);
        live.push(handle);
        continue;
      }
      const oldest = live.shift() as SlotHandle;
      assert.equal(table.beginRemoval(oldest), "draining");
      assert.equal(await table.awaitDrained(oldest, Number.POSITIVE_INFINITY, () => 0), true);
      // From here on a dispatch to it is a violation.
      Atomics.store(words, oldest.slot, 0);
      counted += counters.dispatched(oldest.slot).dispatches;
      table.release(oldest);
      removals++;
    }
    for (const handle of live) {
      table.beginRemoval(handle);
      await table.awaitDrained(handle, Number.POSITIVE_INFINITY, () => 0);
      counted += counters.dispatched(handle.slot).dispatches;
    }
  } finally {
    Atomics.store(words, CAPACITY + TORTURE.STOP, 1);
    await Promise.all(exits);
  }
  assert.equal(Atomics.load(words, CAPACITY + TORTURE.VIOLATIONS), 0);
  assert.equal(counted, Atomics.load(words, CAPACITY + TORTURE.DISPATCHES));
  assert.ok(counted > 0);
});
