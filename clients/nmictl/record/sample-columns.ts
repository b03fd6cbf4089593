/** A batch's columns in words of 4 bytes, and how far into the ragged ones the sample at hand is. */
import type { SampleBatch } from "../../typescript/index.js";

/** A column of 64-bit elements in words of 4 bytes: bigints would cost an allocation each. */
function halves(column: BigUint64Array): Uint32Array {
  return new Uint32Array(column.buffer, column.byteOffset, column.length * 2);
}

/** 0 where the daemon left the column out. */
export function at(column: Uint32Array, i: number): number {
  return i < column.length ? column[i] : 0;
}

/** Registers of each sample that has some. */
function registersEach(registers: BigUint64Array, abis: Uint32Array): number {
  let samples = 0;
  for (const abi of abis) if (abi !== 0) samples++;
  return samples === 0 ? 0 : registers.length / samples;
}

function wide(batch: SampleBatch) {
  return {
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
}

export class SampleColumns {
  readonly batch: SampleBatch;
  readonly wide: ReturnType<typeof wide>;
  /** Words of 8 bytes of each sample's registers, where it has any. */
  readonly userRegs: number;
  readonly intrRegs: number;
  /** Index of the sample at hand, and of its first elements in the ragged columns. */
  i = 0;
  chainAt = 0;
  rawAt = 0;
  branchAt = 0;
  userRegsAt = 0;
  stackAt = 0;
  intrRegsAt = 0;
  readAt = 0;
  auxAt = 0;

  constructor(batch: SampleBatch) {
    this.batch = batch;
    this.wide = wide(batch);
    this.userRegs = registersEach(batch.regsUser, batch.regsUserAbi);
    this.intrRegs = registersEach(batch.regsIntr, batch.regsIntrAbi);
  }

  /** To the next sample. */
  advance(): void {
    const { batch, i } = this;
    this.chainAt += at(batch.callchainLength, i);
    this.rawAt += at(batch.rawLength, i);
    this.branchAt += at(batch.branchStackLength, i);
    if (at(batch.regsUserAbi, i) !== 0) this.userRegsAt += this.userRegs;
    this.stackAt += Math.ceil(at(batch.stackUserLength, i) / 8);
    if (at(batch.regsIntrAbi, i) !== 0) this.intrRegsAt += this.intrRegs;
    this.readAt += at(batch.readLength, i);
    this.auxAt += Math.ceil(at(batch.auxLength, i) / 8);
    this.i++;
  }
}
