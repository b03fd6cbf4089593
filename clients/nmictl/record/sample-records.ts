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
} from "./abi.js";
import { sampleType } from "./attr.js";
import type { EventIds } from "./event-ids.js";
import type { RecordBuffer } from "./record-buffer.js";

/** Words of 4 bytes of a sample's header, id, ip, pid and tid, time, CPU and period. */
const FIXED_WORDS = 2 + 6 * 2;
const WORDS_MAX = RECORD_BYTES_MAX / 4;

/** A column of 64-bit elements in words of 4 bytes: bigints would cost an allocation each. */
function halves(column: BigUint64Array): Uint32Array {
  return new Uint32Array(column.buffer, column.byteOffset, column.length * 2);
}

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

/** Encodes the batches of one event. */
export class SampleEncoder {
  readonly #ids: EventIds;
  readonly #event: number;
  readonly #bits: number;
  readonly #hwIndex: boolean;
  readonly #counters: boolean;
  readonly #userChains: boolean;
  readonly #readLayout: ReadLayout | null;
  /** Those of the batch at hand: how far into its ragged columns, in their elements. */
  #chainAt = 0;
  #rawAt = 0;
  #branchAt = 0;
  #userRegsAt = 0;
  #stackAt = 0;
  #intrRegsAt = 0;
  #readAt = 0;
  #auxAt = 0;

  /** `userChains` false leaves user space out of callchains. */
  constructor(
    events: readonly ResolvedEvent[],
    event: number,
    fields: readonly Field[],
    ids: EventIds,
    userChains: boolean,
  ) {
    this.#ids = ids;
    this.#event = event;
    this.#bits = sampleType(fields);
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
    this.#rewind();
    const userRegs = registersEach(batch.regsUser, batch.regsUserAbi);
    const intrRegs = registersEach(batch.regsIntr, batch.regsIntrAbi);
    const wide = {
      time: halves(batch.time),
      ip: halves(batch.ip),
      period: halves(batch.period),
      callchain: halves(batch.callchain),
      addr: halves(batch.addr),
      weight: halves(batch.weight),
      dataSrc: halves(batch.dataSrc),
      cgroup: halves(batch.cgroup),
      branchStack: halves(batch.branchStack),
      branchHwIndex: halves(batch.branchHwIndex),
      branchCounters: halves(batch.branchCounters),
      regsUser: halves(batch.regsUser),
      stackUser: halves(batch.stackUser),
      transaction: halves(batch.transaction),
      physAddr: halves(batch.physAddr),
      dataPageSize: halves(batch.dataPageSize),
      codePageSize: halves(batch.codePageSize),
      regsIntr: halves(batch.regsIntr),
      read: halves(batch.read),
      aux: halves(batch.aux),
    };
    let tooLarge = 0;
    for (let i = 0; i < batch.length; i++) {
      if (rows === undefined || rows[i] === 1) {
        const size = this.#size(batch, i, userRegs, intrRegs);
        if (size <= WORDS_MAX) {
          out.reserve(size * 4);
          const start = out.length >>> 2;
          this.#put(batch, wide, i, userRegs, intrRegs, out.words, start, size);
          out.length += size * 4;
        } else tooLarge++;
      }
      this.#advance(batch, i, userRegs, intrRegs);
    }
    return tooLarge;
  }

