import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RECORD, SAMPLE } from "../../pmu/abi.js";
import { addHandler } from "../../registry/table.test-support.js";
import {
  eventStat,
  format,
  LIVE,
  openDispatcher,
  record,
  SAMPLE_DEFAULTS,
  sampleRecord,
  write,
} from "./dispatcher.test-support.js";
import { DISPATCHER_STAT, EVENT_STAT } from "./stats.js";

describe("Dispatcher: columns", () => {
  it("carry every sample's words as they are in the ring", () => {
    const fixture = openDispatcher([3]);
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add();
    write(fixture, [
      { ip: 0xffffffff81234567n, pid: 7, tid: 8, time: 2 ** 40 + 1, cpu: 3, period: 2 ** 33 + 5 },
      { ip: 0x401000n, pid: 0xffffffff, tid: 0, time: 2 ** 40 + 2, cpu: 3, period: 1 },
    ]);
    assert.equal(fixture.dispatcher.drain(), true);
    const [batch, ...others] = handler.take();
    assert.equal(others.length, 0);
    // Numbers above 2^53 come rounded from the decoder.
    assert.deepEqual(batch.ip, [Number(0xffffffff81234567n), 0x401000]);
    assert.deepEqual(batch.pid, [7, 0xffffffff]);
    assert.deepEqual(batch.tid, [8, 0]);
    assert.deepEqual(batch.time, [2 ** 40 + 1, 2 ** 40 + 2]);
    assert.deepEqual(batch.cpu, [3, 3]);
    assert.deepEqual(batch.period, [2 ** 33 + 5, 1]);
    assert.deepEqual([batch.callchain, batch.callchain_length], [[], []]);
  });

  it("stand in for what a recording lacks", () => {
    const fixture = openDispatcher([5]);
    fixture.dispatcher.addFormats(0, [format([], SAMPLE.IP, 42)]);
    const handler = fixture.add();
    write(fixture, [{ ip: 0x10n }, { ip: 0x20n }], SAMPLE.IP);
    fixture.dispatcher.drain();
    const [{ ip, time, pid, tid, cpu, period }] = handler.take();
    assert.deepEqual(
      [ip, time, pid, tid],
      [
        [0x10, 0x20],
        [0, 0],
        [0, 0],
        [0, 0],
      ],
    );
    assert.deepEqual(
      [cpu, period],
      [
        [5, 5],
        [42, 42],
      ],
    );
  });

  it("are right wherever a record wraps", () => {
    const dataBytes = 4096;
    const bytes = sampleRecord({}).length;
    for (let before = 8; before <= bytes; before += 8) {
      const wrapped = openDispatcher([0], dataBytes, dataBytes * 1000 - before);
      const handler = wrapped.add({ callchain: true });
      const chain = [0x1111111122222222n, 0x33n, 0x44n];
      wrapped.dispatcher.addFormats(0, [format([9], LIVE | SAMPLE.CALLCHAIN)]);
      const sample = { id: 9, ip: 0xabn, pid: 5, tid: 6, time: 77, cpu: 3, period: 88, callchain: chain };
      write(wrapped, [sample, { ...sample, time: 78 }], LIVE | SAMPLE.CALLCHAIN);
      wrapped.dispatcher.drain();
      const [batch] = handler.take();
      assert.deepEqual(
        [batch.cpu, batch.ip, batch.pid, batch.tid, batch.time, batch.period],
        [
          [3, 3],
          [0xab, 0xab],
          [5, 5],
          [6, 6],
          [77, 78],
          [88, 88],
        ],
        `${before} bytes before the end`,
      );
      assert.deepEqual(batch.callchain, [...chain, ...chain].map(Number));
    }
  });

  it("hold callchains of all lengths only for those who asked", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1], LIVE | SAMPLE.CALLCHAIN)]);
    const [with_, without] = [fixture.add({ callchain: true }), fixture.add()];
    const chains = [[], [1n], [2n, 3n, 4n], []];
    write(
      fixture,
      chains.map((callchain) => ({ callchain })),
      LIVE | SAMPLE.CALLCHAIN,
    );
    fixture.dispatcher.drain();
    const [batch] = with_.take();
    assert.deepEqual(batch.callchain_length, [0, 1, 3, 0]);
    assert.deepEqual(batch.callchain, [1, 2, 3, 4]);
    assert.deepEqual(without.take()[0].callchain_length, []);
  });

  it("are the same when two openings of an event meet in one batch, as while it is reshaped", () => {
    const fixture = openDispatcher([4]);
    fixture.dispatcher.addFormats(0, [format([1])]);
    fixture.dispatcher.addFormats(0, [format([2], LIVE | SAMPLE.CALLCHAIN)]);
    const handler = fixture.add({ callchain: true });
    for (const [time, id] of [
      [1, 1],
      [2, 2],
      [3, 1],
      [4, 2],
    ]) {
      const sampleType = id === 1 ? LIVE : LIVE | SAMPLE.CALLCHAIN;
      write(fixture, [{ id, time, cpu: 4, pid: time * 10, period: 2 ** 34, callchain: [BigInt(time)] }], sampleType);
    }
    fixture.dispatcher.drain();
    const [batch] = handler.take();
    assert.deepEqual(batch.time, [1, 2, 3, 4]);
    assert.deepEqual(batch.pid, [10, 20, 30, 40]);
    assert.deepEqual(batch.cpu, [4, 4, 4, 4]);
    assert.deepEqual(batch.period, new Array(4).fill(2 ** 34));
    assert.deepEqual(batch.callchain_length, [0, 1, 0, 1]);
    assert.deepEqual(batch.callchain, [2, 4]);
  });
});

