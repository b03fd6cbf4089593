/**
 * What there is already when task records begin to flow, as the records that would have told it: processes and their
 * threads, what they have mapped executably, the kernel and its modules, control groups. Read from /proc in small steps,
 * so that whoever asks for it has time for other things in between; bounded by one run of records.
 */
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { CPUMODE, RECORD, SAMPLE } from "../abi.js";
import type { RecordFormat, TaskSnapshot } from "../source.js";
import { type Records, runsOf } from "../task-runs.js";

const READ_BYTES = 16 * 1024;
/** The longest line there is in /proc is a mapping's, with a path of PATH_MAX. */
const LINE_BYTES_MAX = 64 * 1024;
const CGROUPS_MAX = 16_384;
const DIRECTORY_DEPTH_MAX = 64;
/** linux/mman.h */
const PROT = { READ: 1, WRITE: 2, EXEC: 4 } as const;
const MAP = { SHARED: 1, PRIVATE: 2 } as const;
/** The pid of the kernel's own mappings. */
const KERNEL_PID = 0xffff_ffff;

/** The records end in { u32 pid, u32 tid }. */
const FORMAT: RecordFormat = { ids: [], sampleType: SAMPLE.TID, sampleIdAll: true, fixedPeriod: 0 };

export interface ProcPaths {
  readonly proc: string;
  readonly cgroups: readonly string[];
}

const LIVE: ProcPaths = { proc: "/proc", cgroups: ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] };

export function procSnapshot(wanted: (pid: number) => boolean = () => true, paths: ProcPaths = LIVE): TaskSnapshot {
  return { formats: [FORMAT], runs: runsOf(records(wanted, paths)) };
}

function* records(wanted: (pid: number) => boolean, { proc, cgroups }: ProcPaths): Records {
  yield* kernelRecords(proc);
  yield* cgroupRecords(cgroups);
  for (const name of list(proc)) {
    const pid = numberOf(name);
    if (pid === null) continue;
    if (wanted(pid)) yield* processRecords(proc, pid);
    else yield null;
  }
}

function* processRecords(proc: string, pid: number): Records {
  for (const name of list(`${proc}/${pid}/task`)) {
    const tid = numberOf(name);
    if (tid === null) continue;
    const comm = firstLine(`${proc}/${pid}/task/${tid}/comm`);
    yield comm === null ? null : commRecord(pid, tid, comm);
  }
  for (const line of lines(`${proc}/${pid}/maps`)) yield line === null ? null : mappingRecord(pid, line);
}

/** "start-end perms offset major:minor inode path"; null where it is not executable. */
function mappingRecord(pid: number, line: string): Uint8Array | null {
  const match = /^([0-9a-f]+)-([0-9a-f]+) ([r-])([w-])x([sp]) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+) *(.*)$/.exec(
    line,
  );
  if (match === null) return null;
  const [, start, end, r, w, kind, offset, major, minor, inode, path] = match;
  const addr = BigInt(`0x${start}`);
  const record = new RecordWriter(RECORD.MMAP2, CPUMODE.USER);
  record.u32(pid, pid);
  record.u64(addr, BigInt(`0x${end}`) - addr, BigInt(`0x${offset}`));
  record.u32(Number.parseInt(major, 16), Number.parseInt(minor, 16));
  record.u64(BigInt(inode), 0n);
  record.u32(PROT.EXEC | (r === "r" ? PROT.READ : 0) | (w === "w" ? PROT.WRITE : 0));
  record.u32(kind === "s" ? MAP.SHARED : MAP.PRIVATE);
  // What perf, and the kernel in its own records, call memory that belongs to no file.
  record.text(path === "" ? "//anon" : path);
  return record.finish(pid, pid);
}

function commRecord(pid: number, tid: number, comm: string): Uint8Array {
  const record = new RecordWriter(RECORD.COMM, CPUMODE.USER);
  record.u32(pid, tid);
  record.text(comm);
  return record.finish(pid, tid);
}

