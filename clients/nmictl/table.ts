/** `nmictl table`: the handler table as its file shows it, whatever the daemon is doing. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { formatNs, formatTable, type Output } from "./output.js";
import { type Fields, type FieldValue, readTable, type Slot, type Table } from "./table-file.js";

// The rest of the closed list is in a handler's `lost`; this one is event-wide.
const REASON_NOT_IN_LOST = "KERNEL";

/** Header fields about the file rather than about the handlers. */
const GEOMETRY = new Set(["magic", "version", "slots_at", "slot_stride", "json_at", "json_bytes"]);

export type Liveness = "alive" | "stopped" | "dead";

/** Prints RUNTIME_DIR/handlers.table. Throws TableFileError. */
export async function table(output: Output, json: boolean, runtimeDir: string, all: boolean): Promise<void> {
  const read = readTable(join(runtimeDir, "handlers.table"));
  const slots = read.slots.filter((slot) => all || slot.state !== "FREE");
  const daemon = liveness(sum(read.header.daemon_pid));
  if (json) {
    await output.writeJson({ ...read, daemon, slots: slots.map((slot) => ({ ...slot, lost: lostOf(slot, read) })) });
    return;
  }
  const head = ["ID", "NAME", "STATE", "RUNNING", "DISPATCHES", "MATCHED", "DELIVERED", "LOST", "LONGEST", "EVENTS"];
  await output.write(
    `${formatHeader(read, daemon)}\n${formatTable(
      head,
      slots.map((slot) => slotRow(slot, read)),
    )}${read.problems.map((problem) => `PROBLEM: ${problem}\n`).join("")}`,
  );
}

/** Whether a process runs, by signal 0; one that answers to no signal because it is stopped is told apart. */
export function liveness(pid: number): Liveness {
  // 0 and below name process groups, and no pid is above 2^22.
  if (!(pid > 0 && pid <= 1 << 22)) return "dead";
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return "dead";
  }
  try {
    return /^State:\s+[Tt]/m.test(readFileSync(`/proc/${pid}/status`, "utf8")) ? "stopped" : "alive";
  } catch {
    return "alive";
  }
}

function formatHeader(read: Table, daemon: Liveness): string {
  const { daemon_pid, started_at, capacity, dispatchers, list_head, ...others } = read.header;
  const started = typeof started_at === "number" ? new Date(started_at * 1000) : undefined;
  const since = started && !Number.isNaN(started.getTime()) ? `, started ${started.toISOString()}` : "";
  const rest = Object.entries(others)
    .filter(([name]) => !GEOMETRY.has(name))
    .map(([name, value]) => `, ${name.replaceAll("_", " ")} ${value}`);
  return (
    `daemon ${daemon_pid} is ${daemon}${since}\n` +
    `layout ${read.layoutVersion}, capacity ${capacity}, dispatchers ${dispatchers}${rest.join("")}\n`
  );
}

function slotRow(slot: Slot, read: Table): string[] {
  const { name, events, delivered } = slot.fields;
  const total = (field: string) => slot.dispatchers.reduce((count, block) => count + sum(block[field]), 0);
  return [
    String(slot.handlerId),
    String(name),
    slot.torn ? `${slot.state}?` : slot.state,
    slot.dispatchers.map((block) => String(block.running)).join(" "),
    String(total("dispatches")),
    String(total("matched")),
    String(sum(delivered)),
    String(lostOf(slot, read)),
    formatNs(Math.max(0, ...slot.dispatchers.map((block) => sum(block.longest_dispatch_ns)))),
    String(events),
  ];
}

/** Lost on the main thread's side by reason, and on the dispatchers' side by a full queue or for want of memory. */
function lostOf(slot: Slot, read: Table): number {
  const losses = listOf(slot.fields, "losses").filter((_, i) => read.lossReasons[i] !== REASON_NOT_IN_LOST);
  return sum(losses) + slot.dispatchers.reduce((count, block) => count + sum(block.queue_full) + sum(block.memory), 0);
}

function listOf(fields: Fields, name: string): readonly number[] {
  const value = fields[name];
  return typeof value === "object" ? value : [];
}

function sum(value: FieldValue | undefined): number {
  if (typeof value === "number") return value;
  return typeof value === "object" ? value.reduce((total, element) => total + element, 0) : 0;
}
