import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SAMPLE } from "../../pmu/abi.js";
import { PmuError, type PmuErrorCode } from "../../pmu/errors.js";
import type { DaemonLimits } from "../config/config.js";
import { REGION_BYTES_MIN } from "../delivery/outbox.js";
import { BrokerError, type BrokerErrorCode } from "./errors.js";
import { FakeSource } from "./fake-source.test-support.js";
import type { Handler } from "./handler.js";
import { resolvedEventMessages, wireCount, wirePlaces } from "./messages.js";
import { checkRegister, type HandlerSpec, type RegisterRequestMessage, refusal } from "./request.js";

const LIMITS: DaemonLimits = {
  memoryMaxBytes: 2 ** 29,
  queueMaxBytes: 8 * REGION_BYTES_MIN,
  queueDefaultBytes: 4 * REGION_BYTES_MIN,
  flushIntervalDefaultMs: 100,
  flushIntervalDefaultMaxMs: 1000,
  flushIntervalMaxMs: 5000,
  slowDispatchUs: 1024,
  overloadRateFloorHz: 100,
  overloadRaiseAfterMs: 10_000,
  leaseDefaultMs: 10_000,
  leaseMaxMs: 60_000,
  deregisterTimeoutDefaultMs: 5000,
  messageMaxBytes: 2 ** 20,
  filterEntriesMax: 4,
  eventsPerHandlerMax: 3,
};

const FILTER = { pids: [], cpus: [], uids: [], cgroups: [], exclude_user: false, exclude_kernel: false };

const REQUEST: RegisterRequestMessage = {
  name: "profiler",
  events: [{ event: "cycles", frequency_hz: 100, period: 0 }],
  filter: null,
  fields: [],
  queue: null,
  lease_ms: 0,
  tasks: false,
  context_switches: false,
  branch_sample_type: 0,
  exclusive: false,
};

function check(changes: Partial<RegisterRequestMessage>, dispatchers = 1): HandlerSpec {
  return checkRegister({ ...REQUEST, ...changes }, { source: new FakeSource(), limits: LIMITS, dispatchers });
}

function assertRefused(changes: Partial<RegisterRequestMessage>, message: RegExp, dispatchers = 1): void {
  assert.throws(
    () => check(changes, dispatchers),
    (error: unknown) => {
      assert.ok(error instanceof BrokerError, `${error}`);
      assert.equal(error.code, "INVALID_ARGUMENT");
      assert.match(error.message, message);
      return true;
    },
  );
}

function event(name: string, frequency_hz = 0, period = 0): RegisterRequestMessage["events"][number] {
  return { event: name, frequency_hz, period };
}

