/** A task record of the kernel as a row of nmi.v1.Tasks, straight from a ring's words. Layouts: linux/perf_event.h. */
import { MISC, RECORD } from "../../pmu/abi.js";
import type { Trailer, TrailerTable } from "../../pmu/task-record.js";
import type { ProtoWriter } from "./proto-writer.js";

/** Field numbers of proto/nmi.proto. */
const TASKS_RECORDS = 3;
const ROW = { TIME: 1, PID: 2, TID: 3, CPU: 4, MISC: 5 } as const;
const BUILD_ID_BYTES_MAX = 20;
const BPF_TAG_BYTES = 8;
const LINK_WORDS = 4;

/** One record in a ring, read by words and bytes from its header; what lies behind its end reads as 0. */
class RecordView {
  words: Uint32Array = new Uint32Array(1);
  mask = 0;
  at = 0;
  /** Words up to the sample_id. */
  end = 0;
  misc = 0;
  type = 0;

  u32(word: number): number {
    return word < this.end ? this.words[(this.at + word) & this.mask] : 0;
  }

  u8(byte: number): number {
    return (this.u32(byte >>> 2) >>> ((byte & 3) * 8)) & 0xff;
  }

  u16(byte: number): number {
    return this.u8(byte) | (this.u8(byte + 1) << 8);
  }
}

const view = new RecordView();
const utf8 = new TextDecoder();
const toUtf8 = new TextEncoder();

/** Appends the record at word `at` as one row: the field `records` of Tasks. */
export function encodeTaskRecord(
  writer: ProtoWriter,
  words: Uint32Array,
  mask: number,
  at: number,
  trailers: TrailerTable,
): void {
  const miscAndSize = words[(at + 1) & mask];
  const size = miscAndSize >>> 18;
  const trailer = trailers.of(words, mask, at, size);
  view.words = words;
  view.mask = mask;
  view.at = at;
  view.end = size - trailer.words;
  view.misc = miscAndSize & 0xffff;
  view.type = words[at & mask];
  const row = writer.begin(TASKS_RECORDS);
  encodeTrailer(writer, words, mask, at + size, trailer);
  writer.uint32(ROW.MISC, view.misc);
  const body = BODY.get(view.type);
  if (body !== undefined) nested(writer, body.field, body.encode);
  writer.end(row);
}

function encodeTrailer(writer: ProtoWriter, words: Uint32Array, mask: number, end: number, trailer: Trailer): void {
  const { time, pid, cpu } = trailer;
  if (time > 0) writer.fixed64(ROW.TIME, words[(end - time) & mask], words[(end - time + 1) & mask]);
  if (pid > 0) {
    writer.uint32(ROW.PID, words[(end - pid) & mask]);
    writer.uint32(ROW.TID, words[(end - pid + 1) & mask]);
  }
  if (cpu > 0) writer.uint32(ROW.CPU, words[(end - cpu) & mask]);
}

function nested(writer: ProtoWriter, field: number, encode: (writer: ProtoWriter) => void): void {
  const from = writer.begin(field);
  encode(writer);
  writer.end(from);
}

function encodePidTid(writer: ProtoWriter): void {
  writer.uint32(1, view.u32(2));
  writer.uint32(2, view.u32(3));
}

/** { pid, tid, comm[] } */
function encodeComm(writer: ProtoWriter): void {
  text(writer, 1, 4);
  writer.bool(2, (view.misc & MISC.COMM_EXEC) !== 0);
  writer.uint32(3, view.u32(2));
  writer.uint32(4, view.u32(3));
}

/** { pid, tid, addr, len, pgoff, [maj, min, ino, ino_generation or the build id, prot, flags,] filename[] } */
function encodeMmap(writer: ProtoWriter): void {
  encodePidTid(writer);
  writer.fixed64(3, view.u32(4), view.u32(5));
  writer.fixed64(4, view.u32(6), view.u32(7));
  writer.fixed64(5, view.u32(8), view.u32(9));
  if (view.type === RECORD.MMAP) {
    text(writer, 12, 10);
    return;
  }
  const hasBuildId = (view.misc & MISC.MMAP_BUILD_ID) !== 0;
  if (!hasBuildId) {
    writer.uint32(6, view.u32(10));
    writer.uint32(7, view.u32(11));
    writer.uint64(8, view.u32(12), view.u32(13));
    writer.uint64(9, view.u32(14), view.u32(15));
  }
  writer.uint32(10, view.u32(16));
  writer.uint32(11, view.u32(17));
  text(writer, 12, 18);
  // { u8 size, u8, u16, u8 build_id[20] }
  if (hasBuildId) bytes(writer, 13, 44, Math.min(view.u8(40), BUILD_ID_BYTES_MAX));
}

/** { pid, ppid, tid, ptid, time } */
function encodeFork(writer: ProtoWriter): void {
  for (let field = 1; field <= 4; field++) writer.uint32(field, view.u32(field + 1));
  writer.fixed64(5, view.u32(6), view.u32(7));
}

