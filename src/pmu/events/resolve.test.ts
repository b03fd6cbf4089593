import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TYPE } from "../abi.js";
import { PmuError, type PmuErrorCode } from "../errors.js";
import { recordedFileTree } from "./file-tree.js";
import { hostOf, MACHINES, type MachineName } from "./machines.test-support.js";
import type { ParsedEvent } from "./parsed-event.js";
import { openEventHost, type PfmEncoder, parseEventSpec, resolveEventSpec } from "./resolve.js";

function resolve(machine: MachineName, spec: string): readonly ParsedEvent[] {
  return resolveEventSpec(spec, hostOf(machine));
}

/** name, type, config, and config1 where it is not 0. */
function words({ name, type, config, config1 }: ParsedEvent): unknown[] {
  const base = [name, type, `0x${config.toString(16)}`];
  return config1 === 0n ? base : [...base, `0x${config1.toString(16)}`];
}

function refused(
  machine: MachineName,
  spec: string,
  code: PmuErrorCode,
  column: number,
  message: RegExp,
  pfm?: PfmEncoder,
): void {
  assert.throws(
    () => resolveEventSpec(spec, hostOf(machine, pfm)),
    (error: unknown) => {
      assert.ok(error instanceof PmuError, `${spec}: ${error}`);
      assert.equal(error.code, code, error.message);
      assert.ok(error.message.startsWith(`event ${JSON.stringify(spec)}, column ${column}: `), error.message);
      assert.match(error.message, message);
      return true;
    },
  );
}