describe("Dispatcher: events", () => {
  it("go to those who want them, under the handler's own index", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(5, [format([50])]);
    fixture.dispatcher.addFormats(40, [format([400, 401])]);
    const both = fixture.add({ events: [{ armed: 40 }, { armed: 5 }] });
    const one = fixture.add({ events: [{ armed: 5 }] });
    const none = fixture.add({ events: [{ armed: 6 }] });
    write(fixture, [
      { id: 50, time: 1 },
      { id: 400, time: 2 },
      { id: 50, time: 3 },
      { id: 401, time: 4 },
    ]);
    fixture.dispatcher.drain();
    assert.deepEqual(
      both.take().map(({ event_index, time }) => [event_index, time]),
      [
        [0, [2, 4]],
        [1, [1, 3]],
      ],
    );
    assert.deepEqual(one.takeTimes(), [1, 3]);
    assert.deepEqual(none.takeTimes(), []);
    assert.equal(eventStat(fixture, 40, EVENT_STAT.SAMPLES), 2);
    assert.equal(eventStat(fixture, 5, EVENT_STAT.SAMPLES), 2);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.SAMPLES], 4);
    assert.deepEqual([both.reader.matched(0), both.reader.matched(1), one.reader.matched(0)], [2, 2, 2]);
  });

  it("are counted as unclaimed when nobody takes them, and as strays when nobody knows them", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    fixture.dispatcher.addFormats(1, [format([2])]);
    fixture.add({ filter: { pids: [7] } });
    fixture.add({ filter: { pids: [7, 8] } });
    write(fixture, [{ pid: 7 }, { pid: 8 }, { pid: 9 }, { id: 2 }, { id: 3 }]);
    fixture.dispatcher.drain();
    assert.equal(eventStat(fixture, 0, EVENT_STAT.UNCLAIMED), 1);
    assert.equal(eventStat(fixture, 1, EVENT_STAT.UNCLAIMED), 1);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.STRAY_SAMPLES], 1);
    fixture.dispatcher.removeFormats([format([1])]);
    write(fixture, [{ id: 1 }]);
    fixture.dispatcher.drain();
    assert.equal(fixture.stats.words[DISPATCHER_STAT.STRAY_SAMPLES], 2);
  });

  it("count throttling by event", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(3, [format([30])]);
    for (const type of [RECORD.THROTTLE, RECORD.UNTHROTTLE, RECORD.THROTTLE]) {
      assert.ok(fixture.rings[0].write(record(type, 0, [1000n, 30n, 30n])));
    }
    assert.ok(fixture.rings[0].write(record(RECORD.THROTTLE, 0, [1000n, 31n, 31n])));
    assert.equal(fixture.dispatcher.drain(), false);
    assert.equal(eventStat(fixture, 3, EVENT_STAT.THROTTLED), 2);
    assert.equal(eventStat(fixture, 3, EVENT_STAT.UNTHROTTLED), 1);
  });
});