  #rewind(): void {
    this.#chainAt = 0;
    this.#rawAt = 0;
    this.#branchAt = 0;
    this.#userRegsAt = 0;
    this.#stackAt = 0;
    this.#intrRegsAt = 0;
    this.#readAt = 0;
    this.#auxAt = 0;
  }

  #advance(batch: SampleBatch, i: number, userRegs: number, intrRegs: number): void {
    this.#chainAt += at(batch.callchainLength, i);
    this.#rawAt += at(batch.rawLength, i);
    this.#branchAt += at(batch.branchStackLength, i);
    if (at(batch.regsUserAbi, i) !== 0) this.#userRegsAt += userRegs;
    this.#stackAt += Math.ceil(at(batch.stackUserLength, i) / 8);
    if (at(batch.regsIntrAbi, i) !== 0) this.#intrRegsAt += intrRegs;
    this.#readAt += at(batch.readLength, i);
    this.#auxAt += Math.ceil(at(batch.auxLength, i) / 8);
  }

  #has(field: Field): boolean {
    return (this.#bits & FIELD_BITS[field]) !== 0;
  }

  /** Of sample i, in words of 4 bytes. */
  #size(batch: SampleBatch, i: number, userRegs: number, intrRegs: number): number {
    let words = FIXED_WORDS;
    for (const field of ONE_WORD_FIELDS) if (this.#has(field)) words += 2;
    if (this.#has("READ")) words += at(batch.readLength, i) * 2;
    if (this.#has("CALLCHAIN")) words += 2 + this.#chainLength(batch, i) * 2;
    if (this.#has("RAW")) words += 1 + rawWords(at(batch.rawLength, i));
    if (this.#has("BRANCH_STACK")) {
      words += 2 + (this.#hwIndex ? 2 : 0) + at(batch.branchStackLength, i) * (this.#counters ? 8 : 6);
    }
    if (this.#has("REGS_USER")) words += 2 + (at(batch.regsUserAbi, i) !== 0 ? userRegs * 2 : 0);
    if (this.#has("STACK_USER")) words += 2 + withLength(at(batch.stackUserLength, i));
    if (this.#has("REGS_INTR")) words += 2 + (at(batch.regsIntrAbi, i) !== 0 ? intrRegs * 2 : 0);
    if (this.#has("AUX")) words += 2 + Math.ceil(at(batch.auxLength, i) / 8) * 2;
    return words;
  }

  /** Addresses of sample i's callchain that are written. */
  #chainLength(batch: SampleBatch, i: number): number {
    const length = at(batch.callchainLength, i);
    if (this.#userChains) return length;
    const chain = halves(batch.callchain);
    for (let k = 0; k < length; k++) {
      const word = (this.#chainAt + k) * 2;
      if (chain[word] === CONTEXT_USER_LOW && chain[word + 1] === CONTEXT_HIGH) return k;
    }
    return length;
  }

  #put(
    batch: SampleBatch,
    wide: Readonly<Record<string, Uint32Array>>,
    i: number,
    userRegs: number,
    intrRegs: number,
    words: Uint32Array,
    start: number,
    size: number,
  ): void {
    let w = start;
    const one = (column: Uint32Array) => {
      words[w++] = at(column, 2 * i);
      words[w++] = at(column, 2 * i + 1);
    };
    const count = (value: number) => {
      words[w++] = value;
      words[w++] = 0;
    };
    /** Elements of 8 bytes of a ragged column. */
    const run = (column: Uint32Array, from: number, length: number) => {
      for (let k = from * 2, end = k + length * 2; k < end; k++) words[w++] = column[k];
    };
    const cpu = at(batch.cpu, i);
    words[w++] = RECORD.SAMPLE;
    words[w++] = (misc(batch, wide.ip, i) | ((size * 4) << 16)) >>> 0;
    count(this.#ids.of(this.#event, cpu));
    one(wide.ip);
    words[w++] = at(batch.pid, i);
    words[w++] = at(batch.tid, i);
    one(wide.time);
    if (this.#has("ADDR")) one(wide.addr);
    count(cpu);
    one(wide.period);
    if (this.#has("READ")) {
      const length = at(batch.readLength, i);
      run(wide.read, this.#readAt, length);
      this.#nameCounters(words, w - length * 2, length, cpu);
    }
    if (this.#has("CALLCHAIN")) {
      const length = this.#chainLength(batch, i);
      count(length);
      run(wide.callchain, this.#chainAt, length);
    }
    if (this.#has("RAW")) {
      const held = at(batch.rawLength, i);
      const length = rawWords(held);
      words[w++] = length * 4;
      for (let k = 0; k < length; k++) words[w++] = k < held ? batch.raw[this.#rawAt + k] : 0;
    }
    if (this.#has("BRANCH_STACK")) {
      const length = at(batch.branchStackLength, i);
      count(length);
      if (this.#hwIndex) one(wide.branchHwIndex);
      run(wide.branchStack, this.#branchAt * 3, length * 3);
      if (this.#counters) run(wide.branchCounters, this.#branchAt, length);
    }
    if (this.#has("REGS_USER")) {
      const abi = at(batch.regsUserAbi, i);
      count(abi);
      if (abi !== 0) run(wide.regsUser, this.#userRegsAt, userRegs);
    }
    if (this.#has("STACK_USER")) {
      const bytes = at(batch.stackUserLength, i);
      const length = Math.ceil(bytes / 8);
      count(length * 8);
      run(wide.stackUser, this.#stackAt, length);
      if (length > 0) count(bytes);
    }
    if (this.#has("WEIGHT")) one(wide.weight);
    if (this.#has("DATA_SRC")) one(wide.dataSrc);
    if (this.#has("TRANSACTION")) one(wide.transaction);
    if (this.#has("REGS_INTR")) {
      const abi = at(batch.regsIntrAbi, i);
      count(abi);
      if (abi !== 0) run(wide.regsIntr, this.#intrRegsAt, intrRegs);
    }
    if (this.#has("PHYS_ADDR")) one(wide.physAddr);
    if (this.#has("CGROUP")) one(wide.cgroup);
    if (this.#has("DATA_PAGE_SIZE")) one(wide.dataPageSize);
    if (this.#has("CODE_PAGE_SIZE")) one(wide.codePageSize);
    if (this.#has("AUX")) {
      const length = Math.ceil(at(batch.auxLength, i) / 8);
      count(length * 8);
      run(wide.aux, this.#auxAt, length);
    }
  }

  /** Puts the recording's ids in place of the daemon's. `at` and words[] in words of 4 bytes, `length` of 8. */
  #nameCounters(words: Uint32Array, at: number, length: number, cpu: number): void {
    const layout = this.#readLayout;
    if (layout === null) return;
    for (const [k, event] of layout.events.entries()) {
      const word = layout.first + k * layout.step;
      if (word >= length) return;
      words[at + word * 2] = this.#ids.of(event, cpu);
      words[at + word * 2 + 1] = 0;
    }
  }
}

const ONE_WORD_FIELDS: readonly Field[] = [
  ...([
    "ADDR",
    "WEIGHT",
    "DATA_SRC",
    "TRANSACTION",
    "PHYS_ADDR",
    "CGROUP",
    "DATA_PAGE_SIZE",
    "CODE_PAGE_SIZE",
  ] as const),
];

/** 0 where the daemon left the column out. */
function at(column: Uint32Array, i: number): number {
  return i < column.length ? column[i] : 0;
}

/** Size word and data fill whole words of 8 bytes, and where there is no data the kernel writes one of 4. */
function rawWords(words: number): number {
  return words % 2 === 1 ? words : words + 1;
}

/** Words of 4 bytes of a stack and of the length behind it, which an empty one does not have. */
function withLength(bytes: number): number {
  return bytes === 0 ? 0 : Math.ceil(bytes / 8) * 2 + 2;
}

/** Registers of each sample that has some. */
function registersEach(registers: BigUint64Array, abis: Uint32Array): number {
  let samples = 0;
  for (const abi of abis) if (abi !== 0) samples++;
  return samples === 0 ? 0 : registers.length / samples;
}

/** Addresses of the kernel have the highest bit set on all that perf runs on. */
function misc(batch: SampleBatch, ip: Uint32Array, i: number): number {
  if (i < batch.cpumode.length) return batch.cpumode[i] & 0xffff;
  return at(ip, 2 * i + 1) >>> 31 === 1 ? MISC.KERNEL : MISC.USER;
}