describe("events of a PMU", () => {
  const cases: [MachineName, string, ...unknown[][]][] = [
    ["intel-server", "cpu/event=0x3c,umask=0x0,period=100003/", ["cpu/event=0x3c,umask=0x0,period=100003/", 4, "0x3c"]],
    ["intel-server", "cpu/event=60,umask=1/", ["cpu/event=60,umask=1/", 4, "0x13c"]],
    ["intel-server", "cpu/event=0xc0,cmask=1,inv,edge/", ["cpu/event=0xc0,cmask=1,inv,edge/", 4, "0x18400c0"]],
    ["intel-server", "cpu/event=0xc0,in_tx/u", ["cpu/event=0xc0,in_tx/u", 4, "0x1000000c0"]],
    [
      "intel-server",
      "cpu/event=0xb7,umask=0x1,offcore_rsp=0x3fbfc00001/",
      ["cpu/event=0xb7,umask=0x1,offcore_rsp=0x3fbfc00001/", 4, "0x1b7", "0x3fbfc00001"],
    ],
    [
      "intel-server",
      "cpu/config=0x1a8,config1=7,config2=9/",
      ["cpu/config=0x1a8,config1=7,config2=9/", 4, "0x1a8", "0x7"],
    ],
    ["intel-server", "cpu/r1a8/", ["cpu/r1a8/", 4, "0x1a8"]],
    ["intel-server", "cpu/r0x1a8/", ["cpu/r0x1a8/", 4, "0x1a8"]],
    ["intel-server", "cpu/instructions/", ["cpu/instructions/", 4, "0xc0"]],
    // What the kernel names no event of its own falls back on the generic ones.
    ["intel-server", "cpu/cycles/k", ["cpu/cycles/k", TYPE.HARDWARE, "0x0"]],
    ["intel-server", "cpu/L1-dcache-load-misses/", ["cpu/L1-dcache-load-misses/", TYPE.HW_CACHE, "0x10000"]],
    ["intel-server", "cpu/mem-loads/ppu", ["cpu/mem-loads/upp", 4, "0x1cd", "0x3"]],
    ["intel-server", "cpu/mem-loads,ldlat=30/P", ["cpu/mem-loads,ldlat=30/P", 4, "0x1cd", "0x1e"]],
    ["intel-server", "mem-loads", ["cpu/mem-loads/", 4, "0x1cd", "0x3"]],
    ["intel-server", "cpu/topdown-total-slots/", ["cpu/topdown-total-slots/", 4, "0x20003c"]],
    ["intel-server", "cpu/cache-misses,name=llc misses/u", ["llc misses", 4, "0x412e"]],
    [
      "intel-server",
      "intel_pt/tsc,noretcomp=0,mtc_period=3/",
      ["intel_pt/tsc,noretcomp=0,mtc_period=3/", 11, "0xc400"],
    ],
    ["intel-server", "intel_pt//", ["intel_pt//", 11, "0x0"]],
    ["intel-server", "uncore_imc_3/cas_count_read/", ["uncore_imc_3/cas_count_read/", 23, "0x304"]],
    [
      "intel-server",
      "uncore_cha/event=0x35,umask=0x21,filter_opc_0=0x182/",
      ["uncore_cha_0/event=0x35,umask=0x21,filter_opc_0=0x182/", 30, "0x2135", "0x3040000000000"],
      ["uncore_cha_1/event=0x35,umask=0x21,filter_opc_0=0x182/", 31, "0x2135", "0x3040000000000"],
    ],
    ["intel-server", "msr/tsc/", ["msr/tsc/", 12, "0x0"]],
    ["intel-server", "energy-pkg", ["power/energy-pkg/", 13, "0x2"]],
    // Twelve bits of an event in two places.
    ["amd", "cpu/event=0x1cf,umask=0x3/", ["cpu/event=0x1cf,umask=0x3/", 4, "0x1000003cf"]],
    ["amd", "cpu/cache-misses/", ["cpu/cache-misses/", 4, "0x964"]],
    ["amd", "amd_df/event=0x1f,umask=0xffe/", ["amd_df/event=0x1f,umask=0xffe/", 11, "0xf00fe1f"]],
    ["amd", "ibs_op/cnt_ctl=1/", ["ibs_op/cnt_ctl=1/", 10, "0x80000"]],
    ["intel-hybrid", "cpu_core/cycles/", ["cpu_core/cycles/", TYPE.HARDWARE, "0x400000000"]],
    ["intel-hybrid", "cpu_atom/LLC-loads/u", ["cpu_atom/LLC-loads/u", TYPE.HW_CACHE, "0xa00000002"]],
    ["intel-hybrid", "cpu_atom/mem-loads/", ["cpu_atom/mem-loads/", 10, "0x5d0", "0x3"]],
    ["intel-hybrid", "cpu_core/slots/", ["cpu_core/slots/", 4, "0x400"]],
    ["vm", "msr/event=0/", ["msr/event=0/", 9, "0x0"]],
  ];
  for (const [machine, spec, ...expected] of cases) {
    it(`${machine}: ${spec}`, () => assert.deepEqual(resolve(machine, spec).map(words), expected));
  }

  it("takes its rate from the terms", () => {
    const [event] = resolve("intel-server", "cpu/event=0x3c,period=100003/");
    assert.deepEqual([event.period, event.frequencyHz], [100_003, null]);
    assert.equal(resolve("intel-server", "cpu/cycles,freq=997/")[0].frequencyHz, 997);
  });

  it("accepts perf's terms that change nothing here", () => {
    const [event] = resolve("intel-server", "cpu/event=0x3c,call-graph=no,time=1,no-inherit/");
    assert.equal(event.config, 0x3cn);
  });

  it("is bound to the CPUs that its PMU names", () => {
    assert.equal(resolve("intel-server", "uncore_imc_0/clockticks/")[0].cpus, "0,28");
    assert.equal(resolve("intel-hybrid", "cpu_atom/r1/")[0].cpus, "16-23");
    assert.equal(resolve("intel-server", "cpu/r1/")[0].cpus, "");
  });
});

