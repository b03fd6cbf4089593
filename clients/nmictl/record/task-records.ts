/** The kernel's records that are no samples, put together from task records. */
import type { Fork, Mmap, TaskRecord } from "../../typescript/index.js";
import { MISC, RECORD } from "./abi.js";
import type { RecordBuffer } from "./record-buffer.js";

/** A build id's place in MMAP2, and in perf's build-id records. */
const BUILD_ID_BYTES = 20;

/** Appends the record, without the sample id that ends it: trailer() does that, whatever the type. */
export function encodeTask(task: TaskRecord, id: number, out: RecordBuffer): void {
  switch (task.record) {
    case "comm":
      out.begin(RECORD.COMM, task.misc | (task.comm.exec ? MISC.COMM_EXEC : 0));
      out.u32(task.comm.pid);
      out.u32(task.comm.tid);
      out.text(task.comm.comm);
      break;
    case "mmap":
      encodeMmap(task.mmap, task.misc, out);
      break;
    case "fork":
      encodeFork(RECORD.FORK, task.fork, task.misc, out);
      break;
    case "exit":
      encodeFork(RECORD.EXIT, task.exit, task.misc, out);
      break;
    case "ksymbol":
      out.begin(RECORD.KSYMBOL, task.misc);
      out.u64(task.ksymbol.addr);
      out.u32(task.ksymbol.len);
      out.u16(task.ksymbol.ksymType);
      out.u16(task.ksymbol.flags);
      out.text(task.ksymbol.name);
      break;
    case "namespaces":
      out.begin(RECORD.NAMESPACES, task.misc);
      out.u32(task.namespaces.pid);
      out.u32(task.namespaces.tid);
      out.u64(task.namespaces.links.length);
      for (const { dev, inode } of task.namespaces.links) {
        out.u64(dev);
        out.u64(inode);
      }
      break;
    default:
      encodeRare(task, out);
      break;
  }
  trailer(out, task, id);
  out.end();
}

type RareTask = Exclude<TaskRecord, { readonly record: "comm" | "mmap" | "fork" | "exit" | "ksymbol" | "namespaces" }>;

function encodeRare(task: RareTask, out: RecordBuffer): void {
  switch (task.record) {
    case "bpfEvent":
      out.begin(RECORD.BPF_EVENT, task.misc);
      out.u16(task.bpfEvent.type);
      out.u16(task.bpfEvent.flags);
      out.u32(task.bpfEvent.id);
      out.put(padded(task.bpfEvent.tag, 8));
      break;
    case "cgroup":
      out.begin(RECORD.CGROUP, task.misc);
      out.u64(task.cgroup.id);
      out.text(task.cgroup.path);
      break;
    case "switch": {
      const { out: away, preempt, cpuWide, nextPrevPid, nextPrevTid } = task.switch;
      const misc = task.misc | (away ? MISC.SWITCH_OUT : 0) | (away && preempt ? MISC.SWITCH_OUT_PREEMPT : 0);
      out.begin(cpuWide ? RECORD.SWITCH_CPU_WIDE : RECORD.SWITCH, misc);
      if (cpuWide) {
        out.u32(nextPrevPid);
        out.u32(nextPrevTid);
      }
      break;
    }
    case "textPoke":
      out.begin(RECORD.TEXT_POKE, task.misc);
      out.u64(task.textPoke.addr);
      out.u16(task.textPoke.old.length);
      out.u16(task.textPoke.new.length);
      out.put(task.textPoke.old);
      out.put(task.textPoke.new);
      out.align(8);
      break;
    case "itraceStart":
      out.begin(RECORD.ITRACE_START, task.misc);
      out.u32(task.itraceStart.pid);
      out.u32(task.itraceStart.tid);
      break;
    case "auxOutputHwId":
      out.begin(RECORD.AUX_OUTPUT_HW_ID, task.misc);
      out.u64(task.auxOutputHwId.hwId);
      break;
  }
}

/** MMAP2, but MMAP where nothing is known that only MMAP2 has: readers take its protection 0 for "not executable". */
function encodeMmap(mmap: Mmap, misc: number, out: RecordBuffer): void {
  const hasBuildId = mmap.buildId.length > 0;
  const old = !hasBuildId && mmap.prot === 0 && mmap.flags === 0 && mmap.ino === 0n && mmap.maj === 0 && mmap.min === 0;
  out.begin(old ? RECORD.MMAP : RECORD.MMAP2, hasBuildId ? misc | MISC.MMAP_BUILD_ID : misc & ~MISC.MMAP_BUILD_ID);
  out.u32(mmap.pid);
  out.u32(mmap.tid);
  out.u64(mmap.addr);
  out.u64(mmap.len);
  out.u64(mmap.pgoff);
  if (hasBuildId) {
    out.u8(Math.min(mmap.buildId.length, BUILD_ID_BYTES));
    out.zeros(3);
    out.put(padded(mmap.buildId, BUILD_ID_BYTES));
  } else if (!old) {
    out.u32(mmap.maj);
    out.u32(mmap.min);
    out.u64(mmap.ino);
    out.u64(mmap.inoGeneration);
  }
  if (!old) {
    out.u32(mmap.prot);
    out.u32(mmap.flags);
  }
  out.text(mmap.filename);
}

function encodeFork(type: number, { pid, ppid, tid, ptid, time }: Fork, misc: number, out: RecordBuffer): void {
  out.begin(type, misc);
  out.u32(pid);
  out.u32(ppid);
  out.u32(tid);
  out.u32(ptid);
  out.u64(time);
}

/** The sample id that ends every record but samples, in the order of sample_type's bits: see attr.ts. */
export function trailer(
  out: RecordBuffer,
  { pid, tid, time, cpu }: { readonly pid: number; readonly tid: number; readonly time: bigint; readonly cpu: number },
  id: number,
): void {
  out.u32(pid);
  out.u32(tid);
  out.u64(time);
  out.u32(cpu);
  out.u32(0);
  out.u64(id);
}

/** perf's record of a file's build id. `kernel` of the kernel and its modules. */
export function encodeBuildId(filename: string, buildId: Uint8Array, kernel: boolean, out: RecordBuffer): void {
  out.begin(RECORD.HEADER_BUILD_ID, (kernel ? MISC.KERNEL : MISC.USER) | MISC.BUILD_ID_SIZE);
  // The pid names a machine: the host, not a guest.
  out.u32(0xffff_ffff);
  out.put(padded(buildId, BUILD_ID_BYTES));
  out.u8(Math.min(buildId.length, BUILD_ID_BYTES));
  out.zeros(3);
  out.text(filename, 64);
  out.end();
}

function padded(bytes: Uint8Array, length: number): Uint8Array {
  const whole = new Uint8Array(length);
  whole.set(bytes.subarray(0, length));
  return whole;
}
