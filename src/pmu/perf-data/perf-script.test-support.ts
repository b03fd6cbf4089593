/**
 * For tests: samples as `perf script` tells them. `parseScript` reads its output into fields; `scriptOf` makes the same
 * fields from a recording, in perf's order and by its rules for names of threads and for group reads.
 */
import { FORMAT, SAMPLE } from "../abi.js";
import { indexRecords } from "../software/record-index.js";
import { decodeKernelRecord, type KernelRecord } from "./kernel-records.js";
import type { Recording } from "./recording.js";
import { type Branch, callchainFrames, type Registers, type Sample } from "./sample.js";

/** Numbers are as perf prints them. Undefined where `perf script` was not asked for the field. */
export interface ScriptSample {
  /** Null where perf does not know: ":TID". */
  comm: string | null;
  readonly pid: number;
  readonly tid: number;
  cpu?: number;
  time?: string;
  readonly period: string;
  readonly event: string;
  addr?: string;
  dataSrc?: string;
  weight?: string;
  cgroup?: string;
  /** The instruction's address, or the callchain's. */
  ips: string[];
  regs?: string[];
  branches?: string[];
  physAddr?: string;
  pageSizes?: string[];
}

const HEAD = /^\s*(.*?)\s+(-?\d+)\/(-?\d+)\s+(?:\[(-?\d+)\]\s+)?(?:(\d+\.\d{9}):\s+)?(\d+)\s+(\S+):(?:\s+(.*))?$/;

/** `fields` are those of its -F. */
export function parseScript(lines: readonly string[], fields: ReadonlySet<string>): ScriptSample[] {
  const samples: ScriptSample[] = [];
  for (const line of lines) {
    if (line.trim() === "") continue;
    const head = /^(?:\s+[0-9a-f]+(?:\s|$)|\s0x)/.test(line) && !/\d+\/\d+\s/.test(line) ? null : HEAD.exec(line);
    const last = samples.at(-1);
    if (head !== null) {
      samples.push(parseHead(head, fields));
    } else if (last !== undefined) {
      // Below its head: the callchain, an address a line, then the branches.
      if (/^\s*0x/.test(line)) last.branches?.push(...line.trim().split(/\s+/));
      else last.ips.push(line.trim().split(/\s+/)[0] as string);
    } else {
      throw new Error(`not understood: ${line}`);
    }
  }
  return samples;
}

function parseHead(head: RegExpExecArray, fields: ReadonlySet<string>): ScriptSample {
  const [, comm, pid, tid, cpu, time, period, event, rest = ""] = head as unknown as [string, ...string[]];
  const sample: ScriptSample = {
    comm: /^:-?\d+$/.test(comm as string) ? null : (comm as string),
    pid: Number(pid),
    tid: Number(tid),
    period: period as string,
    event: event as string,
    ips: [],
  };
  if (fields.has("cpu")) sample.cpu = Number(cpu);
  if (fields.has("time")) sample.time = time as string;
  // What data_src means is told in words that change with perf's version.
  const words = rest
    .replace(/\|OP .*?\|BLK\s+N\/A/, "")
    .split(/\s+/)
    .filter((word) => word !== "");
  const take = (): string => words.shift() ?? "";
  if (fields.has("addr")) sample.addr = take();
  if (fields.has("data_src")) sample.dataSrc = take();
  if (fields.has("weight")) sample.weight = take();
  if (fields.has("cgroup")) sample.cgroup = take();
  if (words.length > 0 && fields.has("ip")) sample.ips.push(take());
  if (fields.has("iregs") || fields.has("uregs")) {
    sample.regs = [];
    while (/^[A-Z0-9]+:/.test(words[0] ?? "")) sample.regs.push(take());
  }
  if (fields.has("brstack")) {
    sample.branches = words.filter((word) => word.startsWith("0x"));
    words.length = 0;
  }
  if (fields.has("phys_addr")) sample.physAddr = take();
  if (fields.has("data_page_size")) sample.pageSizes = [take(), take()];
  if (words.length > 0) throw new Error(`not understood: ${rest}`);
  return sample;
}

export function fieldsOf(command: string): Set<string> {
  return new Set((/-F (\S+)/.exec(command)?.[1] ?? "").split(","));
}

/** `withCallchain` false is perf script's -G. */
export function scriptOf(recording: Recording, fields: ReadonlySet<string>, withCallchain: boolean): ScriptSample[] {
  const index = indexRecords(recording);
  const threads = new Threads();
  const readings = new Map<bigint, bigint>();
  const out: ScriptSample[] = [];
  for (let i = 0; i < index.count; i++) {
    const attr = recording.attrs[index.attr[i] as number];
    if (attr === undefined) throw new Error("a record of no event");
    const record = decodeKernelRecord(recording.image, index.offset[i] as number, attr);
    threads.see(record);
    if (record.type !== "SAMPLE") continue;
    const told = tell(record.sample, fields, withCallchain && (attr.sampleType & SAMPLE.CALLCHAIN) !== 0, threads);
    if ((attr.sampleType & SAMPLE.READ) === 0 || (attr.readFormat & FORMAT.GROUP) === 0) {
      out.push({ ...told, period: String(record.sample.period ?? attr.samplePeriod), event: attr.name });
      continue;
    }
    for (const { id, value } of record.sample.read?.values ?? []) {
      const member = recording.attrs.find(({ ids }) => ids.includes(id as bigint));
      const period = value - (readings.get(id as bigint) ?? 0n);
      readings.set(id as bigint, value);
      if (member !== undefined && period !== 0n) out.push({ ...told, period: String(period), event: member.name });
    }
  }
  return out;
}

