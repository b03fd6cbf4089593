import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { MISC, RECORD } from "../../pmu/abi.js";
import {
  type DispatcherFixture,
  format,
  LIVE,
  openDispatcher,
  record,
  SAMPLE_DEFAULTS,
  type TestHandler,
  write,
} from "./dispatcher.test-support.js";
import { LOOKS_MAX } from "./ownership.js";
import type { ThreadOwner } from "./process-owner.js";

const USER = 1000;
const OTHER = 1001;
const MS = 1_000_000;
/** Task records end in { pid, tid, time, cpu, id }. */
const TASKS_ID = 77;

const user = (part: Partial<ThreadOwner> = {}): ThreadOwner => ({
  uid: USER,
  gid: USER,
  hadPrivilege: false,
  ...part,
});

/** A machine whose processes are what the test says, sampled on two CPUs that one dispatcher drains. */
class Machine {
  readonly owners = new Map<number, ThreadOwner>();
  looks = 0;
  /** Something that happens while the next look is under way, after what it sees. */
  meanwhile: (() => void) | null = null;
  readonly fixture: DispatcherFixture;
  readonly handler: TestHandler;

  constructor() {
    this.fixture = openDispatcher([0, 1], 65_536, 0, undefined, undefined, (_pid, tid) => {
      this.looks++;
      const seen = this.owners.get(tid) ?? null;
      this.meanwhile?.();
      this.meanwhile = null;
      return seen;
    });
    this.fixture.dispatcher.addFormats(0, [format([1])]);
    this.fixture.dispatcher.addTaskFormats([format([TASKS_ID])]);
    this.handler = this.handlerOf(USER);
  }

  handlerOf(uid: number, gid: number | null = uid): TestHandler {
    return this.fixture.add({ filter: { owner: { uids: [uid], gid } } });
  }

  get nowNs(): number {
    return this.fixture.clock.nowNs;
  }

  /** A millisecond passes; then a sample is taken. */
  sample(pid: number, cpu = 0, tid = pid): number {
    this.fixture.clock.nowNs += MS;
    write(this.fixture, [{ ...SAMPLE_DEFAULTS, pid, tid, time: this.nowNs }], LIVE, cpu);
    return this.nowNs;
  }

  #task(type: number, misc: number, fields: readonly bigint[], pid: number, cpu: number): void {
    this.fixture.clock.nowNs += MS;
    const both = BigInt(pid) | (BigInt(pid) << 32n);
    // SAMPLE_ID of LIVE: tid, time, cpu, identifier.
    const trailer = [both, BigInt(this.nowNs), BigInt(cpu), BigInt(TASKS_ID)];
    const body = fields.map((field) => (field === TIME ? BigInt(this.nowNs) : field));
    assert.ok(this.fixture.rings[cpu].write(record(type, misc, [...body, ...trailer])));
  }

  exec(pid: number, cpu = 0): void {
    this.#task(RECORD.COMM, MISC.COMM_EXEC, [BigInt(pid) | (BigInt(pid) << 32n), 0x78n], pid, cpu);
  }

  fork(pid: number, parent: number, cpu = 0): void {
    const ids = [BigInt(pid) | (BigInt(parent) << 32n), BigInt(pid) | (BigInt(parent) << 32n), TIME];
    this.#task(RECORD.FORK, 0, ids, parent, cpu);
  }

  exit(pid: number, cpu = 0): void {
    const ids = [BigInt(pid) | (1n << 32n), BigInt(pid) | (1n << 32n), TIME];
    this.#task(RECORD.EXIT, 0, ids, pid, cpu);
  }

  /** Times of what the handler is given. */
  drain(handler = this.handler): number[] {
    this.fixture.clock.nowNs += MS;
    this.fixture.dispatcher.drain();
    return handler.takeTimes();
  }
}
const TIME = -1n;

describe("samples of a user's own processes", () => {
  it("are shown; those of others, of the idle task and of processes that have gone are not", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.owners.set(20, user({ uid: OTHER }));
    machine.owners.set(0, user());
    const own = machine.sample(10);
    for (const pid of [20, 30, 0]) machine.sample(pid);
    assert.deepEqual(machine.drain(), [own]);
    const { matched } = machine.fixture.counters.dispatched(machine.handler.handle.slot);
    assert.equal(matched, 1, "what is not shown is in no books");
  });

  it("must be of the user's group, unless any will do", () => {
    const machine = new Machine();
    const any = machine.handlerOf(USER, null);
    machine.owners.set(10, user({ gid: 50 }));
    const time = machine.sample(10);
    assert.deepEqual(machine.drain(), []);
    assert.deepEqual(any.takeTimes(), [time]);
  });

  it("are judged by thread", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    const own = machine.sample(10, 0, 10);
    machine.sample(10, 0, 11);
    assert.deepEqual(machine.drain(), [own]);
  });

  it("go to each user apart", () => {
    const machine = new Machine();
    const other = machine.handlerOf(OTHER);
    machine.owners.set(10, user());
    machine.owners.set(20, user({ uid: OTHER, gid: OTHER }));
    const [mine, theirs] = [machine.sample(10), machine.sample(20)];
    assert.deepEqual(machine.drain(), [mine]);
    assert.deepEqual(other.takeTimes(), [theirs]);
  });

  it("follow a fork: a child is looked at by itself", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.owners.set(11, user());
    machine.fork(11, 10);
    assert.deepEqual(machine.sample(11) > 0 && machine.drain().length, 1);
  });
});

