import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { RECORD, SAMPLE } from "../../pmu/abi.js";
import type { TaskSnapshot } from "../../pmu/source.js";
import { decodeDelivery } from "../delivery/delivery.test-support.js";
import { snapshotMessages } from "./snapshot-messages.js";
import { TaskFilter } from "./task-filter.js";
import { type TasksMessage, taskRecord } from "./tasks.test-support.js";

const ALL = new TaskFilter({ contextSwitches: false, pids: [] });

function comm(pid: number): Uint32Array {
  return taskRecord(RECORD.COMM, 0, [pid, pid], "a".repeat(1000), [pid]);
}

function run(...records: readonly Uint32Array[]): Uint32Array {
  return Uint32Array.from(records.flatMap((record) => [...record]));
}

function snapshot(runs: AsyncIterable<Uint32Array>): TaskSnapshot {
  return { formats: [{ ids: [], sampleType: SAMPLE.TID, sampleIdAll: true, fixedPeriod: 0 }], runs };
}

async function decode(messages: AsyncIterable<Buffer>): Promise<TasksMessage[]> {
  const decoded: TasksMessage[] = [];
  for await (const message of messages) {
    const { tasks } = decodeDelivery(message) as { tasks?: TasksMessage };
    assert.ok(tasks?.snapshot);
    decoded.push(tasks);
  }
  return decoded;
}

describe("snapshotMessages", () => {
  it("tells every record in messages of a moderate size, and says which is the last", async () => {
    const runs = (async function* () {
      for (let first = 1; first <= 120; first += 30)
        yield run(...Array.from({ length: 30 }, (_, i) => comm(first + i)));
    })();
    const messages = await decode(snapshotMessages(snapshot(runs), ALL, assert.fail));
    assert.deepEqual(
      messages.flatMap(({ records }) => records.map(({ pid }) => pid)),
      Array.from({ length: 120 }, (_, i) => i + 1),
    );
    assert.ok(messages.length > 2 && messages.every(({ records }) => records.length < 40));
    assert.deepEqual(
      messages.map(({ snapshot_complete }) => snapshot_complete),
      messages.map((_, i) => i === messages.length - 1),
    );
  });

  it("asks for no run before it is asked for the messages of the last", async () => {
    let asked = 0;
    const runs = (async function* () {
      for (;;) {
        asked++;
        yield run(...Array.from({ length: 40 }, (_, i) => comm(i)));
      }
    })();
    const messages = snapshotMessages(snapshot(runs), ALL, assert.fail);
    assert.equal(asked, 0);
    await messages.next();
    assert.equal(asked, 1);
    await messages.return(undefined);
  });

  it("is complete, if not full, when its source fails", async () => {
    const errors: string[] = [];
    const runs = (async function* () {
      yield run(comm(1));
      throw new Error("gone");
    })();
    const messages = await decode(snapshotMessages(snapshot(runs), ALL, ({ message }) => errors.push(message)));
    assert.deepEqual([messages.length, messages[0].records.length, messages[0].snapshot_complete], [1, 1, true]);
    assert.deepEqual(errors, ["gone"]);
  });

  it("leaves out what is about other processes, but nothing that concerns everybody", async () => {
    const filter = new TaskFilter({ contextSwitches: false, pids: [2] });
    const runs = (async function* () {
      yield run(
        comm(1),
        comm(2),
        taskRecord(RECORD.FORK, 0, [3, 2, 3, 2, 0, 0], null, [0]),
        taskRecord(RECORD.FORK, 0, [3, 1, 3, 1, 0, 0], null, [0]),
        taskRecord(RECORD.MMAP, 1, [0xffff_ffff, 0, 0, 0, 0, 0, 0, 0], "[ext4]", [0]),
        taskRecord(RECORD.CGROUP, 0, [1, 0], "/", [0]),
        taskRecord(RECORD.SWITCH, 0, [], null, [2]),
      );
    })();
    const [{ records }] = await decode(snapshotMessages(snapshot(runs), filter, assert.fail));
    assert.deepEqual(
      records.map(({ record }) => record),
      ["comm", "fork", "mmap", "cgroup"],
    );
    assert.equal(records[0].comm?.pid, 2);
  });
});
