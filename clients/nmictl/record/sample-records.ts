/** PERF_RECORD_SAMPLE put together from columns, in the kernel's order of fields. */
import type { Field, ResolvedEvent, SampleBatch } from "../../typescript/index.js";
import {
  BRANCH,
  CONTEXT_HIGH,
  CONTEXT_USER_LOW,
  FIELD_BITS,
  MISC,
  READ_FORMAT,
  RECORD,
  RECORD_BYTES_MAX,
  SAMPLE,
} from "./abi.js";
import type { EventIds } from "./event-ids.js";
import type { RecordBuffer } from "./record-buffer.js";
import { at, SampleColumns } from "./sample-columns.js";

/** Words of 4 bytes of a sample's header, id, ip, pid and tid, time, CPU and period. */
const FIXED_WORDS = 2 + 6 * 2;
const WORDS_MAX = RECORD_BYTES_MAX / 4;

/** Where `read` has ids in its words, which name the daemon's counters and must name the recording's. */
interface ReadLayout {
  /** Words of 8 bytes: of the first id, and from one to the next. */
  readonly first: number;
  readonly step: number;
  /** Events in the order in which their values lie. */
  readonly events: readonly number[];
}

function readLayout(events: readonly ResolvedEvent[], index: number): ReadLayout | null {
  const has = (bit: bigint) => (events[index].readFormat & bit) !== 0n;
  if (!has(READ_FORMAT.ID)) return null;
  const times = (has(READ_FORMAT.TOTAL_TIME_ENABLED) ? 1 : 0) + (has(READ_FORMAT.TOTAL_TIME_RUNNING) ? 1 : 0);
  if (!has(READ_FORMAT.GROUP)) return { first: 1 + times, step: 0, events: [index] };
  const { leaderIndex } = events[index];
  const members = events.flatMap((event, i) => (event.leaderIndex === leaderIndex ? [i] : []));
  return { first: 1 + times + 1, step: has(READ_FORMAT.LOST) ? 3 : 2, events: members };
}

/** An event that was recorded with time=0 has none, whatever others beside it have. Older daemons do not say. */
function isTimed({ sampleType }: ResolvedEvent): boolean {
  return sampleType === 0n || (sampleType & BigInt(SAMPLE.TIME)) !== 0n;
}

/** Encodes the batches of one event. */
export class SampleEncoder {
  readonly #ids: EventIds;
  readonly #event: number;
  readonly #bits: number;
  readonly #timed: boolean;
  readonly #hwIndex: boolean;
  readonly #counters: boolean;
  readonly #userChains: boolean;
  readonly #readLayout: ReadLayout | null;
  /** Of the record that is being written: the memory, and the next word of 4 bytes. */
  #words: Uint32Array = new Uint32Array();
  #next = 0;

  /** `bits` is the attr's sample_type; `userChains` false leaves user space out of callchains. */
  constructor(events: readonly ResolvedEvent[], event: number, bits: number, ids: EventIds, userChains: boolean) {
    this.#ids = ids;
    this.#event = event;
    this.#bits = bits;
    this.#timed = isTimed(events[event]);
    this.#hwIndex = (events[event].branchSampleType & BRANCH.HW_INDEX) !== 0n;
    this.#counters = (events[event].branchSampleType & BRANCH.COUNTERS) !== 0n;
    this.#userChains = userChains;
    this.#readLayout = readLayout(events, event);
  }

  /**
   * Appends a record for each sample, or for those that `rows` has a 1 for. Returns how many were left out because no
   * record can hold them.
   */
  encode(batch: SampleBatch, out: RecordBuffer, rows?: Uint8Array): number {
    const columns = new SampleColumns(batch);
    let tooLarge = 0;
    for (; columns.i < batch.length; columns.advance()) {
      if (rows !== undefined && rows[columns.i] !== 1) continue;
      const size = this.#size(columns);
      if (size > WORDS_MAX) {
        tooLarge++;
        continue;
      }
      out.reserve(size * 4);
      this.#words = out.words;
      this.#next = out.length >>> 2;
      this.#put(columns, size);
      out.length += size * 4;
    }
    return tooLarge;
  }

