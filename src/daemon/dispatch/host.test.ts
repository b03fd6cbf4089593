/** Dispatchers' threads on the real kernel; they have no rings. */
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { type TestContext, test } from "node:test";
import { MMAP_PAGE } from "../../pmu/abi.js";
import { CPUS_MAX, formatCpuList } from "../../pmu/cpu-list.js";
import { closeFd, eventfd, mapAnonymous, threadAffinity, unmap, viewMemory } from "../../pmu/ffi.js";
import type { RingDescriptor } from "../../pmu/source.js";
import { tableLayout } from "../../registry/layout.js";
import { formatTable } from "../../registry/table.js";
import { DispatcherHost } from "./host.js";
import { PinningError } from "./pinning.js";
import { SharedMemory } from "./shared-memory.js";

const BOUNDED = { timeout: 30_000 };
const CAPACITY = 1;
const RING_MAPPING_BYTES = 8192;
/** The kernel takes it in a mask and has no such CPU. */
const NO_CPU = CPUS_MAX - 1;

interface Running {
  readonly host: DispatcherHost;
  /** Resolves with the first one of pinning; rejects when the host gives up. */
  readonly problem: Promise<{ readonly index: number; readonly problem: string }>;
}

function start(t: TestContext, pinning: (readonly number[])[] | null, dispatchers: number): Running {
  const { bytes } = tableLayout(CAPACITY, dispatchers);
  const tableAddress = mapAnonymous(bytes);
  formatTable(viewMemory(tableAddress, bytes), {
    capacity: CAPACITY,
    dispatchers,
    daemonPid: process.pid,
    startedAt: 0,
  });
  const problems = new EventEmitter<{ problem: [index: number, problem: string]; error: [Error] }>();
  const problem = once(problems, "problem").then(([index, text]) => ({ index, problem: text }));
  problem.catch(() => {});
  const host = new DispatcherHost({
    tableAddress,
    tableBytes: bytes,
    capacity: CAPACITY,
    segmentBytes: 2 ** 20,
    rings: Array.from({ length: dispatchers }, () => []),
    pinning,
    clockIsMonotonic: true,
    shared: new SharedMemory(CAPACITY, dispatchers),
    onDeath: () => [],
    onReplaced: () => {},
    onPinningProblem: (index, text) => problems.emit("problem", index, text),
    onFatal: (error) => problems.emit("error", error),
  });
  t.after(async () => {
    await host.stop();
    unmap(tableAddress, bytes);
  });
  return { host, problem };
}

/** Empty for a thread that has ended since it was listed. */
function readStatus(tid: string): string {
  try {
    return readFileSync(`/proc/self/task/${tid}/status`, "utf8");
  } catch {
    return "";
  }
}

/** Cpus_allowed_list of this process's dispatchers, by their threads' names. */
function allowed(): Record<string, string> {
  const threads = readdirSync("/proc/self/task").map((tid) => {
    const status = readStatus(tid);
    const field = (name: string) => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
    return [field("Name"), field("Cpus_allowed_list")];
  });
  return Object.fromEntries(threads.filter(([name]) => name.startsWith("nmid-disp-")));
}

test("threads have names, and run anywhere unless they are pinned", BOUNDED, async (t) => {
  const { host } = start(t, null, 2);
  await host.started();
  const anywhere = formatCpuList(threadAffinity());
  assert.deepEqual(allowed(), { "nmid-disp-0": anywhere, "nmid-disp-1": anywhere });
  assert.deepEqual(
    host.threads.map(({ pinnedCpus }) => pinnedCpus),
    [[], []],
  );
});

