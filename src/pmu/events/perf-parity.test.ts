/** The same specifications, as perf on this machine reads them: what it tells the kernel is what we tell it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, it } from "node:test";
import type { EventAttr } from "../source.js";
import { liveFileTree } from "./file-tree.js";
import { openEventHost, resolveEventSpec } from "./resolve.js";

const PERF = "perf";
const host = openEventHost(liveFileTree);

function perfOutput(spec: string): string {
  const { stdout, stderr, error } = spawnSync(PERF, ["stat", "-vv", "-e", spec, "true"], {
    encoding: "utf8",
    timeout: 30_000,
  });
  if (error !== undefined) throw error;
  return stdout + stderr;
}

function whyNoPerf(): string | false {
  try {
    return perfOutput("cpu-clock").includes("perf_event_attr:") ? false : "perf does not show what it asks for here";
  } catch (error) {
    return `there is no perf: ${(error as Error).message}`;
  }
}

const skip = whyNoPerf();
const skipTracepoints = skip || (host.tracefs.state === "there" ? false : "tracefs is not mounted, or cannot be read");

type Told = Omit<EventAttr, "config3">;

/** perf leaves guests out of most events by itself: only letters that speak of them can be compared. */
function speaksOfGuests(spec: string): boolean {
  return /:[a-zA-Z]*[GHp][a-zA-Z]*$/.test(spec);
}

/** The first attr that perf -vv shows; what it does not show is 0. */
function perfAttr(spec: string): Told {
  const output = perfOutput(spec);
  const [, block] = /perf_event_attr:\n((?: {2}.*\n)+)/.exec(output) ?? assert.fail(`${spec}: ${output}`);
  const number = (label: string): bigint => BigInt(new RegExp(`^ {2}${label} +(\\w+)`, "m").exec(block)?.[1] ?? 0);
  const has = (label: string): boolean => number(label) === 1n;
  return {
    type: Number(number("type")),
    config: number("config"),
    config1: number("\\{ bp_addr, config1 \\}"),
    config2: number("\\{ bp_len, config2 \\}"),
    bpType: Number(number("bp_type")),
    excludeUser: has("exclude_user"),
    excludeKernel: has("exclude_kernel"),
    excludeHv: has("exclude_hv"),
    excludeHost: has("exclude_host"),
    excludeGuest: has("exclude_guest") && speaksOfGuests(spec),
    excludeIdle: has("exclude_idle"),
    pinned: has("pinned"),
    preciseIp: Number(number("precise_ip")),
  };
}

function ownAttr(spec: string): Told {
  const [event] = resolveEventSpec(spec, host);
  const { type, config, config1, config2, bpType, pinned, preciseIp } = event;
  const { excludeUser, excludeKernel, excludeHv, excludeHost, excludeGuest, excludeIdle } = event;
  const flags = { excludeUser, excludeKernel, excludeHv, excludeHost, excludeGuest, excludeIdle };
  return { type, config, config1, config2, bpType, pinned, preciseIp, ...flags };
}

const SPECS = [
  ...[
    "cpu-clock",
    "task-clock:u",
    "page-faults",
    "faults:k",
    "minor-faults:h",
    "major-faults:uk",
    "cs",
    "migrations:kh",
  ],
  ...["alignment-faults", "emulation-faults", "dummy", "bpf-output", "cgroup-switches", "context-switches:ukh"],
  ...["cpu-clock:G", "cpu-clock:H", "cpu-clock:I", "cpu-clock:D", "cpu-clock:uGD", "task-clock:GH", "cpu-clock:ukD"],
  ...["cycles", "cpu-cycles:u", "instructions:kh", "cache-references:H", "branches:G", "bus-cycles:uI", "ref-cycles"],
  ...["stalled-cycles-frontend", "idle-cycles-backend", "instructions:p", "cycles:upp", "cycles:pppk"],
  ...["L1-dcache-load-misses", "L1-dcache-loads:u", "L1-icache-load-misses", "LLC-misses", "LLC-stores", "LLC", "dTLB"],
  ...[
    "dTLB-store-misses:k",
    "iTLB-loads",
    "branch-load-misses",
    "node-prefetches",
    "bpu-loads-misses",
    "l1d-write-refs",
  ],
  ...[
    "LLC-misses-loads",
    "node-prefetch-miss",
    "L2-speculative-read",
    "Data-TLB-access",
    "btb-read-ops",
    "l1-i-prefetch",
  ],
  ...["cpu-clock/period=1000000/", "cpu-clock//u", "cycles//u", "cycles/period=100000,config2/", "cycles/config=1/"],
  ...["software/config=3/u", "cpu-clock/config=1/", "1:1", "1:0:u", "0x1:0x2", "r1/period=3/", "L1-dcache-loads//u"],
  ...["r1a", "r1a:kp", "rffffffffffffffff", "r0:u"],
  ...[
    "mem:0x7f001000",
    "mem:0x1000:x",
    "mem:0x1000:r",
    "mem:0x1000:w:u",
    "mem:0x1000:rw:kp",
    "mem:4096/1",
    "mem:0x1000:u",
  ],
  ...["mem:0x1000/1:w", "mem:0x1000/2:rw:u", "mem:0x1000/8:w:hp", "mem:0:rw", "mem:0:x:k"],
  ...[
    "{cycles:k,instructions}:u",
    "{cpu-clock,page-faults}",
    "{faults:k,cycles}:uG",
    "{r1a:u,cycles}:kp",
    "{cycles,cpu-clock}:D",
  ],
];

const TRACEPOINTS = [
  "sched:sched_switch",
  "sched:sched_wakeup:u",
  "syscalls:sys_enter_openat:k",
  "{sched:sched_switch:k,cycles}:h",
];

describe("perf and nmid ask the kernel for the same", { skip }, () => {
  for (const spec of SPECS) it(spec, () => assert.deepEqual(ownAttr(spec), perfAttr(spec)));
});

describe("perf and nmid mean the same tracepoints", { skip: skipTracepoints }, () => {
  for (const spec of TRACEPOINTS) it(spec, () => assert.deepEqual(ownAttr(spec), perfAttr(spec)));
});

describe("perf and nmid read the terms of this machine's PMUs alike", { skip }, () => {
  for (const name of host.pmus.names) {
    for (const event of [...(host.pmus.find(name)?.events.keys() ?? [])].slice(0, 20)) {
      const spec = `${name}/${event}/`;
      it(spec, () => assert.deepEqual(ownAttr(spec), perfAttr(spec)));
    }
  }
});
