import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { TYPE } from "./abi.js";
import { PmuError } from "./errors.js";
import { genericEvents, parseEventSpec, requestedRate } from "./event-spec.js";

function fails(code: string, message: RegExp, run: () => unknown): void {
  assert.throws(run, (error) => error instanceof PmuError && error.code === code && message.test(error.message));
}

describe("parseEventSpec", () => {
  it("knows perf's names, and resolves aliases", () => {
    const expected: [string, string, number, bigint][] = [
      ["cycles", "cycles", TYPE.HARDWARE, 0n],
      ["cpu-cycles", "cycles", TYPE.HARDWARE, 0n],
      ["branch-instructions", "branches", TYPE.HARDWARE, 4n],
      ["branch-misses", "branch-misses", TYPE.HARDWARE, 5n],
      ["idle-cycles-backend", "stalled-cycles-backend", TYPE.HARDWARE, 8n],
      ["faults", "page-faults", TYPE.SOFTWARE, 2n],
      ["cs", "context-switches", TYPE.SOFTWARE, 3n],
      ["cgroup-switches", "cgroup-switches", TYPE.SOFTWARE, 11n],
      // The configs that perf wrote into recordings: 0x10000, 0x10100.
      ["L1-dcache-load-misses", "L1-dcache-load-misses", TYPE.HW_CACHE, 0x10000n],
      ["L1-dcache-store-misses", "L1-dcache-store-misses", TYPE.HW_CACHE, 0x10100n],
      ["LLC-misses", "LLC-load-misses", TYPE.HW_CACHE, 0x10002n],
      ["dTLB-loads", "dTLB-loads", TYPE.HW_CACHE, 3n],
      ["d-tlb-write-miss", "dTLB-store-misses", TYPE.HW_CACHE, 0x10103n],
      ["node-prefetches", "node-prefetches", TYPE.HW_CACHE, 0x206n],
      ["r01C0", "r1c0", TYPE.RAW, 0x1c0n],
    ];
    for (const [text, name, type, config] of expected) {
      const event = parseEventSpec(text);
      assert.deepEqual([event.name, event.type, event.config], [name, type, config], text);
    }
  });

  it("lists the cache events that perf lists", () => {
    const names = genericEvents().flatMap(({ name, group }) => (group === "cache" ? [name] : []));
    assert.equal(names.length, 32);
    assert.ok(!names.includes("L1-icache-stores"));
    assert.ok(!names.includes("iTLB-prefetches"));
  });

  it("has one meaning for every listed name", () => {
    for (const { name, type, config } of genericEvents()) {
      const event = parseEventSpec(name);
      assert.deepEqual([event.name, event.type, event.config], [name, type, config]);
    }
  });

  it("excludes the levels that modifiers leave out", () => {
    const expected: [string, string, boolean, boolean, boolean, number][] = [
      ["cycles", "cycles", false, false, false, 0],
      ["cycles:u", "cycles:u", false, true, true, 0],
      ["cycles:k", "cycles:k", true, false, true, 0],
      ["cycles:ku", "cycles:uk", false, false, true, 0],
      ["cycles:hku", "cycles", false, false, false, 0],
      ["cycles:upp", "cycles:upp", false, true, true, 2],
      ["cycles:ppp", "cycles:ppp", false, false, false, 3],
      ["faults:u", "page-faults:u", false, true, true, 0],
    ];
    for (const [text, name, user, kernel, hv, preciseIp] of expected) {
      const event = parseEventSpec(text);
      assert.deepEqual(
        [event.name, event.excludeUser, event.excludeKernel, event.excludeHv, event.preciseIp],
        [name, user, kernel, hv, preciseIp],
        text,
      );
    }
  });

  it("takes the other modifiers that make sense for samples, on every kind of event", () => {
    const flags = (text: string): string => {
      const { excludeHost, excludeGuest, excludeIdle, pinned, preciseMax, name } = parseEventSpec(text);
      return [
        name,
        ...Object.entries({ excludeHost, excludeGuest, excludeIdle, pinned, preciseMax }).flatMap(([flag, on]) =>
          on ? [flag] : [],
        ),
      ].join(" ");
    };
    assert.equal(flags("cycles:G"), "cycles:G excludeHost");
    assert.equal(flags("cycles:H"), "cycles:H excludeGuest");
    assert.equal(flags("cycles:GH"), "cycles");
    assert.equal(flags("cycles:I"), "cycles:I excludeIdle");
    assert.equal(flags("r1:uD"), "r1:uD pinned");
    assert.equal(flags("cycles:P"), "cycles:P excludeGuest preciseMax");
    assert.equal(flags("mem:0x10/1:w:uI"), "mem:0x10/1:w:uI excludeIdle");
    assert.equal(flags("page-faults:kH"), "page-faults:kH excludeGuest");
  });

  it("knows every spelling of the cache events", () => {
    const caches = {
      "L1-dcache": 0,
      l1d: 0,
      "L1-instruction": 1,
      LLC: 2,
      L2: 2,
      "Data-TLB": 3,
      "i-tlb": 4,
      btb: 5,
      node: 6,
    };
    for (const [cache, id] of Object.entries(caches)) {
      for (const [suffix, config] of [
        ["", 0],
        ["-loads", 0],
        ["-read", 0],
        ["-access", 0],
        ["-load-refs", 0],
        ["-ops-load", 0],
        ["-miss", 0x10000],
        ["-load-misses", 0x10000],
        ["-misses-read", 0x10000],
      ] as const) {
        const { type, config: found } = parseEventSpec(cache + suffix);
        assert.deepEqual([type, found], [TYPE.HW_CACHE, BigInt(config | id)], cache + suffix);
      }
    }
    assert.equal(parseEventSpec("LLC-speculative-load-miss").config, 0x10202n);
    fails("EVENT_UNKNOWN", /no event "iTLB-stores"/, () => parseEventSpec("iTLB-stores"));
  });

  it("counts nanoseconds for clocks, events for the rest", () => {
    assert.equal(parseEventSpec("cpu-clock:u").periodUnit, "ns");
    assert.equal(parseEventSpec("task-clock").periodUnit, "ns");
    assert.equal(parseEventSpec("cycles").periodUnit, "events");
  });

  it("names the column and the nearest event", () => {
    fails("EVENT_UNKNOWN", /column 1: .*did you mean "cpu-clock"/, () => parseEventSpec("cpu-clok"));
    fails("EVENT_UNKNOWN", /did you mean "L1-dcache-load-misses"/, () => parseEventSpec("l1-dcache-load-misses:u"));
    fails("EVENT_UNSUPPORTED", /looks like a tracepoint, and this source has none/, () =>
      parseEventSpec("sched:sched_switch"),
    );
    fails("EVENT_UNKNOWN", /column 1: no PMU "cpu": no PMUs are known here/, () => parseEventSpec("cpu/event=0x3c/"));
    fails("EVENT_UNSUPPORTED", /this source knows no groups/, () => parseEventSpec("{cycles,instructions}:S"));
    fails("EVENT_UNKNOWN", /column 1/, () => parseEventSpec("x".repeat(100_000)));
    fails("EVENT_SYNTAX", /column 1: there is no event name/, () => parseEventSpec(":u"));
    fails("EVENT_SYNTAX", /column 8: a modifier must follow/, () => parseEventSpec("cycles:"));
    fails("EVENT_SYNTAX", /column 9: unknown modifier "x"/, () => parseEventSpec("cycles:ux"));
    fails("EVENT_SYNTAX", /column 11: more than 3 p/, () => parseEventSpec("cycles:pppp"));
  });
});

describe("requestedRate", () => {
  it("takes at most one of frequency and period", () => {
    assert.equal(requestedRate({ event: "" }), null);
    assert.equal(requestedRate({ event: "", frequencyHz: 0, period: 0 }), null);
    assert.deepEqual(requestedRate({ event: "", frequencyHz: 997 }), { kind: "frequency", hz: 997 });
    assert.deepEqual(requestedRate({ event: "", period: 10_000 }), { kind: "period", period: 10_000 });
    fails("RATE_INVALID", /frequency_hz and events\[\]\.period/, () =>
      requestedRate({ event: "", frequencyHz: 1, period: 1 }),
    );
  });

  it("refuses what is no rate", () => {
    for (const frequencyHz of [-1, 0.5, 1e9 + 1, Number.NaN, Number.POSITIVE_INFINITY]) {
      fails("RATE_INVALID", /events\[\]\.frequency_hz/, () => requestedRate({ event: "", frequencyHz }));
    }
    for (const period of [-1, 0.5, 2 ** 53]) {
      fails("RATE_INVALID", /events\[\]\.period/, () => requestedRate({ event: "", period }));
    }
  });
});
