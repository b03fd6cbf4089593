/** Samples as text: a readable line or a JSON object for each, built a batch at a time. */
import { readFileSync } from "node:fs";
import type { ResolvedEvent, SampleBatch } from "../typescript/index.js";
import { printable } from "./output.js";

const NS_PER_SECOND = 1_000_000_000n;
// Short-lived processes come without end; forgetting all of them now and then bounds the cache.
const NAMES_MAX = 16_384;

/** perf's PERF_CONTEXT_* markers inside callchains. include/uapi/linux/perf_event.h */
const CALLCHAIN_CONTEXTS = new Map<bigint, string>(
  (
    [
      [-32n, "hv"],
      [-128n, "kernel"],
      [-512n, "user"],
      [-2048n, "guest"],
      [-2176n, "guest kernel"],
      [-2560n, "guest user"],
    ] as const
  ).map(([marker, name]) => [BigInt.asUintN(64, marker), name]),
);

/** Names of processes on this machine, looked up once each. */
export class ProcessNames {
  readonly #names = new Map<number, string>();

  /** The process's comm, ":PID" when it has gone. */
  of(pid: number): string {
    let name = this.#names.get(pid);
    if (name === undefined) {
      name = pid === 0 ? "swapper" : readComm(pid);
      if (this.#names.size >= NAMES_MAX) this.#names.clear();
      this.#names.set(pid, name);
    }
    return name;
  }
}

function readComm(pid: number): string {
  try {
    return printable(readFileSync(`/proc/${pid}/comm`, "utf8").trimEnd());
  } catch {
    return `:${pid}`;
  }
}

/**
 * One line for each of the first `count` samples: time, CPU, pid/tid, name, event, period and ip; callchains follow,
 * an indented line an address. `names` is undefined where pids are not this machine's.
 */
export function formatSamples(
  batch: SampleBatch,
  event: ResolvedEvent | undefined,
  names: ProcessNames | undefined,
  count: number,
): string {
  const eventName = printable(event?.name ?? `#${batch.eventIndex}`);
  let text = "";
  let chain = 0;
  for (let i = 0; i < count; i++) {
    const pid = cell(batch.pid, i);
    const name = names && pid !== "-" ? ` ${names.of(batch.pid[i])}` : "";
    const time = batch.time.length === 0 ? "-" : formatTime(batch.time[i]);
    const ip = batch.ip.length === 0 ? "-" : hex(batch.ip[i]);
    const cpu = cell(batch.cpu, i).padStart(3, "0");
    text += `${time} [${cpu}] ${pid}/${cell(batch.tid, i)}${name} ${eventName} ${cell(batch.period, i)} ${ip}\n`;
    if (batch.callchainLength.length === 0) continue;
    for (const end = chain + batch.callchainLength[i]; chain < end; chain++) {
      const address = batch.callchain[chain];
      const context = CALLCHAIN_CONTEXTS.get(address);
      text += context === undefined ? `\t${hex(address)}\n` : `\t[${context}]\n`;
    }
  }
  return text;
}

/**
 * One JSON object a line for each of the first `count` samples. Times and periods are decimal strings, addresses hex
 * strings, since both may be above 2^53. Columns that the daemon left out are left out.
 */
export function formatSamplesJson(
  batch: SampleBatch,
  event: ResolvedEvent | undefined,
  names: ProcessNames | undefined,
  count: number,
): string {
  const head = `{"kind":"sample","event":${JSON.stringify(event?.name ?? "")},"eventIndex":${batch.eventIndex},"sequence":`;
  let text = "";
  let chain = 0;
  for (let i = 0; i < count; i++) {
    text += head + (batch.sequence + i);
    if (batch.time.length > 0) text += `,"time":"${batch.time[i]}"`;
    if (batch.cpu.length > 0) text += `,"cpu":${batch.cpu[i]}`;
    if (batch.pid.length > 0) text += `,"pid":${batch.pid[i]}`;
    if (batch.tid.length > 0) text += `,"tid":${batch.tid[i]}`;
    if (names && batch.pid.length > 0) text += `,"comm":${JSON.stringify(names.of(batch.pid[i]))}`;
    if (batch.period.length > 0) text += `,"period":"${batch.period[i]}"`;
    if (batch.ip.length > 0) text += `,"ip":"${hex(batch.ip[i])}"`;
    if (batch.callchainLength.length > 0) {
      const start = chain;
      chain += batch.callchainLength[i];
      text += `,"callchain":[${Array.from(batch.callchain.subarray(start, chain), (address) => `"${hex(address)}"`)}]`;
    }
    text += "}\n";
  }
  return text;
}

function cell(column: Uint32Array | BigUint64Array, i: number): string {
  return column.length === 0 ? "-" : String(column[i]);
}

export function formatTime(ns: bigint): string {
  return `${ns / NS_PER_SECOND}.${String(ns % NS_PER_SECOND).padStart(9, "0")}`;
}

function hex(address: bigint): string {
  return `0x${address.toString(16)}`;
}
