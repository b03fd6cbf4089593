import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MISC, RECORD, SAMPLE } from "../../pmu/abi.js";
import { ENTRY, REFUSAL } from "../delivery/outbox.js";
import { decodeTasks, type TaskRecordMessage, taskRecord } from "../tasks/tasks.test-support.js";
import { type DispatcherFixture, format, openDispatcher, type TestHandler, write } from "./dispatcher.test-support.js";
import { DISPATCHER_STAT } from "./stats.js";

const TRAILER = SAMPLE.IDENTIFIER | SAMPLE.TID | SAMPLE.TIME | SAMPLE.CPU;
const ALL = { contextSwitches: false, pids: [] };

function setUp(): DispatcherFixture {
  const fixture = openDispatcher();
  fixture.dispatcher.addFormats(0, [format([1])]);
  fixture.dispatcher.addTaskFormats([format([9], TRAILER)]);
  return fixture;
}

function record(fixture: DispatcherFixture, type: number, pid: number, misc = 0): void {
  const words = taskRecord(type, misc, [pid, pid], type === RECORD.COMM ? "a".repeat(2000) : null, [pid, 5, 0, 9]);
  assert.ok(fixture.rings[0].write(new Uint8Array(words.buffer)));
}

type Taken = number | readonly TaskRecordMessage[];

/** What waits in the outbox: a number of samples, or task records. */
function take({ reader }: TestHandler): Taken[] {
  const taken: Taken[] = [];
  while (reader.peek()) {
    const { kind, samples, segment } = reader.entry;
    if (kind === ENTRY.TASKS) {
      const at = reader.segments.payloadAt(segment);
      const { records } = decodeTasks(reader.segments.bytes.slice(at, at + reader.segments.payloadBytes(segment)));
      assert.equal(records.length, samples);
      taken.push(records);
    } else taken.push(samples);
    reader.drop();
  }
  return taken;
}

function story(taken: readonly Taken[]): unknown[] {
  return taken.map((part) => (typeof part === "number" ? part : part.map(({ record: kind, pid }) => `${kind} ${pid}`)));
}

describe("task records", () => {
  it("come before the samples that follow them, and only to those who want them", () => {
    const fixture = setUp();
    const [wants, does] = [fixture.add({ tasks: ALL }), fixture.add()];
    write(fixture, [{ time: 1 }]);
    record(fixture, RECORD.EXIT, 3);
    record(fixture, RECORD.FORK, 4);
    write(fixture, [{ time: 2 }, { time: 3 }]);
    record(fixture, RECORD.EXIT, 4);
    assert.ok(fixture.dispatcher.drain());
    assert.deepEqual(story(take(wants)), [1, ["exit 3", "fork 4"], 2, ["exit 4"]]);
    assert.deepEqual(take(does), [1, 2]);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.TASK_RECORDS], 3);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.SAMPLES], 3);
  });

  it("are told a user of its own processes only, and nothing that concerns no process", () => {
    const fixture = openDispatcher([0], 65_536, 0, undefined, undefined, (pid) =>
      pid === 3 ? { uid: 1000, gid: 1000, hadPrivilege: false } : null,
    );
    fixture.clock.nowNs = 0;
    fixture.dispatcher.addFormats(0, [format([1])]);
    fixture.dispatcher.addTaskFormats([format([9], TRAILER)]);
    const owner = { uids: [1000], gid: 1000 };
    const own = fixture.add({ filter: { owner }, tasks: { ...ALL, owner, redacted: true } });
    const all = fixture.add({ tasks: ALL });
    const redacted = fixture.add({ tasks: { ...ALL, redacted: true } });
    fixture.clock.nowNs = 10;
    for (const pid of [3, 4]) record(fixture, RECORD.COMM, pid);
    for (const pid of [3, 4, 0xffff_ffff]) record(fixture, RECORD.MMAP2, pid);
    for (const type of [RECORD.KSYMBOL, RECORD.BPF_EVENT, RECORD.TEXT_POKE, RECORD.CGROUP]) record(fixture, type, 3);
    fixture.dispatcher.drain();
    assert.deepEqual(story(take(own)), [["comm 3", "mmap 3"]]);
    assert.deepEqual(story(take(redacted)), [["comm 3", "comm 4", "mmap 3", "mmap 4", "cgroup 3"]]);
    assert.equal(take(all).flat().length, 9);
  });

  it("are left alone as soon as nobody wants them", () => {
    const fixture = setUp();
    const handler = fixture.add({ tasks: ALL });
    fixture.dispatcher.detach(handler.handle.slot, handler.handle.generation);
    record(fixture, RECORD.EXIT, 3);
    assert.equal(fixture.dispatcher.drain(), false);
    assert.equal(fixture.stats.words[DISPATCHER_STAT.TASK_RECORDS], 0);
  });

  it("are what the handler's processes are about, with switches on request", () => {
    const fixture = setUp();
    const [own, switches] = [
      fixture.add({ tasks: { contextSwitches: false, pids: [3] } }),
      fixture.add({ tasks: { contextSwitches: true, pids: [] } }),
    ];
    for (const pid of [3, 4]) {
      record(fixture, RECORD.EXIT, pid);
      record(fixture, RECORD.SWITCH, pid, MISC.SWITCH_OUT);
    }
    fixture.dispatcher.drain();
    assert.deepEqual(story(take(own)), [["exit 3"]]);
    assert.deepEqual(story(take(switches)), [["exit 3", "switch 3", "exit 4", "switch 4"]]);
  });

  it("are cut into chunks, and counted as lost where the outbox is full", () => {
    const fixture = setUp();
    const handler = fixture.add({ tasks: ALL });
    for (let i = 0; i < 20; i++) record(fixture, RECORD.COMM, i);
    fixture.dispatcher.drain();
    const parts = take(handler).map((part) => (part as readonly TaskRecordMessage[]).length);
    assert.ok(parts.length > 1);
    assert.equal(
      parts.reduce((sum, records) => sum + records),
      20,
    );
    for (let round = 0; round < 5; round++) {
      for (let i = 0; i < 20; i++) record(fixture, RECORD.COMM, i);
      fixture.dispatcher.drain();
    }
    const kept = take(handler).reduce<number>((sum, part) => sum + (part as readonly TaskRecordMessage[]).length, 0);
    assert.ok(kept > 0 && kept < 100);
    assert.equal(handler.reader.tasksLost(REFUSAL.QUEUE_FULL), 100 - kept);
  });
});
