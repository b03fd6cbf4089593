import assert from "node:assert/strict";
import { once } from "node:events";
import { type TestContext, test } from "node:test";
import { Worker } from "node:worker_threads";
import { SharedMemory } from "./shared-memory.js";

const BOUNDED = { timeout: 60_000 };
const CAPACITY = 32;

test("a ring before the sleep, and one after it, ends it; the signal is taken once", BOUNDED, async () => {
  const bell = new SharedMemory(CAPACITY, 2).deliveryBell();
  bell.ring(1);
  await bell.sleep();
  assert.deepEqual([bell.take(0), bell.take(1), bell.take(1)], [false, true, false]);
  const slept = bell.sleep();
  bell.ring(0);
  bell.ring(1);
  await slept;
  assert.deepEqual([bell.take(0), bell.take(1)], [true, true]);
});

test("wake ends a sleep without a signal", BOUNDED, async () => {
  const bell = new SharedMemory(CAPACITY, 1).deliveryBell();
  const slept = bell.sleep();
  bell.wake();
  await slept;
  assert.equal(bell.take(0), false);
});

test("without a ring it sleeps on", BOUNDED, async () => {
  const bell = new SharedMemory(CAPACITY, 1).deliveryBell();
  bell.ring(0);
  assert.equal(bell.take(0), true);
  let awake = false;
  const slept = bell.sleep().then(() => {
    awake = true;
  });
  for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(awake, false, "a taken signal wakes nobody");
  bell.ring(0);
  await slept;
});

test("a dispatcher that rings without end leaves the event loop its turns", BOUNDED, async () => {
  const bell = new SharedMemory(CAPACITY, 1).deliveryBell();
  let turned = false;
  setImmediate(() => {
    turned = true;
  });
  let sleeps = 0;
  for (; !turned && sleeps < 1000; sleeps++) {
    bell.ring(0);
    await bell.sleep();
  }
  assert.ok(sleeps < 10, `${sleeps} sleeps before the loop turned`);
});

test("threads that ring at any moment of going to sleep are all heard", BOUNDED, async (t: TestContext) => {
  const dispatchers = 2;
  const rounds = 5000;
  const shared = new SharedMemory(CAPACITY, dispatchers);
  const bell = shared.deliveryBell();
  // Each marks a slot, rings, and goes on once the mark has been taken: a ring that is not heard is the last.
  const code = `
    const { workerData } = require("node:worker_threads");
    const { module, buffer, dispatcher } = workerData;
    import(module).then(({ SharedMemory }) => {
      const shared = new SharedMemory(${CAPACITY}, ${dispatchers}, buffer);
      const bell = shared.deliveryBell();
      const dirty = shared.dirty(dispatcher);
      for (let round = 0; round < ${rounds}; round++) {
        Atomics.or(dirty, 0, 1 << (round % 32));
        bell.ring(dispatcher);
        while (Atomics.load(dirty, 0) !== 0);
        // Now and then it comes when the other end has long been asleep.
        if (round % 64 === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
      }
    });`;
  const module = new URL("./shared-memory.js", import.meta.url).href;
  const workers = Array.from(
    { length: dispatchers },
    (_, dispatcher) => new Worker(code, { eval: true, workerData: { module, buffer: shared.buffer, dispatcher } }),
  );
  t.after(() => Promise.all(workers.map((worker) => worker.terminate())));
  let ended = false;
  const exits = Promise.all(workers.map((worker) => once(worker, "exit"))).then(() => {
    ended = true;
    bell.wake();
  });
  const marks = new Array(dispatchers).fill(0);
  while (!ended) {
    for (let d = 0; d < dispatchers; d++) {
      if (bell.take(d) && Atomics.exchange(shared.dirty(d), 0, 0) !== 0) marks[d]++;
    }
    await bell.sleep();
  }
  await exits;
  assert.deepEqual(marks, [rounds, rounds]);
});