/** { u64 addr, u32 len, u16 ksym_type, u16 flags, name[] } */
function encodeKsymbol(writer: ProtoWriter): void {
  writer.fixed64(1, view.u32(2), view.u32(3));
  writer.uint32(2, view.u32(4));
  writer.uint32(3, view.u16(20));
  writer.uint32(4, view.u16(22));
  text(writer, 5, 6);
}

/** { u16 type, u16 flags, u32 id, u8 tag[8] } */
function encodeBpfEvent(writer: ProtoWriter): void {
  writer.uint32(1, view.u16(8));
  writer.uint32(2, view.u16(10));
  writer.uint32(3, view.u32(3));
  bytes(writer, 4, 16, BPF_TAG_BYTES);
}

/** { u64 id, path[] } */
function encodeCgroup(writer: ProtoWriter): void {
  writer.uint64(1, view.u32(2), view.u32(3));
  text(writer, 2, 4);
}

/** { pid, tid, u64 nr, { u64 dev, u64 inode }[nr] } */
function encodeNamespaces(writer: ProtoWriter): void {
  encodePidTid(writer);
  const count = Math.min(view.u32(4), Math.floor(Math.max(0, view.end - 6) / LINK_WORDS));
  for (let i = 0; i < count; i++) {
    const at = 6 + i * LINK_WORDS;
    nested(writer, 3, (w) => {
      w.uint64(1, view.u32(at), view.u32(at + 1));
      w.uint64(2, view.u32(at + 2), view.u32(at + 3));
    });
  }
}

/** { [next_prev_pid, next_prev_tid] } */
function encodeSwitch(writer: ProtoWriter): void {
  const isCpuWide = view.type === RECORD.SWITCH_CPU_WIDE;
  const isOut = (view.misc & MISC.SWITCH_OUT) !== 0;
  writer.bool(1, isOut);
  writer.bool(2, isOut && (view.misc & MISC.SWITCH_OUT_PREEMPT) !== 0);
  if (!isCpuWide) return;
  writer.uint32(3, view.u32(2));
  writer.uint32(4, view.u32(3));
  writer.bool(5, true);
}

/** { u64 addr, u16 old_len, u16 new_len, bytes[] } */
function encodeTextPoke(writer: ProtoWriter): void {
  writer.fixed64(1, view.u32(2), view.u32(3));
  const [before, after] = [view.u16(16), view.u16(18)];
  bytes(writer, 2, 20, before);
  bytes(writer, 3, 20 + before, after);
}

function bytes(writer: ProtoWriter, field: number, from: number, length: number): void {
  const there = Math.max(0, Math.min(length, view.end * 4 - from));
  writer.data(field, there, (i) => view.u8(from + i));
}

/** Text from a word on up to a 0, or the record's end. Bytes that are no UTF-8 are replaced: decoders would refuse them. */
function text(writer: ProtoWriter, field: number, word: number): void {
  const from = word * 4;
  let length = 0;
  let isAscii = true;
  for (; from + length < view.end * 4; length++) {
    const byte = view.u8(from + length);
    if (byte === 0) break;
    if (byte > 0x7f) isAscii = false;
  }
  if (isAscii) {
    bytes(writer, field, from, length);
    return;
  }
  const raw = Uint8Array.from({ length }, (_, i) => view.u8(from + i));
  const encoded = toUtf8.encode(utf8.decode(raw));
  writer.data(field, encoded.length, (i) => encoded[i]);
}

/** By record type: the field of nmi.v1.TaskRecord's oneof, and what fills it. */
const BODY: ReadonlyMap<number, { readonly field: number; readonly encode: (writer: ProtoWriter) => void }> = new Map([
  [RECORD.COMM, { field: 6, encode: encodeComm }],
  [RECORD.MMAP, { field: 7, encode: encodeMmap }],
  [RECORD.MMAP2, { field: 7, encode: encodeMmap }],
  [RECORD.FORK, { field: 8, encode: encodeFork }],
  [RECORD.EXIT, { field: 9, encode: encodeFork }],
  [RECORD.KSYMBOL, { field: 10, encode: encodeKsymbol }],
  [RECORD.BPF_EVENT, { field: 11, encode: encodeBpfEvent }],
  [RECORD.CGROUP, { field: 12, encode: encodeCgroup }],
  [RECORD.NAMESPACES, { field: 13, encode: encodeNamespaces }],
  [RECORD.SWITCH, { field: 14, encode: encodeSwitch }],
  [RECORD.SWITCH_CPU_WIDE, { field: 14, encode: encodeSwitch }],
  [RECORD.TEXT_POKE, { field: 15, encode: encodeTextPoke }],
  [RECORD.ITRACE_START, { field: 16, encode: encodePidTid }],
  [RECORD.AUX_OUTPUT_HW_ID, { field: 17, encode: (writer) => writer.fixed64(1, view.u32(2), view.u32(3)) }],
]);
