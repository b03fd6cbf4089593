/**
 * What a walk of the handler table costs, beside the same walk in C over the same file (bench/dispatch.c). The target
 * of both counts its calls and does nothing else, so that the figures are the walk's own. Rounds are interleaved.
 */
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { RuntimeDir, type SharedFile } from "../src/daemon/runtime-dir.js";
import { viewMemory } from "../src/pmu/ffi.js";
import { type TableLayout, tableLayout } from "../src/registry/layout.js";
import { formatTable, HandlerTable } from "../src/registry/table.js";
import { type DispatchTarget, TableWalker } from "../src/registry/walk.js";
import { AtomicDoorbell, AtomicWords, type SharedWords } from "../src/registry/words.js";
import { REPOSITORY } from "../test/support/daemon.js";
import type { DispatchTime } from "./dispatch-worker.js";
import type { Benchmark, BenchmarkOptions } from "./lib/benchmark.js";
import { type BenchProcess, runToEnd, startProcess } from "./lib/processes.js";
import { median, type Spread, spread } from "./lib/stats.js";
import { renderTable } from "./lib/table.js";

/** Bits of the event mask: the handlers' event, and one that none of them wants. */
const WANTED = 1;
const UNWANTED = 2;
const TABLES = [
  { capacity: 1, handlers: 1 },
  { capacity: 64, handlers: 64 },
  { capacity: 1024, handlers: 1024 },
  { capacity: 4096, handlers: 4096 },
  { capacity: 4096, handlers: 1 },
] as const;
const WARM_UP_NS = 50e6;
const ACCESSES_TIMED = 1_000_000;

class CountingTarget implements DispatchTarget {
  calls = 0;

  dispatch(): void {
    this.calls++;
  }
}

interface BenchTable {
  readonly handlers: number;
  readonly layout: TableLayout;
  readonly file: SharedFile;
  readonly directory: RuntimeDir;
  readonly words: AtomicWords;
  readonly walker: TableWalker;
}

interface Accesses {
  readonly loads: number;
  readonly stores: number;
}

interface CaseResult {
  readonly capacity: number;
  readonly handlers: number;
  readonly wanted: boolean;
  /** One pass. */
  readonly jsNs: Spread;
  readonly cNs: Spread;
  readonly ratio: Spread;
  /** Shared accesses of one pass. */
  readonly accesses: Accesses;
}

interface AccessCosts {
  readonly atomicLoadNs: number;
  readonly atomicStoreNs: number;
  readonly plainLoadNs: number;
}

/** Placed as the daemon places its own: on tmpfs, mapped shared. */
function createTable(home: string, capacity: number, handlers: number): BenchTable {
  const directory = new RuntimeDir(path.join(home, `${handlers}-of-${capacity}`));
  const { bytes } = tableLayout(capacity, 1);
  const file = directory.createTable(bytes);
  const memory = viewMemory(file.address, bytes);
  const layout = formatTable(memory, { capacity, dispatchers: 1, daemonPid: process.pid, startedAt: 0 });
  const doorbell = new AtomicDoorbell(new SharedArrayBuffer(4));
  const table = new HandlerTable(memory, layout, doorbell);
  for (let i = 0; i < handlers; i++) {
    const handle = table.claim();
    if (handle === null) throw new Error("the table is full");
    table.setEventMask(handle, WANTED, 0);
    table.activate(handle);
  }
  const words = new AtomicWords(memory);
  return { handlers, layout, file, directory, words, walker: new TableWalker(words, layout, 0, doorbell) };
}

function timeWalks(table: BenchTable, passes: number, mask: number, target: CountingTarget): number {
  target.calls = 0;
  const start = process.hrtime.bigint();
  for (let pass = 0; pass < passes; pass++) table.walker.walk(mask, 0, target);
  const ns = Number(process.hrtime.bigint() - start);
  checkCalls(target.calls, mask, passes * table.handlers);
  return ns;
}

function checkCalls(calls: number, mask: number, offers: number): void {
  const expected = mask === WANTED ? offers : 0;
  if (calls !== expected) throw new Error(`${calls} dispatches, not ${expected}`);
}