function* kernelRecords(proc: string): Records {
  let text: bigint | null = null;
  let end: bigint | null = null;
  for (const line of lines(`${proc}/kallsyms`)) {
    const match = line === null ? null : /^([0-9a-f]+) [tT] (_text|_stext|_etext)$/.exec(line);
    const address = match === null ? 0n : BigInt(`0x${match[1]}`);
    // Zeros are shown to those who may not know.
    if (match === null || address === 0n) {
      yield null;
      continue;
    }
    if (match[2] === "_etext") end = address;
    else text ??= address;
    if (text !== null && end !== null) break;
  }
  if (text !== null && end !== null && end > text) {
    // As perf has it: the name says which symbol `pgoff` is the address of.
    yield kernelMapping(text, end - text, text, "[kernel.kallsyms]_text");
  }
  // "name bytes users dependants state 0xaddress"
  for (const line of lines(`${proc}/modules`)) {
    const match = line === null ? null : /^(\S+) (\d+) \S+ \S+ \S+ 0x([0-9a-f]+)/.exec(line);
    const address = match === null ? 0n : BigInt(`0x${match[3]}`);
    yield match === null || address === 0n ? null : kernelMapping(address, BigInt(match[2]), 0n, `[${match[1]}]`);
  }
}

function kernelMapping(addr: bigint, len: bigint, pgoff: bigint, name: string): Uint8Array {
  const record = new RecordWriter(RECORD.MMAP, CPUMODE.KERNEL);
  record.u32(KERNEL_PID, 0);
  record.u64(addr, len, pgoff);
  record.text(name);
  return record.finish(KERNEL_PID, 0);
}

/** The id of a cgroup is its directory's inode number. */
function* cgroupRecords(mounts: readonly string[]): Records {
  const mount = mounts.find((path) => statOf(`${path}/cgroup.procs`) !== null);
  if (mount === undefined) return;
  const waiting = [""];
  for (let count = 0; count < CGROUPS_MAX; count++) {
    const path = waiting.pop();
    if (path === undefined) return;
    const stat = statOf(mount + path);
    if (stat === null) continue;
    const record = new RecordWriter(RECORD.CGROUP, CPUMODE.USER);
    record.u64(stat.ino);
    record.text(path === "" ? "/" : path);
    yield record.finish(0, 0);
    if (path.split("/").length > DIRECTORY_DEPTH_MAX) continue;
    for (const name of directories(mount + path)) waiting.push(`${path}/${name}`);
  }
}

/** A record in the kernel's format; text is a string of bytes. */
class RecordWriter {
  readonly #bytes: number[];

  constructor(type: number, misc: number) {
    this.#bytes = [];
    this.u32(type);
    this.#bytes.push(misc & 0xff, misc >>> 8, 0, 0);
  }

  u32(...values: readonly number[]): void {
    for (const value of values)
      this.#bytes.push(value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24);
  }

  u64(...values: readonly bigint[]): void {
    for (const value of values) this.u32(Number(value & 0xffff_ffffn), Number(value >> 32n));
  }

  /** Ends in a 0 at least, and where the next 8 bytes begin. */
  text(text: string): void {
    for (let i = 0; i < text.length; i++) this.#bytes.push(text.charCodeAt(i) & 0xff);
    do this.#bytes.push(0);
    while (this.#bytes.length % 8 !== 0);
  }

  finish(pid: number, tid: number): Uint8Array {
    this.u32(pid, tid);
    const record = Uint8Array.from(this.#bytes);
    new DataView(record.buffer).setUint16(6, record.length, true);
    return record;
  }
}

function numberOf(name: string): number | null {
  return /^\d+$/.test(name) ? Number(name) : null;
}

/** Processes and groups go while they are looked at: what cannot be read is left out. */
function attempt<T>(look: () => T): T | null {
  try {
    return look();
  } catch {
    return null;
  }
}

function list(directory: string): string[] {
  return attempt(() => readdirSync(directory)) ?? [];
}

function directories(directory: string): string[] {
  const entries = attempt(() => readdirSync(directory, { withFileTypes: true, encoding: "latin1" })) ?? [];
  return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
}

function statOf(path: string): { readonly ino: bigint } | null {
  return attempt(() => statSync(Buffer.from(path, "latin1"), { bigint: true }));
}

function firstLine(path: string): string | null {
  for (const line of lines(path)) if (line !== null) return line;
  return null;
}

/** Lines as strings of bytes; null between reads. */
function* lines(path: string): Generator<string | null> {
  const fd = attempt(() => openSync(path, "r"));
  if (fd === null) return;
  try {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    let rest = "";
    for (;;) {
      const count = attempt(() => readSync(fd, buffer)) ?? 0;
      if (count === 0) break;
      const text = rest + buffer.toString("latin1", 0, count);
      const end = text.lastIndexOf("\n");
      rest = text.slice(end + 1);
      if (rest.length > LINE_BYTES_MAX) return;
      if (end >= 0) yield* text.slice(0, end).split("\n");
      yield null;
    }
    if (rest !== "") yield rest;
  } finally {
    closeSync(fd);
  }
}