describe("checkRegister", () => {
  it("fills in the daemon's defaults", () => {
    const spec = check({ events: [] });
    assert.deepEqual(
      spec.events.map(({ name, rate }) => [name, rate]),
      [["cycles", { kind: "frequency", hz: 99 }]],
    );
    assert.deepEqual(
      [spec.queueMaxBytes, spec.overflow, spec.flushIntervalMs, spec.leaseMs],
      [LIMITS.queueDefaultBytes, "DROP_NEWEST", null, 10_000],
    );
    assert.deepEqual([spec.fields, spec.tasks], [{ sampleType: 0, branchCounters: false, aux: false }, null]);
    assert.deepEqual(spec.filter, {
      pids: [],
      cpus: [],
      uids: [],
      cgroupIds: [],
      excludeUser: false,
      excludeKernel: false,
    });
  });

  it("takes what is given", () => {
    const spec = check({
      fields: ["CALLCHAIN", "BRANCH_COUNTERS", "CALLCHAIN"],
      tasks: true,
      context_switches: true,
      filter: { ...FILTER, pids: [1, 2], cpus: [3], uids: [4], exclude_user: true },
      queue: {
        max_bytes: 2 * REGION_BYTES_MIN,
        overflow: "DISCONNECT",
        flush: "flush_interval_ms",
        flush_interval_ms: 7,
      },
      lease_ms: 1,
    });
    assert.deepEqual(
      [spec.queueMaxBytes, spec.overflow, spec.flushIntervalMs, spec.leaseMs],
      [2 * REGION_BYTES_MIN, "DISCONNECT", 7, 1],
    );
    assert.deepEqual(spec.fields, {
      sampleType: SAMPLE.CALLCHAIN | SAMPLE.BRANCH_STACK,
      branchCounters: true,
      aux: false,
    });
    assert.deepEqual(spec.tasks, { contextSwitches: true });
    assert.deepEqual([spec.filter.pids, spec.filter.cpus, spec.filter.uids], [[1, 2], [3], [4]]);
    assert.deepEqual([spec.filter.excludeUser, spec.filter.excludeKernel], [true, false]);
  });

  it("tells a flush interval of 0 from one that is not set", () => {
    const queue = { max_bytes: 0, overflow: "OVERFLOW_UNSPECIFIED" };
    assert.equal(check({ queue: { ...queue, flush: "flush_interval_ms", flush_interval_ms: 0 } }).flushIntervalMs, 0);
    assert.equal(check({ queue }).flushIntervalMs, null);
  });

  it("allows each bound itself", () => {
    check({ name: "é".repeat(31), lease_ms: 60_000 });
    check({ queue: { max_bytes: REGION_BYTES_MIN, overflow: "DROP_OLDEST" } });
    check({ queue: { max_bytes: LIMITS.queueMaxBytes, overflow: "DROP_NEWEST" } }, 8);
    check({ filter: { ...FILTER, pids: [1, 2, 3, 4] } });
    check({ events: [event("cycles", 1), event("cycles", 0, 1), event("cpu-clock", 1)] });
  });

  it("refuses names that cannot be shown", () => {
    assertRefused({ name: "" }, /^name: empty/);
    assertRefused({ name: "a".repeat(64) }, /^name: 64 bytes long: at most 63/);
    assertRefused({ name: "é".repeat(32) }, /^name: 64 bytes long/);
    for (const name of ["a\nb", "a\u001b[31m", "\0", "a\u0085"])
      assertRefused({ name }, /^name: holds control characters/);
  });

  it("refuses events by their place in the request", () => {
    assertRefused({ events: [event("cycles"), event("cyclse")] }, /^events\[1\]\.event: .*did you mean "cycles"/);
    assertRefused({ events: [event("cycles:x")] }, /^events\[0\]\.event: .*unknown modifier "x"/);
    assertRefused(
      { events: [event("cycles"), event("cpu-clock", 5, 5)] },
      /^events\[1\]\.frequency_hz and events\[1\]\.period: both are given/,
    );
    assertRefused({ events: [event("cycles", 2e9)] }, /^events\[0\]\.frequency_hz: 2000000000 is no frequency/);
    assertRefused(
      { events: [event("cycles", 100), event("cpu-cycles", 200)] },
      /^events\[1\]\.event: cycles is given twice/,
    );
    assertRefused(
      { events: ["cycles", "instructions", "cpu-clock", "task-clock"].map((name) => event(name)) },
      /^events: 4 given: at most 3 a handler; raise limits.events_per_handler_max, to 63 at most/,
    );
  });

  it("refuses filters that are too long or let nothing pass", () => {
    for (const list of ["pids", "cpus", "uids"] as const) {
      assertRefused(
        { filter: { ...FILTER, [list]: [1, 2, 3, 4, 5] } },
        new RegExp(`^filter\\.${list}: 5 entries: at most 4`),
      );
    }
    assertRefused({ filter: { ...FILTER, cgroups: ["/", "/", "/", "/", "/"] } }, /^filter\.cgroups: 5 entries/);
    assertRefused({ filter: { ...FILTER, exclude_user: true, exclude_kernel: true } }, /^filter\.exclude_kernel: /);
  });

  it("refuses cgroups that are not there, or not below the mount", () => {
    for (const path of ["", "system.slice", "/../etc", "/a/../../etc"]) {
      assertRefused({ filter: { ...FILTER, cgroups: [path] } }, /^filter\.cgroups\[0\]: ".*": give the path below/);
    }
    assertRefused(
      { filter: { ...FILTER, cgroups: ["/no/such/group"] } },
      /^filter\.cgroups\[0\]: "\/no\/such\/group": no such/,
    );
  });

  it("refuses fields that it does not offer", () => {
    assertRefused({ fields: ["17"] }, /^fields\[0\]: 17 is not offered/);
    assertRefused({ context_switches: true }, /^context_switches: .*set tasks/);
    assertRefused({ fields: ["CALLCHAIN", "AUX"] }, /^fields\[\]: AUX is what a PMU writes .* has none/);
    assertRefused({ fields: ["FIELD_UNSPECIFIED"] }, /^fields\[0\]: /);
  });

  it("takes kinds of branches with BRANCH_STACK alone, and none that change what samples look like", () => {
    const fields = ["BRANCH_STACK"];
    const refused = (branch_sample_type: number, message: RegExp) =>
      assertRefused({ fields, branch_sample_type }, message);
    refused(1 << 17, /^branch_sample_type: 0x20000: only the bits of 0x5ffff .*BRANCH_COUNTERS/);
    refused(1 << 19, /only the bits of 0x5ffff/);
    refused(2 ** 40 + 8, /only the bits of 0x5ffff/);
    refused(5, /^branch_sample_type: 0x5: names no kind of branch: add .*ANY/);
    assertRefused(
      { branch_sample_type: 8 },
      /^branch_sample_type: 0x8: says which branches BRANCH_STACK holds: add it/,
    );
    const { request: _, ...any } = check({ fields, branch_sample_type: 8 });
    const { request: __, ...none } = check({ fields });
    assert.deepEqual(any, none);
  });

  it("refuses queues and leases beyond the limits", () => {
    const queue = { max_bytes: 0, overflow: "DROP_NEWEST" };
    assertRefused(
      { queue: { ...queue, max_bytes: REGION_BYTES_MIN - 1 } },
      /^queue\.max_bytes: 65535: give between 65536/,
    );
    assertRefused({ queue: { ...queue, max_bytes: 2 * REGION_BYTES_MIN } }, /^queue\.max_bytes: .* between 262144/, 4);
    assertRefused({ queue: { ...queue, max_bytes: LIMITS.queueMaxBytes + 1 } }, /^queue\.max_bytes: /);
    assertRefused({ queue: { ...queue, overflow: "17" } }, /^queue\.overflow: 17/);
    assertRefused(
      { queue: { ...queue, flush: "flush_interval_ms", flush_interval_ms: 5001 } },
      /^queue\.flush_interval_ms: 5001: at most 5000/,
    );
    assertRefused({ lease_ms: 60_001 }, /^lease_ms: 60001: at most 60000, or 0 for 10000/);
  });
});

