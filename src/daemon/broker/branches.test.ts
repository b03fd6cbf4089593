import assert from "node:assert/strict";
import { describe, it, type TestContext } from "node:test";
import { SAMPLE } from "../../pmu/abi.js";
import { FakeKernel } from "../../pmu/perf/fake-kernel.test-support.js";
import { openPerfSource } from "../../pmu/perf/source.js";
import { ArmedEvents, type EventUser } from "./armed-events.js";

const CYCLES = 0;
const HW_INDEX = 1n << 17n;

function setUp(t: TestContext) {
  const kernel = new FakeKernel();
  const source = openPerfSource({ ringBytes: 16_384, kernel });
  t.after(() => source.close());
  const armed = new ArmedEvents({
    source,
    tellAll: async () => {},
    onArmed: () => {},
    onRetired: () => {},
    onProblem: (_armed, error) => assert.fail(error.message),
  });
  const user = (branchSampleType: number, sampleType: number = SAMPLE.BRANCH_STACK): EventUser => ({
    event: source.resolve({ event: "cycles", frequencyHz: 100, branchSampleType })[0],
    ...{ sampleType, branchCounters: false, wakeEach: false },
  });
  /** What the kernel was told of the events of the first CPU that are open. */
  const told = (): bigint[] =>
    kernel.openEvents
      .filter(({ attr, cpu }) => attr.type === CYCLES && cpu === 0)
      .map(({ attr }) => attr.branchSampleType);
  return { armed, user, told };
}

describe("handlers of one event that want branches", () => {
  it("share it where they want the same, and have events of their own where they do not", async (t) => {
    const { armed, user, told } = setUp(t);
    const users = [user(0), user(0x11), user(0x11), user(0x12)];
    const events = await armed.acquire(users);
    assert.equal(new Set(events).size, 3);
    assert.equal(events[1], events[2]);
    assert.deepEqual(told(), [HW_INDEX | 8n, HW_INDEX | 0x11n, HW_INDEX | 0x12n]);
    assert.deepEqual(
      events.map(({ open }) => open.formats[0].branchSampleType),
      [0x20008, 0x20011, 0x20011, 0x20012],
    );
    await armed.release(events, users);
    assert.deepEqual(told(), []);
  });

  it("share it with those that want none, if they want any", async (t) => {
    const { armed, user, told } = setUp(t);
    const users = [user(0, 0), user(0)];
    const events = await armed.acquire(users);
    assert.equal(events[0], events[1]);
    assert.deepEqual(told(), [HW_INDEX | 8n]);
    await armed.release(events, users);
  });
});
