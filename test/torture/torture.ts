/** One table in a file that is mapped shared, hammered by threads and read from outside; every side checks what it can. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { mapShared, unmap, viewMemory } from "../../src/pmu/ffi.js";
import {
  DISPATCHER,
  dispatcherAt,
  HEADER,
  SLOT,
  STATE,
  slotAt,
  type TableLayout,
  tableLayout,
} from "../../src/registry/layout.js";
import { formatTable, HandlerTable } from "../../src/registry/table.js";
import { AtomicDoorbell, AtomicWords } from "../../src/registry/words.js";
import {
  type DispatcherCounts,
  Ledger,
  type ReaderCounts,
  type RegistrarCounts,
  type TortureMessage,
  type TortureSetup,
  TortureViolation,
  type TortureWorkerSetup,
} from "./ledger.js";
import { Registrar } from "./registrar.js";

export interface TortureOptions {
  readonly seconds: number;
  /** Decides every random choice; when threads meet, it does not. */
  readonly seed: number;
  readonly capacity: number;
  readonly dispatchers: number;
  readonly registrars: number;
  /** Faults, to see that they are found: other modules in place of walk.js and table.js, late descriptions. */
  readonly walkModule?: string;
  readonly tableModule?: string;
  readonly describesLate?: boolean;
}

export interface TortureReport {
  /** Empty when everything held. */
  readonly violations: readonly string[];
  readonly dispatchers: readonly DispatcherCounts[];
  readonly registrars: readonly RegistrarCounts[];
  readonly reader: ReaderCounts;
  /** Nanoseconds, of the removals whose wait was kept, ascending. */
  readonly waitsNs: Float64Array;
}

const SHARED_MEMORY_DIR = "/dev/shm";
const READY_MAX_MS = 30_000;
/** Between looks whether it is over: a violation ends the run early. */
const LOOK_MS = 20;

/** A mapped table file; `close` once nobody looks at it any more. */
function createTableFile(bytes: number): { path: string; address: bigint; close: () => void } {
  let dir: string;
  try {
    dir = mkdtempSync(join(SHARED_MEMORY_DIR, "nmid-torture-"));
  } catch {
    dir = mkdtempSync(join(tmpdir(), "nmid-torture-"));
  }
  const path = join(dir, "handlers");
  const fd = openSync(path, "wx+");
  ftruncateSync(fd, bytes);
  const address = mapShared(fd, bytes);
  closeSync(fd);
  return {
    path,
    address,
    close: () => {
      unmap(address, bytes);
      rmSync(dir, { recursive: true });
    },
  };
}

export async function torture(options: TortureOptions): Promise<TortureReport> {
  const { capacity, dispatchers, registrars, seed } = options;
  const file = createTableFile(tableLayout(capacity, dispatchers).bytes);
  try {
    const memory = viewMemory(file.address, tableLayout(capacity, dispatchers).bytes);
    const layout = formatTable(memory, { capacity, dispatchers, daemonPid: process.pid, startedAt: 0 });
    const setup: TortureSetup = {
      seed,
      capacity,
      dispatchers,
      registrars,
      tableAddress: file.address,
      bell: new SharedArrayBuffer(4),
      ledger: new SharedArrayBuffer(Ledger.bytes({ capacity, dispatchers })),
      walkModule: options.walkModule ?? new URL("../../src/registry/walk.js", import.meta.url).href,
      tableModule: options.tableModule ?? new URL("../../src/registry/table.js", import.meta.url).href,
      describesLate: options.describesLate ?? false,
    };
    const messages = await hammer(setup, file.path, options.seconds);
    const violations = messages.flatMap((message) => (message.type === "violation" ? [message.text] : []));
    if (violations.length === 0) violations.push(...(await checkRest(setup, memory, layout)));
    const kept = messages.flatMap((message) => (message.type === "registrar" ? [message.counts] : []));
    return {
      violations,
      dispatchers: messages.flatMap((message) => (message.type === "dispatcher" ? [message.counts] : [])),
      registrars: kept,
      reader: messages.find((message) => message.type === "reader")?.counts ?? { reads: 0, overtaken: 0 },
      waitsNs: Float64Array.from(kept.flatMap(({ waitsNs }) => Array.from(waitsNs))).sort(),
    };
  } finally {
    file.close();
  }
}

