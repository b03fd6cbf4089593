/**
 * What readers need to print tracepoints' raw data: the trace.dat head that perf embeds, with the events' formats.
 * The layout is that of trace-cmd.dat.5, version 0.5 as perf wrote it until it added saved command lines.
 */
import { FEATURE, type Feature } from "./abi.js";
import { RecordBuffer } from "./record-buffer.js";

export interface TracepointFormat {
  /** sched, syscalls, ... */
  readonly system: string;
  /** The text of the tracefs `format` file. */
  readonly format: Uint8Array;
}

/** Texts of tracefs' events/header_page and events/header_event. */
export interface TraceHeads {
  readonly page: string;
  readonly event: string;
}

const MAGIC = Uint8Array.of(0x17, 0x08, 0x44);
const LONG_BYTES = 8;
const PAGE_BYTES = 4096;

/** For where tracefs cannot be read: what it says on 64-bit kernels. Nothing in a perf recording is laid out by it. */
export const TRACE_HEADS_DEFAULT: TraceHeads = {
  page: [
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;",
    "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;",
    "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;",
    "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n",
  ].join("\n"),
  event: [
    "# compressed entry header",
    "\ttype_len    :    5 bits",
    "\ttime_delta  :   27 bits",
    "\tarray       :   32 bits\n",
    "\tpadding     : type == 29",
    "\ttime_extend : type == 30",
    "\ttime_stamp : type == 31",
    "\tdata max type_len  == 28\n",
  ].join("\n"),
};

/** undefined where there is no tracepoint. */
export function tracingDataFeature(formats: readonly TracepointFormat[], heads: TraceHeads): Feature | undefined {
  if (formats.length === 0) return undefined;
  const out = new RecordBuffer();
  out.put(MAGIC);
  out.put(Buffer.from("tracing"));
  putText(out, "0.5");
  out.u8(0);
  out.u8(LONG_BYTES);
  out.u32(PAGE_BYTES);
  for (const [name, text] of [
    ["header_page", heads.page],
    ["header_event", heads.event],
  ] as const) {
    putText(out, name);
    putSized(out, Buffer.from(text));
  }
  // Formats of ftrace's own events, which perf does not record.
  out.u32(0);
  const systems = [...new Set(formats.map(({ system }) => system))];
  out.u32(systems.length);
  for (const name of systems) {
    const members = formats.filter(({ system }) => system === name);
    putText(out, name);
    out.u32(members.length);
    for (const { format } of members) putSized(out, format);
  }
  // /proc/kallsyms and printk's formats.
  out.u32(0);
  out.u32(0);
  return { id: FEATURE.TRACING_DATA, bytes: out.written };
}

function putText(out: RecordBuffer, text: string): void {
  out.put(Buffer.from(`${text}\0`));
}

function putSized(out: RecordBuffer, bytes: Uint8Array): void {
  out.u64(bytes.length);
  out.put(bytes);
}