test("each thread is pinned to its CPUs, and so is the one that takes its place", BOUNDED, async (t) => {
  const usable = threadAffinity();
  const last = usable[usable.length - 1];
  const { host } = start(t, [[last], usable], 2);
  await host.started();
  const pinned = { "nmid-disp-0": String(last), "nmid-disp-1": formatCpuList(usable) };
  assert.deepEqual(allowed(), pinned);
  assert.deepEqual(
    host.threads.map(({ pinnedCpus }) => pinnedCpus),
    [[last], usable],
  );
  void host.threads[0].tell({ kind: "fail", at: "now", how: "exit" });
  // Answered by the successor alone.
  await host.threads[0].tell({ kind: "drain" });
  assert.equal(host.threads[0].restarts, 1);
  assert.deepEqual(allowed(), pinned);
  assert.deepEqual(threadAffinity(), usable, "the main thread is not pinned");
});

test("rings come and go, also over a dispatcher's death, and a CPU that is back gets its index", BOUNDED, async (t) => {
  const { host } = start(t, null, 2);
  await host.started();
  const memory = mapAnonymous(RING_MAPPING_BYTES);
  t.after(() => unmap(memory, RING_MAPPING_BYTES));
  const pollFd = eventfd();
  t.after(() => closeFd(pollFd));
  const ring = (cpu: number): RingDescriptor => ({
    cpu,
    address: memory,
    dataBytes: 4096,
    pollFd,
    pollKind: "eventfd",
  });
  await host.addRing(1, ring(4));
  await host.addRing(1, ring(9));
  const cpus = (): (readonly number[])[] => host.threads.map((thread) => thread.cpus);
  assert.deepEqual(cpus(), [[], [4, 9]]);
  void host.threads[1].tell({ kind: "fail", at: "now", how: "exit" });
  await host.removeRing(4);
  assert.equal(host.threads[1].restarts, 1, "the successor has answered");
  assert.deepEqual(cpus(), [[], [9]]);
  await host.addRing(1, ring(4));
  assert.deepEqual(cpus(), [[], [4, 9]], "where it was");
  // Its memory is watched: what is behind the tail is taken.
  const control = new BigUint64Array(viewMemory(memory, RING_MAPPING_BYTES), 0, 512);
  control[MMAP_PAGE.DATA_HEAD / 8] = 8n;
  await host.threads[1].tell({ kind: "drain" });
  assert.equal(control[MMAP_PAGE.DATA_TAIL / 8], 8n);
  await host.removeRing(4);
  await host.removeRing(9);
  control[MMAP_PAGE.DATA_HEAD / 8] = 16n;
  await host.threads[1].tell({ kind: "drain" });
  assert.equal(control[MMAP_PAGE.DATA_TAIL / 8], 8n, "nobody looks at it any more");
});

test("the kernel's refusal fails the start", BOUNDED, async (t) => {
  const { host } = start(t, [threadAffinity(), [NO_CPU]], 2);
  await assert.rejects(
    host.started(),
    (error) =>
      error instanceof PinningError && /dispatcher 1 the kernel refuses .*EINVAL.* none of 8191/.test(error.message),
  );
});

test("so does a mask of which the kernel takes a part", BOUNDED, async (t) => {
  const usable = threadAffinity();
  const { host } = start(t, [[...usable, NO_CPU]], 1);
  await assert.rejects(host.started(), new RegExp(`grants only ${formatCpuList(usable)} of .*8191`));
});

test(
  "a dispatcher that takes another's place runs on when it cannot be pinned any more, and that is told",
  BOUNDED,
  async (t) => {
    // As when its CPUs went offline meanwhile.
    const cpus = threadAffinity();
    const { host, problem } = start(t, [cpus], 1);
    await host.started();
    cpus.splice(0, cpus.length, NO_CPU);
    const [thread] = host.threads;
    void thread.tell({ kind: "fail", at: "now", how: "throw" });
    const told = await problem;
    assert.equal(told.index, 0);
    assert.match(told.problem, /^dispatcher_cpus: for dispatcher 0 the kernel refuses/);
    await thread.tell({ kind: "drain" });
    assert.deepEqual(thread.pinnedCpus, []);
    assert.deepEqual(Object.keys(allowed()), ["nmid-disp-0"]);
  },
);
