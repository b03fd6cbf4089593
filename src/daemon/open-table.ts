/**
 * The handler table and the books file, in place of those that the daemon before this one has left: what is left is read
 * first, and the slots of handlers that are to go on are theirs again before anybody can look.
 */
import { readFileSync } from "node:fs";
import { viewMemory } from "../pmu/ffi.js";
import { adoptSlots, highestGeneration } from "../registry/adopt.js";
import { SlotCounters } from "../registry/counters.js";
import { tableLayout } from "../registry/layout.js";
import { formatTable, HandlerTable, REMOVAL_LOOKS } from "../registry/table.js";
import { AtomicWords } from "../registry/words.js";
import { handleOf } from "./broker/registration.js";
import type { DaemonConfig } from "./config/config.js";
import type { SharedMemory } from "./dispatch/shared-memory.js";
import type { Logger } from "./observe/log.js";
import type { RuntimeDir } from "./runtime-dir.js";
import { BooksFile, booksFileBytes } from "./state/books-file.js";
import { type RecoveredHandler, type Recovery, recover } from "./state/recover.js";
import { STATE_VERSION } from "./state/saved-handler.js";
import { type Report, StateFiles } from "./state/state-files.js";
import type { Undo } from "./undo.js";

const BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id";

export interface OpenTable {
  readonly table: HandlerTable;
  readonly counters: SlotCounters;
  readonly address: bigint;
  readonly bytes: number;
  readonly booksFile: BooksFile;
  readonly stateFiles: StateFiles;
  readonly bootId: string;
  /** Handlers that are to go on. */
  readonly recovered: readonly RecoveredHandler[];
  /** The daemon before this one did not stop by itself. */
  readonly wasKilled: boolean;
}

/** Throws RuntimeDirError. */
export function openTable(
  config: Pick<DaemonConfig, "capacity" | "dispatchers" | "restart">,
  runtimeDir: RuntimeDir,
  shared: SharedMemory,
  log: Logger,
  undo: Undo,
): OpenTable {
  const { capacity, dispatchers } = config;
  const { bytes } = tableLayout(capacity, dispatchers);
  const bootId = readFileSync(BOOT_ID_FILE, "utf8").trim();
  const warn = (message: string, fields: Record<string, unknown>): void => log.warn(fields, message);
  const stateFiles = new StateFiles(runtimeDir.stateDir(), warn);
  // Before the files that it reads are replaced.
  const recovery = recoverFrom(runtimeDir, stateFiles, bootId, warn);
  const { generationFloor } = recovery;
  const recovered = config.restart === "keep" ? recovery.handlers : [];
  if (config.restart === "end") for (const { saved } of recovery.handlers) stateFiles.removeHandler(saved.slot);
  stateFiles.writeDaemon({ version: STATE_VERSION, bootId, generationFloor });
  const tableFile = runtimeDir.createTable(bytes);
  undo.push(() => tableFile.close());
  const memory = viewMemory(tableFile.address, bytes);
  const layout = formatTable(memory, { capacity, dispatchers, daemonPid: process.pid, startedAt: Date.now() / 1000 });
  const held = recovered.map(handleOf).filter(({ slot }) => slot < capacity);
  adoptSlots(memory, layout, held, generationFloor);
  undo.push(() => {
    const highest = Math.max(generationFloor, highestGeneration(memory, layout));
    try {
      stateFiles.writeDaemon({ version: STATE_VERSION, bootId, generationFloor: highest });
    } catch (error) {
      log.error({ err: error }, "the next daemon cannot be told which ids were given out");
    }
  });
  const booksBytes = booksFileBytes(capacity);
  const booksMapped = runtimeDir.createBooks(booksBytes);
  undo.push(() => booksMapped.close());
  const booksFile = BooksFile.format(viewMemory(booksMapped.address, booksBytes), capacity);
  const words = new AtomicWords(memory);
  const table = new HandlerTable(memory, layout, shared.removalBell(), words, REMOVAL_LOOKS, generationFloor);
  const counters = new SlotCounters(memory, layout);
  const address = tableFile.address;
  const { wasKilled } = recovery;
  return { table, counters, address, bytes, booksFile, stateFiles, bootId, recovered, wasKilled };
}

function recoverFrom(runtimeDir: RuntimeDir, files: StateFiles, bootId: string, report: Report): Recovery {
  const left = runtimeDir.openLeft();
  try {
    return recover(files, { table: left.table?.memory ?? null, books: left.books?.memory ?? null }, bootId, report);
  } finally {
    left.table?.close();
    left.books?.close();
  }
}