  #has(field: Field): boolean {
    return (this.#bits & FIELD_BITS[field]) !== 0;
  }

  /** In words of 4 bytes. */
  #size(columns: SampleColumns): number {
    const { batch, i } = columns;
    let words = FIXED_WORDS;
    for (const field of ONE_WORD_FIELDS) if (this.#has(field)) words += 2;
    if (this.#has("READ")) words += at(batch.readLength, i) * 2;
    if (this.#has("CALLCHAIN")) words += 2 + this.#chainLength(columns) * 2;
    if (this.#has("RAW")) words += 1 + rawWords(at(batch.rawLength, i));
    if (this.#has("BRANCH_STACK")) {
      words += 2 + (this.#hwIndex ? 2 : 0) + at(batch.branchStackLength, i) * (this.#counters ? 8 : 6);
    }
    if (this.#has("REGS_USER")) words += 2 + (at(batch.regsUserAbi, i) !== 0 ? columns.userRegs * 2 : 0);
    if (this.#has("STACK_USER")) words += 2 + withLength(at(batch.stackUserLength, i));
    if (this.#has("REGS_INTR")) words += 2 + (at(batch.regsIntrAbi, i) !== 0 ? columns.intrRegs * 2 : 0);
    if (this.#has("AUX")) words += 2 + Math.ceil(at(batch.auxLength, i) / 8) * 2;
    return words;
  }

  /** Addresses of the callchain that are written. */
  #chainLength({ batch, wide, i, chainAt }: SampleColumns): number {
    const length = at(batch.callchainLength, i);
    if (this.#userChains) return length;
    const chain = wide.callchain;
    for (let k = 0; k < length; k++) {
      const word = (chainAt + k) * 2;
      if (chain[word] === CONTEXT_USER_LOW && chain[word + 1] === CONTEXT_HIGH) return k;
    }
    return length;
  }

  /** The kernel's order: perf_output_sample() in kernel/events/core.c. */
  #put(columns: SampleColumns, size: number): void {
    const { batch, wide, i } = columns;
    this.#putHead(columns, size);
    if (this.#has("READ")) this.#putRead(columns);
    if (this.#has("CALLCHAIN")) this.#putCounted(wide.callchain, columns.chainAt, this.#chainLength(columns));
    if (this.#has("RAW")) this.#putRaw(columns);
    if (this.#has("BRANCH_STACK")) this.#putBranches(columns);
    if (this.#has("REGS_USER")) {
      this.#putRegisters(wide.regsUser, columns.userRegsAt, columns.userRegs, at(batch.regsUserAbi, i));
    }
    if (this.#has("STACK_USER")) this.#putStack(columns);
    if (this.#has("WEIGHT")) this.#putOne(wide.weight, i);
    if (this.#has("DATA_SRC")) this.#putOne(wide.dataSrc, i);
    if (this.#has("TRANSACTION")) this.#putOne(wide.transaction, i);
    if (this.#has("REGS_INTR")) {
      this.#putRegisters(wide.regsIntr, columns.intrRegsAt, columns.intrRegs, at(batch.regsIntrAbi, i));
    }
    if (this.#has("PHYS_ADDR")) this.#putOne(wide.physAddr, i);
    if (this.#has("CGROUP")) this.#putOne(wide.cgroup, i);
    if (this.#has("DATA_PAGE_SIZE")) this.#putOne(wide.dataPageSize, i);
    if (this.#has("CODE_PAGE_SIZE")) this.#putOne(wide.codePageSize, i);
    if (this.#has("AUX")) {
      const length = Math.ceil(at(batch.auxLength, i) / 8);
      this.#putNumber(length * 8);
      this.#putRun(wide.aux, columns.auxAt, length);
    }
  }

  #putHead({ batch, wide, i }: SampleColumns, size: number): void {
    const cpu = at(batch.cpu, i);
    this.#putWord(RECORD.SAMPLE);
    this.#putWord((misc(batch, wide.ip, i) | ((size * 4) << 16)) >>> 0);
    this.#putNumber(this.#ids.of(this.#event, cpu));
    this.#putOne(wide.ip, i);
    this.#putWord(at(batch.pid, i));
    this.#putWord(at(batch.tid, i));
    if (this.#timed) this.#putOne(wide.time, i);
    else this.#putNoTime();
    if (this.#has("ADDR")) this.#putOne(wide.addr, i);
    this.#putNumber(cpu);
    this.#putOne(wide.period, i);
  }

  /** What perf takes a sample's time for that has none. */
  #putNoTime(): void {
    this.#putWord(0xffff_ffff);
    this.#putWord(0xffff_ffff);
  }

  #putRead({ batch, wide, i, readAt }: SampleColumns): void {
    const length = at(batch.readLength, i);
    const start = this.#next;
    this.#putRun(wide.read, readAt, length);
    const layout = this.#readLayout;
    if (layout === null) return;
    for (const [k, event] of layout.events.entries()) {
      const word = layout.first + k * layout.step;
      if (word >= length) return;
      this.#words[start + word * 2] = this.#ids.of(event, at(batch.cpu, i));
      this.#words[start + word * 2 + 1] = 0;
    }
  }

  #putRaw({ batch, i, rawAt }: SampleColumns): void {
    const held = at(batch.rawLength, i);
    const length = rawWords(held);
    this.#putWord(length * 4);
    for (let k = 0; k < length; k++) this.#putWord(k < held ? batch.raw[rawAt + k] : 0);
  }

  #putBranches({ batch, wide, i, branchAt }: SampleColumns): void {
    const length = at(batch.branchStackLength, i);
    this.#putNumber(length);
    if (this.#hwIndex) this.#putOne(wide.branchHwIndex, i);
    this.#putRun(wide.branchStack, branchAt * 3, length * 3);
    if (this.#counters) this.#putRun(wide.branchCounters, branchAt, length);
  }

  #putStack({ batch, wide, i, stackAt }: SampleColumns): void {
    const bytes = at(batch.stackUserLength, i);
    const length = Math.ceil(bytes / 8);
    this.#putNumber(length * 8);
    this.#putRun(wide.stackUser, stackAt, length);
    if (length > 0) this.#putNumber(bytes);
  }

  #putRegisters(column: Uint32Array, from: number, each: number, abi: number): void {
    this.#putNumber(abi);
    if (abi !== 0) this.#putRun(column, from, each);
  }

  #putCounted(column: Uint32Array, from: number, length: number): void {
    this.#putNumber(length);
    this.#putRun(column, from, length);
  }

  #putWord(value: number): void {
    this.#words[this.#next++] = value;
  }

  /** A u64 of a number below 2^32. */
  #putNumber(value: number): void {
    this.#putWord(value);
    this.#putWord(0);
  }

  /** Element i of a column of 8 bytes each. */
  #putOne(column: Uint32Array, i: number): void {
    this.#putWord(at(column, 2 * i));
    this.#putWord(at(column, 2 * i + 1));
  }

  /** Elements of 8 bytes of a ragged column. */
  #putRun(column: Uint32Array, from: number, length: number): void {
    for (let k = from * 2, end = k + length * 2; k < end; k++) this.#putWord(column[k]);
  }
}

const ONE_WORD_FIELDS = [
  "ADDR",
  "WEIGHT",
  "DATA_SRC",
  "TRANSACTION",
  "PHYS_ADDR",
  "CGROUP",
  "DATA_PAGE_SIZE",
  "CODE_PAGE_SIZE",
] as const satisfies readonly Field[];

/** Size word and data fill whole words of 8 bytes, and where there is no data the kernel writes one of 4. */
function rawWords(words: number): number {
  return words % 2 === 1 ? words : words + 1;
}

/** Words of 4 bytes of a stack and of the length behind it, which an empty one does not have. */
function withLength(bytes: number): number {
  return bytes === 0 ? 0 : Math.ceil(bytes / 8) * 2 + 2;
}

/** Addresses of the kernel have the highest bit set on all that perf runs on. */
function misc(batch: SampleBatch, ip: Uint32Array, i: number): number {
  if (i < batch.cpumode.length) return batch.cpumode[i] & 0xffff;
  return at(ip, 2 * i + 1) >>> 31 === 1 ? MISC.KERNEL : MISC.USER;
}
