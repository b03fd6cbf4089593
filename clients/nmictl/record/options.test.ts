import assert from "node:assert/strict";
import { test } from "node:test";
import { checkOptions, fieldsOf, namesTracepoint, type RecordOptions, registerRequest } from "./options.js";

const PLAIN: RecordOptions = { output: "perf.data", buildid: true };
const fields = (change: Partial<RecordOptions>) => [...fieldsOf({ ...PLAIN, ...change })].sort();

test("each option asks for its fields", () => {
  assert.deepEqual(fields({}), []);
  assert.deepEqual(fields({ g: true }), ["CALLCHAIN"]);
  assert.deepEqual(fields({ callGraph: "dwarf" }), ["CALLCHAIN", "REGS_USER", "STACK_USER"]);
  assert.deepEqual(fields({ physData: true }), ["ADDR", "DATA_SRC", "PHYS_ADDR"]);
  assert.deepEqual(fields({ branchAny: true }), ["BRANCH_STACK"]);
  assert.deepEqual(fields({ branchFilter: { bits: 8, counters: false } }), ["BRANCH_STACK"]);
  assert.deepEqual(fields({ rawSamples: true, weight: true, allCgroups: true }), ["CGROUP", "RAW", "WEIGHT"]);
  assert.deepEqual(fields({ dataPageSize: true, codePageSize: true }), ["ADDR", "CODE_PAGE_SIZE", "DATA_PAGE_SIZE"]);
});

test("a group whose leader alone samples carries what its members count", () => {
  assert.deepEqual(fields({ event: ["{cpu-clock,page-faults}:S"] }), ["READ"]);
  assert.deepEqual(fields({ event: ["{cpu-clock,page-faults}", "cycles:S"] }), []);
});

test("nothing to record, or contradicting targets, is refused", () => {
  assert.throws(() => checkOptions(PLAIN, []), { code: "INVALID_OPTIONS" });
  assert.throws(() => checkOptions({ ...PLAIN, pid: [1] }, ["true"]), { code: "INVALID_OPTIONS" });
  checkOptions({ ...PLAIN, cpu: [0] }, []);
  checkOptions({ ...PLAIN, uid: [0] }, []);
  checkOptions({ ...PLAIN, allCpus: true }, ["true"]);
});

test("CPUs and users are the daemon's to filter, and a replay is recorded sample by sample", () => {
  assert.deepEqual(registerRequest({ ...PLAIN, cpu: [1], uid: [5] }, false).filter, { cpus: [1], uids: [5] });
  const rate = (replay: boolean) => registerRequest(PLAIN, replay).events?.[0].frequencyHz;
  assert.deepEqual([rate(false), rate(true)], [4000, undefined]);
  const event = ["cpu-clock/period=1000/", "cycles/name=x,freq=9/", "cpu-clock/name=freq/"];
  const rates = (options: RecordOptions) => registerRequest(options, false).events?.map((one) => one.frequencyHz);
  assert.deepEqual(rates({ ...PLAIN, event }), [undefined, undefined, 4000]);
  assert.deepEqual(rates({ ...PLAIN, event, frequency: 99 }), [99, 99, 99], "the daemon says that it is given twice");
});

test("tracepoints are told from other events, which keep their rate beside them", () => {
  const resolved = [
    { name: "sched:sched_switch:k", type: 2 },
    { name: "cycles:k", type: 0 },
  ];
  for (const event of ["sched:sched_switch:k", "sched:*", "s*:sched_switch", "{cpu-clock, sched:sched_switch}:u"]) {
    assert.ok(namesTracepoint(event, resolved), event);
  }
  for (const event of ["cycles:k", "cpu-clock", "{cycles:u,cs}", "1:0", "cpu/name='sched:x*'/", "mem:0x10:w", ""]) {
    assert.ok(!namesTracepoint(event, resolved), event);
  }
});