describe("a process that becomes another", () => {
  it("by exec of a set-user-id program is not shown from then on", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    assert.equal(machine.sample(10) > 0 && machine.drain().length, 1);
    machine.exec(10);
    machine.owners.delete(10);
    machine.sample(10);
    assert.deepEqual(machine.drain(), []);
  });

  it("by exec, and back by another, is not shown as what it was in between", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    assert.equal(machine.sample(10) > 0 && machine.drain().length, 1);
    machine.exec(10);
    machine.sample(10);
    machine.exec(10);
    const after = machine.sample(10);
    assert.deepEqual(machine.drain(), [after], "the last exec made it the user's again");
  });

  it("is told by another CPU's ring, which is drained later", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.sample(10, 0);
    machine.exec(10, 1);
    assert.deepEqual(machine.drain(), [], "it was somebody else's when it was sampled, for all that is known");
  });

  it("while it is looked at is not shown", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.sample(10, 0);
    machine.meanwhile = () => machine.exec(10, 1);
    assert.deepEqual(machine.drain(), []);
  });

  it("by giving up privilege is shown from when it was first seen to be the user's", () => {
    const machine = new Machine();
    machine.sample(10);
    assert.deepEqual(machine.drain(), [], "root's");
    machine.exec(10);
    machine.sample(10);
    machine.owners.set(10, user({ hadPrivilege: true }));
    assert.deepEqual(machine.drain(), [], "nobody saw what it was when it was sampled");
    const later = machine.sample(10);
    assert.deepEqual(machine.drain(), [later]);
  });

  it("by giving up the user's identity is not shown: each batch is judged by a look that came after it", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    assert.equal(machine.sample(10) > 0 && machine.drain().length, 1);
    machine.owners.set(10, user({ uid: OTHER }));
    machine.sample(10);
    assert.deepEqual(machine.drain(), []);
  });

  it("when its pid is used again is not shown as the new one's", () => {
    const machine = new Machine();
    machine.sample(10);
    machine.exit(10, 1);
    machine.fork(10, 5, 1);
    const own = machine.sample(10, 1);
    machine.owners.set(10, user());
    assert.deepEqual(machine.drain(), [own]);
  });
});

describe("what is not known", () => {
  it("is not shown: what was sampled before changes were watched", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    const early = machine.nowNs - 5 * MS;
    write(machine.fixture, [{ ...SAMPLE_DEFAULTS, pid: 10, tid: 10, time: early }]);
    const own = machine.sample(10);
    assert.deepEqual(machine.drain(), [own]);
  });

  it("is not shown: what came before the kernel told of losses", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.sample(10);
    machine.fixture.rings[1].write(record(RECORD.LOST, 0, [1n, 3n]));
    assert.deepEqual(machine.drain(), []);
    const own = machine.sample(10);
    assert.deepEqual(machine.drain(), [own], "later ones are");
  });

  it("is not shown: what came before a CPU came whose processes nobody watched", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.sample(10);
    machine.fixture.clock.nowNs += MS;
    machine.fixture.dispatcher.forgetIdentities();
    assert.deepEqual(machine.drain(), []);
    const own = machine.sample(10);
    assert.deepEqual(machine.drain(), [own]);
  });

  it("does not come of a CPU that goes: what it told to the end still counts", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.sample(10);
    const steady = machine.sample(11);
    machine.owners.set(11, user());
    machine.exec(10, 1);
    machine.fixture.dispatcher.unwatchRing(1n);
    assert.deepEqual(machine.drain(), [steady]);
  });

  it("is not shown: what a ring may have had no room to tell", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.sample(10);
    // 56 bytes each; the dispatcher does not drain in between.
    for (let i = 0; i < 1110; i++) machine.sample(20, 1);
    assert.deepEqual(machine.drain(), []);
  });

  it("is not shown: what a dispatcher that took another's place cannot know", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    machine.fixture.dispatcher.drain();
    machine.sample(10);
    machine.fixture.clock.nowNs += MS;
    machine.fixture.replace([], (dispatcher) => {
      dispatcher.addFormats(0, [format([1])]);
      dispatcher.addTaskFormats([format([TASKS_ID])]);
    });
    assert.deepEqual(machine.drain(), []);
    const own = machine.sample(10);
    assert.deepEqual(machine.drain(), [own]);
  });
});

describe("looks at processes", () => {
  it("are one for each thread and drain, and fewer for others'", () => {
    const machine = new Machine();
    machine.owners.set(10, user());
    for (let i = 0; i < 5; i++) {
      machine.sample(10);
      machine.sample(20);
      machine.sample(10);
      assert.equal(machine.drain().length, 2);
    }
    assert.equal(machine.looks, 6, "the user's five times, the other's once");
  });

  it("are not made for those who see everything", () => {
    const fixture = openDispatcher([0], 65_536, 0, undefined, undefined, () => assert.fail("looked"));
    fixture.dispatcher.addFormats(0, [format([1])]);
    const handler = fixture.add();
    write(fixture, [{ pid: 10 }]);
    fixture.dispatcher.drain();
    assert.equal(handler.takeTimes().length, 1);
  });

  it("are bounded: what cannot be looked at is not shown", () => {
    const machine = new Machine();
    machine.handlerOf(USER);
    for (let pid = 1; pid <= LOOKS_MAX + 300; pid++) machine.owners.set(pid, user());
    machine.fixture.clock.nowNs -= MS;
    for (let pid = 1; pid <= LOOKS_MAX + 300; pid++) {
      write(machine.fixture, [{ ...SAMPLE_DEFAULTS, pid, tid: pid, time: machine.nowNs + MS }]);
    }
    machine.fixture.clock.nowNs += MS;
    machine.fixture.dispatcher.drain();
    assert.equal(machine.handler.takeTimes().length, LOOKS_MAX);
    assert.equal(machine.looks, LOOKS_MAX);
  });
});