/** Runs everybody for so long, or until somebody complains; all are gone when it resolves. */
async function hammer(setup: TortureSetup, path: string, seconds: number): Promise<TortureMessage[]> {
  const ledger = new Ledger(setup.ledger, setup);
  const messages: TortureMessage[] = [];
  const take = (message: TortureMessage): void => {
    messages.push(message);
    if (message.type === "violation") ledger.stop();
  };
  const failed = (who: string) => (error: Error) => take({ type: "violation", text: `${who}: ${error.stack}` });
  const start = (file: string, index: number): Promise<unknown> => {
    const workerData: TortureWorkerSetup = { ...setup, index };
    const worker = new Worker(new URL(file, import.meta.url), { workerData });
    worker.on("message", take);
    worker.on("error", failed(`${file} ${index}`));
    return new Promise((resolve) => worker.once("exit", resolve));
  };
  const exits = [
    ...Array.from({ length: setup.dispatchers }, (_, d) => start("./dispatcher.js", d)),
    ...Array.from({ length: setup.registrars }, (_, r) => start("./registrar.js", r)),
  ];
  const reader = fork(fileURLToPath(new URL("./reader.js", import.meta.url)), [path]);
  const readerExit = once(reader, "exit").then(([code]) => {
    if (code !== 0) take({ type: "violation", text: `outside reader: exit code ${code}` });
  });
  reader.on("message", (message) => take(message as TortureMessage));
  try {
    const readyBy = performance.now() + READY_MAX_MS;
    while (ledger.arrived < exits.length && !ledger.stopped && performance.now() < readyBy) await sleep(LOOK_MS);
    const until = performance.now() + seconds * 1000;
    while (performance.now() < until && !ledger.stopped) await sleep(LOOK_MS);
  } finally {
    ledger.stop();
    if (reader.connected) reader.send("stop");
    await Promise.all([...exits, readerExit]);
  }
  return messages;
}

/** Removes what is left; then everything must be as it was before. */
async function checkRest(setup: TortureSetup, memory: ArrayBuffer, layout: TableLayout): Promise<string[]> {
  const words = new AtomicWords(memory);
  const table = new HandlerTable(memory, layout, new AtomicDoorbell(setup.bell));
  const ledger = new Ledger(setup.ledger, setup);
  const wrong: string[] = [];
  try {
    await new Registrar({ ...setup, index: setup.registrars }, table, memory, ledger).clear();
  } catch (error) {
    if (!(error instanceof TortureViolation)) throw error;
    wrong.push(error.message);
  }
  const used = words.load(HEADER.HIGH_WATER / 4);
  const listed = new Set<number>();
  for (let link = words.load(HEADER.LIST_HEAD / 4); link !== 0 && !listed.has(link - 1); ) {
    listed.add(link - 1);
    link = words.load((slotAt(layout, link - 1) + SLOT.NEXT) / 4);
  }
  if (listed.size !== used) wrong.push(`${used} slots are in use, ${listed.size} are listed`);
  for (let slot = 0; slot < used; slot++) {
    if (table.state(slot) !== STATE.FREE) wrong.push(`slot ${slot} is left in state ${table.state(slot)}`);
    for (let d = 0; d < layout.dispatchers; d++) {
      if (words.load((dispatcherAt(layout, slot, d) + DISPATCHER.RUNNING) / 4) !== 0) {
        wrong.push(`dispatcher ${d} is announced in slot ${slot} for ever`);
      }
    }
  }
  return wrong;
}

/** The wait that this part of all removals did not exceed. */
export function quantile(ascending: Float64Array, part: number): number {
  if (ascending.length === 0) return Number.NaN;
  return ascending[Math.min(ascending.length - 1, Math.floor(ascending.length * part))];
}