/** Walks until compiled; returns how many passes take about `ns`. */
function warmUp(table: BenchTable, mask: number, target: CountingTarget, ns: number): number {
  let passes = 1;
  for (let spent = 0; spent < WARM_UP_NS; passes *= 2) spent += timeWalks(table, passes, mask, target);
  const last = passes / 2;
  return Math.max(1, Math.round((last * ns) / timeWalks(table, last, mask, target)));
}

class Reference {
  readonly #process: BenchProcess;
  #asked = 0;

  constructor(program: string, tables: readonly BenchTable[]) {
    const files = tables.map(({ file }) => file.path);
    this.#process = startProcess("the walk in C", program, files);
  }

  async timeWalks(index: number, passes: number, mask: number, handlers: number): Promise<number> {
    const id = ++this.#asked;
    this.#process.write(`walk ${id} ${index} ${passes} ${mask}\n`);
    const answer = await this.#process.line(new RegExp(`^walked ${id} `));
    const [, , ns, calls] = answer.split(" ").map(Number);
    checkCalls(calls as number, mask, passes * handlers);
    return ns as number;
  }

  async stop(): Promise<void> {
    await this.#process.stop();
  }
}

async function measure(
  tables: readonly BenchTable[],
  reference: Reference,
  { seconds, rounds }: BenchmarkOptions,
): Promise<Omit<CaseResult, "accesses">[]> {
  const target = new CountingTarget();
  const cases = [WANTED, UNWANTED].flatMap((mask) =>
    tables.map((table, index) => ({
      table,
      index,
      mask,
      passes: warmUp(table, mask, target, seconds * 1e9),
      js: [] as number[],
      c: [] as number[],
    })),
  );
  for (let round = 0; round < rounds; round++) {
    for (const { table, index, mask, passes, js, c } of cases) {
      table.walker.walk(mask, 0, target); // into the cache, as the reference does
      js.push(timeWalks(table, passes, mask, target) / passes);
      c.push((await reference.timeWalks(index, passes, mask, table.handlers)) / passes);
    }
  }
  return cases.map(({ table, mask, js, c }) => ({
    capacity: table.layout.capacity,
    handlers: table.handlers,
    wanted: mask === WANTED,
    jsNs: spread(js),
    cNs: spread(c),
    ratio: spread(js.map((ns, round) => ns / (c[round] as number))),
  }));
}

/** After all walks are timed: a walk that has met other words is compiled for both. */
function countAccesses({ words, layout }: BenchTable, mask: number): Accesses {
  let loads = 0;
  let stores = 0;
  const counting: SharedWords = {
    load: (index) => {
      loads++;
      return words.load(index);
    },
    peek: (index) => words.peek(index),
    store: (index, value) => {
      stores++;
      words.store(index, value);
    },
    compareExchange: (index, expected, replacement) => words.compareExchange(index, expected, replacement),
  };
  const doorbell = new AtomicDoorbell(new SharedArrayBuffer(4));
  new TableWalker(counting, layout, 0, doorbell).walk(mask, 0, new CountingTarget());
  return { loads, stores };
}

/** What single accesses cost in this engine: Atomics are calls, where C has one instruction. */
function timeAccesses(rounds: number): AccessCosts {
  const words = new Int32Array(1024);
  const time = (access: (count: number) => number): number => {
    access(ACCESSES_TIMED);
    return median(Array.from({ length: rounds }, () => access(ACCESSES_TIMED) / ACCESSES_TIMED));
  };
  let seen = 0;
  const timed = (loop: () => void): number => {
    const start = process.hrtime.bigint();
    loop();
    return Number(process.hrtime.bigint() - start);
  };
  const costs = {
    atomicLoadNs: time((count) =>
      timed(() => {
        for (let i = 0; i < count; i++) seen += Atomics.load(words, i & 1023);
      }),
    ),
    atomicStoreNs: time((count) =>
      timed(() => {
        for (let i = 0; i < count; i++) Atomics.store(words, i & 1023, 1);
      }),
    ),
    plainLoadNs: time((count) =>
      timed(() => {
        for (let i = 0; i < count; i++) seen += words[i & 1023] as number;
      }),
    ),
  };
  // Used, so that no loop is left out as having no effect.
  if (!Number.isFinite(seen)) throw new Error("the sum of finite words is not finite");
  return costs;
}

