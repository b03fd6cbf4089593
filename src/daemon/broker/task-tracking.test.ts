import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { PmuError } from "../../pmu/errors.js";
import { FakeSource } from "./fake-source.test-support.js";
import type { Handler } from "./handler.js";
import { TaskTracking } from "./task-tracking.js";

const PLAIN = { contextSwitches: false };
const SWITCHES = { contextSwitches: true };

function setUp() {
  const source = new FakeSource();
  const problems: string[] = [];
  let lostRecords = 0;
  const tracking = new TaskTracking({
    source,
    tellAll: source.tellAll,
    lostRecords: () => lostRecords,
    onProblem: ({ message }) => problems.push(message),
  });
  const told: number[] = [];
  const handlers = [{ delivery: { tasksLost: (count: number) => told.push(count) } }] as unknown as Handler[];
  return {
    source,
    problems,
    tracking,
    told,
    poll: () => tracking.poll(handlers),
    loseRecords: (count: number) => {
      lostRecords += count;
    },
  };
}

describe("TaskTracking", () => {
  it("has the records open while somebody wants them", async () => {
    const { source, tracking } = setUp();
    await tracking.acquire(PLAIN);
    assert.deepEqual(source.takeLog(), ["open tasks 0", "add tasks", "enable tasks 0"]);
    await tracking.acquire(PLAIN);
    await tracking.release(PLAIN);
    assert.deepEqual(source.takeLog(), []);
    await tracking.release(PLAIN);
    assert.deepEqual(source.takeLog(), ["disable tasks 0", "remove tasks", "close tasks 0"]);
  });

  it("has switches among them while somebody wants those, without a gap", async () => {
    const { source, tracking } = setUp();
    await tracking.acquire(PLAIN);
    source.takeLog();
    await tracking.acquire(SWITCHES);
    assert.deepEqual(source.takeLog(), [
      "open tasks 1 switches",
      "add tasks",
      "enable tasks 1",
      "disable tasks 0",
      "remove tasks",
      "close tasks 0",
    ]);
    await tracking.release(SWITCHES);
    assert.deepEqual(source.takeLog().slice(0, 1), ["open tasks 2"]);
  });

  it("leaves everything as it was when the source refuses", async () => {
    const { source, tracking, problems } = setUp();
    await tracking.acquire(PLAIN);
    source.takeLog();
    source.refuse = (what) => (what === "open tasks" ? new PmuError("PERMISSION", "tasks: no") : null);
    await assert.rejects(tracking.acquire(SWITCHES), /tasks: no/);
    await tracking.release(PLAIN);
    assert.deepEqual(source.takeLog(), ["disable tasks 0", "remove tasks", "close tasks 0"]);
    assert.deepEqual(problems, []);
  });

  it("tells of what the kernel lost, once, by its own count or by what LOST records say", async () => {
    const { source, tracking, told, poll, loseRecords } = setUp();
    source.tasksLost = 5;
    poll();
    assert.deepEqual(told, [], "nobody wants any");
    await tracking.acquire(PLAIN);
    poll();
    poll();
    source.tasksLost = 7;
    loseRecords(100);
    poll();
    assert.deepEqual(told, [5, 2]);
    source.tasksLost = null;
    loseRecords(3);
    poll();
    poll();
    assert.deepEqual([told, tracking.lost], [[5, 2, 103], 110]);
  });
});