describe("refusal", () => {
  it("has gRPC's word for everything a source refuses", () => {
    const codes: Record<PmuErrorCode, BrokerErrorCode> = {
      EVENT_SYNTAX: "INVALID_ARGUMENT",
      EVENT_UNKNOWN: "INVALID_ARGUMENT",
      RATE_INVALID: "INVALID_ARGUMENT",
      SHAPE_UNSUPPORTED: "INVALID_ARGUMENT",
      RESOURCE: "RESOURCE_EXHAUSTED",
      EVENT_UNSUPPORTED: "FAILED_PRECONDITION",
      PERMISSION: "FAILED_PRECONDITION",
      RECORDING_UNREADABLE: "FAILED_PRECONDITION",
      SYSCALL: "FAILED_PRECONDITION",
    };
    for (const [code, expected] of Object.entries(codes)) {
      const error = new PmuError(code as PmuErrorCode, "the reason");
      const refused = refusal(error, "events[2]");
      assert.equal(refused.code, expected, code);
      assert.equal(refused.message, "events[2].event: the reason");
      assert.equal(refused.cause, error);
    }
  });
});

describe("checkRegister: what means several events", () => {
  it("takes every instance of a PMU, and says which of the request's events each is", () => {
    const spec = check({ events: [event("cpu-clock"), event("uncore_imc/event=4/")] });
    assert.deepEqual(
      spec.events.map(({ name }) => name),
      ["cpu-clock", "uncore_imc_0/event=4/", "uncore_imc_1/event=4/"],
    );
    assert.deepEqual(spec.requestIndexes, [0, 1, 1]);
  });

  it("counts a group's members, which are numbered behind their leader", () => {
    const spec = check({ events: [event("{cycles,instructions}:S"), event("cpu-clock")] });
    const open = { formats: [{ ids: [], sampleType: 0, sampleIdAll: true, fixedPeriod: 0 }] };
    const places = wirePlaces(spec.events);
    const handler = { spec, places, armed: spec.events.map(() => ({ open })) } as unknown as Handler;
    assert.deepEqual(
      resolvedEventMessages(handler).map(({ name, leader_index, frequency_hz }) => [name, leader_index, frequency_hz]),
      [
        ["cycles", 0, 99],
        ["instructions", 0, 0],
        ["cpu-clock", 2, 99],
      ],
    );
    assert.deepEqual(wirePlaces(spec.events), [0, 2]);
    assert.equal(wireCount(spec.events), 3);
    assertRefused(
      { events: [event("{cycles,instructions}:S"), event("{cpu-clock,page-faults}:S")] },
      /^events: they mean 4 events: at most 3 a handler/,
    );
  });

  it("refuses what it does not offer by name", () => {
    assertRefused(
      { events: [event("cpu-clock"), event("{cycles,instructions}")] },
      /^events\[1\]\.event: groups in which every event samples are not offered by this version: write \{…\}:S/,
    );
  });

  it("passes exclusive on", () => {
    assert.equal(check({}).exclusive, false);
    assert.equal(check({ exclusive: true }).exclusive, true);
  });
});