type Told = Omit<ScriptSample, "period" | "event">;

/** perf script's --max-stack, PERF_MAX_STACK_DEPTH. */
const STACK_MAX = 127;

const hex = (value: bigint | null): string => (value ?? 0n).toString(16);

function tell(sample: Sample, fields: ReadonlySet<string>, withCallchain: boolean, threads: Threads): Told {
  const told: Told = {
    comm: threads.comm(sample.tid ?? 0),
    pid: sample.pid ?? 0,
    tid: sample.tid ?? 0,
    ips: withCallchain
      ? callchainFrames(sample.callchain ?? new BigUint64Array())
          .slice(0, STACK_MAX)
          .map(({ ip }) => hex(ip))
      : [hex(sample.ip)],
  };
  if (fields.has("cpu")) told.cpu = sample.cpu ?? -1;
  if (fields.has("time")) told.time = seconds(sample.time ?? 0n);
  if (fields.has("addr")) told.addr = hex(sample.addr);
  if (fields.has("data_src")) told.dataSrc = hex(sample.dataSrc);
  // WEIGHT_STRUCT's first part is the weight; perf prints only that under WEIGHT, too, when it fits.
  if (fields.has("weight")) told.weight = String(sample.weight?.var1 ?? 0);
  if (fields.has("cgroup")) told.cgroup = threads.cgroup(sample.cgroup ?? 0n);
  if (fields.has("iregs")) told.regs = registers(sample.regsIntr);
  if (fields.has("uregs")) told.regs = registers(sample.regsUser);
  if (fields.has("brstack")) told.branches = (sample.branchStack?.entries ?? []).map(branch);
  if (fields.has("phys_addr")) told.physAddr = hex(sample.physAddr);
  if (fields.has("data_page_size")) told.pageSizes = [pageSize(sample.dataPageSize), pageSize(sample.codePageSize)];
  return told;
}

function seconds(time: bigint): string {
  return `${time / 1_000_000_000n}.${String(time % 1_000_000_000n).padStart(9, "0")}`;
}

/** arch/x86/include/uapi/asm/perf_regs.h, in the order of the bits. */
const X86_REGISTERS = "AX BX CX DX SI DI BP SP IP FLAGS CS SS DS ES FS GS R8 R9 R10 R11 R12 R13 R14 R15".split(" ");

function registers(regs: Registers | null): string[] {
  if (regs === null || regs.abi === 0n) return [];
  const names = X86_REGISTERS.filter((_, bit) => (regs.mask & (1n << BigInt(bit))) !== 0n);
  return [`ABI:${regs.abi}`, ...names.map((name, i) => `${name}:0x${hex(regs.values[i] as bigint)}`)];
}

function branch({ from, to, mispredicted, predicted, inTransaction, abort, cycles }: Branch): string {
  const prediction = mispredicted ? "M" : predicted ? "P" : "-";
  const flags = `${prediction}/${inTransaction ? "X" : "-"}/${abort ? "A" : "-"}`;
  return `0x${hex(from)}/0x${hex(to)}/${flags}/${cycles}//-`;
}

function pageSize(bytes: bigint | null): string {
  if (bytes === null || bytes === 0n) return "N/A";
  const units = ["", "K", "M", "G"];
  let value = bytes;
  let unit = 0;
  for (; value >= 1024n && unit < 3; unit++) value /= 1024n;
  return `${value}${units[unit]}`;
}

/** Who is called what, by the rules of perf's util/machine.c and thread.c. */
class Threads {
  readonly #comm = new Map<number, string>([[0, "swapper"]]);
  readonly #cgroup = new Map<bigint, string>();

  see(record: KernelRecord): void {
    switch (record.type) {
      case "COMM":
        this.#comm.set(record.tid, record.comm);
        return;
      case "FORK": {
        const parent = this.#comm.get(record.ptid);
        if (parent === undefined) this.#comm.delete(record.tid);
        else this.#comm.set(record.tid, parent);
        return;
      }
      case "CGROUP":
        this.#cgroup.set(record.id, record.path);
        return;
      default:
    }
  }

  comm(tid: number): string | null {
    return this.#comm.get(tid) ?? null;
  }

  cgroup(id: bigint): string {
    return this.#cgroup.get(id) ?? "unknown";
  }
}