describe("Dispatcher: handlers", () => {
  it("are filtered by pid, CPU, mode and cgroup", () => {
    const sampleType = LIVE | SAMPLE.CALLCHAIN | SAMPLE.CGROUP;
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1], sampleType)]);
    const byPid = fixture.add({ filter: { pids: [100, 102] } });
    const byCpu = fixture.add({ filter: { cpus: [1] } });
    const kernel = fixture.add({ filter: { excludeUser: true } });
    const user = fixture.add({ filter: { excludeKernel: true } });
    const byCgroup = fixture.add({ filter: { cgroupIds: [2 ** 32 + 7] } });
    const byTwo = fixture.add({ filter: { pids: [101], cpus: [1] } });
    for (let i = 0; i < 8; i++) {
      write(
        fixture,
        [
          {
            time: i,
            pid: 100 + (i % 3),
            cpu: i & 1,
            cpumode: i < 4 ? 1 : i < 6 ? 2 : i === 6 ? 5 : 3,
            callchain: new Array<bigint>(i % 4).fill(1n),
            cgroup: i === 5 || i === 6 ? 2 ** 32 + 7 : 7,
          },
        ],
        sampleType,
      );
    }
    fixture.dispatcher.drain();
    assert.deepEqual(byPid.takeTimes(), [0, 2, 3, 5, 6]);
    assert.deepEqual(byCpu.takeTimes(), [1, 3, 5, 7]);
    assert.deepEqual(kernel.takeTimes(), [0, 1, 2, 3, 7]);
    assert.deepEqual(user.takeTimes(), [4, 5, 6]);
    assert.deepEqual(byCgroup.takeTimes(), [5, 6]);
    assert.deepEqual(byTwo.takeTimes(), [1, 7]);
  });

  it("are filtered by the process's owner", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const uid = process.getuid?.() ?? 0;
    const mine = fixture.add({ filter: { uids: [uid] } });
    const others = fixture.add({ filter: { uids: [uid + 1, 2 ** 32 - 1] } });
    // No process has a pid above kernel.pid_max, 2^22.
    write(fixture, [
      { time: 1, pid: process.pid },
      { time: 2, pid: 2 ** 23 },
      { time: 3, pid: 0xffffffff },
    ]);
    fixture.dispatcher.drain();
    assert.deepEqual(mine.takeTimes(), [1]);
    assert.deepEqual(others.takeTimes(), []);
  });

  it("get nothing before they are attached, after they are detached, or under another's generation", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add();
    fixture.dispatcher.detach(handler.handle.slot, handler.handle.generation + 1);
    write(fixture, [{ time: 1 }]);
    fixture.dispatcher.drain();
    fixture.dispatcher.detach(handler.handle.slot, handler.handle.generation);
    write(fixture, [{ time: 2 }]);
    assert.equal(fixture.dispatcher.drain(), false);
    assert.deepEqual(handler.takeTimes(), [1]);
    fixture.table.beginRemoval(handler.handle);
    fixture.table.release(handler.handle);
    const next = fixture.add();
    assert.equal(next.handle.slot, handler.handle.slot);
    fixture.dispatcher.detach(handler.handle.slot, handler.handle.generation);
    write(fixture, [{ time: 3 }]);
    fixture.dispatcher.drain();
    assert.deepEqual(next.takeTimes(), [3], "a late detach of the slot's last owner changes nothing");
    assert.deepEqual(handler.takeTimes(), []);
  });

  it("are not taken for the slot's next owner before that one is attached", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add();
    fixture.table.beginRemoval(handler.handle);
    fixture.table.release(handler.handle);
    assert.equal(addHandler(fixture.table).slot, handler.handle.slot);
    write(fixture, [{ time: 1 }]);
    fixture.dispatcher.drain();
    assert.deepEqual(handler.takeTimes(), []);
    assert.equal(handler.reader.matched(0), 0);
  });

  it("are marked as having something to take, each by its own bit", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handlers = Array.from({ length: 34 }, (_, i) => fixture.add({ filter: { pids: [i] } }));
    write(fixture, [{ pid: 0 }, { pid: 31 }, { pid: 33 }]);
    fixture.dispatcher.drain();
    const marked = handlers.filter(({ handle: { slot } }) => (fixture.dirty[slot >>> 5] >>> (slot & 31)) & 1);
    assert.deepEqual(
      marked.map((handler) => handlers.indexOf(handler)),
      [0, 31, 33],
    );
  });

  it("are counted for: dispatches, matches, times", () => {
    const fixture = openDispatcher();
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add({ filter: { pids: [1] } });
    write(fixture, [{ pid: 1 }, { pid: 2 }, { pid: 1 }]);
    fixture.clock.nowNs = 5e9;
    fixture.dispatcher.drain();
    write(fixture, [{ pid: 2 }]);
    fixture.dispatcher.drain();
    const { dispatches, matched, queueFull, lastDispatchNs } = fixture.counters.dispatched(handler.handle.slot);
    assert.deepEqual([dispatches, matched, queueFull, lastDispatchNs], [2, 2, 0, 5e9]);
  });

  it("say how long their samples may wait: the most impatient one counts", () => {
    const fixture = openDispatcher();
    assert.equal(fixture.dispatcher.flushIntervalMs, -1);
    fixture.dispatcher.setFlushInterval(800);
    assert.equal(fixture.dispatcher.flushIntervalMs, -1, "no handler, nothing to wait for");
    fixture.add({ flushIntervalMs: 100 });
    const fast = fixture.add({ flushIntervalMs: 0 });
    assert.equal(fixture.dispatcher.flushIntervalMs, 0);
    fixture.dispatcher.detach(fast.handle.slot, fast.handle.generation);
    assert.equal(fixture.dispatcher.flushIntervalMs, 100);
  });

  it("follow the daemon where they leave it to the daemon", () => {
    const { dispatcher, add } = openDispatcher();
    add({ flushIntervalMs: 400, flushIsDaemons: true });
    const own = add({ flushIntervalMs: 600 });
    assert.equal(dispatcher.flushIntervalMs, 400);
    dispatcher.setFlushInterval(2000);
    assert.equal(dispatcher.flushIntervalMs, 600);
    dispatcher.detach(own.handle.slot, own.handle.generation);
    assert.equal(dispatcher.flushIntervalMs, 2000);
    dispatcher.setFlushInterval(400);
    assert.equal(dispatcher.flushIntervalMs, 400);
  });
});

describe("the test's own records", () => {
  it("are as long as the kernel makes them", () => {
    assert.equal(sampleRecord({}).length, 8 + 6 * 8);
    assert.equal(sampleRecord(SAMPLE_DEFAULTS, LIVE | SAMPLE.CALLCHAIN).length, 8 + 7 * 8);
  });
});