describe("general terms of events that name no PMU", () => {
  const cases: [MachineName, string, ...unknown[][]][] = [
    ["vm", "cpu-clock/period=1000000/", ["cpu-clock/period=1000000/", TYPE.SOFTWARE, "0x0"]],
    ["vm", "cpu-clock/name=foo/", ["foo", TYPE.SOFTWARE, "0x0"]],
    ["vm", "cpu-clock//u", ["cpu-clock:u", TYPE.SOFTWARE, "0x0"]],
    ["vm", "cycles//u", ["cycles:u", TYPE.HARDWARE, "0x0"]],
    ["vm", "cpu-cycles/config1=3,config2/k", ["cycles/config1=3,config2/k", TYPE.HARDWARE, "0x0", "0x3"]],
    ["vm", "cpu-clock/config=1/", ["cpu-clock/config=1/", TYPE.SOFTWARE, "0x1"]],
    ["vm", "r1a8/period=7/", ["r1a8/period=7/", TYPE.RAW, "0x1a8"]],
    ["vm", "L1-dcache-loads/freq=9/", ["L1-dcache-loads/freq=9/", TYPE.HW_CACHE, "0x0"]],
    ["vm", "software/config=3/u", ["software/config=3/u", TYPE.SOFTWARE, "0x3"]],
    ["intel-server", "software/config=3/", ["software/config=3/", TYPE.SOFTWARE, "0x3"]],
    ["vm", "1:1", ["task-clock", TYPE.SOFTWARE, "0x1"]],
    ["vm", "0x1:0x63:u", ["1:99:u", TYPE.SOFTWARE, "0x63"]],
    ["vm", "4:0x1a8", ["r1a8", TYPE.RAW, "0x1a8"]],
    [
      "intel-hybrid",
      "cycles/period=7/u",
      ["cpu_atom/cycles,period=7/u", TYPE.HARDWARE, "0xa00000000"],
      ["cpu_core/cycles,period=7/u", TYPE.HARDWARE, "0x400000000"],
    ],
  ];
  for (const [machine, spec, ...expected] of cases) {
    it(`${machine}: ${spec}`, () => {
      const events = resolve(machine, spec);
      assert.deepEqual(events.map(words), expected);
      for (const event of events) {
        if (event.name === "foo") continue;
        assert.deepEqual(resolve(machine, event.name), [event], "its name means the same");
      }
    });
  }

  it("are its rate and more words of config, and what a clock's period counts stays so", () => {
    const [clock] = resolve("vm", "cpu-clock/period=1000000/");
    assert.deepEqual([clock.period, clock.frequencyHz, clock.periodUnit], [1_000_000, null, "ns"]);
    const [cycles] = resolve("vm", "cycles/freq=50,config2/");
    assert.deepEqual([cycles.period, cycles.frequencyHz, cycles.periodUnit, cycles.config2], [null, 50, "events", 1n]);
    assert.equal(resolve("vm", "cpu-clock/config=2/")[0].periodUnit, "events");
  });

  it("are no rate for sources that take it beside the event", () => {
    assert.throws(() => parseEventSpec("cpu-clock/period=1/"), /takes no rate among an event's terms/);
    assert.equal(parseEventSpec("cpu-clock/name=x/").name, "x");
  });
});

describe("quoted names", () => {
  it("may hold what else separates terms, members and events", () => {
    const [event] = resolve("intel-server", "cpu/name='A:orig=cycles,desc=x',event=2/");
    assert.deepEqual(words(event), ["A:orig=cycles,desc=x", 4, "0x2"]);
    const [leader] = resolve("intel-server", "{cpu-clock/name='a/}',period=9/,cpu/name='b,/c',event=2/u}");
    assert.deepEqual([leader.name, leader.period], ["a/}", 9]);
    assert.deepEqual(leader.members.map(words), [["b,/c", 4, "0x2"]]);
  });

  it("are none where no second quote follows", () => {
    assert.equal(resolve("intel-server", "cpu/name='a,event=2/")[0].name, "'a");
  });
});

describe("plain names on a CPU of two core types", () => {
  const both = (spec: string) => resolve("intel-hybrid", spec).map((event) => [...words(event), event.cpus]);
  it("are an event on each, told apart by the upper half of config", () => {
    assert.deepEqual(both("cycles:u"), [
      ["cpu_atom/cycles/u", TYPE.HARDWARE, "0xa00000000", "16-23"],
      ["cpu_core/cycles/u", TYPE.HARDWARE, "0x400000000", "0-15"],
    ]);
    assert.deepEqual(both("dTLB-load-misses"), [
      ["cpu_atom/dTLB-load-misses/", TYPE.HW_CACHE, "0xa00010003", "16-23"],
      ["cpu_core/dTLB-load-misses/", TYPE.HW_CACHE, "0x400010003", "0-15"],
    ]);
  });

  it("are raw events of each, and events that each names", () => {
    assert.deepEqual(both("r1a8"), [
      ["cpu_atom/r1a8/", 10, "0x1a8", "16-23"],
      ["cpu_core/r1a8/", 4, "0x1a8", "0-15"],
    ]);
    assert.deepEqual(both("mem-stores"), [
      ["cpu_atom/mem-stores/", 10, "0x6d0", "16-23"],
      ["cpu_core/mem-stores/", 4, "0x2cd", "0-15"],
    ]);
    assert.deepEqual(both("slots"), [["cpu_core/slots/", 4, "0x400", "0-15"]]);
  });

  it("stay one event where the kernel counts itself", () => {
    assert.deepEqual(both("cpu-clock:k"), [["cpu-clock:k", TYPE.SOFTWARE, "0x0", ""]]);
    assert.equal(both("mem:0x1000").length, 1);
  });
});

describe("groups on a CPU of two core types", () => {
  it("are a group on each", () => {
    const groups = resolve("intel-hybrid", "{cycles,instructions,page-faults}:S");
    assert.deepEqual(
      groups.map((leader) => [leader.name, leader.cpus, leader.sampleRead, ...leader.members.map(({ name }) => name)]),
      [
        ["cpu_atom/cycles/", "16-23", true, "cpu_atom/instructions/", "page-faults"],
        ["cpu_core/cycles/", "0-15", true, "cpu_core/instructions/", "page-faults"],
      ],
    );
  });

  it("follow a member that is bound, whoever leads", () => {
    const [group, second] = resolve("intel-hybrid", "{page-faults,cpu_core/slots/,cycles}");
    assert.equal(second, undefined, "the pattern of events is one");
    assert.equal(group.cpus, "0-15");
    assert.deepEqual(
      group.members.map(({ name }) => name),
      ["cpu_core/slots/", "cpu_core/cycles/"],
    );
  });

  it("cannot mix the two", () => {
    refused(
      "intel-hybrid",
      "{cpu_core/r1/,cpu_atom/r1/}",
      "EVENT_UNSUPPORTED",
      1,
      /by different PMUs \(cpu_core, cpu_atom\)/,
    );
  });
});

describe("groups", () => {
  it("are cut at their commas, whatever characters stand before", () => {
    const [{ name, members }] = resolve("intel-server", "{cpu/event=0x3c,name=😀/,instructions}");
    assert.deepEqual([name, ...members.map((member) => member.name)], ["😀", "instructions"]);
    const blanks = " ".repeat(200_000);
    const spec = `{${blanks}${"/".repeat(200_001)},cycles}`;
    assert.throws(() => resolve("intel-server", spec), /column 200002: the name of a PMU must stand before the slash/);
  });
});

describe("tracepoints", () => {
  it("are known by the id that tracefs gives, and bring their format", () => {
    const [event] = resolve("intel-server", "sched:sched_switch:k");
    assert.deepEqual(words(event), ["sched:sched_switch:k", TYPE.TRACEPOINT, "0x13b"]);
    assert.match(event.format, /^name: sched_switch\nID: 315\nformat:\n\tfield:/);
    assert.deepEqual([event.excludeUser, event.excludeKernel, event.excludeHv], [true, false, true]);
  });

  it("are several where a pattern says so", () => {
    assert.deepEqual(
      resolve("intel-server", "sched:sched_wakeup*").map(({ name, config }) => [name, config]),
      [
        ["sched:sched_wakeup", 318n],
        ["sched:sched_wakeup_new", 317n],
      ],
    );
    assert.deepEqual(
      resolve("intel-server", "sys*:*_openat").map(({ name }) => name),
      ["syscalls:sys_enter_openat", "syscalls:sys_exit_openat"],
    );
  });

  it("are passed over by a pattern where they cannot be sampled", () => {
    const ids: Record<string, string> = { function: "1", print: "5" };
    const files = (event: string) => ({ format: "", ...(event in ids ? { id: ids[event] } : {}) });
    const tree = (...events: string[]) => ({
      sys: {
        kernel: { tracing: { events: { ftrace: Object.fromEntries(events.map((name) => [name, files(name)])) } } },
      },
    });
    const host = (...events: string[]) => openEventHost(recordedFileTree(tree(...events)));
    const names = (spec: string) => resolveEventSpec(spec, host("bprint", "function", "print")).map(({ name }) => name);
    assert.deepEqual(names("ftrace:*"), ["ftrace:print"]);
    assert.deepEqual(names("*:*n*"), ["ftrace:print"]);
    assert.deepEqual(names("ftrace:function"), ["ftrace:function"]);
    assert.throws(() => resolveEventSpec("ftrace:*", host("bprint")), /the id of ftrace:bprint cannot be read/);
  });

  it("are refused with the name that is nearest, or what tracefs lacks", () => {
    refused("intel-server", "sched:sched_swich", "EVENT_UNKNOWN", 7, /did you mean "sched_switch"/);
    refused("intel-server", "shced:sched_switch", "EVENT_UNKNOWN", 1, /did you mean "sched:"/);
    refused("intel-server", "sched:*_none", "EVENT_UNKNOWN", 7, /no tracepoint "sched:\*_none"/);
    refused("vm", "sched:sched_switch", "EVENT_UNSUPPORTED", 1, /`mount -t tracefs nodev \/sys\/kernel\/tracing`/);
    refused("amd", "sched:sched_switch", "PERMISSION", 1, /may not read it: run it as root/);
    refused("intel-server", "ftrace:function", "PERMISSION", 1, /the id of ftrace:function cannot be read/);
  });
});

describe("what is refused, and where", () => {
  const cases: [MachineName, string, PmuErrorCode, number, RegExp][] = [
    ["intel-server", "cpu/evnet=0x3c/", "EVENT_UNKNOWN", 5, /cpu has no term or event "evnet": did you mean "event"/],
    ["intel-server", "cpu/event=0x3c,umsk=1/", "EVENT_UNKNOWN", 16, /did you mean "umask"/],
    ["intel-server", "cpu/cpu-cylces/", "EVENT_UNKNOWN", 5, /did you mean "cpu-cycles"/],
    ["intel-server", "cpu/event=0x3cc/", "EVENT_SYNTAX", 11, /0x3cc does not fit: event is at most 0xff/],
    ["intel-server", "cpu/event=zz/", "EVENT_SYNTAX", 11, /"zz" is no number/],
    ["intel-server", "cpu/event=/", "EVENT_SYNTAX", 11, /a value must follow/],
    ["intel-server", "cpu/event=1,,umask=2/", "EVENT_SYNTAX", 13, /a term must stand before and after each comma/],
    ["intel-server", "cpu/=1/", "EVENT_SYNTAX", 5, /the term has no name/],
    ["intel-server", "cpu/event=1,event=2/", "EVENT_SYNTAX", 13, /term "event" is given twice/],
    ["intel-server", "cpu/event=1", "EVENT_SYNTAX", 12, /a second slash must close/],
    ["intel-server", "/event=1/", "EVENT_SYNTAX", 1, /the name of a PMU/],
    ["intel-server", "cpu/cycles/x", "EVENT_SYNTAX", 12, /unknown modifier "x"/],
    ["intel-server", "cpu/cycles/u,cs", "EVENT_SYNTAX", 13, /: several events: /],
    ["intel-server", "{cycles,cs}:u,faults", "EVENT_SYNTAX", 14, /: several events: /],
    ["intel-server", "{cycles,cs}, {faults}", "EVENT_SYNTAX", 12, /: several events: /],
    ["intel-server", "L1-DCACHE-LOADS", "EVENT_UNKNOWN", 1, /did you mean "L1-dcache-loads"/],
    ["intel-server", "cpu/cycles/:", "EVENT_SYNTAX", 13, /a modifier must follow/],
    ["intel-server", "cpu/config=0x1ffffffffffffffff/", "EVENT_SYNTAX", 12, /no number of 64 bits/],
    ["intel-server", "cpu/cycles,period=0/", "EVENT_SYNTAX", 19, /from 1 to/],
    ["intel-server", "cpu/cycles,call-graph=fp/", "EVENT_SYNTAX", 12, /"call-graph" is not offered.*CALLCHAIN/],
    ["intel-server", "cpu/cycles,stack-size=64/", "EVENT_SYNTAX", 12, /STACK_USER/],
    ["intel-server", "cpu/cycles,branch_type=any/", "EVENT_SYNTAX", 12, /BRANCH_STACK/],
    ["intel-server", "cpu/cycles,percore/", "EVENT_SYNTAX", 12, /"percore" is not offered/],
    ["intel-server", "cpu/cycles,time=0/", "EVENT_SYNTAX", 12, /every sample carries its time/],
    ["intel-server", "cpi/event=1/", "EVENT_UNKNOWN", 1, /no PMU "cpi": did you mean "cpu"/],
    ["intel-server", "kprobe/x/", "EVENT_UNSUPPORTED", 8, /perf probe/],
    ["intel-server", "tracepoint/config=1/", "EVENT_UNSUPPORTED", 12, /write subsystem:event/],
    [
      "intel-server",
      "software/cpu-clock/",
      "EVENT_UNKNOWN",
      10,
      /software has no term "cpu-clock": .*its terms are config,/,
    ],
    ["vm", "cycles/event=1/", "EVENT_UNKNOWN", 8, /cycles has no term "event"/],
    ["vm", "cpu-clock/perid=1/", "EVENT_UNKNOWN", 11, /did you mean "period"/],
    ["vm", "cpu-clock/period=1,period=2/", "EVENT_SYNTAX", 20, /term "period" is given twice/],
    ["vm", "cpu-clok/period=1/", "EVENT_UNKNOWN", 1, /no PMU "cpu-clok"/],
    ["vm", "2:315", "EVENT_UNSUPPORTED", 1, /write subsystem:event/],
    ["vm", "5:0", "EVENT_UNSUPPORTED", 1, /write mem:ADDRESS/],
    ["vm", "7:1/config1=1/", "EVENT_UNSUPPORTED", 1, /type 7 is a PMU's: name it/],
    ["vm", "1:18446744073709551616", "EVENT_SYNTAX", 1, /64 bits at most/],
    ["vm", "cycles:u:k", "EVENT_SYNTAX", 9, /modifiers follow one colon/],
    ["vm", "r1a8:u:k", "EVENT_SYNTAX", 7, /modifiers follow one colon/],
    ["vm", "cycles//u:k", "EVENT_SYNTAX", 10, /modifiers follow one colon/],
    ["vm", "r", "EVENT_SYNTAX", 1, /a raw event's config: r1a8/],
    ["vm", "r12345678123456781", "EVENT_SYNTAX", 1, /1 to 16 hexadecimal digits/],
    ["intel-hybrid", "cpu/cycles/", "EVENT_UNKNOWN", 1, /this machine has breakpoint, cpu_atom, cpu_core/],
    ["vm", "duration_time", "EVENT_UNSUPPORTED", 1, /counted by perf stat itself/],
    ["vm", "cycles,instructions", "EVENT_SYNTAX", 7, /several events/],
    ["vm", "cycles instructions", "EVENT_SYNTAX", 7, /" " is out of place/],
    ["vm", "cycles:e", "EVENT_SYNTAX", 8, /register with `exclusive`/],
    ["vm", "cycles:W", "EVENT_SYNTAX", 8, /without the braces/],
    ["vm", "cycles:b", "EVENT_SYNTAX", 8, /BPF programs yields no samples/],
    ["vm", "cycles:uu", "EVENT_SYNTAX", 9, /"u" is given twice/],
    ["vm", "instructions:upppp", "EVENT_SYNTAX", 18, /more than 3 p/],
    ["vm", "{cycles,instructions", "EVENT_SYNTAX", 21, /a brace must close/],
    ["vm", "{cycles,}", "EVENT_SYNTAX", 9, /before and after each comma/],
    ["vm", "{}", "EVENT_SYNTAX", 2, /before and after each comma/],
    ["vm", "{cycles,instructions}u", "EVENT_SYNTAX", 22, /only a colon and modifiers/],
    ["vm", "{cycles,instructions}:", "EVENT_SYNTAX", 23, /a modifier must follow/],
    ["vm", "{cycles,instrucitons}:S", "EVENT_UNKNOWN", 9, /did you mean "instructions"/],
    ["vm", "{cycles:S,instructions}", "EVENT_SYNTAX", 2, /write it behind the brace/],
    ["vm", "{cycles,instructions:D}", "EVENT_SYNTAX", 9, /write it behind the brace/],
    ["intel-server", "{cycles,cpu/cycles,freq=9/}:S", "EVENT_SYNTAX", 9, /only the first event samples/],
    [
      "intel-server",
      "{cycles,uncore_imc/clockticks/}",
      "EVENT_UNSUPPORTED",
      1,
      /by different PMUs \(cpu, uncore_imc_0\)/,
    ],
    ["vm", "mem:0x10/3", "EVENT_SYNTAX", 10, /"3" is no length/],
    ["vm", "mem:0x10:rr", "EVENT_SYNTAX", 10, /names a letter twice/],
    ["vm", "mem:0x10:rx", "EVENT_SYNTAX", 10, /either for execution or for accesses/],
    ["vm", "mem:0x10/4:x", "EVENT_SYNTAX", 10, /has the length 8/],
    ["vm", "mem:main", "EVENT_SYNTAX", 5, /no address \(symbols are not looked up\)/],
    ["vm", "mem:0x10:w:u:k", "EVENT_SYNTAX", 14, /nothing may follow/],
    ["vm", "mem:0x10:", "EVENT_SYNTAX", 10, /must follow the colon/],
  ];
  for (const [machine, spec, code, column, message] of cases) {
    it(`${machine}: ${spec}`, () => refused(machine, spec, code, column, message));
  }
});

describe("names that libpfm4 knows", () => {
  const pfm: PfmEncoder = (name) => {
    if (name !== "INST_RETIRED:ANY_P" && name !== "UOPS:c=1") throw new Error("event not found");
    return { type: 4, config: 0xc0n, config1: 5n, config2: 0n };
  };

  it("are asked for last, modifiers apart", () => {
    const host = hostOf("intel-server", pfm);
    const [event] = resolveEventSpec("INST_RETIRED:ANY_P:u", host);
    assert.deepEqual(words(event), ["INST_RETIRED:ANY_P:u", 4, "0xc0", "0x5"]);
    assert.ok(event.excludeKernel);
    assert.equal(resolveEventSpec("UOPS:c=1", host)[0].name, "UOPS:c=1");
    assert.equal(resolveEventSpec("cycles", host)[0].type, TYPE.HARDWARE);
  });

  it("are spoken of where nothing else knows the name", () => {
    refused("intel-server", "NO_SUCH_EVENT", "EVENT_UNKNOWN", 1, /libpfm4 says: event not found/, pfm);
    refused("intel-server", "NO_SUCH_EVENT", "EVENT_UNKNOWN", 1, /libpfm4, which knows more names, is not installed/);
  });
});

describe("every event that a recorded machine names", () => {
  for (const machine of MACHINES) {
    it(`resolves on ${machine}, to what its terms say`, () => {
      const host = hostOf(machine);
      for (const name of host.pmus.names) {
        const pmu = host.pmus.find(name);
        for (const [event, terms] of pmu?.events ?? []) {
          const [named] = resolveEventSpec(`${name}/${event}/`, host);
          const [spelled] = resolveEventSpec(`${name}/${terms}/`, host);
          assert.deepEqual({ ...named, name: "" }, { ...spelled, name: "" }, `${name}/${event}/`);
          assert.ok(!event.endsWith(".scale") && !event.endsWith(".unit"));
        }
      }
    });
  }
});