async function timeDispatcher(): Promise<DispatchTime[]> {
  const worker = new Worker(fileURLToPath(new URL("./dispatch-worker.js", import.meta.url)));
  const [times] = (await once(worker, "message")) as [DispatchTime[]];
  await worker.terminate();
  return times;
}

function formatCases(results: readonly CaseResult[], costs: AccessCosts): string {
  const inAtomics = ({ loads, stores }: Accesses) => loads * costs.atomicLoadNs + stores * costs.atomicStoreNs;
  return renderTable([
    ["pass over", "ns a pass", "in C", "ns a handler", "in C", "times C (range)", "ns in Atomics a handler"],
    ...results.map(({ capacity, handlers, wanted, jsNs, cNs, ratio, accesses }) => [
      `${handlers} of ${capacity}, ${wanted ? "all want it" : "none wants it"}`,
      jsNs.median.toFixed(0),
      cNs.median.toFixed(0),
      (jsNs.median / handlers).toFixed(1),
      (cNs.median / handlers).toFixed(1),
      `${ratio.median.toFixed(1)} (${ratio.min.toFixed(1)}-${ratio.max.toFixed(1)})`,
      (inAtomics(accesses) / handlers).toFixed(1),
    ]),
  ]);
}

function formatDispatcher(times: readonly DispatchTime[]): string {
  return renderTable([
    ["dispatch of the daemon's Dispatcher, batch of", "ns", "ns a sample"],
    ...times.map(({ samples, dispatchNs }) => [
      `${samples} samples`,
      dispatchNs.toFixed(0),
      (dispatchNs / samples).toFixed(1),
    ]),
  ]);
}

async function run(options: BenchmarkOptions): Promise<object> {
  const home = fs.mkdtempSync(path.join(os.tmpdir(), "nmid-bench-"));
  const loadAverage = { before: os.loadavg(), after: [] as number[] };
  const tables: BenchTable[] = [];
  try {
    const program = path.join(home, "dispatch");
    runToEnd("cc", ["-O2", "-o", program, path.join(REPOSITORY, "bench", "dispatch.c")]);
    for (const { capacity, handlers } of TABLES) tables.push(createTable(home, capacity, handlers));
    const reference = new Reference(program, tables);
    let measured: Omit<CaseResult, "accesses">[];
    try {
      measured = await measure(tables, reference, options);
    } finally {
      await reference.stop();
    }
    const costs = timeAccesses(options.rounds);
    const cases = measured.map((result, i) => {
      const table = tables[i % tables.length] as BenchTable;
      return { ...result, accesses: countAccesses(table, result.wanted ? WANTED : UNWANTED) };
    });
    const dispatcher = await timeDispatcher();
    loadAverage.after = os.loadavg();
    const { atomicLoadNs, atomicStoreNs, plainLoadNs } = costs;
    console.log(`load average ${loadAverage.before[0]?.toFixed(2)} before, ${loadAverage.after[0]?.toFixed(2)} after`);
    console.log(`\n${formatCases(cases, costs)}\n`);
    console.log(
      `one Atomics.load ${atomicLoadNs.toFixed(1)} ns, one Atomics.store ${atomicStoreNs.toFixed(1)} ns: calls into the ` +
        `engine, where C has one instruction each; a plain load ${plainLoadNs.toFixed(1)} ns.\n`,
    );
    console.log(formatDispatcher(dispatcher));
    return { loadAverage, cases, costs, dispatcher };
  } finally {
    for (const { file, directory } of tables) {
      file.close();
      directory.close();
    }
    fs.rmSync(home, { recursive: true, force: true });
  }
}

export const dispatch: Benchmark = {
  description: "a pass over the handler table, beside the same walk in C; and what a dispatch takes",
  seconds: 0.02,
  rounds: 15,
  run,
};
